"""Our side of ``ppo_speed.py`` and ``speed_growth.py``: one process, one JSON line.

python ppo_speed_ours.py --models FOLDER --precision fp32|bf16 --trunk shared|separate [--work fixed|eos] [--steps 3] …
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import transformers

import tropism
from peers.prescribed_lengths import LONGEST, WORKS, lengths_of
from speed_models import read_prompts
from tropism.engine.generation import Sampling
from tropism.feedback.records import Task
from tropism.language.config import PpoSection
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered
from tropism.language.rewards import RewardSum
from tropism.monitoring.phases import peak_rss_mib
from tropism.runtime.memory import tune
from tropism.runtime.precision import PrecisionName, resolve_precision
from tropism.runtime.stage import StageRun

NEVER: frozenset[int] = frozenset()
"""No token ends a completion: lengths are prescribed."""


class LastMetrics:
    """A metric sink that keeps the last step's values."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def write(self, phase: str, step: int, values: Any) -> None:
        """Keep the values."""
        self.values = dict(values)


def trainer(given: argparse.Namespace, run: StageRun) -> PpoTrainer:
    """A trainer whose step is the work of the benchmark."""
    policy = LanguagePolicy.load(given.models / "lm")
    reference = replace(policy, model=copy_of(policy.model))
    rows = read_prompts(given.models)
    tasks = [Task("train", {"prompt": row["text"]}) for row in rows]
    if [policy.encode_task(t.payload) for t in tasks] != [row["ids"] for row in rows]:
        raise ValueError(f"prompts of {given.models} are encoded to other ids than were written: make the folder anew")
    precision = resolve_precision(given.precision)
    reward = LearnedReward.load(given.models / "rm", precision=precision).beside(policy.tokenizer)
    sample = [Answered(t.payload, text, True) for t, text in zip(tasks, ("a", "b", "c", "d"), strict=False)]
    settings = PpoSection(
        steps=given.steps, batch_size=given.prompts, epochs=given.epochs,
        mini_batch_size=given.mini_batch or given.prompts, learning_rate=1e-5, warmup_steps=0, critic_warmup_steps=0,
        critic_learning_rate=None, value_trunk=given.trunk, kl_ref_coef=0.05, kl_old_stop=None,
        checkpoint_every=given.steps + 1,
    )  # fmt: skip
    return PpoTrainer(
        policy=policy,
        reference=reference,
        actor=ActorCritic(policy.model, given.trunk),
        rewards=RewardSum([reward.frozen_on(sample, "four short answers")]),
        tasks=tasks,
        settings=settings,
        sampling=Sampling(given.new_tokens if given.work == "fixed" else LONGEST, NEVER),
        precision=precision,
        run=run,
    )


def timed_step(ppo: PpoTrainer, step: int, given: argparse.Namespace, sink: LastMetrics) -> dict[str, Any]:
    """One step with its seconds; ValueError where its work is not what was asked for."""
    lengths = lengths_of(given.work, step, given.prompts, given.new_tokens)
    if given.work == "eos":
        ppo.sampling = replace(ppo.sampling, limits=tuple(lengths))
    wall, cpu = time.perf_counter(), time.process_time()
    ppo.step()
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    rows = (ppo.run.folder / "rollouts" / f"step-{step:05d}.jsonl").read_text("utf-8").splitlines()
    made = [len(json.loads(row)["tokens"]) for row in rows]
    if made != lengths:
        raise ValueError(f"step {step} generated {made} tokens, not {lengths}")
    if sink.values["ppo/epochs_done"] != given.epochs:
        raise ValueError(f"step {step} made {sink.values['ppo/epochs_done']} epochs, not {given.epochs}")
    phases = {k.removeprefix("cpu/").removesuffix("_s"): v for k, v in sink.values.items() if k.startswith("cpu/")}
    return took | {"phases_cpu_s": phases, "tokens": sum(made)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--precision", choices=get_args(PrecisionName), required=True)
    parser.add_argument("--trunk", choices=("shared", "separate"), required=True)
    parser.add_argument("--work", choices=WORKS, default="fixed")
    numbers = {"steps": 3, "skip": 1, "threads": 2, "prompts": 64, "new-tokens": 64, "epochs": 4}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--mini-batch", type=int, help="prompts of an optimiser step (default: all)")
    given = parser.parse_args()
    tune(given.threads)
    sink = LastMetrics()
    with tempfile.TemporaryDirectory() as scratch:
        ppo = trainer(given, StageRun("speed", Path(scratch), 0, metrics=sink))
        before = peak_rss_mib()
        made = [timed_step(ppo, step, given, sink) for step in range(given.steps)]
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tropism)}
    memory = {"start_rss_mib": before, "peak_rss_mib": peak_rss_mib()}
    print(json.dumps({"steps": made[given.skip :], **memory, "versions": versions}))


if __name__ == "__main__":
    main()
