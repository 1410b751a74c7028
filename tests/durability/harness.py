"""Killing a study and finding it whole again. Works for any study: a ``Spec`` says how to make it.

An undisturbed run is timed; then processes are killed at moments drawn uniformly over that time, each followed by the
same command to its end. What must be equal is in ``Outcome``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tropism.feedback.events import FeedbackLog
from tropism.runtime.seeding import uniform
from tropism.study.study import Study

CHILD = Path(__file__).with_name("child.py")
CLOCKS = ("time/", "cpu/", "memory/")
"""Metrics that measure the machine; they may differ."""
WEIGHTS = ("policy", "reward")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Spec:
    """How a study is made: ``path`` holds folders for ``sys.path``, where the domain's module is."""

    overrides: Mapping[str, Any]
    recipe: str | None = None
    path: tuple[str, ...] = ()

    def command(self, folder: Path) -> list[str]:
        """The command that makes the study, or goes on with it."""
        spec = {"overrides": dict(self.overrides), "recipe": self.recipe, "path": list(self.path)}
        return [sys.executable, str(CHILD), str(folder), json.dumps(spec)]


@dataclass(frozen=True)
class Outcome:
    """What a finished study came to."""

    weights: dict[str, str]
    events: list[str]
    curves: dict[str, dict[str, list[tuple[int, float]]]] = field(repr=False)


@dataclass(frozen=True)
class Kill:
    """One kill: when, and what the study was doing."""

    at_s: float
    phase: str


def outcome(folder: Path) -> Outcome:
    """Read a finished study; asserts that its feedback verifies and that nothing is left lying about."""
    with Study.open(folder) as study:
        status, report = study.status(), study.verify()
        assert status.finished, [(s.name, s.status) for s in status.stages]
        assert report.ok, report.problems
        assert report.events == report.sealed == status.feedback["events"]
        assert status.holder is None
        events = FeedbackLog(study.database).event_digests()
        assert len(set(events)) == len(events)
        answered = sum(s.values["answered"] for s in status.stages if s.name.startswith("collect"))
        assert len(events) == answered, "an event was lost or doubled"
        stored = {address for s in status.stages for address in s.folders.values()}
        assert set(study.artifacts.all()) == stored, "an artifact that no stage made, or one that is missing"
        for address in stored:
            study.artifacts.verify(address)
        curves = {
            stage: {n: rows for n, rows in study.metrics.table(stage).items() if not n.startswith(CLOCKS)}
            for stage in study.metrics.stages()
        }
    weights = {f"{s.name}/{n}": a for s in status.stages for n, a in s.folders.items() if n in WEIGHTS}
    left = [p.name for p in (folder / "scratch").iterdir()] + [p.name for p in (folder / "artifacts").glob("tmp/*")]
    left += [p.name for p in folder.parent.glob(f".{folder.name}*")]
    assert not left, f"left over: {left}"
    return Outcome(weights, events, curves)


def start(spec: Spec, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command; returns when its imports are done and the work begins."""
    child = subprocess.Popen(
        spec.command(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    assert child.stdout is not None
    if child.stdout.readline() != "started\n":
        raise AssertionError(f"the command did not start: {child.communicate()[1]}")
    return child


def finish(child: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the command's end; asserts its exit status and returns what it said on stderr."""
    try:
        _, said = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    assert child.returncode == code, f"exit status {child.returncode}, not {code}: {said}"
    return said


def run_to_end(spec: Spec, folder: Path) -> float:
    """Run the command to its end; returns the seconds after its start-up."""
    child = start(spec, folder)
    began = time.monotonic()
    finish(child)
    return time.monotonic() - began


def phase(folder: Path) -> str:
    """What a killed study was doing, as its last mark says."""
    if not folder.exists():
        return "creation"
    mark = folder / "scratch" / "status.json"
    if not mark.exists():
        return "start or end"
    state = json.loads(mark.read_text())
    return f"{state['stage']}: {state['activity']} {state['done']}/{state['total']}"


def kill_once(spec: Spec, folder: Path, at_s: float) -> Kill | None:
    """Kill the command ``at_s`` seconds into its work, then run it to its end; None if it had ended before."""
    child = start(spec, folder)
    time.sleep(at_s)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=TIMEOUT_S)
    if child.returncode != -signal.SIGKILL:
        return None
    seen = Kill(at_s, phase(folder))
    run_to_end(spec, folder)
    return seen


def kill_many(spec: Spec, place: Path, kills: int, seed: int) -> list[Kill]:
    """``kills`` studies in ``place``, each killed once; asserts that each comes to the undisturbed one's outcome."""
    seconds = run_to_end(spec, place / "undisturbed")
    expected = outcome(place / "undisturbed")
    done: list[Kill] = []
    for attempt in range(3 * kills):
        folder = place / f"killed-{attempt}"
        at_s = float(uniform(seed, np.array(attempt), 0)) * seconds
        kill = kill_once(spec, folder, at_s)
        assert outcome(folder) == expected, kill
        if kill is not None:
            done.append(kill)
        if len(done) == kills:
            return done
    raise AssertionError(f"only {len(done)} of {kills} kills came before the end: {done}")
