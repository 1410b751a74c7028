"""The tables of docs/performance.md, from the committed results: ``python benchmarks/performance_tables.py`` writes
them between the page's markers. A test holds the page to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- (?P<kind>\w+): (?P<names>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def claims_table(names: list[str]) -> str:
    """What was measured against what was aimed at, one row per claim of each result."""
    rows = ["| claim | measured | rounds or seeds: from – to | target | reached |", "|---|---|---|---|---|"]
    for name in names:
        found = _result(name)
        if found is None:
            rows.append(f"| {name} | not measured yet | | | |")
            continue
        for c in found["claims"]:
            spread = f"{c['low']:.2f} – {c['high']:.2f}"
            rows.append(f"| {c['name']} | {c['value']:.2f} | {spread} | {c['target']} | {_said(c['holds'])} |")
    return "\n".join(rows)


def sides_table(names: list[str]) -> str:
    """CPU seconds, wall seconds and peak memory of each side of a comparison; medians."""
    rows = ["| work | side | CPU s | wall s | peak MiB |", "|---|---|---|---|---|"]
    for name in names:
        found = _result(name)
        if found is None:
            rows.append(f"| {name} | not measured yet | | | |")
            continue
        for side, r in found["results"].items():
            rows.append(f"| {name} | {side} | {r['cpu_s']:.2f} | {r['wall_s']:.2f} | {r['peak_rss_mib']:.0f} |")
    return "\n".join(rows)


def rendered(page: str) -> str:
    """The page with every table written anew."""
    kinds = {"claims": claims_table, "sides": sides_table}

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{kinds[match['kind']](match['names'].split())}\n{match[4]}"

    return _BLOCK.sub(block, page)


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _said(holds: bool) -> str:
    return "yes" if holds else "**no**"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
