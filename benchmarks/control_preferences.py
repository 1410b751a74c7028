"""Learning from compared segments beside `imitation`: seconds per real environment step, and what is learned.

Both sides learn with PPO (8 environments, SB3's defaults) from equally many comparisons by an exact synthetic teacher,
with reward ensembles of three. `imitation` makes more environment steps than it is asked for; ours is given as many as
it made. Every run is a process of one thread; the sides take turns. Speed is CPU seconds per real step, everything
included; both sides ask about random pairs, so that neither pays for choosing them. Learning is the true return of the
trained policies, ten seeds or, where `imitation`'s runs spread widely, twenty. `imitation` is taken at the best of a
small search over seed 0: its running statistics of inputs on or off, fragments of 25 or 50 steps, single networks or
ensembles (which then choose what is asked), and, with the best of these, whether PPO's learning rate falls to nothing.
Of ours the last alone is searched, over seeds that are not compared. Runs of the two sides are independent: the
interval of their difference is Welch's.

    scripts/sb3_environment.sh FOLDER
    python benchmarks/control_preferences.py --sb3-python FOLDER/bin/python --only speed [--rounds 3]
    python benchmarks/control_preferences.py --sb3-python FOLDER/bin/python --only learning --folder RUNS
    python benchmarks/control_preferences.py --quick        ours alone and short; no result file

Results: ``results/control_preferences_speed.json``, ``results/control_preferences_learning.json``. On two cores speed
takes some six minutes and learning some sixty; its runs are kept in RUNS, so it may be stopped and started. Left out:
real people (`imitation` has none).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from common import Claim, kept, write_result
from control_shares import difference
from speed_sides import HERE, drive, faster, in_turns, interpreter, summary

OURS, THEIRS = "tropism", "imitation"
SEEDS = {"HalfCheetah-v5": tuple(range(10)), "Pendulum-v1": tuple(range(20))}
GATE = 2.2
TUNING_SEEDS = (20, 21, 22)
LABELS, ASKED_STEPS, PER, EPISODES = 300, 61_440, 100_000, 20
TASKS = {"HalfCheetah-v5": {}, "Pendulum-v1": {"gamma": 0.95, "learning_rate": 1e-3}}
SEGMENT = 25
REWARDS = {"HalfCheetah-v5": {"label_error": 0.01, "successors": True}, "Pendulum-v1": {"label_error": 0.01}}
"""Segments and rewards of ours are as in ``christiano.py``."""
SEARCH = [{"normalise": n, "fragment": f, "members": m} for n, f, m in product((1, 0), (50, 25), (3, 1))]


def ours(task: str, steps: int, seed: int, decay: int = 0) -> dict[str, Any]:
    """One run of ours, in this process; with ``decay`` PPO's learning rate falls to nothing."""
    import torch

    from tropism.control.evaluate import evaluate
    from tropism.control.fit_reward import RewardSection
    from tropism.control.ppo import Ppo, PpoSettings
    from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
    from tropism.environments.making import EnvironmentSpec
    from tropism.environments.stepping import Environments
    from tropism.feedback.asking import MemoryAsker
    from tropism.feedback.oracles import Oracle
    from tropism.monitoring.phases import peak_rss_mib
    from tropism.runtime.memory import tune
    from tropism.runtime.seeding import derive
    from tropism.runtime.versions import versions

    tune(1)
    torch.set_num_threads(1)
    began, spent = time.perf_counter(), time.process_time()
    spec = EnvironmentSpec(task, horizon="fixed")
    environments = Environments(spec, 8, derive(seed, "environments"), staggered=True)
    # SB3's PPO whitens the advantages of each mini-batch
    falling = {"learning_rate_end": 0.0} if decay else {}
    agent = Ppo(environments, PpoSettings(**TASKS[task], **falling, whiten="mini_batch"), derive(seed, "agent"))
    asker, asking = MemoryAsker(Oracle(seed=seed)), Asking(LABELS, selection="random")
    reward = RewardSection(members=3, **REWARDS[task])
    preferences = PreferenceSection(segment_length=SEGMENT)
    learner = PreferenceLearner(agent, asking, preferences, reward, asker, steps, seed)
    while not learner.finished:
        learner.step()
    took = {"cpu_s": time.process_time() - spent, "wall_s": time.perf_counter() - began}
    per = {name: value * PER / environments.steps for name, value in took.items()}
    return {
        "steps": [per], "taken_steps": environments.steps, "labels": learner.answered,
        "true_return": evaluate(agent, spec, EPISODES, 1).mean, "peak_rss_mib": peak_rss_mib(), "versions": versions(),
    }  # fmt: skip


def theirs(given: argparse.Namespace, task: str, seed: int, **settings: int) -> dict[str, Any]:
    """One run of `imitation`."""
    told = ["--environment", task, "--comparisons", str(LABELS), "--steps", str(ASKED_STEPS), "--seed", str(seed)]
    for name, value in {**TASKS[task], **settings}.items():
        told += [f"--{name.replace('_', '-')}", str(value)]
    return drive([str(given.sb3_python), str(HERE / "peers" / "imitation_driver.py"), *told], 1)


def of_ours(task: str, steps: int, seed: int, decay: int = 0) -> dict[str, Any]:
    """The same of ours, in a process of its own."""
    return drive([sys.executable, __file__, "--one", task, str(steps), str(seed), str(decay)], 1)


def speed(given: argparse.Namespace) -> None:
    """HalfCheetah, in turns, equally many real steps."""
    task = "HalfCheetah-v5"
    steps = theirs(given, task, 0, choose=0)["taken_steps"]

    def go(side: str) -> dict[str, Any]:
        return theirs(given, task, 0, choose=0) if side == THEIRS else of_ours(task, steps, 0)

    runs = in_turns((THEIRS, OURS), given.rounds, go, task)
    claim = faster(f"{task}: CPU seconds of {THEIRS} over ours, per real step", runs[OURS], runs[THEIRS], GATE)
    results = {side: summary(found) for side, found in runs.items()}
    about = {"labels": LABELS, "real_steps": steps, "asked_steps": ASKED_STEPS, "seed": 0, "rounds": given.rounds}
    about["selection"] = "random"
    write_result("control_preferences_speed", [claim], {**about, "results": results}, quick=False)


def learning(given: argparse.Namespace) -> None:
    """True returns at equal labels and equal real steps, `imitation` at its best settings."""
    claims, found = [], dict[str, Any]()

    def their_run(task: str, seed: int, settings: dict[str, int]) -> dict[str, Any]:
        about = [task, seed, settings, TASKS[task], LABELS, ASKED_STEPS]
        return kept(given.folder, f"{THEIRS}-{task}-{seed}", about, lambda: theirs(given, task, seed, **settings))

    def our_run(task: str, seed: int, steps: int, decay: int) -> dict[str, Any]:
        about = [task, seed, steps, TASKS[task], LABELS, SEGMENT, REWARDS[task], "staggered"] + ["decay"] * decay
        return kept(given.folder, f"{OURS}-{task}-{seed}", about, lambda: of_ours(task, steps, seed, decay))

    for task, seeds in SEEDS.items():
        tried = [(their_run(task, 0, settings), settings) for settings in SEARCH]
        falling = {**best_of(tried), "decay": 1}
        tried.append((their_run(task, 0, falling), falling))
        best = best_of(tried)
        peer = [their_run(task, seed, best) for seed in seeds]
        steps = [run["taken_steps"] for run in peer]
        own_tried = [
            (mean_of([our_run(task, seed, steps[0], decay) for seed in TUNING_SEEDS]), {"decay": decay})
            for decay in (0, 1)
        ]
        decay = best_of(own_tried)["decay"]
        own = [our_run(task, seed, most, decay) for most, seed in zip(steps, seeds, strict=True)]
        returns = {side: [r["true_return"] for r in runs] for side, runs in ((THEIRS, peer), (OURS, own))}
        claims.append(ahead(task, returns[OURS], returns[THEIRS]))
        found[task] = {
            "search": {
                side: [{"true_return": run["true_return"], **settings} for run, settings in rows]
                for side, rows in ((THEIRS, tried), (OURS, own_tried))
            },
            "best": {THEIRS: best, OURS: {"decay": decay}}, **returns, "seeds": list(seeds), "real_steps": steps,
        }  # fmt: skip
    about = {"labels": LABELS, "asked_steps": ASKED_STEPS, "tuning_seeds": list(TUNING_SEEDS)}
    write_result("control_preferences_learning", claims, {**about, "tasks": found}, quick=False)


def mean_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Their mean true return."""
    return {"true_return": sum(run["true_return"] for run in runs) / len(runs)}


def best_of(tried: Sequence[tuple[Mapping[str, Any], dict[str, int]]]) -> dict[str, int]:
    """The settings of the run with the highest true return."""
    return max(tried, key=lambda row: row[0]["true_return"])[1]


def ahead(task: str, own: Sequence[float], peer: Sequence[float]) -> Claim:
    """That ours ends higher, and not by chance: the whole interval lies above 0."""
    gap = difference(own, peer)
    name = f"{task}: true return of ours less {THEIRS}'s"
    return Claim(name, gap.value, gap.low, gap.high, "low > 0", gap.low > 0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-python", type=interpreter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("speed", "learning"))
    parser.add_argument("--folder", type=Path, help="keeps the runs of learning")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(ours(given.one[0], *map(int, given.one[1:]))))
        return
    if given.quick:
        write_result("control_preferences", [], {"ours": ours("Pendulum-v1", 12_000, 0)}, quick=True)
        return
    if given.sb3_python is None:
        parser.error("--sb3-python: where is the environment of scripts/sb3_environment.sh?")
    if given.only != "speed" and given.folder is None:
        parser.error("--folder: where are the runs kept?")
    if given.only != "learning":
        speed(given)
    if given.only != "speed":
        learning(given)


if __name__ == "__main__":
    main()
