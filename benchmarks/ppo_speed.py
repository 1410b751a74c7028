"""The PPO step of the language loop beside TRL's, on identical work, in turns.

Work of a step: 64 prompts of 32 tokens, scores by policy, value, reference and reward model, four epochs of one
mini-batch of 64. ``fixed``: 64 new tokens each, and nothing ends early. ``eos``: 8 to 128 new tokens, the same lengths
on both sides; TRL generates, cuts, scores and trains such rows in its own way. Both sides load the same folders
(``speed_models.py``), take the same prompts, make the same number of optimiser steps on the same number of tokens, and
assert the lengths of what they generated. Every run is a process of its own; ours and TRL's take turns. ``separate`` (a
value trunk of its own) is the same algorithm as TRL's; ``shared`` (policy and value share one trunk) is another one,
and cheaper.

TRL 1.12, the last with PPO, needs an environment of its own:

    scripts/trl_environment.sh FOLDER 1.12
    python benchmarks/ppo_speed.py --trl-python FOLDER/bin/python [--sizes S M] [--works fixed eos] [--rounds 3]
    python benchmarks/ppo_speed.py --quick          ours alone on 4 prompts of S; no result file

One result file per size and work, ``results/ppo_speed_SIZE_WORK.json``. On two cores it takes some 10 minutes for S
fixed, 17 for S eos, 25 for M fixed and 40 for M eos, which has no gate. Left out here: generation alone
(``generation_speed.py``), SFT and reward models (``pairs_speed.py``), growth with the work (``speed_growth.py``), GPUs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Claim, write_result
from peers.prescribed_lengths import LONGEST, SHORTEST, WORKS
from speed_models import SHAPES, make
from speed_sides import HERE, drive, faster, in_turns, interpreter, smaller, summary

PROMPTS, PROMPT_TOKENS, NEW_TOKENS, EPOCHS = 64, 32, 64, 4


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
SHARED = Side("tropism", "bf16", "shared")
SIDES = (TRL_FP32, TRL_BF16, OURS_FP32, OURS_BF16, SHARED)
GATES: Mapping[tuple[str, str], Mapping[tuple[Side, Side], float]] = {
    ("S", "fixed"): {
        (SHARED, TRL_FP32): 4.2, (SHARED, TRL_BF16): 3.0, (OURS_BF16, TRL_FP32): 2.5, (OURS_BF16, TRL_BF16): 1.8,
        (OURS_FP32, TRL_FP32): 1.15,
    },
    ("M", "fixed"): {
        (SHARED, TRL_FP32): 5.2, (SHARED, TRL_BF16): 3.0, (OURS_BF16, TRL_FP32): 3.2, (OURS_BF16, TRL_BF16): 1.8,
    },
    ("S", "eos"): {(SHARED, TRL_FP32): 5.5, (SHARED, TRL_BF16): 4.0},
    ("M", "eos"): {},
}  # fmt: skip
"""How many times fewer CPU seconds ours must take, by size and work."""
MEMORY: Mapping[tuple[str, str], Mapping[tuple[Side, Side], float]] = {
    ("S", "fixed"): {(SHARED, TRL_FP32): 0.45, (SHARED, TRL_BF16): 0.50},
    ("M", "fixed"): {(SHARED, TRL_FP32): 0.35, (SHARED, TRL_BF16): 0.40},
}
"""The share of TRL's peak memory that ours may take."""


def run(side: Side, models: Path, work: str, given: argparse.Namespace) -> dict[str, Any]:
    """One process of one side; what it printed last."""
    asked = {
        "models": models, "work": work, "precision": side.precision, "steps": given.steps, "skip": given.skip,
        "threads": given.threads, "prompts": given.prompts, "new-tokens": NEW_TOKENS, "epochs": EPOCHS,
    }  # fmt: skip
    options = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
    if side.ours:
        command = [sys.executable, str(HERE / "ppo_speed_ours.py"), "--trunk", side.trunk, *options]
    else:
        command = [str(given.trl_python), str(HERE / "peers" / "trl_ppo_driver.py"), *options]
    return drive(command, given.threads)


def claims_of(size: str, work: str, runs: Mapping[Side, Sequence[Mapping[str, Any]]]) -> list[Claim]:
    """The gates of one size and work; an interval goes from the worst round to the best."""
    made = []
    for (ours, theirs), gate in GATES[size, work].items():
        name = f"{size} {work}: CPU seconds of {theirs} over {ours}"
        made.append(faster(name, runs[ours], runs[theirs], gate))
    for (ours, theirs), limit in MEMORY.get((size, work), {}).items():
        made.append(smaller(f"{size} {work}: peak memory of {ours} over {theirs}", runs[ours], runs[theirs], limit))
    return made


def measure(size: str, work: str, folder: Path, given: argparse.Namespace) -> None:
    """All sides in turns on one size and work, and its result file."""
    models = make(folder, given.texts, size, 4 * PROMPTS, PROMPT_TOKENS)
    sides = [side for side in SIDES if side.ours or given.trl_python is not None]
    runs = in_turns(sides, given.rounds, lambda side: run(side, models, work, given), f"{size} {work}")
    claims = [] if given.quick else claims_of(size, work, runs)
    made: dict[str, Any] = {"new_tokens": NEW_TOKENS if work == "fixed" else [SHORTEST, LONGEST]}
    made |= {"size": size, "work": work, "prompts": given.prompts, "prompt_tokens": PROMPT_TOKENS, "epochs": EPOCHS}
    extra = {
        "work": made, "seed": 0, "rounds": given.rounds, "steps": given.steps, "skip": given.skip,
        "threads": given.threads, "results": {str(side): summary(each) for side, each in runs.items()},
    }  # fmt: skip
    write_result(f"ppo_speed_{size}_{work}", claims, extra, given.quick)


def arguments() -> argparse.Namespace:
    """What was asked for; ``--quick`` overrides sizes and counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="text files for prompts (default: our own)")
    parser.add_argument("--trl-python", type=interpreter, help="of an environment with TRL 1.12")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SHAPES), default=["S", "M"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3, help="times that every side has its turn")
    parser.add_argument("--steps", type=int, default=3, help="PPO steps of a run")
    parser.add_argument("--skip", type=int, default=1, help="first steps that are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="S, 4 prompts, one round; TRL if given; no result file")
    given = parser.parse_args()
    given.prompts = PROMPTS
    if given.quick:
        given.sizes, given.rounds, given.steps, given.prompts = ["S"], 1, 2, 4
    elif given.trl_python is None:
        parser.error("--trl-python is missing: scripts/trl_environment.sh FOLDER 1.12, then FOLDER/bin/python")
    return given


def main() -> None:
    """Size by size and work by work."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="ppo-speed-") as folder:
        for size in given.sizes:
            for work in given.works:
                measure(size, work, Path(folder), given)


if __name__ == "__main__":
    main()
