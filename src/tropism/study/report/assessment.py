"""The reward models' assessments as tables and charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tropism.study.report.charts import Level, Series, line_chart
from tropism.study.report.curves import Chart
from tropism.study.report.data import Facts, RewardRow
from tropism.study.report.tables import Cell, Row, number
from tropism.study.report.words import words_of

LINES: tuple[tuple[str, str, str], ...] = (
    ("validation.accuracy", "Held-out accuracy", "tasks that no reward model is fitted on; a tie counts half"),
    ("validation.accuracy_decided", "Without ties", "the same, on pairs that the teachers told apart"),
    ("validation.length_only", "Length-only baseline", "what preferring longer (or shorter) answers alone reaches"),
    ("validation.over_length_only", "Above length-only", ""),
    ("gold.accuracy", "Accuracy against gold", "the same pairs as the noise-free rubric judges them"),
    ("gold.over_length_only", "Above length-only, against gold", ""),
    ("validation.log_likelihood", "Log-likelihood", "nats per vote, scores as they are; a coin has -0.693"),
    ("validation.log_likelihood_calibrated", "Log-likelihood after temperature", ""),
    ("validation.ece", "ECE", "expected calibration error, ten bins of equal mass"),
    ("validation.ece_calibrated", "ECE after temperature", "temperature fitted on the other half of the tasks"),
    ("validation.ece_noise", "ECE of a perfect model", "what as few votes would show by chance alone"),
    ("validation.temperature", "Temperature", "what scores are divided by before they are read as logits"),
    ("validation.ties", "Ties among the votes", ""),
    ("ratings.spearman", "Rank correlation with ratings", ""),
    ("labels.auc", "AUC for labels", ""),
    ("drift.accuracy", "The round before, on the new feedback", "its accuracy before the refit saw that feedback"),
    (
        "drift.change",
        "Its change since its own fit",
        "drift: below zero, the policy has moved to answers it had not seen",
    ),
)


EPISODE_LINES = {
    "validation.accuracy": ("Held-out accuracy", "on answers that no reward is fitted on; a tie counts half"),
    "gold.accuracy": ("Accuracy against true returns", "the same pairs, as their true returns would decide them"),
}
"""What other lines say where policies act in episodes."""


def of(reward: RewardRow) -> Mapping[str, Any]:
    """A reward model's assessment and drift, empty where it has none."""
    found = reward.values.get("assessment")
    drift = reward.values.get("drift")
    known = dict(found) if isinstance(found, Mapping) else {}
    return known | ({"drift": _with_ends(drift)} if isinstance(drift, Mapping) else {})


def _with_ends(drift: Mapping[str, Any]) -> dict[str, Any]:
    """Drift's flat numbers with ``accuracy`` and ``change`` as shares with their intervals."""
    found = dict(drift)
    for name in ("accuracy", "change"):
        if f"{name}_low" in drift:
            found[name] = {"value": drift[name], "low": drift[f"{name}_low"], "high": drift[f"{name}_high"]}
    return found


def look_up(values: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def cell(found: Any) -> Cell:
    """A number, or a share ``{"value", "low", "high"}``, as a cell."""
    values = found if isinstance(found, Mapping) else {"value": found}
    value, low, high = (number(values, key) for key in ("value", "low", "high"))
    if value is None:
        return Cell()
    return Cell(f"{value:.3f}", "" if low is None or high is None else f"{low:.3f} – {high:.3f}", value)


def rows(facts: Facts) -> list[Row]:
    """One row for each line of the assessments, one column for each round."""
    other = EPISODE_LINES if words_of(facts).episodes else {}
    said = [(key, *other.get(key, (label, note))) for key, label, note in LINES]
    made = [Row(label, note, [cell(look_up(of(r), key)) for r in facts.rewards]) for key, label, note in said]
    return [row for row in made if any(c.value is not None for c in row.cells)]


def group_rows(facts: Facts) -> list[Row]:
    """Held-out accuracy by group of tasks and by stream of feedback; of episodes only where there are several."""
    made = []
    for field in ("by_group", "by_stream"):
        found = [of(r).get(field) for r in facts.rewards]
        tables = [table if isinstance(table, Mapping) else {} for table in found]
        for name in sorted({name for table in tables for name in table}):
            made.append(Row(str(name), field.removeprefix("by_"), [cell(table.get(name)) for table in tables]))
    return [] if words_of(facts).episodes and len(made) == 1 else made


def reliability(facts: Facts) -> list[Chart]:
    """Confidence in the preferred side against the share of votes on it, for each round's reward model."""
    charts = []
    for reward in facts.rewards:
        title = f"Reliability, round {reward.round}"
        series = []
        for colour, (key, name) in enumerate(
            (("reliability", "as it is"), ("reliability_calibrated", "after temperature"))
        ):
            x, y = _points(look_up(of(reward), f"validation.{key}"))
            if x:
                series.append(Series(name, x, y, colour=colour, points=True))
        if not series:
            charts.append(Chart(title, Markup(""), why_empty="The assessment holds no reliability points."))
            continue
        least = min(0.5, *(v for s in series for v in s.y))
        diagonal = Series("perfect", [0.5, 1.0], [0.5, 1.0], colour=5, dashed=True)
        svg = line_chart(
            [diagonal, *series],
            x_label="confidence in the preferred side",
            y_label="share of votes on it",
            x_range=(0.5, 1.0),
            y_range=(max(0.0, least - 0.02), 1.0),
            levels=(Level(0.5, "coin"),),
        )
        charts.append(Chart(title, svg, [(s.name, s.colour) for s in [*series, diagonal]]))
    return charts


def _points(found: Any) -> tuple[list[float], list[float]]:
    """(confidences, accuracies) of a reliability curve."""
    pairs = [
        (number(point, "confidence"), number(point, "accuracy"))
        for point in (found if isinstance(found, list) else [])
        if isinstance(point, Mapping)
    ]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
