"""Supervised fine-tuning and reward models beside TRL's trainers, on identical work, in turns.

A step of SFT: 32 sequences of 128 tokens, every token but the first a target. A step of the reward model: 32 pairs of
128 tokens each. Both sides load the same folders, train all weights by AdamW, take the same token ids in the same
number of steps and tokens, and assert that they did. TRL runs at its best (see ``peers/trl_pairs_driver.py``); what it
does in fp32 is reported. Ours is the public training code, activations kept (no recomputation), as TRL's are.

    scripts/trl_environment.sh FOLDER 1.16
    python benchmarks/pairs_speed.py --trl-python FOLDER/bin/python [--sizes S M] [--trainers sft reward] [--rounds 3]
    python benchmarks/pairs_speed.py --quick          ours alone, 4 rows of S; no result file

One result file per size and trainer, ``results/pairs_speed_SIZE_TRAINER.json``. Left out: rows of uneven lengths (where
packing gains more), DPO, adapters.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Claim, write_result
from speed_models import EOS, SHAPES, make, read_prompts
from speed_sides import HERE, drive, faster, in_turns, interpreter, summary

ROWS, PROMPT_TOKENS, ALL_TOKENS = 32, 32, 128
TRAINERS = ("sft", "reward")
GATE = 1.6
"""How many times fewer CPU seconds ours must take than TRL at its best."""


@dataclass(frozen=True)
class Side:
    """One contestant: who, in which precision."""

    name: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


TRL_FP32, TRL_BF16 = Side("trl", "fp32"), Side("trl", "bf16")
OURS_FP32, OURS_BF16 = Side("tropism", "fp32"), Side("tropism", "bf16")
SIDES = (TRL_FP32, TRL_BF16, OURS_FP32, OURS_BF16)


def write_pairs(models: Path, vocabulary: int, rows: int) -> None:
    """``pairs.jsonl``: real prompts, and two completions of random ids (no special ones) for each."""
    chance = random.Random(0)
    prompts = read_prompts(models)
    with (models / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for row in prompts[:rows]:
            both = [[chance.randrange(EOS + 1, vocabulary) for _ in range(ALL_TOKENS - PROMPT_TOKENS)] for _ in "ab"]
            made = {"text": row["text"], "prompt": row["ids"], "chosen": both[0], "rejected": both[1]}
            file.write(json.dumps(made) + "\n")


def run(side: Side, models: Path, trainer: str, given: argparse.Namespace) -> dict[str, Any]:
    """One process of one side; what it printed last."""
    asked = {
        "models": models, "trainer": trainer, "precision": side.precision, "steps": given.steps, "skip": given.skip,
        "threads": given.threads, "batch": given.batch,
    }  # fmt: skip
    options = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
    if side.name == "tropism":
        return drive([sys.executable, str(HERE / "pairs_speed_ours.py"), *options], given.threads)
    return drive([str(given.trl_python), str(HERE / "peers" / "trl_pairs_driver.py"), *options], given.threads)


def claims_of(title: str, runs: Mapping[Side, Sequence[Mapping[str, Any]]]) -> list[Claim]:
    """The gate, on CPU seconds, after the proof that both sides trained on as many tokens."""
    tokens = {str(side): {each["tokens"] for each in made} for side, made in runs.items()}
    if len(set().union(*tokens.values())) != 1:
        raise ValueError(f"{title}: the sides trained on different numbers of tokens: {tokens}")
    name = f"{title}: CPU seconds of {TRL_BF16} over {OURS_BF16}"
    return [faster(name, runs[OURS_BF16], runs[TRL_BF16], GATE)]


def measure(size: str, trainer: str, folder: Path, given: argparse.Namespace) -> None:
    """All sides in turns on one size and trainer, and its result file."""
    models = make(folder, given.texts, size, given.batch * given.steps, PROMPT_TOKENS)
    write_pairs(models, SHAPES[size]["vocab_size"], given.batch * given.steps)
    sides = [side for side in SIDES if side.name == "tropism" or given.trl_python is not None]
    title = f"{size} {trainer}"
    runs = in_turns(sides, given.rounds, lambda side: run(side, models, trainer, given), title)
    claims = [] if given.quick else claims_of(title, runs)
    found = {str(side): summary(each) for side, each in runs.items()}
    extra: dict[str, Any] = {
        "work": {"size": size, "trainer": trainer, "rows": given.batch, "tokens": ALL_TOKENS}, "seed": 0,
        "rounds": given.rounds, "steps": given.steps, "skip": given.skip, "threads": given.threads, "results": found,
    }  # fmt: skip
    if given.trl_python is not None:
        theirs = summary(runs[TRL_FP32])["cpu_s"]
        extra["fp32_ratio"] = {str(ours): theirs / summary(runs[ours])["cpu_s"] for ours in (OURS_FP32, OURS_BF16)}
    write_result(f"pairs_speed_{size}_{trainer}", claims, extra, given.quick)


def main() -> None:
    """Size by size and trainer by trainer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="text files for prompts (default: our own)")
    parser.add_argument("--trl-python", type=interpreter, help="of an environment with TRL 1.16")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SHAPES), default=["S", "M"])
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--rounds", type=int, default=3, help="times that every side has its turn")
    parser.add_argument("--steps", type=int, default=7, help="optimiser steps of a run")
    parser.add_argument("--skip", type=int, default=2, help="first steps that are not counted, one at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="S, 4 rows, one round; TRL if given; no result file")
    given = parser.parse_args()
    given.batch = ROWS
    if given.quick:
        given.sizes, given.rounds, given.steps, given.batch = ["S"], 1, 3, 4
    elif given.trl_python is None:
        parser.error("--trl-python is missing: scripts/trl_environment.sh FOLDER 1.16, then FOLDER/bin/python")
    with tempfile.TemporaryDirectory(prefix="pairs-speed-") as folder:
        for size in given.sizes:
            for trainer in given.trainers:
                measure(size, trainer, Path(folder), given)


if __name__ == "__main__":
    main()
