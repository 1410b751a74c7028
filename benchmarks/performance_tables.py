"""The tables of docs/performance.md and docs/agents-measured.md, from the committed results:
``python benchmarks/performance_tables.py`` writes them between the pages' markers. A test holds the pages to them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PAGES = [Path(__file__).resolve().parent.parent / "docs" / f"{name}.md" for name in ("performance", "agents-measured")]
_BLOCK = re.compile(r"(<!-- (?P<kind>\w+): (?P<names>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def claims_table(found: dict[str, Any], _: str) -> list[str]:
    """What was measured against what was aimed at, one row per claim."""
    rows = []
    for c in found["claims"]:
        spread = f"{_figure(c['low'])} – {_figure(c['high'])}"
        said = _said(c["holds"]) if c["target"] else ""
        rows.append(f"| {c['name']} | {_figure(c['value'])} | {spread} | {c['target']} | {said} |")
    return rows


def sides_table(found: dict[str, Any], name: str) -> list[str]:
    """CPU seconds, wall seconds and peak memory of each side of a comparison; medians."""
    of, rows = found["results"], []
    # a result of many works has the sides of each, beside figures of its own
    works = {name: of} if "cpu_s" in next(iter(of.values())) else of
    for work, sides in works.items():
        for side, r in ((s, r) for s, r in sides.items() if isinstance(r, dict)):
            rows.append(f"| {work} | {side} | {r['cpu_s']:.2f} | {r['wall_s']:.2f} | {r['peak_rss_mib']:.0f} |")
    return rows


def returns_table(found: dict[str, Any], _: str) -> list[str]:
    """Mean true returns of ours and SB3's on every work, and their difference over what SB3 gains on random actions."""
    rows = []
    for work, of in found["returns"].items():
        means = [f"{sum(of[side]) / len(of[side]):.0f}" for side in ("tropism", "sb3", "random")]
        spread = f"{of['difference']:+.2f} ({of['low']:+.2f} – {of['high']:+.2f})"
        rows.append(f"| {work} | {' | '.join(means)} | {spread} | {len(of['sb3'])} |")
    return rows


KINDS: dict[str, tuple[str, Callable[[dict[str, Any], str], list[str]]]] = {
    "claims": ("| claim | measured | rounds or seeds: from – to | target | reached |", claims_table),
    "sides": ("| work | side | CPU s | wall s | peak MiB |", sides_table),
    "returns": ("| work | tropism | SB3 | random | difference: 95 % | seeds |", returns_table),
}


def table(kind: str, names: list[str]) -> str:
    """Head and rows of a table of results; a result that is missing is said to be."""
    head, rows_of = KINDS[kind]
    columns = head.count("|") - 1
    rows = [head, "|" + "---|" * columns]
    for name in names:
        found = _result(name)
        rows += rows_of(found, name) if found else [f"| {name} | not measured yet |" + " |" * (columns - 2)]
    return "\n".join(rows)


def rendered(page: str) -> str:
    """The page with every table written anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{table(match['kind'], match['names'].split())}\n{match[4]}"

    return _BLOCK.sub(block, page)


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _figure(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.1g}"


def _said(holds: bool) -> str:
    return "yes" if holds else "**no**"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rendered(path.read_text("utf-8")), "utf-8")
