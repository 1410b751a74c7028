"""Sampling completions from a causal language model.

Works for any Hugging Face decoder through its own key-value cache, windows included; ``check_sampling`` refuses those
it would be wrong for. Random numbers are drawn per (sequence id, position), so the same seed gives the same uniform
numbers whatever the batch order, the compaction or a resume. top-p, top-k, min-p and penalties are left out on purpose:
they bias the PPO ratio.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tropism.engine.batch import TokenBatch
from tropism.engine.scoring import completion_scores, hidden_states
from tropism.errors import DataError, ModelError
from tropism.runtime.seeding import uniform

StopReason = Literal["eos", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy. ``eos_ids`` end a completion and belong to it."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    temperature: float = 1.0
    max_rows: int = 256


@dataclass(frozen=True)
class Generation:
    """Sampled completions, in the order of the prompts.

    ``logprobs[i][j]`` is log π(token j) at the sampling temperature (greedy: at temperature 1). ``stops`` tells a
    finished answer from one cut at the length limit. ``policy_version`` names the weights that sampled.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    logprobs: list[list[float]]
    stops: list[StopReason]
    policy_version: str

    def batch(self) -> TokenBatch:
        """Prompts and completions as one token batch."""
        return TokenBatch.of(self.prompts, self.completions)

    def logprob_rows(self) -> Tensor:
        """Rollout log-probabilities fp32 ``[B, C]``, 0 where padded."""
        width = max(1, max(len(row) for row in self.logprobs))
        rows = torch.zeros(len(self.logprobs), width)
        for i, row in enumerate(self.logprobs):
            rows[i, : len(row)] = torch.tensor(row)
        return rows


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    sequence_ids: Sequence[int],
    policy_version: str,
) -> Generation:
    """Sample one completion per prompt, in eval mode whatever mode the model came in.

    ``sequence_ids`` number the sequences within ``seed``; repeat a prompt under several ids for K completions. Raises
    DataError for an empty prompt or one that leaves no room in the model's context.
    """
    check_prompts(model, prompts, sampling)
    was_training = model.training
    model.eval()
    completions: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    stops: list[StopReason] = ["length"] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(by_length), sampling.max_rows):
        rows = by_length[start : start + sampling.max_rows]
        _generate_rows(model, prompts, rows, sampling, seed, sequence_ids, completions, logprobs, stops)
    model.train(was_training)
    return Generation([list(p) for p in prompts], completions, logprobs, stops, policy_version)


def check_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    """DataError for an empty prompt, or for one that with the new tokens would leave the model's context."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {i} is empty", "give it at least one token (BOS will do)")
        if context is not None and len(prompt) + sampling.max_new_tokens > context:
            raise DataError(
                f"prompt {i} has {len(prompt)} tokens; with {sampling.max_new_tokens} new ones it leaves"
                f" the context of {context}",
                "shorten the prompt, lower sampling.max_new_tokens, or take a model with a longer context",
            )


@torch.no_grad()
def check_sampling(model: PreTrainedModel) -> None:
    """Refuse a model whose log-probabilities while sampling, left-padded and token by token through the cache, are not
    those of a full forward: a state that no cache of ours keeps, positions that padding shifts.

    Raises ModelError naming the model. Run once when a policy is loaded.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = [(i * 7 + 3) % vocabulary for i in range(8)]
    fix = "take a decoder with ordinary attention (Llama, Qwen, Gemma, Mistral, Phi, OLMo 2, GPT-2, StableLM, …)"
    try:
        whole, worst = _sampling_gap(model, [ids, ids[:3]], frozenset())
        # the first row ends after its second token, and the other goes on without it
        worst = max(worst, _sampling_gap(model, [ids, ids[:3]], frozenset(whole.completions[0][1:2]))[1])
    except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError, LookupError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{type(model).__name__} cannot be sampled from: {first}", fix) from error
    if not worst <= (1e-3 if next(model.parameters()).dtype == torch.float32 else 0.5):
        raise ModelError(
            f"{type(model).__name__}: sampling and a full forward differ by {worst:.3g} nats for one token", fix
        )


def _sampling_gap(model: PreTrainedModel, prompts: list[list[int]], eos: frozenset[int]) -> tuple[Generation, float]:
    """Greedy completions, and how far their log-probabilities are from a full forward's, relative to the largest."""
    sampling = Sampling(4, eos, temperature=0.0)
    out = generate(model, prompts, sampling, seed=0, sequence_ids=range(len(prompts)), policy_version="check")
    batch, was_training = out.batch(), model.training
    full = completion_scores(model.eval(), batch, hidden_states(model, batch), entropy=False).logprobs
    model.train(was_training)
    return out, float((out.logprob_rows() - full).abs().max()) / max(1.0, float(full.abs().max()))


def _generate_rows(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    sampling: Sampling,
    seed: int,
    sequence_ids: Sequence[int],
    completions: list[list[int]],
    logprobs: list[list[float]],
    stops: list[StopReason],
) -> None:
    """Sample for some rows, left-padded; finished rows leave the batch once they are a quarter of it."""
    lengths = torch.tensor([len(prompts[i]) for i in rows])
    width = int(lengths.max())
    ids = torch.empty(len(rows), width, dtype=torch.int64)
    for row, i in enumerate(rows):
        ids[row] = prompts[i][0]  # no pad token: its embedding may hold anything, NaN too
        ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
    padding = width - lengths
    attention = (torch.arange(width)[None, :] >= padding[:, None]).long()
    # from the config, so that a layer with a window keeps that window and no more
    cache, active = DynamicCache(config=model.config), torch.arange(len(rows))
    done = torch.zeros(len(rows), dtype=torch.bool)
    eos = torch.tensor(sorted(sampling.eos_ids), dtype=torch.int64)
    numbers = np.asarray([sequence_ids[i] for i in rows], dtype=np.int64)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    numbered = "position_ids" in inspect.signature(model.forward).parameters  # others count by the attention mask
    for step in range(sampling.max_new_tokens):
        out = model(
            input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True, logits_to_keep=1,
            **({"position_ids": positions} if numbered else {}),
        )  # fmt: skip
        draws = torch.from_numpy(uniform(seed, numbers[active.numpy()], np.full(len(active), step)))
        tokens, taken = sample(out.logits[:, -1].float(), sampling.temperature, draws)
        ended = torch.isin(tokens, eos)
        for j, row in enumerate(active.tolist()):
            if not done[row]:
                completions[rows[row]].append(int(tokens[j]))
                logprobs[rows[row]].append(float(taken[j]))
                if ended[j]:
                    stops[rows[row]] = "eos"
        done[active[ended]] = True
        keep = ~done[active]
        if not keep.any():
            return
        if int(keep.sum()) <= 0.75 * len(active):
            cache.batch_select_indices(keep.nonzero().squeeze(1))
            active, tokens, attention = active[keep], tokens[keep], attention[keep]
        ids = tokens[:, None]
        attention = torch.cat([attention, torch.ones(len(active), 1, dtype=attention.dtype)], 1)
        positions = (lengths[active] + step)[:, None]


def sample(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: tokens ``[B]`` and their log-probabilities from fp32 logits ``[B, V]`` and uniforms
    ``[B]``.

    Temperature 0 takes the most likely token (its log-probability is the one at temperature 1).
    """
    distribution = torch.log_softmax(logits if temperature in (0.0, 1.0) else logits / temperature, dim=-1)
    if temperature == 0.0:
        tokens = distribution.argmax(-1)
    else:
        cdf = distribution.double().exp().cumsum(-1)
        # scaled by the CDF's own end, so that rounding can never point past the last token
        tokens = torch.searchsorted(cdf, (draws * cdf[:, -1])[:, None], right=True).squeeze(1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, distribution.gather(1, tokens[:, None]).squeeze(1)
