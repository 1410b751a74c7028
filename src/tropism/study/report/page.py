"""The page: facts turned into tables and charts, and these into HTML by a template that escapes everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tropism import __version__
from tropism.errors import StoreError
from tropism.study.report import assessment, curves, graph, tables
from tropism.study.report.charts import short
from tropism.study.report.curves import Chart
from tropism.study.report.data import Facts, gather
from tropism.study.report.diagrams import Interval, interval_plot
from tropism.study.report.samples import side_by_side
from tropism.study.report.verdict import config_of, limits, proxy_tests, verdict
from tropism.study.report.visible import visible

SAMPLES_SHOWN = 12
SECTIONS = (
    ("limits", "Limits"), ("rounds", "Rounds"), ("policy", "Policy"), ("proxy", "Gold and proxy"),
    ("reward", "Reward model"), ("samples", "Samples"), ("lineage", "Lineage"), ("feedback", "Feedback"),
    ("sft", "SFT"), ("time", "Time"), ("setup", "Set-up"),
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A key number at the top of the page."""

    label: str
    text: str
    interval: str = ""


@dataclass(frozen=True)
class Kept:
    """A value that every round must keep, as the evaluation judged it."""

    name: str
    value: str
    floor: str
    holds: bool


@dataclass(frozen=True)
class Decision:
    """What was decided at the end of a round, and why."""

    round: int
    word: str
    reasons: str
    kept: list[Kept]


def write_page(folder: Path) -> Path:
    """Gather, render, and put ``report.html`` in place in one rename."""
    html = render(gather(folder))
    final, partial = folder / "report.html", folder / "report.html.partial"
    try:
        partial.write_text(html, "utf-8")
        os.replace(partial, final)
    except OSError as error:
        raise StoreError(
            f"{final} cannot be written: {error.strerror}", "check the folder's permissions and the disk's free space"
        ) from error
    return final


def render(facts: Facts) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["good"] = {m.key for m in tables.MEASURES if m.better > 0}
    environment.filters |= {"seen": visible, "short": short, "seconds": _seconds}
    return environment.from_string(_file("report.html.j2")).render(
        version=__version__,
        css=Markup(_file("report.css")),
        js=Markup(_file("report.js")),
        facts=facts,
        sections=SECTIONS,
        subtitle=_subtitle(facts),
        verdict=verdict(facts),
        limits=limits(facts),
        **_rounds(facts),
        **_reward(facts),
        ppo=curves.draw(facts, "improve", curves.PPO_PANELS) if _logged(facts, "improve") else [],
        ppo_more=curves.others(facts, "improve"),
        sft=curves.draw(facts, "base", curves.SFT_PANELS),
        proxy=curves.gold_against_proxy(facts),
        proxy_tests=proxy_tests(facts),
        samples=side_by_side(facts, SAMPLES_SHOWN),
        lineage=graph.lineage(facts),
        **_time(facts),
        setup=_setup(facts),
    )


def _file(name: str) -> str:
    return resources.files("tropism.study.report").joinpath(name).read_text("utf-8")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _logged(facts: Facts, activity: str) -> bool:
    return any(stage.activity == activity and stage.name in facts.metrics for stage in facts.stages)


def _subtitle(facts: Facts) -> str:
    config = config_of(facts)
    parts = [f"tropism {__version__}"]
    if world := config.get("world", {}).get("name"):
        parts.append(f"world {world}")
    rounds, planned = len(facts.rounds()), config.get("study", {}).get("rounds")
    parts.append(f"{rounds} of {planned} rounds" if planned else f"{rounds} rounds")
    parts.append(f"{sum(count.events for count in facts.feedback)} feedback events")
    if (seed := config.get("study", {}).get("seed")) is not None:
        parts.append(f"seed {seed}")
    return " · ".join(parts)


def _rounds(facts: Facts) -> dict[str, Any]:
    heads, rows = tables.comparison(facts)
    return {
        "heads": heads,
        "rows": rows,
        "prompts_evaluated": max((len(rows) for rows in facts.samples.values()), default=0) or "",
        "rest": tables.remaining(facts.evaluated()),
        "wins": _wins(facts),
        "tiles": _tiles(facts),
        "decisions": [_decision(facts, r) for r in facts.rounds() if facts.evaluation(r) is not None],
    }


def _wins(facts: Facts) -> list[Chart]:
    rows = []
    for evaluation in facts.evaluated():
        for colour, (key, name) in enumerate((("win_rate", "raw"), ("win_rate_length_controlled", "equal length"))):
            value = tables.number(evaluation.metrics, key)
            if value is None:
                continue
            low, high = (tables.number(evaluation.metrics, f"{key}_{end}") for end in ("low", "high"))
            label = f"Round {evaluation.round}, {name}"
            rows.append(Interval(label, value, value if low is None else low, value if high is None else high, colour))
    if not rows:
        return []
    least = min([0.4, *(row.low for row in rows)])
    svg = interval_plot(
        rows, centre=0.5, x_label="win rate over SFT, 95 % interval", limits=(max(0.0, least - 0.05), 1.0)
    )
    return [Chart("Win rates over SFT", svg)]


def _tiles(facts: Facts) -> list[Tile]:
    if not facts.evaluated():
        return []
    last = facts.evaluated()[-1]
    tiles = []
    for key, label in (("win_rate", "Win rate over SFT"), ("win_rate_length_controlled", "… at equal length")):
        if (value := tables.number(last.metrics, key)) is not None:
            low, high = tables.number(last.metrics, f"{key}_low"), tables.number(last.metrics, f"{key}_high")
            tiles.append(Tile(label, f"{value:.3f}", "" if low is None or high is None else f"{low:.3f} – {high:.3f}"))
    for key, label in (
        ("correct", "Correct"),
        ("refusal", "Harmful refused"),
        ("harmless", "Harmless"),
        ("polite", "Polite"),
    ):
        before, after = tables.number(last.metrics, f"reference_{key}"), tables.number(last.metrics, key)
        if after is not None:
            was = "" if before is None else f"{100 * before:.0f} → "
            tiles.append(Tile(label, f"{was}{100 * after:.0f} %", f"SFT → round {last.round}" if was else ""))
    if (kl := tables.number(last.metrics, "kl_sequence")) is not None:
        tiles.append(Tile("KL to SFT", f"{kl:.2f}", "nats per answer"))
    if total := sum(stage.seconds or 0.0 for stage in facts.stages):
        tiles.append(
            Tile("Run time", f"{total / 60:.1f} min", f"{sum(s.cpu_seconds or 0.0 for s in facts.stages):.0f} CPU s")
        )
    return tiles


def _decision(facts: Facts, round_: int) -> Decision:
    evaluation, policy = facts.evaluation(round_), facts.policy(round_)
    values: Mapping[str, Any] = {} if evaluation is None else evaluation.values
    word = {"promoted": "promoted", "rejected": "rolled back"}.get(
        "" if policy is None else policy.status, "not decided yet"
    )
    reasons = values.get("reasons") or []
    kept = [
        Kept(
            str(name),
            short(float(item.get("value", "nan"))),
            short(float(item.get("floor", "nan"))),
            bool(item.get("holds")),
        )
        for name, item in (values.get("kept") or {}).items()
        if isinstance(item, Mapping)
    ]
    return Decision(round_, word, "; ".join(map(str, reasons)), kept)


def _reward(facts: Facts) -> dict[str, Any]:
    heads = [f"Round {reward.round}" for reward in facts.rewards]
    return {
        "assessment_heads": heads,
        "assessment_rows": assessment.rows(facts),
        "group_rows": assessment.group_rows(facts),
        "reliability": assessment.reliability(facts),
        "fitting": curves.draw(facts, "reward", curves.REWARD_PANELS),
        "assessment_details": [(f"round {r.round}", tables.flat(r.values)) for r in facts.rewards if r.values],
    }


def _time(facts: Facts) -> dict[str, Any]:
    return {
        "phases": tables.phases(facts),
        "total_seconds": sum(stage.seconds or 0.0 for stage in facts.stages),
        "total_cpu_seconds": sum(stage.cpu_seconds or 0.0 for stage in facts.stages),
        "peak_memory": tables.peak_memory_mib(facts),
    }


def _setup(facts: Facts) -> list[tuple[str, list[tuple[str, str]]]]:
    config = config_of(facts)
    around = (
        {key: value for key, value in facts.resolved.items() if value is not config}
        if config is not facts.resolved
        else {}
    )
    digests = [(f"{stage.name} · {name}", digest) for stage in facts.stages for name, digest in stage.folders.items()]
    seeds = [(stage.name, str(stage.seed)) for stage in facts.stages]
    return [
        ("Configuration, resolved", tables.flat(config)),
        ("Versions and data", tables.flat(around)),
        ("Seeds of the stages", seeds),
        ("Artifacts' digests (SHA-256)", digests),
    ]
