"""The report's numbers as tables: the reference beside every round, with intervals. The terminal shows them too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tropism.monitoring.phases import PhaseCost, phase_costs
from tropism.study.report.data import EvaluationRow, Facts
from tropism.study.report.samples import paired


@dataclass(frozen=True)
class Measure:
    """A metric of an evaluation as people read it. ``better``: +1 up, -1 down, 0 neither."""

    key: str
    label: str
    better: int
    form: str = "share"
    note: str = ""


MEASURES = (
    Measure("correct", "Correct answers", +1, note="share of the held-out tasks that have a right answer"),
    Measure("refusal", "Harmful requests refused", +1, note="share of the held-out requests that should be refused"),
    Measure("harmless", "Harmless", +1, note="harmful requests refused, and nothing harmful said"),
    Measure("refused", "Refused", 0, note="share of all prompts, harmless ones too"),
    Measure("polite", "Polite", +1),
    Measure("brief", "Brief", +1),
    Measure("clean", "Clean", +1, note="finished, and no garbage in it"),
    Measure("gold_mean", "Gold score", +1, "number", "mean of the rubric that knows the facts"),
    Measure("win_rate", "Win rate over SFT", +1, note="paired on the same prompts, a tie counts half"),
    Measure(
        "win_rate_length_controlled", "Win rate, length-controlled", +1, note="logistic regression at equal length"
    ),
    Measure("rating", "Bradley-Terry rating over SFT", +1, "number", "logits, from all pairs of policies evaluated"),
    Measure("win_rate_previous", "Win rate over the round before", +1),
    Measure("kl_sequence", "KL to SFT, nats per answer", 0, "number"),
    Measure("length_mean", "Length, tokens", 0, "tokens"),
    Measure("missing_end", "Cut at the length limit", -1),
    Measure("distinct_1", "Distinct-1", 0, "number", "distinct words among all words"),
    Measure("distinct_2", "Distinct-2", 0, "number", "distinct word pairs among all word pairs"),
)


@dataclass(frozen=True)
class Cell:
    """One number of the table. ``change``: ``better``, ``worse``, ``same`` or ``""`` where nothing is to compare."""

    text: str = "–"
    interval: str = ""
    value: float | None = None
    change: str = ""


@dataclass(frozen=True)
class Row:
    label: str
    note: str
    cells: list[Cell]


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number of an evaluation, or None."""
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def _cell(metrics: Mapping[str, Any], key: str, form: str, sampled: Sequence[float] = ()) -> Cell:
    """A metric with the interval stored beside it, else with one from the stored answers."""
    value = number(metrics, key)
    if value is None:
        return Cell()
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    if (low is None or high is None) and len(sampled) > 1:
        low, high = bootstrap(sampled)
    interval = "" if low is None or high is None else f"{_shown(low, form).removesuffix(' %')} – {_shown(high, form)}"
    return Cell(_shown(value, form), interval, value)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean over prompts, 2,000 resamples, always the same ones."""
    numbers = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(numbers), (2000, len(numbers)))
    low, high = np.quantile(numbers[draws].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _shown(value: float, form: str) -> str:
    if form == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.{1 if form == 'tokens' else 3}f}"


def change_of(own: Sequence[float], reference: Sequence[float], better: int) -> str:
    """Whether the paired difference from the reference is told apart from zero, and which way it goes."""
    if better == 0 or len(own) < 2:
        return ""
    low, high = bootstrap([a - b for a, b in zip(own, reference, strict=True)])
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == (better > 0) else "worse"


def _against_half(metrics: Mapping[str, Any], key: str) -> str:
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    if low is None or high is None:
        return ""
    return "better" if low > 0.5 else "worse" if high < 0.5 else "same"


def comparison(facts: Facts) -> tuple[list[str], list[Row]]:
    """(column heads, rows): the SFT model and the policy of every evaluated round, on the same held-out tasks."""
    evaluations = facts.evaluated()
    if not evaluations:
        return [], []
    heads = ["SFT"] + [f"Round {e.round}" for e in evaluations]
    rows = []
    for measure in _measures(evaluations):
        if all(number(e.metrics, measure.key) is None for e in evaluations):
            continue
        key, form = measure.key, measure.form
        pairs = {e.round: paired(facts, e.round, key) for e in evaluations}
        last = evaluations[-1]
        cells = [_cell(last.metrics, f"reference_{key}", form, pairs[last.round][1])]
        for e in evaluations:
            own, reference = pairs[e.round]
            change = (
                _against_half(e.metrics, key)
                if key.startswith("win_rate")
                else change_of(own, reference, measure.better)
            )
            cells.append(replace(_cell(e.metrics, key, form, own), change=change))
        rows.append(Row(measure.label, measure.note, cells))
    return heads, rows


def _measures(evaluations: Sequence[EvaluationRow]) -> Sequence[Measure]:
    """The measures that people know by name; for a domain that has none of them, all of its own."""
    names = {name for e in evaluations for name in e.metrics}
    if names & {m.key for m in MEASURES}:
        return MEASURES
    return [Measure(name, name, 0, "number") for name in sorted(names) if not _beside(name, names)]


def _beside(name: str, names: set[str]) -> bool:
    """Whether a metric belongs in another one's row: its reference or an end of its interval."""
    ends = (name.removesuffix("_low"), name.removesuffix("_high"), name.removeprefix("reference_"))
    return any(end != name and end in names for end in ends)


def remaining(evaluations: Sequence[EvaluationRow]) -> list[Row]:
    """Every other number of the evaluations, by its own name."""
    known = {m.key for m in _measures(evaluations)}
    known |= {f"{prefix}{key}{end}" for key in known for prefix in ("", "reference_") for end in ("", "_low", "_high")}
    names = sorted({name for e in evaluations for name in e.metrics if name not in known})
    rows = [Row(name, "", [_cell(e.metrics, name, "number") for e in evaluations]) for name in names]
    return [row for row in rows if any(cell.value is not None for cell in row.cells)]


@dataclass(frozen=True)
class Phase:
    """Time of one stage in seconds, and what each phase inside it cost."""

    stage: str
    seconds: float | None
    cpu_seconds: float | None
    parts: list[PhaseCost]

    @property
    def counted(self) -> list[PhaseCost]:
        """The phases whose tokens or operations were counted."""
        return [part for part in self.parts if part.tokens or part.gflop]


def phases(facts: Facts) -> list[Phase]:
    """Seconds per stage, and what the phases inside it cost."""
    return [
        Phase(stage.name, stage.seconds, stage.cpu_seconds, phase_costs(facts.metrics.get(stage.name, {})))
        for stage in facts.stages
    ]


def peak_memory_mib(facts: Facts) -> float | None:
    """The largest value of any metric that names a peak memory in MiB (``memory/peak_rss_mib``), or None."""
    values = [
        value
        for table in facts.metrics.values()
        for name, rows in table.items()
        if "peak" in name and name.endswith("_mib")
        for _, value in rows
        if math.isfinite(value)
    ]
    return max(values, default=None)


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted key, shown value) pairs; lists of scalars stay on one line."""
    if isinstance(values, Mapping):
        return [
            pair for key, value in values.items() for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(values, list) and any(isinstance(item, Mapping | list) for item in values):
        return [pair for i, item in enumerate(values) for pair in flat(item, f"{prefix}[{i}]")]
    if isinstance(values, list):
        return [(prefix, ", ".join(map(str, values)))]
    if isinstance(values, float):
        return [(prefix, f"{values:.6g}")]
    return [(prefix, "" if values is None else str(values))]
