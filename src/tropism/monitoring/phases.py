"""Where the seconds go: wall and CPU seconds per named phase, the peak memory of the process, and what was had for it.

Left out: GPU time (kernels run asynchronously; a phase that ends without a synchronisation measures the launch alone).
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Points = Sequence[tuple[int, float]]
"""A metric's (step, value) pairs."""
_TOKENS = {
    "rollout": ("tokens/completion",),
    "score": ("tokens/prompt", "tokens/completion"),
    "reward": ("tokens/prompt", "tokens/completion"),
}
"""What a phase goes over, where that is not ``tokens/PHASE``."""


class PhaseClock:
    """Adds up the time of phases: ``with clock("rollout"): …`` gives ``time/rollout_s`` and ``cpu/rollout_s``.

    A phase may be entered many times. Phases may nest: an inner one also counts for its outer one.
    """

    def __init__(self) -> None:
        self._wall: dict[str, float] = {}
        self._cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure the block as (part of) ``phase``, also when it raises."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wall[phase] = self._wall.get(phase, 0.0) + time.perf_counter() - wall
            self._cpu[phase] = self._cpu.get(phase, 0.0) + time.process_time() - cpu

    def metrics(self) -> dict[str, float]:
        """``time/NAME_s`` (wall seconds) and ``cpu/NAME_s`` (process CPU seconds, all threads) of every phase."""
        wall = {f"time/{name}_s": seconds for name, seconds in self._wall.items()}
        return wall | {f"cpu/{name}_s": seconds for name, seconds in self._cpu.items()}


def peak_rss_mib() -> float:
    """Largest resident memory of this process since its start, in MiB (ru_maxrss is KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class PhaseCost:
    """One phase summed over the steps of a run. None: not logged. ``share``: of the CPU seconds of all phases."""

    phase: str
    wall_s: float
    cpu_s: float | None = None
    share: float | None = None
    tokens: float | None = None
    """New tokens of a rollout, else all that the phase went over (in every epoch anew)."""
    gflop: float | None = None
    """10⁹ operations of matrix products that the phase cannot do without (``engine/floor.py``)."""
    decode_gflop: float = 0.0
    """Those among them that were done one new token per sequence at a time."""

    @property
    def tokens_per_s(self) -> float | None:
        """Per wall second."""
        return self.tokens / self.wall_s if self.tokens and self.wall_s > 0 else None

    @property
    def gflop_per_cpu_s(self) -> float | None:
        """How fast the necessary operations were had."""
        return self.gflop / self.cpu_s if self.gflop and self.cpu_s else None

    def floor_cpu_s(self, wide: float, decode: float) -> float | None:
        """CPU seconds at ``wide`` GFLOP per CPU second, decoding at ``decode``; None where nothing was counted."""
        if not self.gflop:
            return None
        return (self.gflop - self.decode_gflop) / wide + self.decode_gflop / decode


def phase_costs(table: Mapping[str, Points]) -> list[PhaseCost]:
    """What each phase of a stage cost, by its metrics (name -> points), the longest first."""
    names = [name[len("time/") : -len("_s")] for name in table if name.startswith("time/") and name.endswith("_s")]
    made = []
    cpu = {name: _total(table, f"cpu/{name}_s") for name in names}
    everything = math.fsum(seconds for seconds in cpu.values() if seconds is not None)
    for name in names:
        seconds = cpu[name]
        counted = [_total(table, metric) for metric in _TOKENS.get(name, (f"tokens/{name}",))]
        made.append(
            PhaseCost(
                name,
                _total(table, f"time/{name}_s") or 0.0,
                seconds,
                seconds / everything if seconds is not None and everything > 0 else None,
                None if None in counted else math.fsum(n for n in counted if n is not None),
                _total(table, f"work/{name}_gflop"),
                _total(table, f"work/{name}_decode_gflop") or 0.0,
            )
        )
    return sorted(made, key=lambda cost: -cost.wall_s)


def together(costs: Sequence[PhaseCost]) -> PhaseCost:
    """The sum of phases that do not nest. A phase without counted operations adds seconds only; tokens are not added,
    because phases go over the same ones."""
    cpu, counted = [c.cpu_s for c in costs if c.cpu_s is not None], [c.gflop for c in costs if c.gflop is not None]
    return PhaseCost(
        "together",
        math.fsum(c.wall_s for c in costs),
        math.fsum(cpu) if cpu else None,
        1.0 if cpu else None,
        None,
        math.fsum(counted) if counted else None,
        math.fsum(c.decode_gflop for c in costs),
    )


def _total(table: Mapping[str, Points], name: str) -> float | None:
    """The sum over all steps of what is finite; None where the metric is not there."""
    return math.fsum(value for _, value in table[name] if math.isfinite(value)) if name in table else None
