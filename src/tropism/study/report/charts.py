"""Line charts as inline SVG: numbers in, markup out.

Colours are CSS classes (``c0`` … ``c5``), so that one drawing serves a light and a dark page. The values stand in a
``data-chart`` attribute, from which the page's own script shows them under the pointer; without scripts the chart is
complete but for that. Left out: anything but lines, bands, points and marks; zooming.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 226
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 32


@dataclass(frozen=True)
class Series:
    """One line. ``y`` may hold NaN (a gap). ``low`` and ``high`` draw a band. ``colour`` is an index from 0 to 5.
    ``scattered``: small points and no line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: int = 0
    points: bool = False
    dashed: bool = False
    scattered: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``x`` with a word on it (a round's beginning)."""

    x: float
    label: str


@dataclass(frozen=True)
class Level:
    """A horizontal line at ``y`` with a word on it (a limit, a chance level)."""

    y: float
    label: str


def short(value: float) -> str:
    """A number as an axis or a tooltip shows it: four significant digits, scientific when very small or large."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}" if size < 1e4 else f"{value:,.0f}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) inside [low, high], low < high."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels, linear or logarithmic, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high, count)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        stride = max(1, (last - first) // count + 1)
        return [10.0**k for k in range(first, last + 1, stride)]


def _range(values: Sequence[float], log: bool, zero: bool) -> tuple[float, float]:
    """The axis limits for finite ``values`` (at least one)."""
    low, high = min(values), max(values)
    if log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return (low, high) if low < high else (low, high * 10)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:  # nothing but zeros
            return 0.0, 1.0
    if high - low < 1e-12 + 1e-9 * abs(high):
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    pad = 0.05 * (high - low)
    return (low if zero and low == 0 else low - pad), (high if zero and high == 0 else high + pad)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    zero: bool = False,
    marks: Sequence[Mark] = (),
    levels: Sequence[Level] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """An SVG of the series' finite points, or an empty string when there is none (positive ones if ``log_y``)."""

    def drawable(value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not log_y)

    ys = [v for s in series for band in (s.y, s.low or (), s.high or ()) for v in band if drawable(v)]
    xs = [v for s in series for v, y in zip(s.x, s.y, strict=True) if math.isfinite(v) and drawable(y)]
    if not ys or not xs:
        return Markup("")
    ys += [level.y for level in levels if drawable(level.y)]
    x_low, x_high = x_range or (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    y_low, y_high = y_range or _range(ys, log_y, zero)
    across = Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    down = Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, log_y)
    parts = [*_axes(across, down, x_label, y_label), *_marks(across, down, marks, levels)]
    for s in series:
        parts += _line(s, across, down, drawable)
    data = {
        "x": x_label,
        "series": [
            {
                "name": s.name,
                "colour": s.colour,
                "points": [
                    [round(across(x), 1), round(down(y), 1), short(x), _with_interval(s, i)]
                    for i, (x, y) in enumerate(zip(s.x, s.y, strict=True))
                    if math.isfinite(x) and drawable(y)
                ],
            }
            for s in series
        ],
    }
    label = escape(f"{y_label} over {x_label}: " + ", ".join(s.name for s in series))
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"'
    return Markup(f"{head} data-chart='{escape(json.dumps(data))}'>{''.join(parts)}</svg>")


def _with_interval(s: Series, index: int) -> str:
    text = short(s.y[index])
    if s.low is not None and s.high is not None:
        text += f" [{short(s.low[index])}, {short(s.high[index])}]"
    return text


def _axes(across: Scale, down: Scale, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in down.ticks(4):
        y = f"{down(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{y}" dy=".32em" text-anchor="end">{escape(short(value))}</text>'
        )
    whole = x_label in ("step", "round", "environment step", "start")
    for value in across.ticks(6):
        if whole and value != round(value):
            continue
        x = f"{across(value):.1f}"
        parts.append(
            f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{escape(short(value))}</text>'
        )
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 3}"/>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    centre = (TOP + base) / 2
    turned = f'transform="translate(9 {centre}) rotate(-90)"'
    parts.append(f'<text class="label" {turned} text-anchor="middle">{escape(y_label)}</text>')
    return parts


def _marks(across: Scale, down: Scale, marks: Sequence[Mark], levels: Sequence[Level]) -> list[str]:
    parts = []
    for mark in marks:
        if not across.low <= mark.x <= across.high:
            continue
        x = across(mark.x)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="marked" x="{x + 3:.1f}" y="{TOP + 8}">{escape(mark.label)}</text>')
    for level in levels:
        if not down.low <= level.y <= down.high:
            continue
        y = down(level.y)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="marked" x="{WIDTH - RIGHT}" y="{y - 3:.1f}" text-anchor="end">{escape(level.label)}</text>'
        )
    return parts


def _line(s: Series, across: Scale, down: Scale, drawable: Callable[[float], bool]) -> list[str]:
    parts: list[str] = []
    if s.low is not None and s.high is not None:
        inside = [
            (across(x), down(low), down(high))
            for x, low, high in zip(s.x, s.low, s.high, strict=True)
            if drawable(low) and drawable(high)
        ]
        outline = [(x, high) for x, _, high in inside] + [(x, low) for x, low, _ in reversed(inside)]
        if outline:
            parts.append(f'<path class="band c{s.colour}" d="{_path(outline)}Z"/>')
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(s.x, s.y, strict=True):
        if drawable(y):
            runs[-1].append((across(x), down(y)))
        elif runs[-1]:
            runs.append([])
    if s.scattered:
        dot = f'<circle class="dot faint c{s.colour}" cx="{{:.1f}}" cy="{{:.1f}}" r="2.5"/>'
        return parts + [dot.format(*point) for run in runs for point in run]
    style = ' stroke-dasharray="4 3"' if s.dashed else ""
    for run in runs:
        if len(run) > 1:
            parts.append(f'<path class="line c{s.colour}"{style} d="{_path(run)}"/>')
        if run and (s.points or len(run) == 1):
            parts += [f'<circle class="dot c{s.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in run]
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
