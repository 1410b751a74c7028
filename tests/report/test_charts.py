"""Charts: ticks, scales, gaps, and markup that stays well formed whatever the numbers and names are."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tropism.study.report.charts import HEIGHT, WIDTH, Level, Mark, Scale, Series, line_chart, nice_ticks, short
from tropism.study.report.diagrams import Edge, Interval, Node, interval_plot, lineage_graph


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path)]


def lines_of(svg: str) -> list[list[tuple[float, float]]]:
    tree = ET.fromstring(svg)
    return [points_of(p.get("d", "")) for p in tree.iter("path") if p.get("class", "").startswith("line")]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (1e-9, 2e-9), (0.499, 0.501), (-5e6, 9e6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-12 * abs(low) <= t <= high * (1 + 1e-12) for t in ticks)
    steps = {round(b - a, 15) for a, b in itertools.pairwise(ticks)}
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_short_numbers() -> None:
    shown = [short(v) for v in (0, 0.5, 12.3456, 1234567.0, 20000, 1e-5, -0.25, math.nan)]
    assert shown == ["0", "0.5", "12.35", "1.2e6", "20,000", "1e-5", "-0.25", "–"]


def test_a_line_goes_where_its_values_say() -> None:
    (points,) = lines_of(line_chart([Series("s", [0, 1, 2], [0, 1, 0])], x_label="x", y_label="y"))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y0 == y2  # pixels grow downwards


def test_nan_is_a_gap_and_not_a_zero() -> None:
    svg = line_chart([Series("s", [0, 1, 2, 3, 4], [5, 6, math.nan, 7, 8])], x_label="x", y_label="y")
    assert [len(line) for line in lines_of(svg)] == [2, 2]


def test_nothing_to_draw_is_an_empty_string() -> None:
    assert line_chart([], x_label="x", y_label="y") == ""
    assert line_chart([Series("s", [0.0], [math.nan])], x_label="x", y_label="y") == ""
    assert line_chart([Series("s", [0, 1], [0, -1])], x_label="x", y_label="y", log_y=True) == ""
    assert interval_plot([], centre=0.5, x_label="x", limits=(0, 1)) == ""
    assert lineage_graph([], []) == ""


def test_log_axis_spaces_decades_evenly() -> None:
    scale = Scale(1e-4, 1.0, 0.0, 400.0, log=True)
    assert [scale(v) for v in (1e-4, 1e-3, 1e-2, 1)] == pytest.approx([0, 100, 200, 400])
    assert scale.ticks(5) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_names_are_escaped_and_the_tooltip_data_is_json() -> None:
    name = "a'\"<b>&\u2028</svg>"
    svg = line_chart(
        [Series(name, [0, 1], [1, 2], [0, 1], [2, 3])], x_label=name, y_label=name, marks=[Mark(0.5, name)]
    )
    data = json.loads(ET.fromstring(svg).get("data-chart", ""))
    assert data["series"][0]["name"] == name
    assert data["series"][0]["points"][1][3] == "2 [1, 3]"
    assert "<b>" not in svg


def test_band_encloses_its_line() -> None:
    tree = ET.fromstring(line_chart([Series("s", [0, 1], [1, 2], [0.5, 1.5], [1.5, 2.5])], x_label="x", y_label="y"))
    band = next(points_of(p.get("d", "")) for p in tree.iter("path") if p.get("class", "").startswith("band"))
    line = next(points_of(p.get("d", "")) for p in tree.iter("path") if p.get("class", "").startswith("line"))
    upper, lower = band[0][1], band[-1][1]
    assert upper < line[0][1] < lower


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9) | st.just(math.nan)), min_size=1, max_size=8),
    st.booleans(),
)
def test_any_numbers_give_well_formed_svg_inside_the_frame(points: list[tuple[float, float]], zero: bool) -> None:
    points.sort(key=lambda p: p[0])
    series = Series("s", [p[0] for p in points], [p[1] for p in points], points=True)
    svg = line_chart([series], x_label="x", y_label="y", zero=zero, levels=[Level(0.0, "none")])
    if not svg:
        assert all(math.isnan(y) for _, y in points)
        return
    for circle in ET.fromstring(svg).iter("circle"):
        assert -0.1 <= float(circle.get("cx", "nan")) <= WIDTH + 0.1
        assert -0.1 <= float(circle.get("cy", "nan")) <= HEIGHT + 0.1


def test_intervals_stay_inside_their_limits() -> None:
    svg = interval_plot([Interval("r<1>", 0.8, 0.7, 1.4)], centre=0.5, x_label="w", limits=(0.4, 1.0))
    tree = ET.fromstring(svg)
    assert max(float(line.get("x2", "0")) for line in tree.iter("line")) <= 380 - 44 + 0.1
    assert "r<1>: 0.8 [0.7, 1.4]" in {title.text for title in tree.iter("title")}


def test_an_arrow_that_skips_a_round_goes_over_the_box_between() -> None:
    nodes = [Node(f"p{i}", i, 0, f"P{i}", "") for i in range(3)]
    tree = ET.fromstring(lineage_graph(nodes, [Edge("p0", "p2")]))
    arrow = next(p.get("d", "") for p in tree.iter("path") if p.get("class") == "arrow")
    top = min(float(r.get("y", "nan")) for r in tree.iter("rect"))
    assert min(float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", arrow)) < top


def test_an_edge_to_nowhere_is_not_drawn() -> None:
    assert 'arrow"' not in lineage_graph([Node("a", 0, 0, "A", "")], [Edge("a", "gone")])
