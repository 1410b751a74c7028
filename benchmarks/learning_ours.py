"""Our side of ``learning_speed.py``: one PPO run, its curve as one JSON line, as ``peers/trl_learn_driver.py`` has it.

    python learning_ours.py --start FOLDER [--kl-weight 0.05] [--seed 0] [--rollouts 16] [--precision bf16] …

The rewards' deviation is near 0.08, so that the value loss, in their square, would hardly be heard by the shared trunk
at its usual weight: hence ``--value-coef 10``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

import tropism
from learning_meter import EVALUATED, NEW_TOKENS, Course, Meter, letter_tokens, read_prompts, share
from tropism.engine.generation import Sampling
from tropism.feedback.records import Task
from tropism.language.config import PpoSection
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.rewards import CallableReward, RewardSum
from tropism.runtime.memory import tune
from tropism.runtime.precision import resolve_precision
from tropism.runtime.stage import StageRun

NEVER: frozenset[int] = frozenset()
"""No token ends a completion."""


def trainer(given: argparse.Namespace, start: Path, run: StageRun) -> PpoTrainer:
    """A trainer on the task of the benchmark."""
    policy = LanguagePolicy.load(start)
    reference = replace(policy, model=copy_of(policy.model))
    train = read_prompts(start, given.evaluated)[0]
    tasks = [Task("train", {"prompt": row["text"]}) for row in train]
    assert [policy.encode_task(t.payload) for t in tasks] == [row["ids"] for row in train]
    earns = letter_tokens(start)

    def reward(tasks: Sequence[Task], generation: Any, texts: Sequence[str]) -> list[float]:
        return share(generation.completions, earns)

    settings = PpoSection(
        steps=given.rollouts, batch_size=given.batch, mini_batch_size=min(given.mini_batch, given.batch),
        epochs=given.epochs, learning_rate=given.lr, critic_warmup_steps=given.critic_warmup,
        warmup_steps=given.warmup, kl_ref_coef=given.kl_weight, value_trunk=given.trunk, value_coef=given.value_coef,
        checkpoint_every=given.rollouts + 1,
    )  # fmt: skip
    return PpoTrainer(
        policy=policy,
        reference=reference,
        actor=ActorCritic(policy.model, given.trunk),
        rewards=RewardSum([CallableReward("share", reward)]),
        tasks=tasks,
        settings=settings,
        sampling=Sampling(NEW_TOKENS, NEVER),
        precision=resolve_precision(given.precision),
        run=run,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--trunk", choices=("shared", "separate"), default="shared")
    parser.add_argument("--kl-weight", type=float, default=0.05)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--value-coef", type=float, default=10.0)
    whole = {"seed": 0, "rollouts": 16, "batch": 64, "mini-batch": 32, "epochs": 4, "threads": 2, "warmup": 2}
    for name, default in {**whole, "critic-warmup": 1, "evaluated": EVALUATED}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    tune(given.threads)
    course = Course(Meter(given.start, given.evaluated))
    with tempfile.TemporaryDirectory() as scratch:
        ppo = trainer(given, given.start, StageRun("learning", Path(scratch), given.seed))
        course.begin()
        course.point(ppo.policy.model.state_dict())
        for _ in range(given.rollouts):
            ppo.step()
            course.point(ppo.policy.model.state_dict())
            print(json.dumps(course.points[-1]), file=sys.stderr, flush=True)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tropism)}
    print(json.dumps({"curve": course.points, "versions": versions}))


if __name__ == "__main__":
    main()
