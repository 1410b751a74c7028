"""What a report says of policies that act in episodes: their true returns, how they came to them, what was judged.

Everything is read from what the stages stored. Left out: people's judgements of whole policies, which no stage asks for
yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.study.report.charts import Level, Mark, Series, line_chart, short
from tropism.study.report.curves import CLOCK, Chart, Panel, draw, joined
from tropism.study.report.data import EvaluationRow, Facts
from tropism.study.report.diagrams import Interval, interval_plot
from tropism.study.report.samples import paired
from tropism.study.report.tables import Cell, Row, number
from tropism.study.report.words import words_of

POINTS = 400
"""Episodes drawn for each round: every n-th of more."""
RUNNING = 20
"""Episodes in a running mean."""


def ends(metrics: Mapping[str, Any], key: str) -> str:
    """``[low, high]`` of a metric, or nothing."""
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    return "" if low is None or high is None else f"[{short(low)}, {short(high)}]"


def starts(facts: Facts) -> int:
    """How many starts of episodes the newest evaluation has."""
    return len(facts.samples[max(facts.samples)]) if facts.samples else 0


def returns(facts: Facts) -> list[Chart]:
    """True returns side by side: random actions, the untrained policy, every round."""
    evaluated = facts.evaluated()
    if not evaluated:
        return []
    last, first = evaluated[-1].metrics, words_of(facts).short
    found = [_interval("Random actions", last, "random_return", 5), _interval(first, last, "reference_true_return", 1)]
    found += [_interval(f"Round {e.round}", e.metrics, "true_return", 0) for e in evaluated]
    rows = [row for row in found if row is not None]
    if not rows:
        return []
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    room = 0.06 * (high - low) or max(abs(high), 1.0)
    svg = interval_plot(
        rows, centre=None, x_label="true return, 95 % interval", limits=(low - room, high + room), form=short
    )
    return [Chart("True return", svg)]


def _interval(label: str, metrics: Mapping[str, Any], key: str, colour: int) -> Interval | None:
    value = number(metrics, key)
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    if value is None:
        return None
    return Interval(label, value, value if low is None else low, value if high is None else high, colour)


def by_start(facts: Facts) -> list[Chart]:
    """The true return on every start, by the reference and by each round's policy."""
    newest = max(facts.samples, default=0)
    columns = [(words_of(facts).short, paired(facts, newest, "true_return")[1])]
    columns += [(f"Round {round_}", paired(facts, round_, "true_return")[0]) for round_ in sorted(facts.samples)]
    shown = [
        Series(name, [float(i + 1) for i in range(len(y))], y, colour=i % 6, scattered=True)
        for i, (name, y) in enumerate(columns)
        if y
    ]
    svg = line_chart(shown, x_label="start", y_label="true return")
    return [Chart("True return on each start", svg, [(s.name, s.colour) for s in shown])] if svg else []


def while_training(facts: Facts) -> Chart:
    """Every episode's true return over environment steps, with the running mean; while the first round trains, the mean
    that it logs."""
    title = "True return while training"
    if not facts.episodes:
        return draw(facts, "improve", [Panel(title, (("episode/true_return", "mean"),), "mean of episodes")], CLOCK)[0]
    dots: tuple[list[float], list[float]] = ([], [])
    mean: tuple[list[float], list[float]] = ([], [])
    marks = joined(facts, "improve", CLOCK, CLOCK)[2]
    begins = {round_: mark.x for round_, mark in zip(_trained(facts), marks, strict=True)}
    for round_, rows in sorted(facts.episodes.items()):
        points = [(begins.get(round_, 0.0) + step, value) for step, value in rows]
        running = {at: _mean(points[max(0, i - RUNNING + 1) : i + 1]) for i, (at, _) in enumerate(points)}
        for (x, y), pairs in ((dots, points), (mean, list(running.items()))):
            few = pairs[:: max(1, math.ceil(len(pairs) / POINTS))]
            x += [*(at for at, _ in few), math.nan]
            y += [*(value for _, value in few), math.nan]
    series = [
        Series("an episode", *dots, colour=0, scattered=True),
        Series(f"mean of {RUNNING} episodes", *mean, colour=1),
    ]
    shown: Sequence[Mark] = marks if len(marks) > 1 else []
    svg = line_chart(series, x_label="environment step", y_label="true return", marks=shown, levels=_levels(facts))
    return Chart(title, svg, [(s.name, s.colour) for s in series], "" if svg else "No episode has ended yet.")


def _trained(facts: Facts) -> list[int]:
    """The rounds whose improve stage has logged environment steps."""
    return [s.round for s in facts.stages if s.activity == "improve" and CLOCK in facts.metrics.get(s.name, {})]


def _levels(facts: Facts) -> tuple[Level, ...]:
    """What random actions are worth: on the starts of the evaluation, or before there is one on those of the base."""
    known = [stage.values for stage in facts.stages if stage.activity == "base"] + [
        e.metrics for e in facts.evaluated()
    ]
    chance = number(known[-1], "random_return") if known else None
    return () if chance is None else (Level(chance, "random actions"),)


def _mean(points: Sequence[tuple[float, float]]) -> float:
    return sum(value for _, value in points) / len(points)


def coverage(facts: Facts) -> list[Row]:
    """Where the labels lie against the states visited, one column for each round."""
    lines = (
        ("visited_covered", "States visited near a judged one", "share of them that lie in a cell with a judged state"),
        ("cells_visited", "Cells visited", "equal ones, of the plane in which the visited states vary most"),
        ("cells_labelled", "Cells with a judged state", ""),
        ("variance_shown", "Variance that the plane holds", "of the visited states, each number in its own deviations"),
    )
    found = [values if isinstance(values := r.values.get("coverage"), Mapping) else {} for r in facts.rewards]
    rows = []
    for key, label, note in lines:
        numbers = [number(values, key) for values in found]
        share = not key.startswith("cells")
        shown = [None if v is None else f"{100 * v:.1f} %" if share else f"{v:.0f}" for v in numbers]
        cells = [Cell(text or "–", "", value) for text, value in zip(shown, numbers, strict=True)]
        rows.append(Row(label, note, cells))
    return [row for row in rows if any(cell.value is not None for cell in row.cells)]


def clips_note(facts: Facts) -> str:
    """What the clips show, or why there are none."""
    stages = [s for s in facts.stages if s.activity == "evaluate" and isinstance(s.values.get("clips"), Mapping)]
    if not stages:
        return "No evaluation has stored clips yet."
    found = stages[-1].values["clips"]
    if why := found.get("why_none"):
        return f"No clips: {why}."
    if not found.get("starts"):
        return "No clips were asked for (evaluation.clips = 0)."
    return (
        f"How the first {found['starts']} starts begin, as each policy plays them: the same starts, not chosen by "
        "result. The return is that of the whole episode."
    )


def verdict(facts: Facts, kept: EvaluationRow) -> list[str]:
    """Sentences on what a kept policy is worth, against the untrained one and against the round before."""
    m, words = kept.metrics, words_of(facts)
    own, first, chance = (number(m, key) for key in ("true_return", "reference_true_return", "random_return"))
    if own is None or first is None:
        return []
    count = f"the same {starts(facts)} {words.items}" if facts.samples else f"the same {words.items}"
    beside = "" if chance is None else f" and random actions {short(chance)}"
    said = [
        f"On {count} its true return is {short(own)} {ends(m, 'true_return')}, where the {words.reference} has "
        f"{short(first)}{beside}."
    ]
    gain, low, high = (number(m, key) for key in ("gain", "gain_low", "gain_high"))
    if gain is not None and low is not None and high is not None:
        said.append(f"That is a gain of {short(gain)} {ends(m, 'gain')} (95 % intervals).")
        if low <= 0 <= high:
            said.append(f"It is no difference that these {words.items} can tell.")
        elif high < 0:
            said.append("So it is worse than before it was trained.")
    answered = [s.values.get("answered") for s in facts.stages if s.activity == "improve" and s.round <= kept.round]
    if known := [n for n in answered if isinstance(n, int)]:
        said.append(f"It learned from {sum(known)} answers.")
    return said


def limits(facts: Facts, config: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting a number of this page."""
    count = starts(facts)
    found = [
        "One seed: no interval here says how much another seed would change, and in control that is often more than "
        f"anything else. The intervals are over {f'{count} ' if count else ''}starts of episodes, and the policies "
        "take their most likely actions there."
    ]
    kinds = {row.teacher_kind for row in facts.feedback}
    if "oracle" in kinds:
        found.append(
            "The teacher was a program that compares true returns, with the noise configured; no person judged "
            "anything. The policies are judged by the same true return, so this shows how far comparisons carry, and "
            "not whether the reward is what somebody wants."
        )
    if "person" in kinds:
        found.append(
            "People judged clips. The true return is the environment's own reward, which they did not see; where they "
            "want something else, it is no measure of success."
        )
    environment = config.get("environment", {})
    if environment.get("horizon") == "fixed":
        found.append(
            "Every episode has the same number of steps: what would end one goes on, or starts again at a cost of "
            f"{environment.get('penalty', 1.0):g}. Where episodes can end early, these true returns are not those "
            "that others report for this environment."
        )
    elif environment.get("horizon") == "variable":
        found.append(
            "Episodes may end early, and how long one lasts tells the teacher and the reward how the agent does, "
            "whatever it does."
        )
    return found + _uncovered(facts)


def _uncovered(facts: Facts) -> list[str]:
    if not facts.rewards or not isinstance(values := facts.rewards[-1].values.get("coverage"), Mapping):
        return []
    share, plane = number(values, "visited_covered"), number(values, "variance_shown")
    if share is None or plane is None:
        return []
    return [
        f"In round {facts.rewards[-1].round}, {100 * share:.0f} % of the states visited lie near a state that was "
        f"judged, as far as a plane with {100 * plane:.0f} % of their variance can show; elsewhere the learned reward "
        "is a guess."
    ]
