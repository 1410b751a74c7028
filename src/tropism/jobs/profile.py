"""What a job cost: its phases beside the floor that arithmetic and this machine set, and what it ran on.

The metrics are logged in every run; ``--profile`` also measures the machine when the job is done, into
``OUT/run/profile.json``. Left out: profiles by operation or line (py-spy and torch.profiler do that).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tropism.engine import kernels
from tropism.engine.floor import Rates, measured_rates
from tropism.errors import StoreError
from tropism.jobs.folder import PROCESS, JobFolder, write_json
from tropism.monitoring.phases import PhaseCost, phase_costs
from tropism.runtime.precision import Precision
from tropism.store.metrics import MetricStore

PROFILE = "profile.json"


@dataclass(frozen=True)
class Profile:
    """A job's phases, and the machine's rates (None: the job ran without ``--profile``)."""

    costs: list[PhaseCost]
    rates: Rates | None
    facts: list[tuple[str, str]]
    """What it ran on, and how far its shortcuts held: (name, in words)."""


def write_profile(folder: JobFolder, model: PreTrainedModel, precision: Precision) -> None:
    """Measure the rates of matrix products like the model's, decoding at the run's mean number of rows."""
    table = _table(folder.out, folder.run.name)
    rows = [value for _, value in table.get("work/decode_rows", [])]
    rates = measured_rates(model, precision, max(1, round(sum(rows) / len(rows))) if rows else 0)
    found = {"precision": precision.name, "kernels": kernels_in_words(), "rates": asdict(rates)}
    write_json(folder.out / "run" / PROFILE, found)


def read_profile(out: Path, stage: str) -> Profile:
    """The profile of a finished job, by its ``stage`` in the metrics. StoreError where there are no metrics."""
    table = _table(out, stage)
    if not table:
        raise StoreError(f"{out} has no metrics of {stage}", "they were deleted, or the job did nothing: run it anew")
    measured, process = (_json(out / "run" / name) for name in (PROFILE, PROCESS))
    facts: list[tuple[str, str]] = []
    peak = max((value for _, value in table.get("memory/peak_rss_mib", [])), default=None)
    if peak is not None:
        facts.append(("peak memory", f"{peak:.0f} MiB"))
    if process:
        facts.append(("threads", f"{process['threads']}, which wait: {process['wait_policy']}"))
    facts += [(name, str(measured[name])) for name in ("precision", "kernels") if name in measured]
    rates = Rates(**measured["rates"]) if measured else None
    if rates is not None:
        decoding = f", {rates.decode:.0f} at the {rates.rows} rows of decoding" if rates.rows else ""
        facts.append(("products", f"{rates.wide:.0f} GFLOP per CPU s{decoding}"))
    return Profile(phase_costs(table), rates, facts + _shortcuts(table))


def kernels_in_words() -> str:
    """Which path the engine takes here: compiled kernels and where they are, or why there are none."""
    library = kernels.library()
    return f"torch alone: {kernels.why_not()}" if library is None else f"compiled ({library._name})"


def _shortcuts(table: dict[str, list[tuple[int, float]]]) -> list[tuple[str, str]]:
    """How often the sampler's log-probabilities were reused, and what the mismatch meter showed."""
    reused = [value for _, value in table.get("check/logprobs_reused", [])]
    if not reused:
        return []
    mean, worst = (max(value for _, value in table[f"check/mismatch_{of}"]) for of in ("mean", "max"))
    return [
        ("logprobs", f"reused in {sum(reused):.0f} of {len(reused)} steps"),
        ("mismatch", f"sampler to trainer at most {mean:.2g} nats a token in the mean of a step, {worst:.2g} of any"),
    ]


def _table(out: Path, stage: str) -> dict[str, list[tuple[int, float]]]:
    path = out / "run" / "metrics.db"
    if not path.is_file():
        return {}
    store = MetricStore(path)
    try:
        return store.table(stage)
    finally:
        store.close()


def _json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is none."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
