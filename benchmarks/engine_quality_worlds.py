"""What ``engine_quality.py`` trains on: for each world and seed a start policy and a frozen reward, and who judges.

Both are made by the code that a study runs, once per seed (the sentiment language model once for all): tinytalk's by
its recipe as far as the first reward model, sentiment's by the cells of ``sentiment.py`` at a size of its own. The
reward scores in float32, whatever the engine. Left out: rounds, promotion, evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

import sentiment
from tropism import Study
from tropism.feedback.records import Task
from tropism.language.config import PpoSection
from tropism.language.domain import LanguageDomain
from tropism.language.worlds.sentiment_judge import centred_threshold

EVALUATED = 256
"""Samples of a measurement."""
LEVELS = (3.0, 10.0)
"""Sequence KLs, nats, at which the leash holds a run, one after the other."""


@dataclass(frozen=True)
class Start:
    """Where all engines of one seed begin, and what they are paid by."""

    domain: LanguageDomain
    policy: Path
    reward: Path


class World(Protocol):
    """A world of the benchmark."""

    gold_name: str

    def start(self, seed: int) -> Start:
        """Made once, found again afterwards."""
        ...

    def ppo(self, start: Start) -> PpoSection:
        """Settings of a run: ``steps`` are shared out evenly among the KLs."""
        ...

    def evaluated(self, start: Start) -> list[Task]:
        """The held-out tasks of a measurement."""
        ...

    def judge(self, start: Start, tasks: Sequence[Task], texts: Sequence[str], reference: Sequence[str]) -> float:
        """What nothing here learns from, over all texts; ``reference`` are the start policy's."""
        ...


def leashed(start: Start, steps: int, coef: float, rate: float, quick: bool) -> PpoSection:
    """The domain's PPO settings, the KL held at the first level by a controller that begins at ``coef`` and moves by at
    most a fifth of ``rate`` each step."""
    leash = {"kl_target": LEVELS[0], "kl_ref_coef": coef, "kl_rate": rate, "kl_limit": None, "checkpoint_every": steps}
    few = {"steps": 4, "critic_warmup_steps": 1, "warmup_steps": 0} if quick else {"steps": steps}
    return PpoSection(**start.domain.config.ppo.model_dump() | leash | {"learning_rate": 3e-4} | few)


@dataclass
class Tinytalk:
    """The demo's world; gold is its noise-free utility."""

    work: Path
    quick: bool = False
    gold_name = "gold utility"

    def start(self, seed: int) -> Start:
        """SFT, one collection from the noisy oracle, one reward model: the recipe's first stages."""
        folder = self.work / f"study-{seed}"
        settings = [f"study.seed={seed}", "study.rounds=1", "runtime.threads=1", "runtime.precision=fp32"]
        if self.quick:
            settings += ["feedback.queries_per_round=100", "sft.steps=20", "world.options.pretrain.steps=20"]
        study = Study.open(folder) if folder.exists() else Study.create(folder, "tinytalk", settings)
        with study:
            done = {s.name: s for s in study.status().stages if s.status == "done"}
            if "reward-1" not in done:  # several runs read a finished study at once; only one may train it
                done = {s.name: s for s in study.run(until="reward-1").stages}
            policy, reward = done["base"].folders["policy"], done["reward-1"].folders["reward"]
            place = study.artifacts.path
            return Start(LanguageDomain(study.config.domain), place(policy), place(reward))

    def ppo(self, start: Start) -> PpoSection:
        """The recipe's, on a leash that adapts."""
        return leashed(start, 50, 0.05, 1.0, self.quick)

    def evaluated(self, start: Start) -> list[Task]:
        """Test prompts."""
        return start.domain.world.tasks("test", 32 if self.quick else EVALUATED, 77)

    def judge(self, start: Start, tasks: Sequence[Task], texts: Sequence[str], reference: Sequence[str]) -> float:
        """Mean utility."""
        gold = [start.domain.world.gold(t, x) for t, x in zip(tasks, texts, strict=True)]
        return float(np.mean([g for g in gold if g is not None]))


@dataclass
class Sentiment:
    """Film reviews made positive; gold is the judge's verdict, which is fitted on other text than the reward."""

    data: Path
    work: Path
    quick: bool = False
    gold_name = "share judged positive"

    def __post_init__(self) -> None:
        self.size = (
            sentiment.QUICK
            if self.quick
            else sentiment.Size(
                pretraining_steps=400, feedback=4000, ppo_steps=50, batch=64, samples_per_prompt=1, hidden=128, layers=3
            )
        )
        self.bench = sentiment.Bench(self.data, self.work / "cells", self.size, "fp32")

    def start(self, seed: int) -> Start:
        """The pretrained language model, and a reward model on people's labels."""
        base = self.bench.base()[0]
        return Start(self.bench.domain(), base, self.bench.reward(base, seed)[0])

    def ppo(self, start: Start) -> PpoSection:
        """Those of ``sentiment.py``, on a leash that adapts; its reward pulls harder, and would run past a weak one."""
        return leashed(start, self.size.ppo_steps, 0.3, 0.5, self.quick)

    def evaluated(self, start: Start) -> list[Task]:
        """Openings of test reviews, repeated until there are enough."""
        tasks = self.bench.test
        count = 32 if self.quick else EVALUATED
        return [tasks[i % len(tasks)] for i in range(count)]

    def judge(self, start: Start, tasks: Sequence[Task], texts: Sequence[str], reference: Sequence[str]) -> float:
        """Share above the threshold at which half of the start policy's texts are."""
        score = self.bench.world.judge.score
        return float((score(list(texts)) > centred_threshold(score(list(reference)))).mean())
