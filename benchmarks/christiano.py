"""Agents that learn from comparisons beside agents that see the true reward (Christiano et al. 2017, section 3.1).

On each task the same PPO learns three times: from the true reward, and from 700 and 1,400 comparisons of its own
segments by a synthetic teacher that sees the true reward (350 besides on HalfCheetah). All tasks have a fixed horizon:
a walker that falls goes on lying. A return is normalised by the task's own ends: 0 is random actions, 1 the mean of the
runs on the true reward. What is claimed is the interquartile mean over tasks and seeds, with a bootstrap of seeds
within tasks (Agarwal et al. 2021); every task is listed. Environment steps are counted at the environment, those of
asking included.

    python benchmarks/christiano.py --folder RUNS [--tasks HalfCheetah-v5 …] [--seeds 0 1 2] [--jobs 2]
    python benchmarks/christiano.py --quick         one short run of every arm; no result file

Some 60 runs of one to three CPU minutes; each is a process of one thread, kept in RUNS once it is done, so the
benchmark may be stopped and started; the result and the plot are written when all are there. Left out: real people.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import RESULTS, Claim, write_result

TRUE, SEEDS = "true", (0, 1, 2)
TARGETS = {"700": 0.90, "1400": 0.95}
LEAST = 0.75
EPISODES = 20


@dataclass(frozen=True)
class Task:
    """An environment, for how long it is learned, and PPO's settings there (the same for all arms)."""

    id: str
    steps: int
    ppo: Mapping[str, Any] = field(default_factory=dict)
    segment: int = 50
    arms: tuple[str, ...] = (TRUE, "700", "1400")


NORMAL = {"normalise_observations": True}
TASKS = (
    Task("HalfCheetah-v5", 1_000_000, NORMAL, arms=(TRUE, "350", "700", "1400")),
    Task("Hopper-v5", 1_000_000, NORMAL),
    Task("Walker2d-v5", 1_000_000, NORMAL),
    Task("Swimmer-v5", 1_000_000, {**NORMAL, "gamma": 0.9999, "gae_lambda": 0.98}),
    Task("Reacher-v5", 300_000, {**NORMAL, "gamma": 0.95}, segment=25),
    Task("Pendulum-v1", 300_000, {"gamma": 0.95, "learning_rate": 1e-3}),
)


def learn(task: Task, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One run, in this process."""
    import torch

    from tropism.control.evaluate import evaluate, random_returns
    from tropism.control.fit_reward import RewardSection
    from tropism.control.ppo import Ppo, PpoSettings
    from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
    from tropism.environments.making import EnvironmentSpec
    from tropism.environments.stepping import Environments
    from tropism.feedback.asking import MemoryAsker
    from tropism.feedback.oracles import Oracle
    from tropism.runtime.seeding import derive

    torch.set_num_threads(1)
    spec = EnvironmentSpec(task.id, horizon="fixed")
    environments = Environments(spec, 8, derive(seed, task.id, "environments"))
    agent = Ppo(environments, PpoSettings(**task.ppo), derive(seed, task.id, "agent"))
    began, curve, labels = time.process_time(), list[tuple[int, float]](), 0
    if arm == TRUE:
        while environments.steps < steps:
            agent.advance(None, min(1.0, environments.steps / steps))
            curve += [(environments.steps, f.returned) for f in environments.take_finished()]
    else:
        preferences = PreferenceSection(segment_length=task.segment)
        learner = PreferenceLearner(
            agent, Asking(labels=int(arm)), preferences, RewardSection(), MemoryAsker(Oracle(seed=seed)), steps, seed
        )
        while not learner.finished:
            learner.step()
        curve = [(at, returned) for at, returned, _ in learner.episodes]
        labels = learner.answered
    spent = time.process_time() - began
    played = evaluate(agent, spec, EPISODES, 1)
    chance = random_returns(spec, 5 * EPISODES, 1)
    return {
        "task": task.id, "arm": arm, "seed": seed, "steps": environments.steps, "labels": labels, "cpu_s": spent,
        "true_return": played.mean, "random_return": chance.mean, "curve": curve[:: max(1, len(curve) // 200)],
    }  # fmt: skip


def run(task: Task, arm: str, seed: int, folder: Path) -> None:
    """One run in a process of its own, unless it is there already."""
    place = folder / f"{task.id}-{arm}-{seed}.json"
    if place.exists():
        return
    told = [sys.executable, __file__, "--one", task.id, arm, str(seed), "--folder", str(folder)]
    done = subprocess.run(told, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{task.id}, {arm}, seed {seed} failed:\n{done.stderr}")
    partial = place.with_suffix(".partial")
    partial.write_text(done.stdout.strip().splitlines()[-1] + "\n")
    partial.rename(place)
    made = json.loads(place.read_text())
    print(f"{task.id} {arm} seed {seed}: {made['true_return']:.1f} ({made['cpu_s']:.0f} CPU s)", flush=True)


def report(folder: Path) -> None:
    """The result and the plot, from all runs."""
    from tropism.evaluation.aggregate import stratified

    runs = {
        (t.id, a): [json.loads((folder / f"{t.id}-{a}-{s}.json").read_text()) for s in SEEDS]
        for t in TASKS
        for a in t.arms
    }
    table: dict[str, dict[str, Any]] = {}
    for t in TASKS:
        chance, top = runs[t.id, TRUE][0]["random_return"], np.mean([r["true_return"] for r in runs[t.id, TRUE]])
        table[t.id] = {"random_return": chance, "steps": t.steps}
        for a in t.arms:
            returns = [r["true_return"] for r in runs[t.id, a]]
            share = [(r - chance) / (top - chance) for r in returns]
            spent = float(np.mean([r["cpu_s"] for r in runs[t.id, a]]))
            table[t.id][a] = {"true_return": returns, "normalised": share, "cpu_s": spent}
    claims = []
    for arm, target in TARGETS.items():
        found = stratified([table[t.id][arm]["normalised"] for t in TASKS])
        name = f"normalised return with {arm} labels, interquartile mean over {len(TASKS)} tasks"
        claims.append(Claim(name, found.value, found.low, found.high, f">= {target}", found.value >= target))
        holds = found.low >= LEAST
        claims.append(Claim(f"lower bound with {arm} labels", found.low, found.low, found.high, f">= {LEAST}", holds))
    for t in TASKS:
        for arm in t.arms[1:]:
            values = table[t.id][arm]["normalised"]
            claims.append(Claim(f"{t.id}, {arm} labels", float(np.mean(values)), min(values), max(values), "", True))
    write_result("christiano", claims, {"seeds": list(SEEDS), "tasks": table}, quick=False)
    plot(runs)


def plot(runs: Mapping[tuple[str, str], list[dict[str, Any]]]) -> None:
    """True returns while training, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for panel, task in zip(panels.flat, TASKS, strict=True):
        for colour, arm in enumerate(task.arms):
            for number, made in enumerate(runs[task.id, arm]):
                x, y = np.array(made["curve"]).T
                width = max(1, len(y) // 20)
                smooth = np.convolve(y, np.ones(width) / width, "valid")
                label = None if number else ("true reward" if arm == TRUE else f"{arm} labels")
                panel.plot(x[width - 1 :], smooth, color=f"C{colour}", alpha=0.7, lw=1.2, label=label)
        panel.set_title(task.id)
        panel.set_xlabel("environment steps")
    panels.flat[0].set_ylabel("true return")
    panels.flat[0].legend(frameon=False)
    figure.savefig(RESULTS / "christiano.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder that keeps the runs")
    parser.add_argument("--tasks", nargs="+", choices=[t.id for t in TASKS], default=[t.id for t in TASKS])
    parser.add_argument("--arms", nargs="+", help="make these arms' runs now")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="make these seeds' runs now")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    by_name = {t.id: t for t in TASKS}
    if given.one:
        task, arm, seed = by_name[given.one[0]], given.one[1], int(given.one[2])
        print(json.dumps(learn(task, arm, seed, task.steps)))
        return
    if given.quick:
        made = [learn(by_name["Pendulum-v1"], arm, 0, 20_000) for arm in (TRUE, "700")]
        write_result("christiano", [], {"runs": made}, quick=True)
        return
    if given.folder is None:
        parser.error("--folder: where are the runs kept?")
    given.folder.mkdir(parents=True, exist_ok=True)
    wanted = [
        (by_name[t], a, s)
        for s in given.seeds
        for t in given.tasks
        for a in by_name[t].arms
        if given.arms is None or a in given.arms
    ]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda cell: run(*cell, given.folder), wanted))
    if all((given.folder / f"{t.id}-{a}-{s}.json").exists() for t in TASKS for a in t.arms for s in SEEDS):
        report(given.folder)


if __name__ == "__main__":
    main()
