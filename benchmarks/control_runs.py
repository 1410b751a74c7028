"""Runs of agents that several benchmarks are made of: on the true reward, or on one learned from feedback.

A run is a process of one thread, kept as a file once it is done, so that whatever is made of many runs may be stopped
and started. Environments have a fixed horizon; the teacher is a program that sees the true reward.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "results" / "runs"
"""Finished runs that are committed, without their policies: what is made of many runs goes on from these."""
EPISODES = 20
"""Of an evaluation; five times as many for random actions."""


@dataclass(frozen=True)
class Cell:
    """One run. ``labels`` 0: on the true reward. ``wanted``: a Python function that is the true reward instead.
    ``start``: the name of a cell whose policy it begins with, ``start_log_std``: the noise of its actions then (None:
    its own). ``horizon``: steps of an episode; 0: the environment's own limit. ``arguments``: of the environment's
    constructor; ``wrapper``: around it."""

    name: str
    environment: str
    steps: int
    seed: int
    ppo: Mapping[str, Any] = field(default_factory=dict)
    labels: int = 0
    kind: str = "comparison"
    selection: str = "random"
    preferences: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    oracle: Mapping[str, Any] = field(default_factory=dict)
    wanted: str = ""
    start: str = ""
    horizon: int = 0
    staggered: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    start_log_std: float | None = None
    wrapper: str = ""

    @property
    def spec(self) -> Any:
        """The environment alone."""
        from tropism.environments.making import EnvironmentSpec

        return EnvironmentSpec(
            self.environment, dict(self.arguments), horizon="fixed", steps=self.horizon, reward=self.wanted,
            wrapper=self.wrapper,
        )  # fmt: skip


def play(cell: Cell, folder: Path) -> dict[str, Any]:
    """One run, in this process; the policy goes into ``folder``."""
    import torch

    from tropism.control.evaluate import evaluate, random_returns
    from tropism.control.fit_reward import RewardSection
    from tropism.control.policy import load_policy, save_policy, started
    from tropism.control.ppo import Ppo, PpoSettings
    from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
    from tropism.environments.stepping import Environments
    from tropism.feedback.asking import MemoryAsker
    from tropism.feedback.oracles import Oracle
    from tropism.runtime.seeding import derive

    torch.set_num_threads(1)
    spec, seed = cell.spec, cell.seed
    environments = Environments(spec, 8, derive(seed, cell.environment, "environments"), staggered=cell.staggered)
    agent = Ppo(environments, PpoSettings(**cell.ppo), derive(seed, cell.environment, "agent"))
    begins = dict[str, float]()
    if cell.start:
        agent.begin_with(*started(load_policy(folder / cell.start), cell.start_log_std))
        begins["start_return"] = evaluate(agent, spec, EPISODES, 1).mean  # by this cell's reward
    began, curve, labels = time.process_time(), list[tuple[int, float]](), 0
    if not cell.labels:
        while environments.steps < cell.steps:
            agent.advance(None, min(1.0, environments.steps / cell.steps))
            curve += [(environments.steps, f.returned) for f in environments.take_finished()]
    else:
        learner = PreferenceLearner(
            agent, Asking(cell.labels, cell.kind, cell.selection),  # type: ignore[arg-type]
            PreferenceSection(**cell.preferences), RewardSection(**cell.reward),
            MemoryAsker(Oracle(seed=seed, **cell.oracle)), cell.steps, seed,
        )  # fmt: skip
        while not learner.finished:
            learner.step()
        curve = [(at, returned) for at, returned, _ in learner.episodes]
        labels = learner.answered
    spent = time.process_time() - began
    (folder / cell.name).mkdir(parents=True, exist_ok=True)
    save_policy(folder / cell.name, agent.policy(), spec, {"cell": cell.name})
    return {
        "cell": asdict(cell), "steps": environments.steps, "labels": labels, "cpu_s": spent, **begins,
        "true_return": evaluate(agent, spec, EPISODES, 1).mean,
        "random_return": random_returns(spec, 5 * EPISODES, 1).mean, "curve": curve[:: max(1, len(curve) // 200)],
    }  # fmt: skip


def result(cell: Cell, folder: Path) -> Path:
    """Where a run's figures are kept."""
    return folder / f"{cell.name}.json"


def run(cell: Cell, folder: Path, policy: bool = False) -> None:
    """One run in a process of its own, unless it is there already, its policy too where that is needed. Errors:
    SystemExit where it fails, or where what is there is of other settings."""
    place, told = result(cell, folder), json.dumps(asdict(cell))
    if place.exists():
        before = Cell(**json.loads(place.read_text())["cell"])  # made when there were fewer settings, perhaps
        if json.loads(json.dumps(asdict(before))) != json.loads(told):
            raise SystemExit(f"{place} is of other settings: remove it, or name another folder")
        if not policy or (folder / cell.name).exists():
            return
    done = subprocess.run(
        [sys.executable, __file__, told, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{cell.name} failed:\n{done.stderr[-4000:]}")
    partial = place.with_suffix(".partial")
    partial.write_text(done.stdout.strip().splitlines()[-1] + "\n")
    partial.rename(place)
    made = json.loads(place.read_text())
    print(f"{cell.name}: {made['true_return']:.1f} ({made['cpu_s']:.0f} CPU s)", file=sys.stderr, flush=True)


def run_all(cells: Sequence[Cell], folder: Path, jobs: int) -> None:
    """All runs, ``jobs`` side by side; first those that others start from."""
    folder.mkdir(parents=True, exist_ok=True)
    started_from = {cell.start for cell in cells if cell.start and not result(cell, folder).exists()}
    for later in (False, True):
        with ThreadPoolExecutor(jobs) as pool:
            now = [c for c in cells if bool(c.start) == later]
            list(pool.map(lambda cell: run(cell, folder, cell.name in started_from), now))


def read(cells: Sequence[Cell], folder: Path) -> dict[str, dict[str, Any]] | None:
    """Figures of all runs by name; None while one is missing."""
    if not all(result(cell, folder).exists() for cell in cells):
        return None
    return {cell.name: json.loads(result(cell, folder).read_text()) for cell in cells}


if __name__ == "__main__":
    print(json.dumps(play(Cell(**json.loads(sys.argv[1])), Path(sys.argv[2]))))
