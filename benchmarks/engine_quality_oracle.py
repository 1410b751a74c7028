"""The plain way of sampling and scoring, against which ``engine_quality.py`` holds the engine: Hugging Face alone.

``HfOracle`` samples with ``model.generate`` on prompts padded on the left, and scores by full forwards with an
attention mask, in float32. ``HfTrainer`` is the project's PPO with such rollouts; the rest of a step is the engine's.
Nothing here goes through the engine's generator, attention, cache or packing. Left out: speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from tropism.engine.generation import Generation, StopReason
from tropism.feedback.records import Task
from tropism.language.policy import LanguagePolicy
from tropism.language.ppo import PpoTrainer
from tropism.language.rollouts import Rollout
from tropism.runtime.seeding import derive

ROWS = 128
"""Rows of a batch."""


@dataclass(frozen=True)
class HfOracle:
    """Samples of a policy and their log-probabilities, by Hugging Face alone."""

    policy: LanguagePolicy
    max_new_tokens: int
    temperature: float = 1.0

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], seed: int, version: str) -> Generation:
        """One completion per prompt, a pure function of weights, prompts and ``seed``."""
        model, eos = self.policy.model.eval(), self.policy.eos
        completions: list[list[int]] = []
        logprobs: list[list[float]] = []
        # nothing is inherited: a folder's own top-k or end of sequence would change the distribution
        how = GenerationConfig(
            do_sample=True, temperature=self.temperature, top_k=0, top_p=1.0, max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(eos) or None, pad_token_id=min(eos, default=0), return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
        model.generation_config = how
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for start in range(0, len(prompts), ROWS):
                ids, mask = padded_left(prompts[start : start + ROWS])
                out = model.generate(ids, attention_mask=mask)
                new = out.sequences[:, ids.shape[1] :]
                taken = torch.stack(
                    [
                        torch.log_softmax(logits.float() / self.temperature, -1).gather(1, tokens[:, None]).squeeze(1)
                        for logits, tokens in zip(out.logits, new.T, strict=True)
                    ],
                    1,
                )
                for tokens, row in zip(new.tolist(), taken.tolist(), strict=True):
                    end = next((j + 1 for j, token in enumerate(tokens) if token in eos), len(tokens))
                    completions.append(tokens[:end])
                    logprobs.append(row[:end])
        stops: list[StopReason] = ["eos" if c[-1] in eos else "length" for c in completions]
        return Generation(
            prompts=[list(p) for p in prompts], completions=completions, logprobs=logprobs, stops=stops,
            policy_version=version,
        )  # fmt: skip

    @torch.no_grad()
    def sequence_logprobs(self, out: Generation) -> Tensor:
        """log π(completion | prompt) in nats, fp32 ``[B]``, by full forwards padded on the left."""
        sums = []
        for start in range(0, len(out.prompts), ROWS):
            rows = range(start, min(start + ROWS, len(out.prompts)))
            ids, mask = padded_left([[*out.prompts[i], *out.completions[i]] for i in rows])
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self.policy.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            taken = torch.log_softmax(logits.logits[:, :-1].float() / self.temperature, -1)
            taken = taken.gather(2, ids[:, 1:, None]).squeeze(2)
            counts = torch.tensor([len(out.completions[i]) for i in rows])
            own = torch.arange(taken.shape[1])[None, :] >= (taken.shape[1] - counts)[:, None]
            sums.append(taken.masked_fill(~own, 0.0).sum(1))
        return torch.cat(sums)


def padded_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, int64 ``[B, T]``; a row is padded with its own first token."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[row[0]] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def load_weights(policy: LanguagePolicy, weights: Mapping[str, Tensor]) -> None:
    """Copy a state_dict into a float32 policy."""
    policy.model.load_state_dict(weights)


class HfTrainer(PpoTrainer):
    """PPO on rollouts of ``model.generate``."""

    def sample(self, tasks: list[Task]) -> Rollout:
        """Completions of the policy, one per task given."""
        prompts = [self.policy.encode_task(t.payload) for t in tasks]
        oracle = HfOracle(self.policy, self.sampling.max_new_tokens, self.sampling.temperature)
        seed = derive(self.run.seed, "hf-rollout", self.state.step)
        out = oracle.sample(prompts, seed, f"{self.run.name}:{self.state.step}")
        texts = [self.policy.decode(c) for c in out.completions]
        return Rollout.empty(self.state.step, tasks, out, texts)
