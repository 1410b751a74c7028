"""Reward and KL of a policy, measured in one way for every side of ``learning_speed.py``.

The task: continue a prompt of 16 tokens by 24, never stopping; the reward is the share of the new tokens whose text
contains a letter. A side hands its weights over after every rollout's updates; they are copied into a model of the
meter's own, in float32, which samples completions of held-out prompts by ``model.generate`` and scores them by full
forwards. The KL is k1 = Σ log π − log π_ref over the new tokens at temperature 1, in nats, meaned over sequences. No
log of any trainer is believed, and no side's clock runs meanwhile.

Imports torch and transformers alone: the peers' environments have nothing of ours. Left out: padding and ends of
sequences, which this task does not have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

PROMPT_TOKENS, NEW_TOKENS, LETTER = 16, 24, "a"
EVALUATED = 256
"""Held-out prompts, the last ones of the start folder."""
SPECIAL = 3
"""The first ids are <pad>, <bos>, <eos>: they contain no letter, whatever their names say."""


def read_prompts(start: Path, evaluated: int = EVALUATED) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(train, held-out) prompts of a start folder, each with ``text`` and ``ids``."""
    rows = [json.loads(line) for line in (start / "prompts.jsonl").read_text("utf-8").splitlines()]
    if len(rows) <= evaluated:
        raise ValueError(f"{start} has {len(rows)} prompts; {evaluated} are held out: nothing is left to train on")
    return rows[:-evaluated], rows[-evaluated:]


def letter_tokens(start: Path) -> Tensor:
    """Bool ``[V]``: which tokens earn the reward."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    earns = torch.tensor([LETTER in tokenizer.decode([i]) for i in range(len(tokenizer))])
    earns[:SPECIAL] = False
    return earns


def share(completions: Sequence[Sequence[int]], earns: Tensor) -> list[float]:
    """The reward of each completion: its share of tokens that ``earns`` marks."""
    return [float(earns[torch.tensor(tokens)].float().mean()) for tokens in completions]


class Meter:
    """Measures weights on the held-out prompts of ``start``, each time with the same random numbers."""

    def __init__(self, start: Path, evaluated: int = EVALUATED) -> None:
        self.earns = letter_tokens(start)
        self.prompts = torch.tensor([row["ids"] for row in read_prompts(start, evaluated)[1]])
        self.policy, self.reference = (
            AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval() for _ in range(2)
        )
        # nothing is inherited from the folder: no end of sequence, no truncation of the distribution
        self.policy.generation_config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW_TOKENS, pad_token_id=0
        )

    @torch.no_grad()
    def measure(self, weights: Mapping[str, Tensor]) -> tuple[float, float]:
        """(mean reward, mean sequence KL in nats) of the policy with these ``weights`` (a state_dict)."""
        self.policy.load_state_dict(weights)
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
            torch.manual_seed(0)
            ids = self.policy.generate(self.prompts, attention_mask=torch.ones_like(self.prompts))
            new = ids[:, self.prompts.shape[1] :]
            assert new.shape[1] == NEW_TOKENS, new.shape
            kl = self._logprobs(self.policy, ids) - self._logprobs(self.reference, ids)
        return float(self.earns[new].float().mean()), float(kl.sum(1).mean())

    def _logprobs(self, model: Any, ids: Tensor) -> Tensor:
        """log π of the new tokens, fp32 ``[B, NEW_TOKENS]``, by a full forward."""
        rows = []
        for part in ids.split(64):
            logits = model(input_ids=part, use_cache=False).logits[:, -NEW_TOKENS - 1 : -1]
            rows.append(torch.log_softmax(logits.float(), -1).gather(2, part[:, -NEW_TOKENS:, None]).squeeze(2))
        return torch.cat(rows)


class Course:
    """The curve of one run: a point at the start and after each rollout's updates, on a clock that stops for them."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.points: list[dict[str, float]] = []
        self._spent = [0.0, 0.0]
        self._began = (0.0, 0.0)

    def begin(self) -> None:
        """Training starts now."""
        self._began = (time.process_time(), time.perf_counter())

    def point(self, weights: Mapping[str, Tensor]) -> None:
        """Measure the policy as it is; ``cpu_s`` and ``wall_s`` are the training's own."""
        cpu, wall = time.process_time(), time.perf_counter()
        reward, kl = self.meter.measure(weights)
        self.points.append({
            "updates": float(len(self.points)), "reward": reward, "kl": kl,
            "cpu_s": cpu - self._began[0] - self._spent[0], "wall_s": wall - self._began[1] - self._spent[1],
        })  # fmt: skip
        self._spent[0] += time.process_time() - cpu
        self._spent[1] += time.perf_counter() - wall
