"""Where the seconds go: wall and CPU seconds per named phase, and the peak memory of the process.

Left out: GPU time (kernels run asynchronously; a phase that ends without a synchronisation measures the launch alone).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


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
