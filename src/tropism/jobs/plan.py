"""``--plan``: what a job would do, without doing it: sizes, memory, time.

Time and memory are not guessed from formulas: a few real steps run in a temporary folder, on the real model and data,
and are scaled up. What that cannot see (a machine that others use too, completions that grow while the policy learns)
is said beside the figures. Left out: several devices.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tropism.data.records import Reading
from tropism.runtime.memory import peak_memory_bytes


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of some steps, and the process's peak memory in bytes after them."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass
class Plan:
    """What a job would do, as named lines in order."""

    job: str
    out: Path | None
    lines: list[tuple[str, str]] = field(default_factory=list)
    seconds: float | None = None
    """Expected wall seconds of the whole job."""

    def line(self, name: str, text: str) -> None:
        """Add a line."""
        self.lines.append((name, text))

    def data(self, name: str, reading: Reading) -> None:
        """What was read, and what was not."""
        source = reading.source
        repaired = ", ".join(f"{rule} {count}" for rule, count in sorted(reading.repaired.items()))
        text = f"{reading.rows} rows read as {source.get('format')}, {len(reading.records)} records"
        text += f", {len(reading.rejected)} rows rejected" if reading.rejected else ""
        self.line(name, text + (f" (repaired: {repaired})" if repaired else ""))

    def cost(self, cost: Cost, steps: int, of: int, fixed: Cost | None = None) -> None:
        """Scale measured ``steps`` up to all ``of`` them, plus a ``fixed`` part that happens once."""
        once = fixed.wall_s if fixed else 0.0
        self.seconds = cost.wall_s / steps * of + once
        how = f"{cost.wall_s / steps:.3g} s each, measured on {steps} of {of}" if of > 1 else "measured whole"
        self.line("time", f"about {duration(self.seconds)} ({how})")
        self.line("memory", f"about {cost.peak_bytes / 2**30:.1f} GiB (peak while measuring)")


def measured(work: Callable[[Path], Any]) -> Cost:
    """Do some work in a temporary folder and say what it cost. Its first seconds, in which libraries load, count."""
    folder = Path(tempfile.mkdtemp(prefix="tropism-plan-"))
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        work(folder)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, peak_memory_bytes())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def model_size(model: Any) -> str:
    """Class, parameters and trained parameters of a model, in words."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = "all trained" if trained == total else f"{_count(trained)} trained ({100 * trained / total:.2g} %)"
    return f"{type(model).__name__}, {_count(total)} parameters, {share}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count(number: int) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{name}"
    return str(number)
