"""What every benchmark shares: claims with intervals, the machine, and the result file.

A benchmark prints one JSON line last and writes it to ``benchmarks/results/NAME.json``; a ``--quick`` run prints only.
Names of hosts, users and paths never enter a result.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tropism.digests import digest
from tropism.runtime.precision import cpu_has_bf16

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Claim:
    """One measured claim: ``value`` with its 95 % interval ``low`` … ``high`` against ``target`` (as text)."""

    name: str
    value: float
    low: float
    high: float
    target: str
    holds: bool


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): the t interval of a mean over independent runs; without width for a single run."""
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, mean, mean
    half = float(t.ppf(0.5 + level / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return mean, mean - half, mean + half


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions: what a reader needs to compare figures."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bf16": cpu_has_bf16(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tropism", "torch", "transformers", "numpy", "scipy")},
    }


def kept(folder: Path | None, name: str, settings: Any, make: Callable[[], Any]) -> Any:
    """What ``make`` measures, or measured before under these settings; without a folder always anew."""
    if folder is None:
        return make()
    path = folder / f"{name}-{digest(settings)[:12]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make()))
        partial.replace(path)
    return json.loads(path.read_text())


def write_result(
    name: str, claims: Sequence[Claim], extra: Mapping[str, Any], quick: bool, folder: Path = RESULTS
) -> dict[str, Any]:
    """Print the result as one JSON line and, unless ``quick``, replace ``folder/NAME.json`` atomically.

    ``extra`` holds seeds, settings and measurements (JSON; NaN is a ValueError). Returns what was printed.
    """
    result = {
        "benchmark": name,
        "quick": quick,
        "holds": all(c.holds for c in claims),
        "claims": [asdict(c) for c in claims],
        "machine": machine(),
        **extra,
    }
    line = json.dumps(result, allow_nan=False)
    if not quick:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.json.partial"
        partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        partial.replace(folder / f"{name}.json")
    sys.stdout.flush()
    print(line, flush=True)
    return result


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
