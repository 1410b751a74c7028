"""The PPO step of the language loop beside TRL's, on identical work, in turns.

Work of a step: 64 prompts of 32 tokens, 64 new tokens each, scores by policy, value, reference and reward model, four
epochs of one mini-batch of 64. Both sides load the same folders (``speed_models.py``), take the same prompts, make the
same number of optimiser steps on the same number of tokens, and never stop early. Every run is a process of its own;
ours and TRL's take turns, so that a slow minute of the machine hits both. ``separate`` (a value trunk of its own) is
the same algorithm as TRL's; ``shared`` (policy and value share one trunk) is another one, and cheaper.

TRL 1.12, the last with PPO, needs an environment of its own:

    scripts/trl_environment.sh FOLDER 1.12
    python benchmarks/ppo_speed.py --texts TEXT… --trl-python FOLDER/bin/python [--sizes S M] [--rounds 3] [--quick]

Left out so far: completions of uneven lengths, generation alone, SFT and reward models, growth with the work, a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Claim, write_result

HERE = Path(__file__).resolve().parent
PROMPTS, PROMPT_TOKENS, NEW_TOKENS, EPOCHS = 64, 32, 64, 4
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Side:
    """One contestant: who, in which precision, with which value trunk."""

    name: str
    precision: str
    trunk: str = "separate"

    @property
    def ours(self) -> bool:
        """TRL has no choice of trunk."""
        return self.name == "tropism"

    def __str__(self) -> str:
        return f"{self.name} {self.precision}" + (f" {self.trunk}" if self.ours else "")


TRL_FP32, TRL_BF16 = Side("trl", "fp32"), Side("trl", "bf16")
OURS_FP32, OURS_BF16 = Side("tropism", "fp32"), Side("tropism", "bf16")
DEFAULT = Side("tropism", "bf16", "shared")
SIDES = (TRL_FP32, TRL_BF16, OURS_FP32, OURS_BF16, DEFAULT)
GATES: Mapping[tuple[str, Side, Side], float] = {
    ("S", DEFAULT, TRL_FP32): 4.2, ("S", DEFAULT, TRL_BF16): 3.0,
    ("M", DEFAULT, TRL_FP32): 5.2, ("M", DEFAULT, TRL_BF16): 3.0,
    ("S", OURS_BF16, TRL_FP32): 2.5, ("S", OURS_BF16, TRL_BF16): 1.8,
    ("M", OURS_BF16, TRL_FP32): 3.2, ("M", OURS_BF16, TRL_BF16): 1.8,
    ("S", OURS_FP32, TRL_FP32): 1.15,
}  # fmt: skip
"""How many times fewer CPU seconds ours must take."""
MEMORY: Mapping[tuple[str, Side, Side], float] = {
    ("S", DEFAULT, TRL_FP32): 0.45, ("S", DEFAULT, TRL_BF16): 0.50,
    ("M", DEFAULT, TRL_FP32): 0.35, ("M", DEFAULT, TRL_BF16): 0.40,
}  # fmt: skip
"""The share of TRL's peak memory that ours may take."""


def run(side: Side, models: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One process of one side; what it printed last."""
    steps = ["--steps", str(given.steps), "--skip", str(given.skip), "--threads", str(given.threads)]
    steps += ["--precision", side.precision, "--models", str(models)]
    if side.ours:
        command = [sys.executable, str(HERE / "ppo_speed_ours.py"), "--trunk", side.trunk, *steps]
    else:
        work = ["--batch", str(PROMPTS), "--new-tokens", str(NEW_TOKENS), "--epochs", str(EPOCHS)]
        command = [str(given.trl_python), str(HERE / "peers" / "trl_ppo_driver.py"), *steps, *work]
    # waiting threads sleep, so that CPU seconds are work
    variables = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=HERE
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the steady steps of all runs of one side."""
    steps = [step for each in runs for step in each["steps"]]
    phases = sorted({name for step in steps for name in step["phases_cpu_s"]})
    return {
        "cpu_s": statistics.median(s["cpu_s"] for s in steps),
        "wall_s": statistics.median(s["wall_s"] for s in steps),
        "peak_rss_mib": statistics.median(each["peak_rss_mib"] for each in runs),
        "phases_cpu_s": {p: statistics.median(s["phases_cpu_s"].get(p, 0.0) for s in steps) for p in phases},
        "versions": runs[0]["versions"],
        "runs": list(runs),
    }


def _ratios(runs: Mapping[Side, Sequence[Mapping[str, Any]]], ours: Side, theirs: Side) -> list[float]:
    """TRL's CPU seconds over ours, round by round."""
    pairs = zip(runs[theirs], runs[ours], strict=True)
    return [summary([a])["cpu_s"] / summary([b])["cpu_s"] for a, b in pairs]


def claims_of(size: str, runs: Mapping[Side, Sequence[Mapping[str, Any]]]) -> list[Claim]:
    """The gates of one size; an interval goes from the worst round to the best."""
    made = []
    for (of, ours, theirs), gate in GATES.items():
        if of == size:
            ratios = _ratios(runs, ours, theirs)
            value = summary(runs[theirs])["cpu_s"] / summary(runs[ours])["cpu_s"]
            name = f"{size}: CPU seconds of {theirs} over {ours}"
            made.append(Claim(name, value, min(ratios), max(ratios), f">= {gate:g}", value >= gate))
    for (of, ours, theirs), limit in MEMORY.items():
        if of == size:
            shares = [b["peak_rss_mib"] / a["peak_rss_mib"] for a, b in zip(runs[theirs], runs[ours], strict=True)]
            value, name = statistics.median(shares), f"{size}: peak memory of {ours} over {theirs}"
            made.append(Claim(name, value, min(shares), max(shares), f"<= {limit:g}", value <= limit))
    return made


def main() -> None:
    """All sides in turns, size by size, then the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="text files (.txt, .txt.xz) for prompts")
    parser.add_argument("--trl-python", type=Path, required=True, help="interpreter of an environment with TRL 1.12")
    parser.add_argument("--sizes", nargs="+", choices=("S", "M"), default=["S", "M"])
    parser.add_argument("--rounds", type=int, default=3, help="times that every side has its turn")
    parser.add_argument("--steps", type=int, default=3, help="PPO steps of a run")
    parser.add_argument("--skip", type=int, default=1, help="first steps that are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="model S, one round of two steps; writes no result file")
    given = parser.parse_args()
    if given.quick:
        given.sizes, given.rounds, given.steps = ["S"], 1, 2

    from speed_models import make

    claims, found = [], {}
    with tempfile.TemporaryDirectory(prefix="ppo-speed-") as folder:
        for size in given.sizes:
            models = make(Path(folder), given.texts, size, 4 * PROMPTS, PROMPT_TOKENS)
            runs: dict[Side, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for turn in range(given.rounds):
                for side in SIDES:
                    began = time.perf_counter()
                    runs[side].append(run(side, models, given))
                    cpu = summary(runs[side][-1:])["cpu_s"]
                    took = time.perf_counter() - began
                    print(f"{size} round {turn + 1} {side}: {cpu:.2f} CPU s a step ({took:.0f} s)", file=sys.stderr)
            claims += claims_of(size, runs)
            found[size] = {str(side): summary(each) for side, each in runs.items()}
    work = {"prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "epochs": EPOCHS}
    extra = {"work": work, "rounds": given.rounds, "threads": given.threads, "results": found}
    write_result("ppo_speed", claims, extra, given.quick)


if __name__ == "__main__":
    main()
