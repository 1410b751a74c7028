"""Agents that learn from comparisons beside agents that see the true reward (Christiano et al. 2017, section 3.1).

On each task the same PPO learns three times: from the true reward, and from 700 and 1,400 comparisons of its own
segments (10 or 25 steps), those on which the ensemble disagrees most, by a synthetic teacher that sees the true reward
(350 besides on HalfCheetah). All tasks have a fixed horizon: a walker that falls goes on lying. A return is normalised
by the task's own ends: 0 is random actions, 1 the mean of the runs on the true reward. What is claimed is the
interquartile mean over tasks and seeds, with a bootstrap of seeds within tasks and arms (Agarwal et al. 2021), those on
the true reward included; every task is listed. Environment steps are counted at the environment, those of asking
included.

    python benchmarks/christiano.py --folder RUNS [--tasks HalfCheetah-v5 …] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/christiano.py                 the same with the committed runs (results/runs) as RUNS
    python benchmarks/christiano.py --quick         one short run of each kind; no result file

Some 60 runs of one to six CPU minutes, kept in RUNS (``control_runs.py``); the result and the plot are written when
all are there. Left out: real people.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import RESULTS, Claim, write_result
from control_runs import KEPT, Cell, play, read, run_all
from control_shares import Arm, mean, share

TRUE, SEEDS = "true", (0, 1, 2)
TARGETS = {"700": 0.90, "1400": 0.95}
LEAST = 0.75
COLOURS = {TRUE: "C0", "350": "C3", "700": "C1", "1400": "C2"}


@dataclass(frozen=True)
class Task:
    """An environment, for how long it is learned, and PPO's settings there (the same for all arms)."""

    id: str
    steps: int
    ppo: Mapping[str, Any]
    segment: int
    reward: Mapping[str, Any]
    arms: tuple[str, ...] = (TRUE, "700", "1400")

    def cell(self, arm: str, seed: int) -> Cell:
        """A run."""
        name, labels = f"{self.id}-{arm}-{seed}", 0 if arm == TRUE else int(arm)
        if not labels:
            return Cell(name, self.id, self.steps, seed, self.ppo, staggered=True)
        return Cell(
            name, self.id, self.steps, seed, self.ppo, labels, selection="disagreement",
            preferences={"segment_length": self.segment}, reward=self.reward, staggered=True,
        )  # fmt: skip


FALLING = {"learning_rate_end": 0.0}
WALKING = {"normalise_observations": True, "normalise_rewards": True, **FALLING}
"""PPO's settings were chosen on the true reward, as was HalfCheetah's smaller noise at the start: with more of it runs
ended in a poor gait from which none got away, whoever paid."""
EXACT = {"label_error": 0.01}
MOVING = {**EXACT, "successors": True}
"""This teacher does not err. What it pays for is how far a step leads, which shows in the observation that follows.
Its segments are short, for it can tell which of two moments is the better one, and that says more of single steps than
which of two seconds is; people need the seconds."""
TASKS = (
    Task("HalfCheetah-v5", 1_000_000, {**WALKING, "gamma": 0.98, "log_std": -1.0}, 25, MOVING,
         arms=(TRUE, "350", "700", "1400")),
    Task("Hopper-v5", 1_000_000, WALKING, 25, MOVING),
    Task("Walker2d-v5", 1_000_000, WALKING, 10, MOVING),
    Task("Swimmer-v5", 1_000_000, {**WALKING, "gamma": 0.9999, "gae_lambda": 0.98}, 25, MOVING),
    Task("Reacher-v5", 300_000, {"normalise_observations": True, "gamma": 0.95, **FALLING}, 10, EXACT),
    Task("Pendulum-v1", 300_000, {"gamma": 0.95, "learning_rate": 1e-3, **FALLING}, 25, EXACT),
)  # fmt: skip


def claims_of(runs: Mapping[str, Mapping[str, Any]]) -> tuple[list[Claim], dict[str, dict[str, Any]]]:
    """What is claimed of all runs, and the table of all tasks and arms."""
    table: dict[str, dict[str, Any]] = {}
    arms: dict[str, list[Arm]] = {}
    for t in TASKS:
        of = {a: [runs[t.cell(a, s).name] for s in SEEDS] for a in t.arms}
        table[t.id] = {"random_return": of[TRUE][0]["random_return"], "steps": t.steps}
        for a in t.arms:
            arm = Arm.of(t.id, of[a], of[TRUE])
            arms.setdefault(a, []).append(arm)
            spent = float(np.mean([r["cpu_s"] for r in of[a]]))
            table[t.id][a] = {"true_return": arm.returns.tolist(), "normalised": arm.shares.tolist(), "cpu_s": spent}
    claims = []
    for a, target in TARGETS.items():
        found = share(arms[a])
        name = f"normalised return with {a} labels, interquartile mean over {len(TASKS)} tasks"
        claims.append(Claim(name, found.value, found.low, found.high, f">= {target}", found.value >= target))
        holds = found.low >= LEAST
        claims.append(Claim(f"lower bound with {a} labels", found.low, found.low, found.high, f">= {LEAST}", holds))
    for t in TASKS:
        for a in t.arms[1:]:
            own = share([arm for arm in arms[a] if arm.task == t.id], mean)
            claims.append(Claim(f"{t.id}, {a} labels", own.value, own.low, own.high, "", True))
    return claims, table


def report(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """The result and the plot, from all runs."""
    claims, table = claims_of(runs)
    write_result("christiano", claims, {"seeds": list(SEEDS), "tasks": table}, quick=False)
    plot(runs)


def plot(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """True returns while training, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for panel, task in zip(panels.flat, TASKS, strict=True):
        for arm in task.arms:
            for number, seed in enumerate(SEEDS):
                x, y = np.array(runs[task.cell(arm, seed).name]["curve"]).T
                width = max(1, len(y) // 20)
                smooth = np.convolve(y, np.ones(width) / width, "valid")
                label = None if number else ("true reward" if arm == TRUE else f"{arm} labels")
                panel.plot(x[width - 1 :], smooth, color=COLOURS[arm], alpha=0.7, lw=1.2, label=label)
        panel.set_title(task.id)
        panel.set_xlabel("environment steps")
    panels.flat[0].set_ylabel("true return")
    panels.flat[0].legend(frameon=False)
    figure.savefig(RESULTS / "christiano.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=KEPT, help="keeps the runs; an empty one begins anew")
    parser.add_argument("--tasks", nargs="+", choices=[t.id for t in TASKS], default=[t.id for t in TASKS])
    parser.add_argument("--arms", nargs="+", help="make these arms' runs now")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="make these seeds' runs now")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        short = replace(TASKS[-1], steps=20_000)
        with tempfile.TemporaryDirectory() as folder:
            made = [play(short.cell(arm, 0), Path(folder)) for arm in (TRUE, "700")]
        write_result("christiano", [], {"runs": made}, quick=True)
        return
    wanted = [
        task.cell(arm, seed)
        for seed in given.seeds
        for task in TASKS
        for arm in task.arms
        if task.id in given.tasks and (given.arms is None or arm in given.arms)
    ]
    run_all(wanted, given.folder, given.jobs)
    runs = read([task.cell(arm, seed) for task in TASKS for arm in task.arms for seed in SEEDS], given.folder)
    if runs is not None:
        report(runs)


if __name__ == "__main__":
    main()
