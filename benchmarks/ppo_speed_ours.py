"""Our side of ``ppo_speed.py``: one process, one JSON line, as ``peers/trl_ppo_driver.py`` prints it.

python ppo_speed_ours.py --models FOLDER --precision fp32|bf16 --trunk shared|separate [--steps 3] [--skip 1]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

import tropism
from ppo_speed import EPOCHS, NEW_TOKENS, PROMPTS
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
from tropism.runtime.precision import resolve_precision
from tropism.runtime.stage import StageRun

NEVER: frozenset[int] = frozenset()
"""No token ends a completion, so that all have the same length."""


class LastMetrics:
    """A metric sink that keeps the last step's values."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def write(self, phase: str, step: int, values: Any) -> None:
        """Keep the values."""
        self.values = dict(values)


def trainer(models: Path, precision: str, trunk: Any, steps: int, run: StageRun) -> PpoTrainer:
    """A trainer whose step is the work of the benchmark."""
    policy = LanguagePolicy.load(models / "lm")
    reference = replace(policy, model=copy_of(policy.model))
    rows = read_prompts(models)
    tasks = [Task("train", {"prompt": row["text"]}) for row in rows]
    assert [policy.encode_task(t.payload) for t in tasks] == [row["ids"] for row in rows]
    chosen = resolve_precision(precision)
    reward = LearnedReward.load(models / "rm", precision=chosen).beside(policy.tokenizer)
    sample = [Answered(t.payload, text, True) for t, text in zip(tasks, ("a", "b", "c", "d"), strict=False)]
    settings = PpoSection(
        steps=steps, batch_size=PROMPTS, epochs=EPOCHS, mini_batch_size=PROMPTS, learning_rate=1e-5, warmup_steps=0,
        critic_warmup_steps=0, critic_learning_rate=None, value_trunk=trunk, kl_ref_coef=0.05, kl_old_stop=None,
        checkpoint_every=steps + 1,
    )  # fmt: skip
    return PpoTrainer(
        policy=policy,
        reference=reference,
        actor=ActorCritic(policy.model, trunk),
        rewards=RewardSum([reward.frozen_on(sample, "four short answers")]),
        tasks=tasks,
        settings=settings,
        sampling=Sampling(NEW_TOKENS, NEVER),
        precision=chosen,
        run=run,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--trunk", choices=("shared", "separate"), required=True)
    for name, default in {"steps": 3, "skip": 1, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    tune(given.threads)
    made, sink = [], LastMetrics()
    with tempfile.TemporaryDirectory() as scratch:
        run = StageRun("speed", Path(scratch), 0, metrics=sink)
        ppo = trainer(given.models, given.precision, given.trunk, given.steps, run)
        for _ in range(given.steps):
            wall, cpu = time.perf_counter(), time.process_time()
            ppo.step()
            took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            phases = {
                k.removeprefix("cpu/").removesuffix("_s"): v for k, v in sink.values.items() if k.startswith("cpu/")
            }
            made.append(took | {"phases_cpu_s": phases})
            assert sink.values["ppo/epochs_done"] == EPOCHS, sink.values
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tropism)}
    print(json.dumps({"steps": made[given.skip :], "peak_rss_mib": peak_rss_mib(), "versions": versions}))


if __name__ == "__main__":
    main()
