"""What jobs print: plans, results, assessments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.cli.show import console
from tropism.study.report.visible import visible

if TYPE_CHECKING:
    from tropism.jobs.plan import Plan

_SHOWN = 6  # significant digits


def print_plan(plan: Plan) -> None:
    """A plan as aligned lines."""
    out = console()
    out.print(f"plan of tropism {plan.job} (nothing was written)", markup=False)
    _lines([*plan.lines, *([("result", str(plan.out))] if plan.out is not None else [])])


def print_values(values: Mapping[str, Any], out: Path | None) -> None:
    """What came out of a job: plain numbers and short texts, nested ones below their name; long lists are counted."""
    _lines(_flat(values))
    if out is not None:
        console().print(f"result: {out}", markup=False, soft_wrap=True)


def print_assessment(found: Mapping[str, Any]) -> None:
    """A reward model's assessment: one line per measure, shares with their 95 % intervals."""
    _lines(_flat(found))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
            rows.append((name, _share(value)))
        elif isinstance(value, Mapping):
            rows += _flat(value, f"{name} ")
        elif isinstance(value, list) and (len(value) > 8 or any(isinstance(v, Mapping | list) for v in value)):
            if value:
                rows.append((name, f"{len(value)} entries, in run/result.json"))
        elif value is not None and value != [] and value != "":
            rows.append((name, _text(value)))
    return rows


def _share(value: Mapping[str, Any]) -> str:
    more = f"  {value['pairs']} pairs" if "pairs" in value else ""
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{more}"


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return visible(", ".join(map(str, value)) if isinstance(value, list) else value)
    return f"{value:.{_SHOWN}g}"


def _lines(rows: list[tuple[str, str]]) -> None:
    out = console()
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        out.print(f"  {name:<{width}}  {text}", markup=False, soft_wrap=True)
