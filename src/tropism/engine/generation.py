"""Sampling completions from a causal language model.

Any Hugging Face decoder runs through the engine's own attention on a cache that is allocated once: prompts are packed,
completions of one prompt share its prefill, a finished row leaves the batch at once (the last row takes its place), and
waiting prompts take freed rows. Only the last position of each row goes through the head. Random numbers are drawn per
(sequence id, position), so the same seed gives the same uniform numbers whatever the batch order, the company or a
resume. ``check_sampling`` refuses models it would be wrong for.

top-p, top-k, min-p and penalties are left out on purpose: they bias the PPO ratio. Also left out: a cache that keeps no
more than a window, speculative decoding, several devices (another engine implements ``Generator``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tropism.engine.attention import DecodePlan, KVCache, PrefillPlan, decoder_states
from tropism.engine.batch import Packed, TokenBatch
from tropism.engine.sampling import sample
from tropism.engine.scoring import completion_scores, head_logits, hidden_states
from tropism.engine.working import Working
from tropism.errors import DataError, ModelError
from tropism.runtime.memory import decode_threads
from tropism.runtime.precision import FP32, Precision
from tropism.runtime.seeding import uniform

StopReason = Literal["eos", "length"]
PREFILL_TOKENS = 8192
"""Most prompt tokens of one forward."""
CACHE_TOKENS = 1 << 17
"""Most tokens that the cache has room for; longer sequences have fewer rows at once."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy. ``eos_ids`` end a completion and belong to it.

    ``limits``: most new tokens of each prompt, where they differ; never above ``max_new_tokens``.
    """

    max_new_tokens: int
    eos_ids: frozenset[int]
    temperature: float = 1.0
    max_rows: int = 256
    limits: tuple[int, ...] | None = None


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
    values: list[list[float]] | None = None
    """V of the state before each token, where the generator has a value head."""

    def batch(self) -> TokenBatch:
        """Prompts and completions as one token batch."""
        return TokenBatch.of(self.prompts, self.completions)

    def logprob_rows(self) -> Tensor:
        """Rollout log-probabilities fp32 ``[B, C]``, 0 where padded."""
        return _padded(self.logprobs)

    def value_rows(self) -> Tensor:
        """``values`` fp32 ``[B, C]``, 0 where padded. ModelError where there are none."""
        if self.values is None:
            raise ModelError("these completions were sampled without a value head", "score them with the critic")
        return _padded(self.values)


def _padded(values: list[list[float]]) -> Tensor:
    made = torch.zeros(len(values), max(1, max(len(row) for row in values)))
    for i, row in enumerate(values):
        made[i, : len(row)] = torch.tensor(row)
    return made


class Generator(Protocol):
    """Whatever samples for a trainer: the engine of this process, or one elsewhere that is sent the weights."""

    policy_version: str | None

    def update_weights(self, policy_version: str) -> None:
        """Sample from the weights as they are now, under this name."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, sequence_ids: Sequence[int]
    ) -> Generation:
        """One completion per prompt."""
        ...


class LocalGenerator:
    """Samples in this process, from a :class:`Working` model that it shares with a trainer, or has alone.

    ``value_head``: of a critic on the policy's own trunk, fp32.
    """

    def __init__(self, working: Working, value_head: nn.Module | None = None) -> None:
        self.working, self.value_head = working, value_head
        self.policy_version: str | None = None

    def update_weights(self, policy_version: str) -> None:
        self.working.refresh()
        self.policy_version = policy_version

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, sequence_ids: Sequence[int]
    ) -> Generation:
        """Sample one completion per prompt, in eval mode whatever mode the model came in.

        ``sequence_ids`` number the sequences within ``seed``; repeat a prompt under several ids for K completions.
        Raises DataError for an empty prompt or one that leaves no room in the model's context, ModelError where no
        weights have been named yet.
        """
        if self.policy_version is None:
            raise ModelError("these weights have no version", "call update_weights(policy_version) before generate")
        model = self.working.model
        check_prompts(model, prompts, sampling)
        if len(sequence_ids) != len(prompts):
            raise DataError(f"{len(sequence_ids)} sequence ids for {len(prompts)} prompts", "give one id per prompt")
        was_training = model.training
        model.eval()
        try:
            with self.working.running():
                batch = _Batch(model, self.value_head, prompts, sampling, seed, sequence_ids)
                batch.run()
        finally:
            model.train(was_training)
        values = None if self.value_head is None else batch.lists(batch.values)
        made = batch.lists(batch.tokens), batch.lists(batch.logprobs), batch.stops
        return Generation([list(p) for p in prompts], *made, self.policy_version, values)


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    seed: int,
    sequence_ids: Sequence[int],
    policy_version: str,
    precision: Precision = FP32,
) -> Generation:
    """:meth:`LocalGenerator.generate` from a model as it is now."""
    generator = LocalGenerator(Working(model, precision))
    generator.policy_version = policy_version
    return generator.generate(prompts, sampling, seed=seed, sequence_ids=sequence_ids)


def check_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    """DataError for an empty prompt, or for one that with the new tokens would leave the model's context."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if sampling.limits is not None and len(sampling.limits) != len(prompts):
        raise DataError(f"{len(sampling.limits)} limits for {len(prompts)} prompts", "give one limit per prompt")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {i} is empty", "give it at least one token (BOS will do)")
        if context is not None and len(prompt) + sampling.max_new_tokens > context:
            raise DataError(
                f"prompt {i} has {len(prompt)} tokens; with {sampling.max_new_tokens} new ones it leaves"
                f" the context of {context}",
                "shorten the prompt, lower sampling.max_new_tokens, or take a model with a longer context",
            )


@dataclass
class _Rows:
    """The rows of the cache that are in use, the first n of it. All but ``hidden`` are int64 ``[n]``."""

    number: Tensor
    """Which prompt."""
    length: Tensor
    """Tokens in the cache."""
    made: Tensor
    """New tokens so far."""
    limit: Tensor
    """Most new tokens."""
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    """Last hidden states ``[n, H]``: what the next token is drawn from."""

    def __len__(self) -> int:
        return len(self.number)

    def with_more(self, new: _Rows) -> _Rows:
        """These rows, and ``new`` ones behind them."""
        return _Rows(*(torch.cat([getattr(self, f.name), getattr(new, f.name)]) for f in fields(self)))


class _Batch:
    """One call of ``generate``: prompts wait, take a row of the cache, and leave it when they are finished."""

    def __init__(
        self,
        model: Any,
        value_head: nn.Module | None,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        sequence_ids: Sequence[int],
    ) -> None:
        self.model, self.value_head = model, value_head
        self.prompts, self.sampling, self.seed = prompts, sampling, seed
        self.ids = np.asarray(list(sequence_ids), dtype=np.int64)
        self.limits = torch.tensor(sampling.limits or [sampling.max_new_tokens] * len(prompts), dtype=torch.int64)
        self.limits = self.limits.clamp(max=sampling.max_new_tokens)
        # like lengths together, so that the prompts of one prefill and the rows of one batch are even
        by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        self.waiting = deque(i for i in by_length if self.limits[i] > 0)
        room = max((len(p) + int(n) for p, n in zip(prompts, self.limits, strict=True)), default=1)
        self.size = min(max(1, min(sampling.max_rows, CACHE_TOKENS // room)), len(self.waiting))
        self.cache = KVCache(self.size, room)
        self.rows = _Rows(*(torch.zeros(0, dtype=torch.int64) for _ in range(4)))
        width = max(1, int(self.limits.max())) if len(prompts) else 1
        self.tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        self.logprobs, self.values = torch.zeros(len(prompts), width), torch.zeros(len(prompts), width)
        self.counts = torch.zeros(len(prompts), dtype=torch.int64)
        self.stops: list[StopReason] = ["length"] * len(prompts)
        self.eos = torch.tensor(sorted(sampling.eos_ids), dtype=torch.int64)

    def lists(self, found: Tensor) -> list[list[Any]]:
        """What was found for every new token ``[B, C]``, in the order of the prompts."""
        return [row[:n] for row, n in zip(found.tolist(), self.counts.tolist(), strict=True)]

    def run(self) -> None:
        """Sample everything."""
        while len(self.rows) or self.waiting:
            free = self.size - len(self.rows)
            if self.waiting and (not len(self.rows) or free >= max(1, self.size // 4)):  # few and large prefills
                self.admit(min(free, len(self.waiting)))
            last = self.draw()
            if len(self.rows):
                with decode_threads(self.model.config.get_text_config().hidden_size):
                    self.decode(last)

    def admit(self, count: int) -> None:
        """Give free rows to the next ``count`` prompts, and run the prompts, equal ones once."""
        chosen = [self.waiting.popleft() for _ in range(count)]
        first = len(self.rows)
        while chosen:
            part: dict[tuple[int, ...], list[int]] = {}
            tokens = 0
            while chosen and (not part or tokens + len(self.prompts[chosen[0]]) <= PREFILL_TOKENS):
                number = chosen.pop(0)
                prompt = tuple(self.prompts[number])
                tokens += 0 if prompt in part else len(prompt)
                part.setdefault(prompt, []).append(number)
            numbers = [i for same in part.values() for i in same]
            which = torch.tensor([w for w, same in enumerate(part.values()) for _ in same])
            layout = Packed(torch.tensor([len(p) for p in part]))
            plan = PrefillPlan(layout, self.cache, first + torch.arange(len(numbers)), which)
            ids = torch.tensor([token for prompt in part for token in prompt])
            hidden = decoder_states(self.model, ids, layout.positions, plan, layout.starts[1:] - 1)[which]
            given = torch.tensor(numbers)
            new = _Rows(given, layout.lengths[which], torch.zeros_like(given), self.limits[given], hidden)
            self.rows = self.rows.with_more(new) if first else new
            first += len(numbers)

    def draw(self) -> Tensor:
        """Draw every row's next token and drop the rows that it finishes; the tokens of those that go on."""
        rows = self.rows
        draws = torch.from_numpy(uniform(self.seed, self.ids[rows.number.numpy()], rows.made.numpy()))
        tokens, logprobs = sample(head_logits(self.model, rows.hidden), self.sampling.temperature, draws)
        self.tokens[rows.number, rows.made] = tokens
        self.logprobs[rows.number, rows.made] = logprobs
        if self.value_head is not None:
            with torch.autocast(rows.hidden.device.type, enabled=False):  # the head keeps its precision
                self.values[rows.number, rows.made] = self.value_head(rows.hidden.float()).squeeze(-1)
        rows.made = rows.made + 1
        ended = torch.isin(tokens, self.eos)
        finished = ended | (rows.made >= rows.limit)
        if not finished.any():
            return tokens
        self.counts[rows.number[finished]] = rows.made[finished]
        for i in rows.number[ended].tolist():
            self.stops[i] = "eos"
        return self.drop(finished, tokens)

    def drop(self, finished: Tensor, tokens: Tensor) -> Tensor:
        """Let rows from the end take the places of finished ones; the tokens in the new order."""
        rows, left = self.rows, int((~finished).sum())
        holes = finished[:left].nonzero()[:, 0]
        movers = left + (~finished[left:]).nonzero()[:, 0]
        if len(movers):
            self.cache.move(movers, holes, int(rows.length[movers].max()))
        order = torch.arange(left)
        order[holes] = movers
        self.rows = _Rows(rows.number[order], rows.length[order], rows.made[order], rows.limit[order])
        return tokens[order]

    def decode(self, tokens: Tensor) -> None:
        """Run the newest token of every row."""
        rows = self.rows
        rows.hidden = decoder_states(self.model, tokens, rows.length, DecodePlan.of(self.cache, rows.length))
        rows.length = rows.length + 1


@torch.no_grad()
def check_sampling(model: PreTrainedModel) -> None:
    """Refuse a model whose log-probabilities while sampling, token by token through the cache, are not those of a full
    forward: a state that no cache of ours keeps, positions that the past shifts.

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
    full = completion_scores(model.eval(), batch, hidden_states(model, batch)).logprobs
    model.train(was_training)
    return out, float((out.logprob_rows() - full).abs().max()) / max(1.0, float(full.abs().max()))
