"""Two or more sides of a speed comparison: processes of their own in turns, medians, ratios round by round.

A driver prints one JSON line last: ``steps`` (``wall_s``, ``cpu_s``, ``phases_cpu_s`` of each steady step),
``peak_rss_mib``, ``versions``. CPU seconds are those of the process, all threads; waiting threads sleep
(OMP_WAIT_POLICY), so that they are work. Left out: pinning to cores, frequency control.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common import Claim

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 1800
"""Of one process: some steps of the slowest side on the largest work, several times over."""
Side = TypeVar("Side")
Driven = Mapping[str, Any]


def environment(threads: int) -> dict[str, str]:
    """Variables of a process that is timed. It shows nothing, fetches nothing and spins nowhere."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return os.environ | quiet | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}


def drive(command: Sequence[str], threads: int, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """One process; the JSON of the last line that it printed.

    CalledProcessError, with the end of its messages, where it fails; TimeoutExpired after ``timeout_s``.
    """
    done = subprocess.run(
        list(command), env=environment(threads), capture_output=True, text=True, timeout=timeout_s, check=False,
        cwd=HERE,
    )  # fmt: skip
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def interpreter(given: str) -> Path:
    """An interpreter given on the command line, wherever processes are started; a virtual environment's is a link that
    must not be followed. ArgumentTypeError where there is none."""
    path = Path(given).expanduser().absolute()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{given} is no program: make it with scripts/trl_environment.sh")
    return path


def in_turns(
    sides: Sequence[Side], rounds: int, go: Callable[[Side], dict[str, Any]], title: str
) -> dict[Side, list[dict[str, Any]]]:
    """``rounds`` runs of every side, one after the other within a round, so that a slow minute hits all of them."""
    runs: dict[Side, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides:
            began = time.perf_counter()
            runs[side].append(go(side))
            found, took = summary(runs[side][-1:]), time.perf_counter() - began
            seconds = f"{found['cpu_s']:.2f} CPU s, {found['wall_s']:.2f} s a step"
            print(f"{title}, round {turn + 1}, {side}: {seconds} ({took:.0f} s in all)", file=sys.stderr, flush=True)
    return runs


def summary(runs: Sequence[Driven]) -> dict[str, Any]:
    """Medians over the steady steps of all runs of one side."""
    steps = [step for each in runs for step in each["steps"]]
    phases = sorted({name for step in steps for name in step.get("phases_cpu_s", {})})
    return {
        "cpu_s": statistics.median(s["cpu_s"] for s in steps),
        "wall_s": statistics.median(s["wall_s"] for s in steps),
        "peak_rss_mib": statistics.median(each["peak_rss_mib"] for each in runs),
        "phases_cpu_s": {p: statistics.median(s["phases_cpu_s"].get(p, 0.0) for s in steps) for p in phases},
        "versions": runs[0]["versions"],
        "runs": list(runs),
    }


def faster(name: str, ours: Sequence[Driven], theirs: Sequence[Driven], gate: float, measure: str = "cpu_s") -> Claim:
    """That ours takes ``gate`` times fewer seconds: the ratio of the medians, from the worst round to the best."""
    rounds = [summary([b])[measure] / summary([a])[measure] for a, b in zip(ours, theirs, strict=True)]
    value = summary(theirs)[measure] / summary(ours)[measure]
    return Claim(name, value, min(rounds), max(rounds), f">= {gate:g}", value >= gate)


def smaller(name: str, ours: Sequence[Driven], theirs: Sequence[Driven], limit: float) -> Claim:
    """That ours takes at most the share ``limit`` of their peak memory: median, least and most over the rounds."""
    shares = [a["peak_rss_mib"] / b["peak_rss_mib"] for a, b in zip(ours, theirs, strict=True)]
    value = statistics.median(shares)
    return Claim(name, value, min(shares), max(shares), f"<= {limit:g}", value <= limit)
