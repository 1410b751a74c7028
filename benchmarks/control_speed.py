"""Agents beside Stable-Baselines3's (SB3 2.9): seconds per environment step, and returns after equal steps.

Both sides run the work of ``control_work.py``: the same tasks, settings and numbers of environments, learning included,
on one thread, each run a process of its own. Speed: the sides take turns; CPU seconds are what is claimed, wall seconds
are shown. A speed counts only where learning keeps up, which is the other half: true returns of the best actions after
equal steps, over seeds, as a share of SB3's return above random actions. Its interval is a bootstrap that draws seeds
anew within each task and side (stratified); its lower bound, over all tasks and over those of each algorithm, must not
be below -10 %.

SB3 needs an environment of its own:

    scripts/sb3_environment.sh FOLDER
    python benchmarks/control_speed.py --sb3-python FOLDER/bin/python [--works "ppo CartPole-v1" …] [--rounds 3]
    python benchmarks/control_speed.py --learning --folder RUNS --sb3-python FOLDER/bin/python [--works …]
    python benchmarks/control_speed.py --quick          ours alone and short; no result file

Results: ``results/control_speed.json``, ``results/control_learning.json``. On two cores speed takes some 15 minutes and
learning hours; its runs are kept in RUNS, so it may be stopped and started, and the result is written when
all are there. Left out here: preference learning (``christiano.py``), rendering.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, write_result
from control_work import WORKS, Work
from speed_sides import HERE, drive, faster, in_turns, interpreter, summary
from tropism.digests import digest

OURS, SB3, RANDOM = "tropism", "sb3", "random"
EPISODES = 20
"""Of an evaluation; ten times as many for random actions."""
FALLS_SHORT = -0.10
DRAWS = 10_000
Returns = Mapping[str, Mapping[str, Sequence[float]]]
"""Mean return of each seed, by side and work."""


def command(side: str, work: Work, given: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """The process of one run."""
    told = [*work.arguments(), *more]
    if side == SB3:
        return [str(given.sb3_python), str(HERE / "peers" / "sb3_driver.py"), *told]
    if side == OURS:
        told[told.index("--settings") + 1] = json.dumps({**work.settings, **work.own})
    else:
        told[told.index("--algorithm") + 1] = RANDOM
    return [sys.executable, str(HERE / "control_speed_ours.py"), *told]


def speed(works: Sequence[Work], given: argparse.Namespace) -> None:
    """All works, the sides in turns."""
    sides = [OURS] if given.sb3_python is None else [OURS, SB3]
    claims, results = [], {}
    for work in works:
        more = ["--steps", str(work.speed_steps), "--skip", str(work.skip)]
        runs = in_turns(sides, given.rounds, lambda side: drive(command(side, work, given, more), 1), work.name)  # noqa: B023
        results[work.name] = {side: summary(each) for side, each in runs.items()}
        if SB3 in runs:
            name = f"{work.name}: SB3's CPU seconds for a step over ours"
            claims.append(faster(name, runs[OURS], runs[SB3], work.gate))
            walls = [summary(runs[side])["wall_s"] for side in (SB3, OURS)]
            results[work.name]["wall_ratio"] = walls[0] / walls[1]
    extra = {
        "seconds_are_of_steps": 100_000, "threads": 1, "seed": 0, "rounds": given.rounds,
        "settings": {w.name: {**w.settings, "ours_besides": w.own, "environments": w.count} for w in works},
        "results": results,
    }  # fmt: skip
    partial = given.quick or len(works) < sum(bool(w.speed_steps) for w in WORKS)
    write_result("control_speed", [] if given.quick else claims, extra, partial)


def learning(works: Sequence[Work], given: argparse.Namespace) -> None:
    """Run what is not there yet; the result once all is."""
    found: dict[str, dict[str, list[float]]] = {side: {} for side in (OURS, SB3, RANDOM)}
    for work in works:
        for seed in range(work.seeds):
            for side in (OURS, SB3):
                steps = ["--steps", str(work.learning_steps), "--seed", str(seed), "--episodes", str(EPISODES)]
                returns = kept(side, work, seed, steps, given)["returns"]
                found[side].setdefault(work.name, []).append(float(np.mean(returns)))
        random = kept(RANDOM, work, 0, ["--episodes", str(10 * EPISODES)], given)["returns"]
        found[RANDOM][work.name] = [float(np.mean(random))]
    claimed = [w for w in works if w.claimed]
    groups = {"all tasks": [w.name for w in claimed]}
    for algorithm in dict.fromkeys(w.algorithm for w in claimed):
        groups[algorithm] = [w.name for w in claimed if w.algorithm == algorithm]
    claims = []
    for group, names in groups.items():
        value, low, high = compared(found, names)
        name = f"{group}: our true return less SB3's, over SB3's above random"
        claims.append(Claim(name, value, low, high, f"low >= {FALLS_SHORT:g}", low >= FALLS_SHORT))
    tables: dict[str, dict[str, Any]] = {}
    for work in works:
        mean, least, most = compared(found, [work.name])
        tables[work.name] = {"difference": mean, "low": least, "high": most}
        tables[work.name] |= {side: list(found[side][work.name]) for side in found}
    about = {
        w.name: {
            "steps": w.learning_steps, "seeds": w.seeds, "claimed": w.claimed, "settings": dict(w.settings),
            "ours_besides": w.own,
        }
        for w in works
    }  # fmt: skip
    extra = {"episodes": EPISODES, "works": about, "returns": tables}
    write_result(
        "control_learning", claims, extra, given.quick or len(works) < sum(bool(w.learning_steps) for w in WORKS)
    )


def kept(side: str, work: Work, seed: int, more: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """What a run printed, from its file if it was made before."""
    told = command(side, work, given, more)
    path = given.folder / f"{side}-{work.name.replace(' ', '-')}-{seed}-{digest(told[2:])[:8]}.json"
    if not path.is_file():
        made = drive(told, 1, 7200)
        print(f"{work.name}, seed {seed}, {side}: {np.mean(made['returns']):.1f}", file=sys.stderr, flush=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(made))
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def compared(found: Returns, names: Sequence[str], draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean over tasks of (ours - SB3's) / (SB3's - random), with its stratified bootstrap interval (95 %). Errors:
    ValueError where SB3 is no better than random actions, so that there is nothing to fall short of."""
    stream = np.random.default_rng(0)
    values, samples = [], np.zeros(draws)
    for name in names:
        ours, theirs = np.array(found[OURS][name]), np.array(found[SB3][name])
        above = theirs.mean() - float(np.mean(found[RANDOM][name]))
        if not above > 0:
            raise ValueError(f"SB3's return on {name} is {theirs.mean():.1f}, no better than random actions")
        values.append((ours.mean() - theirs.mean()) / above)
        drawn = [side[stream.integers(len(side), size=(draws, len(side)))].mean(1) for side in (ours, theirs)]
        samples += (drawn[0] - drawn[1]) / above / len(names)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def arguments() -> argparse.Namespace:
    """What was asked for; ``--quick`` overrides the numbers of steps and rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sb3-python", type=interpreter, help="of an environment with SB3")
    parser.add_argument("--works", nargs="+", choices=[w.name for w in WORKS], help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side has its turn")
    parser.add_argument("--learning", action="store_true", help="returns after equal steps instead of speed")
    parser.add_argument("--folder", type=Path, help="keeps the runs of --learning")
    parser.add_argument("--quick", action="store_true", help="ours alone, few steps, one round; no result file")
    given = parser.parse_args()
    if given.learning:
        if given.quick or given.folder is None or given.sb3_python is None:
            parser.error("--learning needs --folder and --sb3-python, and has no quick form")
        given.folder.mkdir(parents=True, exist_ok=True)
    if given.quick:
        given.rounds, given.sb3_python = 1, None
    elif given.sb3_python is None:
        parser.error("--sb3-python is missing: scripts/sb3_environment.sh FOLDER, then FOLDER/bin/python")
    return given


def main() -> None:
    """Speed or learning."""
    given = arguments()
    works = [w for w in WORKS if given.works is None or w.name in given.works]
    if given.quick:
        works = [replace(w, speed_steps=min(w.speed_steps, 6000), skip=min(w.skip, 2500)) for w in works]
        works = [replace(w, speed_steps=1100, skip=1000) if w.algorithm == "sac" else w for w in works]
    if given.learning:
        learning([w for w in works if w.learning_steps], given)
    else:
        speed([w for w in works if w.speed_steps], given)


if __name__ == "__main__":
    main()
