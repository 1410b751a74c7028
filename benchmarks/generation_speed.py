"""Our generator beside ``model.generate`` of transformers: the same prompts, the same lengths, in turns.

64 prompts of 32 tokens; ``fixed``: 64 new tokens each; ``eos``: 8 to 128, prescribed alike on both sides. Each side is
a process that loads once and then answers round by round, so that a slow minute hits all of them; the first round warms
up. transformers has one thread or two, and the better of the two stands in the claim; its bf16 is there for
information. Temperature 1, no truncation of the distribution. Left out: other families, longer prompts, GPUs.

    python benchmarks/generation_speed.py [--sizes S M] [--works fixed eos] [--rounds 7] [--quick]

One result file per size and work, ``results/generation_speed_SIZE_WORK.json``.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Claim, write_result
from peers.prescribed_lengths import LONGEST, SHORTEST, WORKS
from ppo_speed import NEW_TOKENS, PROMPT_TOKENS, PROMPTS
from speed_models import SHAPES, make
from speed_sides import HERE, environment, faster, in_turns, summary

GATES = {"fixed": 3.0, "eos": 4.0}
TIMEOUT_S = 600
"""Of one round of one side."""


@dataclass(frozen=True)
class Side:
    """Who generates, in which precision, on how many threads."""

    engine: str
    precision: str
    threads: int

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}, threads {self.threads}"


class Worker:
    """A side's process, which waits without work between its rounds."""

    def __init__(self, side: Side, process: subprocess.Popen[str]) -> None:
        self.side, self.process = side, process

    def ask(self, work: str, number: int) -> dict[str, Any]:
        """One round; TimeoutError where no answer comes, RuntimeError where the process has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is not None:  # writing to it would leave a broken pipe behind
            raise RuntimeError(f"{self.side} died before {work} {number}; its message is above")
        print(work, number, file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], TIMEOUT_S)[0]:
            raise TimeoutError(f"{self.side}: no answer to {work} {number} within {TIMEOUT_S} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} died in {work} {number}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def worker(side: Side, models: Path, prompts: int) -> Iterator[Worker]:
    """A side's process for the time of a block."""
    command = [
        sys.executable, str(HERE / "generation_speed_side.py"), "--models", str(models), "--engine", side.engine,
        "--precision", side.precision, "--threads", str(side.threads), "--prompts", str(prompts),
        "--new-tokens", str(NEW_TOKENS),
    ]  # fmt: skip
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": HERE}
    with subprocess.Popen(command, env=environment(side.threads), **pipes) as process:
        try:
            yield Worker(side, process)
        finally:
            process.kill()


def ratios(runs: Mapping[Side, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Seconds of every side of transformers over those of every side of ours: CPU and wall."""
    found = {side: summary(each) for side, each in runs.items()}
    return {
        f"{theirs} / {ours}": {m: found[theirs][m] / found[ours][m] for m in ("cpu_s", "wall_s")}
        for ours in runs
        for theirs in runs
        if ours.engine == "tropism" and theirs.engine == "hf"
    }


def claim(size: str, work: str, runs: Mapping[Side, Sequence[Mapping[str, Any]]]) -> Claim:
    """Our bf16 against transformers in fp32, whichever number of threads takes it fewer CPU seconds."""
    ours = next(side for side in runs if (side.engine, side.precision) == ("tropism", "bf16"))
    fp32 = [side for side in runs if (side.engine, side.precision) == ("hf", "fp32")]
    best = min(fp32, key=lambda side: summary(runs[side])["cpu_s"])
    return faster(f"{size} {work}: CPU seconds of {best} over {ours}", runs[ours], runs[best], GATES[work])


def measure(size: str, models: Path, given: argparse.Namespace) -> None:
    """All sides and works on one size, and the result files."""
    hf = [Side("hf", "fp32", threads) for threads in sorted({1, given.threads}, reverse=True)]
    sides = [Side("tropism", "fp32", given.threads), Side("tropism", "bf16", given.threads), *hf]
    sides.append(Side("hf", "bf16", given.threads))
    with ExitStack() as stack:
        workers = {side: stack.enter_context(worker(side, models, given.prompts)) for side in sides}
        for work in given.works:
            for side in sides:
                workers[side].ask(work, given.rounds)  # warms up
            asked = dict.fromkeys(sides, -1)

            def go(side: Side, work: str = work, asked: dict[Side, int] = asked) -> dict[str, Any]:
                asked[side] += 1
                return workers[side].ask(work, asked[side])

            runs = in_turns(sides, given.rounds, go, f"{size} {work}")
            made = {"size": size, "work": work, "prompts": given.prompts, "prompt_tokens": PROMPT_TOKENS}
            made |= {"new_tokens": NEW_TOKENS if work == "fixed" else [SHORTEST, LONGEST]}
            sums = {str(side): summary(each) for side, each in runs.items()}
            extra = {"work": made, "seed": 0, "rounds": given.rounds, "ratios": ratios(runs), "results": sums}
            claims = [] if given.quick else [claim(size, work, runs)]
            write_result(f"generation_speed_{size}_{work}", claims, extra, given.quick)


def main() -> None:
    """Size by size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="text files for prompts (default: our own)")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SHAPES), default=["S", "M"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one that warms up")
    parser.add_argument("--threads", type=int, default=2, help="threads of a side, where it is not one")
    parser.add_argument("--quick", action="store_true", help="S, 8 prompts, two rounds; writes no result file")
    given = parser.parse_args()
    given.prompts = PROMPTS
    if given.quick:
        given.sizes, given.rounds, given.prompts = ["S"], 2, 8
    elif given.rounds < 5:
        parser.error(f"--rounds {given.rounds}: medians need 5 or more")
    with tempfile.TemporaryDirectory(prefix="generation-speed-") as folder:
        for size in given.sizes:
            models = make(Path(folder), given.texts, size, PROMPTS, PROMPT_TOKENS)
            measure(size, models, given)


if __name__ == "__main__":
    main()
