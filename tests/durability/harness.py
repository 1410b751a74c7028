"""Killing a study and finding it whole again. Works for any study: a ``Spec`` says how to make it.

An undisturbed run is timed; then processes are killed at moments drawn uniformly over that time, each followed by the
same command to its end. What must be equal is in ``Outcome``. Left out: power cuts (only the process dies, the system
keeps what was written).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from tropism.feedback.events import FeedbackLog
from tropism.runtime.seeding import uniform
from tropism.store import schema
from tropism.study.study import Study

CHILD = Path(__file__).with_name("child.py")
CLOCKS = ("time/", "cpu/", "memory/", "throughput/")
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
    counts: dict[str, int]
    curves: dict[str, dict[str, list[tuple[int, float]]]] = field(repr=False)
    keys: dict[str, str] = field(repr=False)
    """Of the stages: digests of what they were made from."""


@dataclass(frozen=True)
class Undisturbed:
    """A study that nobody killed: what it came to, and the seconds of its start-up (imports) and of its work."""

    outcome: Outcome
    startup_s: float
    work_s: float


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
        log = FeedbackLog(study.database)
        events, counts = log.event_digests(), log.counts()
        assert len(set(events)) == len(events)
        answered = sum(s.values.get("answered", 0) for s in status.stages)
        assert len(events) == answered, "an event was lost or doubled"
        stored = {address for s in status.stages for address in s.folders.values()}
        shown = {c.content["artifact"] for c in log.candidates().values() if "artifact" in c.content}
        assert set(study.artifacts.all()) == stored | shown, "an artifact that no stage made, or one that is missing"
        for address in stored:
            study.artifacts.verify(address)
        curves = {
            stage: {n: rows for n, rows in study.metrics.table(stage).items() if not n.startswith(CLOCKS)}
            for stage in study.metrics.stages()
        }
        with study.database.read() as connection:
            done = sa.select(schema.stages.c.name, schema.stages.c.key).where(schema.stages.c.status == "done")
            keys = {row.name: row.key for row in connection.execute(done)}
    weights = {f"{s.name}/{n}": a for s in status.stages for n, a in s.folders.items() if n in WEIGHTS}
    left = [p.name for p in (folder / "scratch").iterdir()] + [p.name for p in (folder / "artifacts").glob("tmp/*")]
    left += [p.name for p in folder.parent.glob(f".{folder.name}*")]
    assert not left, f"left over: {left}"
    return Outcome(weights, events, counts, curves, keys)


def start(spec: Spec, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command; returns when its imports are done and the work begins."""
    child = subprocess.Popen(
        spec.command(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    if next_line(child) != "started\n":
        raise AssertionError(f"the command did not start: {child.communicate()[1]}")
    return child


def next_line(child: subprocess.Popen[str]) -> str:
    """The next line on the command's stdout; empty if it ended, or was ended after ``TIMEOUT_S``."""
    assert child.stdout is not None
    guard = threading.Timer(TIMEOUT_S, child.kill)
    guard.start()
    try:
        return child.stdout.readline()
    finally:
        guard.cancel()


def finish(child: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the command's end; asserts its exit status and returns what it said on stderr."""
    try:
        _, said = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    assert child.returncode == code, f"exit status {child.returncode}, not {code}: {said}"
    return said


def run_to_end(spec: Spec, folder: Path) -> tuple[float, float]:
    """Run the command to its end; returns the seconds of its start-up and of its work."""
    began = time.monotonic()
    child = start(spec, folder)
    started = time.monotonic()
    last = next_line(child)
    ended = time.monotonic()
    said = finish(child)
    assert last == "ended\n", said
    return started - began, ended - started


def undisturbed(spec: Spec, folder: Path) -> Undisturbed:
    """Run a new study to its end and read it."""
    startup_s, work_s = run_to_end(spec, folder)
    return Undisturbed(outcome(folder), startup_s, work_s)


def _partial(place: Path) -> list[Path]:
    """What is half made below a folder; by os.walk, which passes over folders that vanish while the child works."""
    return [
        Path(at) / name for at, folders, files in os.walk(place) for name in (*folders, *files) if "partial" in name
    ]


def phase(folder: Path) -> str:
    """What a killed study was doing, as its last mark says, and what it has left half done."""
    if not folder.exists():
        made_so_far = {p.name for made in folder.parent.glob(f".{folder.name}.new-*") for p in made.iterdir()}
        if any(name.startswith(".study.db.new-") for name in made_so_far):
            return "creation: migration of study.db"
        return "creation: study.db is made" if "study.db" in made_so_far else "creation"
    mark = folder / "scratch" / "status.json"
    if not mark.exists():
        return "end" if (folder / "resolved.json").exists() else "start"
    state = json.loads(mark.read_text())
    doing = f"{state['stage']}: {state['activity']} {state['done']}/{state['total']}"
    half = [*_partial(folder / "scratch"), *(folder / "artifacts").glob("tmp/*")]
    names = sorted({f"artifacts/{p.name[:8]}" if p.parent.name == "tmp" else p.name for p in half})
    return f"{doing}{', half done: ' if names else ''}{' '.join(names)}"


def kill_once(spec: Spec, folder: Path, share: float, expected: Undisturbed) -> Kill | None:
    """Kill the command when ``share`` of its work's time has passed; None if it had ended before.

    The time is the undisturbed run's, stretched by how much longer this start-up took: other work on the machine must
    not keep the kills away from the end.
    """
    began = time.monotonic()
    child = start(spec, folder)
    at_s = share * expected.work_s * (time.monotonic() - began) / expected.startup_s
    time.sleep(at_s)
    child.send_signal(signal.SIGKILL)
    said, _ = child.communicate(timeout=TIMEOUT_S)
    return Kill(at_s, phase(folder)) if child.returncode == -signal.SIGKILL and "ended" not in said else None


def kill_many(spec: Spec, place: Path, kills: int, seed: int, expected: Undisturbed) -> list[Kill]:
    """``kills`` studies in ``place``, each killed once at a moment drawn uniformly over the undisturbed one's work.

    Asserts that each, run to its end, comes to the undisturbed one's outcome.
    """
    done: list[Kill] = []
    for attempt in range(3 * kills):
        folder = place / f"killed-{attempt}"
        share = float(uniform(seed, np.array(attempt), 0))
        kill = kill_once(spec, folder, share, expected)
        run_to_end(spec, folder)
        assert outcome(folder) == expected.outcome, kill
        shutil.rmtree(folder)
        if kill is not None:
            done.append(kill)
            print(f"kill {len(done)} of {kills}, {share:.3f} of the way ({kill.at_s:.3f} s): {kill.phase}", flush=True)
        if len(done) == kills:
            return done
    raise AssertionError(f"only {len(done)} of {kills} kills came before the end: {done}")


def kill_at(spec: Spec, folder: Path, point: str) -> str:
    """Run the command until it kills itself at ``point`` (see ``child.py``); returns the phase."""
    finish(start(spec, folder, {"TROPISM_DIE_AT": point}), -signal.SIGKILL)
    return phase(folder)
