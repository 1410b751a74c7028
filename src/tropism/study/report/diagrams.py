"""Diagrams that are no line charts: intervals side by side, and the lineage of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tropism.study.report.charts import Scale, short


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval (equal ends when there is none)."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0


def interval_plot(
    rows: Sequence[Interval],
    *,
    centre: float | None,
    x_label: str,
    limits: tuple[float, float],
    form: Callable[[float], str] = "{:.3f}".format,
) -> Markup:
    """One line for each interval on a common axis; ``centre`` is drawn as the level of no difference. ``form`` writes
    the value beside its line."""
    if not rows:
        return Markup("")
    width, row_height, left, right, top = 380, 26, 148, 44, 6
    bottom = top + row_height * len(rows)
    scale = Scale(limits[0], limits[1], left, width - right)
    parts = []
    for value in scale.ticks(4):
        x = f"{scale(value):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 13}" text-anchor="middle">{escape(short(value))}</text>')
    if centre is not None and limits[0] <= centre <= limits[1]:
        x = f"{scale(centre):.1f}"
        parts.append(f'<line class="mark strong" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
    for i, row in enumerate(rows):
        y = top + row_height * (i + 0.5)
        low, high = (scale(min(max(v, limits[0]), limits[1])) for v in (row.low, row.high))
        said = f"{row.label}: {short(row.value)} [{short(row.low)}, {short(row.high)}]"
        parts.append(f"<g><title>{escape(said)}</title>")
        parts.append(
            f'<text class="row" x="{left - 8}" y="{y}" dy=".32em" text-anchor="end">{escape(row.label)}</text>'
        )
        parts.append(f'<line class="line c{row.colour}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        for end in (low, high):
            parts.append(f'<line class="line c{row.colour}" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 4}" y2="{y + 4}"/>')
        at = scale(min(max(row.value, limits[0]), limits[1]))
        parts.append(f'<circle class="dot c{row.colour}" cx="{at:.1f}" cy="{y}" r="4"/>')
        parts.append(
            f'<text class="number" x="{width - right + 8}" y="{y}" dy=".32em">{escape(form(row.value))}</text></g>'
        )
    middle = (left + width - right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{bottom + 27}" text-anchor="middle">{escape(x_label)}</text>')
    label = escape("; ".join(f"{r.label} {short(r.value)}" for r in rows))
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {bottom + 32}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Node:
    """A box of the lineage: in which column (round) and which row (0 policy, 1 reward model, 2 feedback)."""

    id: str
    column: int
    row: int
    title: str
    note: str
    state: str = ""
    """``promoted``, ``rejected``, ``candidate``, ``reference``, or nothing: a class of the drawing."""


@dataclass(frozen=True)
class Edge:
    """An arrow: ``source`` went into making ``target``."""

    source: str
    target: str
    label: str = ""


BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 168, 50, 64, 44


def lineage_graph(nodes: Sequence[Node], edges: Sequence[Edge]) -> Markup:
    """Columns are rounds; policies stand above reward models, and these above the feedback they were fitted on."""
    if not nodes:
        return Markup("")
    place = {node.id: _corner(node) for node in nodes}
    if any(_skips(place, edge) for edge in edges):  # room above for the arcs
        place = {id_: (x, y + 24) for id_, (x, y) in place.items()}
    width = max(x for x, _ in place.values()) + BOX_WIDTH + 4
    height = max(y for _, y in place.values()) + BOX_HEIGHT + 4
    parts = [
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="arrow-head" d="M0 0L8 4L0 8z"/></marker></defs>'
    ]
    for edge in edges:
        if edge.source in place and edge.target in place:
            parts.append(_arrow(place[edge.source], place[edge.target], edge.label))
    for node in nodes:
        x, y = place[node.id]
        middle = x + BOX_WIDTH / 2
        parts.append(f"<g><title>{escape(node.id)}</title>")
        parts.append(
            f'<rect class="box {escape(node.state)}" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/>'
        )
        parts.append(
            f'<text class="box-title" x="{middle}" y="{y + 21}" text-anchor="middle">{escape(node.title)}</text>'
        )
        parts.append(
            f'<text class="box-note" x="{middle}" y="{y + 37}" text-anchor="middle">{escape(node.note)}</text></g>'
        )
    label = escape(", ".join(f"{n.title} ({n.note})" for n in nodes))
    head = f'<svg class="lineage" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def _corner(node: Node) -> tuple[float, float]:
    return 2 + node.column * (BOX_WIDTH + GAP_X), 2 + node.row * (BOX_HEIGHT + GAP_Y)


def _skips(place: Mapping[str, tuple[float, float]], edge: Edge) -> bool:
    """Whether an arrow along the upper row passes over another box."""
    if edge.source not in place or edge.target not in place:
        return False
    (x1, y1), (x2, y2) = place[edge.source], place[edge.target]
    return y1 == y2 and x2 - x1 > BOX_WIDTH + GAP_X


def _arrow(source: tuple[float, float], target: tuple[float, float], label: str) -> str:
    """From box to box: straight along a row or a column, else a curve from the side into the side."""
    (x1, y1), (x2, y2) = source, target
    if x1 == x2:
        up = y2 < y1
        x = x1 + BOX_WIDTH / 2
        start, end = (y1, y2 + BOX_HEIGHT + 2) if up else (y1 + BOX_HEIGHT, y2 - 2)
        path = f"M{x} {start}L{x} {end}"
        at, anchor = (x + 6, (start + end) / 2 + 4), "start"
    elif y1 == y2 and x2 - x1 > BOX_WIDTH + GAP_X:
        start_x, end_x, peak = x1 + BOX_WIDTH - 20, x2 + 20, y1 - 22
        path = f"M{start_x} {y1}C{start_x + 20} {peak} {end_x - 20} {peak} {end_x} {y2 - 2}"
        at, anchor = ((start_x + end_x) / 2, peak), "middle"
    else:
        start_x, end_x = x1 + BOX_WIDTH, x2 - 2
        a, b = y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2
        bend = (end_x - start_x) * 0.6
        path = f"M{start_x} {a}C{start_x + bend} {a} {end_x - bend} {b} {end_x} {b}"
        at, anchor = ((start_x + end_x) / 2, (a + b) / 2 - 6), "middle"
    words = (
        f'<text class="edge-label" x="{at[0]}" y="{at[1]}" text-anchor="{anchor}">{escape(label)}</text>'
        if label
        else ""
    )
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>{words}'
