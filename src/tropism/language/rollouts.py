"""Rollouts: sampled completions with everything PPO needs, and their storage as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tropism.digests import digest
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, LocalGenerator, Sampling, StopReason, check_prompts
from tropism.engine.working import Working
from tropism.feedback.records import Candidate, Provenance, Task
from tropism.files import sync_path
from tropism.language.policy import LanguagePolicy
from tropism.language.rewards import PaidRewards
from tropism.runtime.precision import Precision
from tropism.runtime.seeding import permutation
from tropism.runtime.stage import StageRun

ENGINE = "tropism-2"
"""Version of the sampling engine, kept with every candidate."""

Sampled = tuple[list[int], StopReason]
"""A completion's tokens, and how it ended."""


@dataclass
class Rollout:
    """One PPO step's completions. Tensors per token are ``[B, C]`` (0 where padded), per sequence ``[B]``."""

    step: int
    tasks: list[Task]
    generation: Generation
    texts: list[str]
    batch: TokenBatch
    old_logprobs: Tensor
    values: Tensor
    ref_logprobs: Tensor
    paid: PaidRewards

    @classmethod
    def empty(cls, step: int, tasks: list[Task], generation: Generation, texts: list[str]) -> Rollout:
        """A rollout that is sampled but neither scored nor paid."""
        batch = generation.batch()
        unpaid = PaidRewards(torch.zeros(len(batch)), {}, torch.zeros(len(batch), dtype=torch.bool))
        old, values, ref = (torch.zeros(batch.mask.shape) for _ in range(3))
        return cls(step, tasks, generation, texts, batch, old, values, ref, unpaid)

    def fill(self, rows: Tensor, **found: Tensor) -> None:
        """Set per-token tensors, by name, of some rows, each given as ``[b, C']`` with C' ≤ C."""
        for name, values in found.items():
            getattr(self, name)[rows, : values.shape[1]] = values

    @property
    def kl_ref(self) -> Tensor:
        """Sequence KL to the reference, k1 = Σ log π_old − log π_ref, nats ``[B]``."""
        return (self.old_logprobs - self.ref_logprobs).sum(1)

    def kl_ref_k3(self) -> Tensor:
        """k3 = Σ (r − 1 − log r) with r = π_ref/π_old (Schulman 2020), nats ``[B]``: never negative, less noisy."""
        log_ratio = self.ref_logprobs - self.old_logprobs
        return (torch.expm1(log_ratio) - log_ratio).sum(1)

    def rows(self, extra: Mapping[str, Sequence[float]] | None = None) -> Iterator[dict[str, Any]]:
        """One JSON row per completion, reward by component."""
        kl = self.kl_ref.tolist()
        for i, task in enumerate(self.tasks):
            yield {
                "step": self.step,
                "task_id": task.id,
                "prompt": task.payload["prompt"],
                "completion": self.texts[i],
                "tokens": self.generation.completions[i],
                "stop": self.generation.stops[i],
                "reward": {name: float(values[i]) for name, values in self.paid.components.items()},
                "reward_total": float(self.paid.total[i]),
                "kl_nats": kl[i],
                **{name: float(values[i]) for name, values in (extra or {}).items()},
            }


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write JSON lines so that the file is whole or absent, after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
    sync_path(partial)
    partial.rename(path)
    sync_path(path.parent)


def tasks_of_step(tasks: Sequence[Task], count: int, seed: int, step: int) -> list[Task]:
    """The ``count`` tasks of a step: each epoch is a permutation, the cursor is step × count, nothing to save."""
    cursors = range(step * count, (step + 1) * count)
    orders = {epoch: permutation(len(tasks), seed, epoch) for epoch in {c // len(tasks) for c in cursors}}
    return [tasks[int(orders[c // len(tasks)][c % len(tasks)])] for c in cursors]


def sample_candidates(
    policy: LanguagePolicy,
    policy_id: str,
    tasks: Sequence[Task],
    k: int,
    sampling: Sampling,
    seed: int,
    precision: Precision,
    run: StageRun | None = None,
) -> list[list[Candidate]]:
    """K completions per task as candidates ``[N][K]``, each with what made it.

    With ``run`` every finished batch is kept in the stage's scratch folder: a killed stage goes on behind it.
    """
    prompts = [policy.encode_task(t.payload) for t in tasks for _ in range(k)]
    check_prompts(policy.model, prompts, sampling)  # all of them, before the first batch
    sampled: dict[int, Sampled] = {}
    generator = LocalGenerator(Working(policy.model, precision))
    generator.update_weights(policy_id)
    # always the same batches, kept or not: bf16 rounds by the company that a row is in
    by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(prompts), sampling.max_rows):
        batch = {i: prompts[i] for i in by_length[start : start + sampling.max_rows]}
        sampled |= _sampled_batch(generator, batch, sampling, seed, run)
        if run is not None:
            run.progress.update("sample", len(sampled), len(prompts))
    how = {"temperature": sampling.temperature, "max_new_tokens": sampling.max_new_tokens, "precision": precision.name}

    def candidate(task: Task, number: int) -> Candidate:
        tokens, stop = sampled[number]
        content = {"text": policy.decode(tokens), "tokens": tokens, "stop": stop}
        return Candidate(task.id, "text", content, Provenance(policy_id, {**how, "sequence": number}, ENGINE, seed))

    return [[candidate(task, n * k + i) for i in range(k)] for n, task in enumerate(tasks)]


def _sampled_batch(
    generator: LocalGenerator,
    prompts: Mapping[int, list[int]],
    sampling: Sampling,
    seed: int,
    run: StageRun | None,
) -> dict[int, Sampled]:
    """Completions of one batch of prompts by their numbers: read where ``run`` has kept them, else sampled and kept."""
    numbers, path = list(prompts), None
    if run is not None:
        precision = generator.working.precision.name
        how = [sampling.temperature, sampling.max_new_tokens, sorted(sampling.eos_ids), precision]
        named = [generator.policy_version, seed, list(prompts.items()), how]
        path = run.folder / "sampled" / f"{digest(named)}.jsonl"
        if path.is_file():
            with path.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            return {i: (row["tokens"], row["stop"]) for i, row in zip(numbers, rows, strict=True)}
        run.check_stop()
    out = generator.generate(list(prompts.values()), sampling, seed=seed, sequence_ids=numbers)
    made: dict[int, Sampled] = dict(zip(numbers, zip(out.completions, out.stops, strict=True), strict=True))
    if path is not None:
        write_rows(path, ({"tokens": tokens, "stop": stop} for tokens, stop in made.values()))
    return made
