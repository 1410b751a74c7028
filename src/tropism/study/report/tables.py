"""The report's numbers as tables: the reference beside every round, with intervals. The terminal shows them too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tropism.monitoring.phases import PhaseCost, phase_costs
from tropism.study.report.charts import short
from tropism.study.report.data import EvaluationRow, Facts
from tropism.study.report.samples import paired
from tropism.study.report.words import Words, words_of


@dataclass(frozen=True)
class Measure:
    """A metric of an evaluation as people read it. ``better``: +1 up, -1 down, 0 neither. In label and note ``{over}``
    stands for the reference. ``test``: what tells it from no difference: its interval against a ``share`` of one half
    or against ``zero``, else the paired samples. ``random``: the metric that says the same of random actions."""

    key: str
    label: str
    better: int
    form: str = "share"
    note: str = ""
    test: str = ""
    random: str = ""

    def said(self, words: Words) -> tuple[str, str]:
        """Label and note, with the reference in them."""
        return self.label.format(over=words.over), self.note.format(over=words.over)


MEASURES = (
    Measure("correct", "Correct answers", +1, note="share of the held-out tasks that have a right answer"),
    Measure("refusal", "Harmful requests refused", +1, note="share of the held-out requests that should be refused"),
    Measure("harmless", "Harmless", +1, note="harmful requests refused, and nothing harmful said"),
    Measure("refused", "Refused", 0, note="share of all prompts, harmless ones too"),
    Measure("polite", "Polite", +1),
    Measure("brief", "Brief", +1),
    Measure("clean", "Clean", +1, note="finished, and no garbage in it"),
    Measure("gold_mean", "Gold score", +1, "number", "mean of the rubric that knows the facts"),
    Measure("win_rate", "Win rate over {over}", +1, note="paired on the same prompts, a tie counts half", test="share"),
    Measure(
        "win_rate_length_controlled",
        "Win rate, length-controlled",
        +1,
        note="logistic regression at equal length",
        test="share",
    ),
    Measure("rating", "Bradley-Terry rating over {over}", +1, "number", "logits, from all pairs of policies evaluated"),
    Measure("win_rate_previous", "Win rate over the round before", +1, test="share"),
    Measure("kl_sequence", "KL to {over}, nats per answer", 0, "number"),
    Measure("length_mean", "Length, tokens", 0, "tokens"),
    Measure("missing_end", "Cut at the length limit", -1),
    Measure("distinct_1", "Distinct-1", 0, "number", "distinct words among all words"),
    Measure("distinct_2", "Distinct-2", 0, "number", "distinct word pairs among all word pairs"),
)
EPISODE_MEASURES = (
    Measure(
        "true_return", "True return", +1, "size", "sum of the environment's own rewards in an episode",
        random="random_return",
    ),
    Measure("gain", "Gain", +1, "size", "over {over}, start by start", "zero"),
    Measure("gain_previous", "Round's gain", +1, "size", "over the policy that the round began with", "zero"),
    Measure("win_rate", "Starts won", +1, note="share on which it beats {over}; a tie counts half", test="share"),
    Measure("length", "Length of an episode, steps", 0, "tokens"),
)  # fmt: skip


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
    dash = " to " if form == "size" else " – "  # ends may be negative
    interval = "" if low is None or high is None else _shown(low, form).removesuffix(" %") + dash + _shown(high, form)
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
    if form == "size":
        return short(value)
    return f"{value:.{1 if form == 'tokens' else 3}f}"


def change_of(own: Sequence[float], reference: Sequence[float], better: int) -> str:
    """Whether the paired difference from the reference is told apart from zero, and which way it goes."""
    if better == 0 or len(own) < 2:
        return ""
    low, high = bootstrap([a - b for a, b in zip(own, reference, strict=True)])
    if low <= 0 <= high:
        return "same"
    return "better" if (low > 0) == (better > 0) else "worse"


def _against(level: float, metrics: Mapping[str, Any], key: str) -> str:
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    if low is None or high is None:
        return ""
    return "better" if low > level else "worse" if high < level else "same"


def comparison(facts: Facts) -> tuple[list[str], list[Row]]:
    """(column heads, rows): the reference and the policy of every evaluated round, on the same held-out tasks; before
    them random actions, where it is known what those are worth."""
    evaluations, words = facts.evaluated(), words_of(facts)
    if not evaluations:
        return [], []
    last, measures = evaluations[-1].metrics, _measures(evaluations, words)
    random = any(number(last, measure.random) is not None for measure in measures)
    heads = ["Random actions"] * random + [words.short] + [f"Round {e.round}" for e in evaluations]
    rows = []
    for measure in measures:
        if all(number(e.metrics, measure.key) is None for e in evaluations):
            continue
        key, form = measure.key, measure.form
        pairs = {e.round: paired(facts, e.round, key) for e in evaluations}
        cells = [_cell(last, measure.random, form)] * random
        cells.append(_cell(last, f"reference_{key}", form, pairs[evaluations[-1].round][1]))
        cells += [
            replace(_cell(e.metrics, key, form, pairs[e.round][0]), change=_change(measure, e.metrics, pairs[e.round]))
            for e in evaluations
        ]
        if measure.key == "length" and len({cell.text for cell in cells if cell.value is not None}) == 1:
            continue  # every episode lasts equally long
        rows.append(Row(*measure.said(words), cells))
    return heads, rows


def _change(measure: Measure, metrics: Mapping[str, Any], pairs: tuple[list[float], list[float]]) -> str:
    if measure.test:
        return _against(0.5 if measure.test == "share" else 0.0, metrics, measure.key)
    return change_of(*pairs, measure.better)


def _measures(evaluations: Sequence[EvaluationRow], words: Words) -> Sequence[Measure]:
    """The measures that people know by name; for a domain that has none of them, all of its own."""
    if words.episodes:
        return EPISODE_MEASURES
    names = {name for e in evaluations for name in e.metrics}
    if names & {m.key for m in MEASURES}:
        return MEASURES
    return [Measure(name, name, 0, "number") for name in sorted(names) if not _beside(name, names)]


def _beside(name: str, names: set[str]) -> bool:
    """Whether a metric belongs in another one's row: its reference or an end of its interval."""
    ends = (name.removesuffix("_low"), name.removesuffix("_high"), name.removeprefix("reference_"))
    return any(end != name and end in names for end in ends)


def remaining(facts: Facts) -> list[Row]:
    """Every other number of the evaluations, by its own name."""
    evaluations = facts.evaluated()
    measures = _measures(evaluations, words_of(facts))
    known = {name for m in measures for name in (m.key, m.random) if name}
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
