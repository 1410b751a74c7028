"""What else agents learn from: chosen questions, ratings, and a policy that was trained on the wrong reward.

``selection``: how many comparisons it takes to 90 % of what 1,400 random ones reach, asking about random pairs and
about those on which the ensemble disagrees. ``ratings``: agents that learn from ratings of single steps and of segments
by a noisy rater, fitted by regression while they train, beside the true reward. ``turned``: a policy that ordinary RL
has trained on a wrong reward, and preferences have turned to the right one.

    python benchmarks/control_feedback.py --folder RUNS [--only selection ratings turned] [--jobs 2]
    python benchmarks/control_feedback.py                  the same with the committed runs (results/runs) as RUNS
    python benchmarks/control_feedback.py --quick          one short run; no result file

Results: ``results/control_selection.json``, ``control_ratings.json``, ``control_turned.json``. Some 80 runs of one to
two CPU minutes, kept in RUNS (``control_runs.py``), with ``christiano.py``'s settings. Left out: other ways to
choose (``entropy``, ``k_centre``).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import christiano
from christiano import Task
from common import Claim, interval, write_result
from control_runs import KEPT, Cell, play, read, run_all
from control_shares import Arm, difference, mean, share
from tropism.study.config import FeedbackSection

SEEDS = (0, 1, 2)
Runs = Mapping[str, Mapping[str, Any]]
TASKS = {task.id: task for task in christiano.TASKS}
CHEETAH = replace(TASKS["HalfCheetah-v5"], steps=500_000)
PENDULUM = replace(TASKS["Pendulum-v1"], steps=200_000)
CARTPOLE = Task("CartPole-v1", 150_000, {**christiano.FALLING, "gamma": 0.95}, 25, {})
"""Its discount is short: over a long one what noise adds to the reward of a step adds up, till falling, which starts
the cart anew, seems worth its price."""
BUDGETS = (60, 120, 250, 500, 1400)
WAYS = ("random", "disagreement")
DEFAULT = FeedbackSection().selection
SHARE = 0.9
NOISE = {"rationality": 2.0}
"""Of raters: logistic noise, in units of the spread of what is rated."""
FELL: Mapping[str, Any] = {
    "selection": "disagreement", "reward": {"successors": True},
    "oracle": {**NOISE, "scale": (1, 2), "anchors": (0.0, 1.0)},
}  # fmt: skip
"""Of single steps of CartPole: good or bad is all there is to say, and bad ones, where it falls, are rare."""
BACKWARDS = "control_wrong_rewards:backwards"
AWAKE = -0.5
"""Noise with which a turned policy goes on: a trained one has little left to find anything else by."""
TURNING_STEPS = 2 * CHEETAH.steps
"""It has to unlearn first."""
TURNED_SEEDS = tuple(range(10))
"""Which gait is found is a matter of luck, more so than from the beginning."""
TURNED = 0.75
"""Of what the right reward gives from the beginning: less than that is a policy that was stopped, not turned."""


def selection_cells() -> list[Cell]:
    """Every budget with either way of choosing."""
    return [
        replace(task.cell(str(labels), seed), name=f"select-{task.id}-{way}-{labels}-{seed}", selection=way)
        for task in (CHEETAH, PENDULUM)
        for labels in BUDGETS
        for way in WAYS
        for seed in SEEDS
    ]


def selection_claims(runs: Runs) -> tuple[list[Claim], dict[str, Any]]:
    """Labels to ``SHARE`` of the largest budget's random return, between budgets by a straight line. The default is to
    choose by disagreement where that is sure to save labels, and at random where it is not.

    A run that the largest budget was not enough for counts as that budget, and the claim says how many did: what they
    need is more, and not known."""
    claims, found = [], dict[str, Any]()
    for task in (CHEETAH.id, PENDULUM.id):

        def returns(way: str, labels: int, task: str = task) -> list[float]:
            return [runs[f"select-{task}-{way}-{labels}-{seed}"]["true_return"] for seed in SEEDS]

        chance = next(iter(r for r in runs.values() if r["cell"]["environment"] == task))["random_return"]
        goal = chance + SHARE * (float(np.mean(returns("random", BUDGETS[-1]))) - chance)
        needed = {
            way: [labels_to(goal, [returns(way, b)[i] for b in BUDGETS]) for i in range(len(SEEDS))] for way in WAYS
        }
        saved = difference(*([n.labels for n in needed[way]] for way in WAYS))
        short = {way: sum(n.bound == ">" for n in needed[way]) for way in WAYS}
        name = f"{task}: labels saved by asking where members disagree"
        if sum(short.values()):
            name += f" ({short['random']} random and {short['disagreement']} such runs never got there)"
        certain = saved.low > 0
        target, holds = (
            ("low > 0", certain) if DEFAULT == "disagreement" else ("low <= 0, else the default", not certain)
        )
        claims.append(Claim(name, saved.value, saved.low, saved.high, target, holds))
        found[task] = {
            "goal": goal, "needed": {way: [asdict(n) for n in needed[way]] for way in WAYS},
            "never": short, "returns": {w: [returns(w, b) for b in BUDGETS] for w in WAYS},
        }  # fmt: skip
    return claims, {"budgets": list(BUDGETS), "tasks": found}


@dataclass(frozen=True)
class Needed:
    """Labels that a run needs: so many, or ("<", ">") fewer or more than that, it is not known how many."""

    labels: float
    bound: str = ""


def labels_to(goal: float, returns: Sequence[float]) -> Needed:
    """Labels at which the return (one of each budget) first reaches ``goal``."""
    if returns[0] >= goal:
        return Needed(float(BUDGETS[0]), "<")
    for i in range(1, len(BUDGETS)):
        if returns[i] >= goal:
            way = (goal - returns[i - 1]) / (returns[i] - returns[i - 1])
            return Needed(BUDGETS[i - 1] + way * (BUDGETS[i] - BUDGETS[i - 1]))
    return Needed(float(BUDGETS[-1]), ">")


def ratings_cells() -> list[Cell]:
    """The true reward, ratings of steps, ratings of segments."""
    cells = []
    for task in (CARTPOLE, PENDULUM):
        for seed in SEEDS:
            cells.append(replace(task.cell(christiano.TRUE, seed), name=f"rate-{task.id}-true-{seed}"))
            for what, labels, length in (("steps", 2000, 1), ("segments", 1000, 25)):
                rated = replace(task, segment=length).cell(str(labels), seed)
                told: Mapping[str, Any] = {"selection": "random", "oracle": NOISE, "reward": {}}
                if task.id == CARTPOLE.id and what == "steps":
                    told = FELL
                cells.append(replace(rated, name=f"rate-{task.id}-{what}-{seed}", kind="rating", **told))
    return cells


def ratings_claims(runs: Runs) -> tuple[list[Claim], dict[str, Any]]:
    """Shares of the true reward's return above random actions."""
    claims = []
    for task in (CARTPOLE.id, PENDULUM.id):
        true = [runs[f"rate-{task}-true-{seed}"] for seed in SEEDS]
        for what in ("steps", "segments"):
            own = [runs[f"rate-{task}-{what}-{seed}"] for seed in SEEDS]
            found = share([Arm.of(task, own, true)], mean)
            name = f"{task}: from ratings of {what}"
            claims.append(Claim(name, found.value, found.low, found.high, ">= 0.9", found.value >= 0.9))
    return claims, {"noise": NOISE}


def turned_cells() -> list[Cell]:
    """Running backwards, then 500 comparisons by a teacher who wants it forwards, over twice the steps; forwards from
    the beginning."""
    cells = []
    for seed in TURNED_SEEDS:
        right, wrong = CHEETAH.cell(christiano.TRUE, seed), f"turn-wrong-{seed}"
        cells.append(replace(right, name=wrong, wanted=BACKWARDS))
        cells.append(replace(right, name=f"turn-right-{seed}"))
        turned = replace(CHEETAH, steps=TURNING_STEPS).cell("500", seed)
        cells.append(replace(turned, name=f"turn-turned-{seed}", start=wrong, start_log_std=AWAKE))
    return cells


def turned_claims(runs: Runs) -> tuple[list[Claim], dict[str, Any]]:
    """True returns after, beside those of the policy it began with and of agents who wanted the right thing from the
    beginning; all by the modes of their actions, on the same starts."""
    turned = [runs[f"turn-turned-{seed}"] for seed in TURNED_SEEDS]
    right = [runs[f"turn-right-{seed}"] for seed in TURNED_SEEDS]
    before = [r["start_return"] for r in turned]
    gain, low, high = interval([r["true_return"] - b for r, b in zip(turned, before, strict=True)])
    found = share([Arm.of(CHEETAH.id, turned, right)], mean)
    return [
        Claim("HalfCheetah-v5: true return gained over the wrong policy", gain, low, high, "low > 0", low > 0),
        Claim(
            f"HalfCheetah-v5: turned in {TURNING_STEPS} steps, as a share of a fresh one on the right reward in "
            f"{CHEETAH.steps}", found.value, found.low, found.high, f"low >= {TURNED}", found.low >= TURNED,
        ),
    ], {"before": before, "seeds": list(TURNED_SEEDS)}  # fmt: skip


PARTS: Mapping[str, tuple[Callable[[], list[Cell]], Callable[[Runs], tuple[list[Claim], dict[str, Any]]]]] = {
    "selection": (selection_cells, selection_claims),
    "ratings": (ratings_cells, ratings_claims),
    "turned": (turned_cells, turned_claims),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=KEPT, help="keeps the runs; an empty one begins anew")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            cell = replace(PENDULUM.cell("40", 0), steps=12_000)
            write_result("control_feedback", [], {"run": play(cell, Path(folder))}, quick=True)
        return
    for part in given.only:
        cells, claims = PARTS[part]
        made = cells()
        run_all(made, given.folder, given.jobs)
        runs = read(made, given.folder)
        assert runs is not None
        found, about = claims(runs)
        table = {name: {k: v for k, v in run.items() if k != "curve"} for name, run in runs.items()}
        write_result(f"control_{part}", found, {"seeds": list(SEEDS), **about, "runs": table}, quick=False)


if __name__ == "__main__":
    main()
