"""Evaluation of policies: what equal policies give, what blocks a promotion, what guards nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fixtures import FP32, llama, policy_of
from tropism.engine.generation import Sampling
from tropism.errors import ConfigError
from tropism.feedback.records import Split, Task
from tropism.language.config import EvaluationSection
from tropism.language.evaluate import Evaluator, check_kept
from tropism.language.worlds.base import ModelSettings, Phase
from tropism.runtime.stage import StageRun


class EvenWorld:
    """Gold is the share of even words; ``even`` says whether it is above a half, ``never`` never applies."""

    name = "even"

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        return [Task(split, {"prompt": " ".join(f"w{(i + j) % 60}" for j in range(1 + i % 3))}) for i in range(count)]

    def demonstrations(self, count: int, seed: int) -> list[tuple[str, str]]:
        return []

    def curriculum(self, seed: int) -> list[Phase]:
        return []

    def build(self, folder: Path, settings: ModelSettings, seed: int) -> None:
        raise NotImplementedError

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        return {"even": float(self.gold(task, text) > 0.5), "never": None}

    def gold(self, task: Task, text: str) -> float:
        words = [int(w[1:]) for w in text.split() if w[1:].isdigit()]
        return sum(w % 2 == 0 for w in words) / max(1, len(words))


def evaluator(folder: Path, **settings: Any) -> Evaluator:
    return Evaluator(
        EvenWorld(),
        EvaluationSection(**settings),
        Sampling(8, frozenset({2})),
        FP32,
        StageRun("evaluate-1", folder, 0),
    )


def test_equal_policies_are_equal_in_everything(tmp_path: Path) -> None:
    policies = {name: policy_of(llama(0)) for name in ("policy", "reference", "previous")}
    made = evaluator(tmp_path, keep=["even"]).compare(policies, EvenWorld().tasks("test", 40, 0), {})
    metrics = made.values["metrics"]
    for name in ("win_rate", "win_rate_previous", "win_rate_length_controlled"):
        assert metrics[name] == pytest.approx(0.5)
    assert metrics["kl_sequence"] == metrics["kl_sequence_k3"] == 0.0
    assert metrics["length_change"] == metrics["length_change_low"] == metrics["length_change_high"] == 0.0
    assert made.values["promote"] is True
    assert made.values["reasons"] == []
    assert made.values["kept"]["even"]["holds"] is True
    assert (made.folders["samples"] / "samples.jsonl").is_file()


def test_another_policy_differs_and_its_rating_agrees_with_its_win_rate(tmp_path: Path) -> None:
    policies = {"policy": policy_of(llama(1)), "reference": policy_of(llama(0))}
    made = evaluator(tmp_path).compare(policies, EvenWorld().tasks("test", 60, 0), {})
    metrics = made.values["metrics"]
    assert metrics["kl_sequence"] > 0.5
    assert metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"]
    assert metrics["rating_low"] <= metrics["rating"] <= metrics["rating_high"]
    assert (metrics["rating"] > 0) == (metrics["win_rate"] > 0.5)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"win_rate": 0.46}, ""),
        ({"win_rate": 0.44}, "win_rate is 0.440, below 0.450"),
        ({"win_rate": 0.8, "win_rate_previous": 0.44}, "win_rate_previous is 0.440, below 0.450"),
        ({"win_rate": 0.4, "win_rate_previous": 0.46}, "win_rate is 0.400, below 0.450"),
        ({"win_rate": 0.8, "kl_sequence": 5.5}, "sequence KL is 5.50 nats, above 5"),
        ({"win_rate": 0.8, "even": 0.5, "reference_even": 0.56}, "even fell to 0.500, below 0.510"),
        ({"win_rate": 0.8, "even": None}, "even applies to none of these prompts"),
    ],
)
def test_what_blocks_a_promotion(tmp_path: Path, metrics: dict[str, Any], said: str) -> None:
    known = {"even": 1.0, "reference_even": 1.0, "kl_sequence": 1.0, **metrics}
    known = {name: value for name, value in known.items() if value is not None}
    judge = evaluator(tmp_path, keep=["even"], kl_limit=5.0)
    promote, reasons = judge.decision(known, judge.kept(known))
    assert reasons == ([said] if said else [])
    assert promote is (not said)


def test_a_kept_value_that_nothing_measures_is_refused_at_once() -> None:
    world = EvenWorld()
    tasks = world.tasks("test", 8, 0)
    check_kept(world, ["even", "never", "gold_mean", "distinct_2"], tasks)
    with pytest.raises(ConfigError, match='"evn", which nothing measures in world even'):
        check_kept(world, ["even", "evn"], tasks)
