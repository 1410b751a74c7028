"""Our side of ``control_speed.py``: one process, one JSON line.

python control_speed_ours.py --algorithm ppo --environment CartPole-v1 --count 8 --settings JSON --steps 20000 …
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium
import torch

import tropism
from tropism.control.algorithms import make_agent
from tropism.control.evaluate import evaluate, random_returns
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.monitoring.phases import peak_rss_mib
from tropism.runtime.memory import tune
from tropism.runtime.seeding import derive

PER = 100_000
"""Seconds are given for so many environment steps."""


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Train for the steps asked for; seconds of those behind the first ``skip``."""
    environments = Environments(EnvironmentSpec(given.environment), given.count, given.seed)
    agent = make_agent(given.algorithm, environments, json.loads(given.settings), given.seed)
    clock: tuple[float, float, int] | None = None
    while environments.steps < given.steps:
        if clock is None and environments.steps >= given.skip:
            clock = time.process_time(), time.perf_counter(), environments.steps
        agent.advance(None, environments.steps / given.steps)
    if clock is None:
        raise ValueError(f"all of {given.steps} steps were taken before step {given.skip} was left behind")
    timed = environments.steps - clock[2]
    took = {"cpu_s": time.process_time() - clock[0], "wall_s": time.perf_counter() - clock[1]}
    found: dict[str, Any] = {"steps": [{k: v * PER / timed for k, v in took.items()}]}
    found |= {"timed_steps": timed, "taken_steps": environments.steps, "peak_rss_mib": peak_rss_mib()}
    if given.episodes:
        found["returns"] = evaluate(
            agent, environments.spec, given.episodes, derive(given.seed, "test")
        ).returns.tolist()
    environments.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--algorithm", required=True, help="one of ours, or random: even actions, for a baseline")
    parser.add_argument("--environment", required=True)
    parser.add_argument("--settings", default="{}", help="JSON")
    for name, default in {"count": 8, "steps": 20_000, "skip": 0, "seed": 0, "episodes": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    tune(1)
    if given.algorithm == "random":
        spec = EnvironmentSpec(given.environment)
        found: dict[str, Any] = {"returns": random_returns(spec, given.episodes, given.seed).returns.tolist()}
    else:
        found = train(given)
    versions = {m.__name__: m.__version__ for m in (tropism, torch, gymnasium)}
    print(json.dumps(found | {"versions": versions}))


if __name__ == "__main__":
    main()
