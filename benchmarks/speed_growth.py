"""How the cost of our PPO step grows with the work: prompts from 64 to 512, new tokens from 64 to 512, model S.

A step is that of ``ppo_speed.py`` (prompts of 32 tokens, four epochs of one mini-batch of all prompts, shared trunk,
bf16). Along prompts the CPU seconds must be proportional; along length they must be a·tokens + b·Σ length², with both
coefficients fitted by non-negative least squares on relative errors. Memory must be bounded by the token budget of a
forward: what a step takes beyond the loaded models may not grow as the work does. Each point is a process of its own,
and the points take turns (some 20 minutes in all). Left out: other sizes, uneven lengths.

    python benchmarks/speed_growth.py [--rounds 3] [--quick]

Writes ``results/speed_growth.json`` and ``results/speed_growth.png``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import RESULTS, Claim, write_result
from ppo_speed import EPOCHS, PROMPT_TOKENS
from speed_models import make
from speed_sides import HERE, drive, in_turns, summary

SIZE = "S"
SPAN = (64, 128, 256, 512)
TOLERANCE = 0.15
"""Largest relative difference between a cost and what its law says."""
MEMORY = 1.5
"""How many times as much memory, beyond the loaded models, eight times the work may take."""


@dataclass(frozen=True)
class Point:
    """The work of a step: ``prompts`` completions of ``new_tokens``."""

    prompts: int
    new_tokens: int

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return PROMPT_TOKENS + self.new_tokens

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.prompts * self.length

    @property
    def squares(self) -> int:
        """Σ length² over the sequences."""
        return self.prompts * self.length**2

    def __str__(self) -> str:
        return f"{self.prompts} prompts, {self.new_tokens} new tokens"


Costs = Mapping[Point, float]
Law = Callable[[Costs], tuple[NDArray[np.float64], float]]
"""Costs -> (coefficients, largest relative error)."""
Runs = Mapping[Point, Sequence[Mapping[str, Any]]]


def run(point: Point, models: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One process; its first step warms up, the second counts."""
    asked = {
        "models": models, "precision": given.precision, "trunk": "shared", "steps": 2, "skip": 1,
        "threads": given.threads, "prompts": point.prompts, "new-tokens": point.new_tokens, "epochs": EPOCHS,
    }  # fmt: skip
    options = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
    return drive([sys.executable, str(HERE / "ppo_speed_ours.py"), *options], given.threads)


def fitted(costs: Costs, terms: Sequence[Callable[[Point], float]]) -> tuple[NDArray[np.float64], float]:
    """Non-negative coefficients of ``terms`` in the costs, and the largest relative error of what they say."""
    from scipy.optimize import nnls

    wanted = np.array(list(costs.values()))
    table = np.array([[term(point) for term in terms] for point in costs], dtype=np.float64)
    scale = table.max(0)  # tokens and squares are orders of magnitude apart
    found = nnls(table / scale / wanted[:, None], np.ones(len(wanted)))[0] / scale
    return found, float(np.abs(table @ found / wanted - 1).max())


def proportional(costs: Costs) -> tuple[NDArray[np.float64], float]:
    """Seconds a prompt."""
    return fitted(costs, [lambda p: p.prompts])


def in_tokens_and_squares(costs: Costs) -> tuple[NDArray[np.float64], float]:
    """(a, b): seconds a token, and a squared length."""
    return fitted(costs, [lambda p: p.tokens, lambda p: p.squares])


def law(name: str, points: Sequence[Point], runs: Runs, of: Law) -> Claim:
    """That the costs keep a law: its largest relative error for the medians, and the least and most of the rounds."""
    turns = range(len(runs[points[0]]))
    rounds = [of({p: summary([runs[p][turn]])["cpu_s"] for p in points})[1] for turn in turns]
    value = of({p: summary(runs[p])["cpu_s"] for p in points})[1]
    return Claim(name, value, min(rounds), max(rounds), f"<= {TOLERANCE:g}", value <= TOLERANCE)


def memory(name: str, points: Sequence[Point], runs: Runs) -> Claim:
    """That the last point takes hardly more memory beyond the loaded models than the first."""
    first, last = ([r["peak_rss_mib"] - r["start_rss_mib"] for r in runs[p]] for p in (points[0], points[-1]))
    rounds = [b / a for a, b in zip(first, last, strict=True)]
    value = statistics.median(last) / statistics.median(first)
    return Claim(name, value, min(rounds), max(rounds), f"<= {MEMORY:g}", value <= MEMORY)


def plot(path: Path, costs: Costs, peaks: Costs, wide: Sequence[Point], long: Sequence[Point]) -> None:
    """CPU seconds along prompts and along length, with the laws, and the peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rate = proportional({p: costs[p] for p in wide})[0][0]
    counts = [p.prompts for p in wide]
    left.plot(counts, [rate * n for n in counts], color="C0", label=f"{1000 * rate:.1f} ms a prompt")
    left.plot(counts, [costs[p] for p in wide], "o", color="black", label="measured")
    left.set(xlabel=f"prompts (of {PROMPT_TOKENS} + {wide[0].new_tokens} tokens)", ylabel="CPU seconds a step")
    a, b = in_tokens_and_squares({p: costs[p] for p in long})[0]
    lengths = [p.new_tokens for p in long]
    parts = [[a * p.tokens for p in long], [b * p.squares for p in long]]
    middle.stackplot(lengths, parts, labels=["a · tokens", "b · Σ length²"], colors=["C0", "C1"], alpha=0.6)
    middle.plot(lengths, [costs[p] for p in long], "o", color="black", label="measured")
    middle.set(xlabel=f"new tokens ({long[0].prompts} prompts)", ylabel="CPU seconds a step")
    right.plot([p.tokens for p in wide], [peaks[p] for p in wide], "o-", label="more prompts")
    right.plot([p.tokens for p in long], [peaks[p] for p in long], "s-", label="more new tokens")
    right.set(xlabel="tokens of a step", ylabel="peak memory, MiB", ylim=(0, None))
    for axes in (left, middle, right):
        axes.set_xlim(0, None)
        axes.legend(loc="upper left" if axes is not right else "lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """All points in turns, the laws, the plot, the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="text files for prompts (default: our own)")
    parser.add_argument("--rounds", type=int, default=3, help="times that every point has its turn, two at least")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 to 8 prompts and 8 to 32 tokens; writes no file")
    given = parser.parse_args()
    span = (2, 4, 8) if given.quick else SPAN
    if given.quick:
        given.rounds = 1
    elif given.rounds < 2:
        parser.error(f"--rounds {given.rounds}: 2 or more")
    wide = [Point(n, 4 * span[0] if given.quick else span[0]) for n in span]
    long = [Point(span[0], 4 * n if given.quick else n) for n in span]
    points = sorted({*wide, *long}, key=lambda p: (p.tokens, p.prompts))
    with tempfile.TemporaryDirectory(prefix="speed-growth-") as folder:
        models = make(Path(folder), given.texts, SIZE, max(span), PROMPT_TOKENS)
        runs = in_turns(points, given.rounds, lambda point: run(point, models, given), SIZE)
    claims = [
        law("along prompts: CPU seconds against proportional", wide, runs, proportional),
        law("along length: CPU seconds against a·tokens + b·Σ length²", long, runs, in_tokens_and_squares),
        memory(f"memory beyond the models, {span[-1] // span[0]} times the prompts", wide, runs),
        memory(f"memory beyond the models, {span[-1] // span[0]} times the new tokens", long, runs),
    ]
    costs = {p: summary(runs[p])["cpu_s"] for p in points}
    a, b = in_tokens_and_squares({p: costs[p] for p in long})[0]
    laws = {"s_per_prompt": proportional({p: costs[p] for p in wide})[0][0], "s_per_token": a, "s_per_square": b}
    extra = {
        "work": {"size": SIZE, "precision": given.precision, "trunk": "shared", "prompt_tokens": PROMPT_TOKENS},
        "seed": 0, "rounds": given.rounds, "threads": given.threads, "laws": laws,
        "results": {str(p): {"tokens": p.tokens, "squares": p.squares} | summary(runs[p]) for p in points},
    }  # fmt: skip
    if not given.quick:
        plot(RESULTS / "speed_growth.png", costs, {p: summary(runs[p])["peak_rss_mib"] for p in points}, wide, long)
    write_result("speed_growth", [] if given.quick else claims, extra, given.quick)


if __name__ == "__main__":
    main()
