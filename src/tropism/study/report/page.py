"""The page: facts turned into tables and charts, and these into HTML by a template that escapes everything."""

from __future__ import annotations

import base64
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
from tropism.study.report import assessment, curves, episodes, graph, tables
from tropism.study.report.charts import short
from tropism.study.report.curves import Chart
from tropism.study.report.data import Facts, gather
from tropism.study.report.diagrams import Interval, interval_plot
from tropism.study.report.samples import CLIPS, Sample, side_by_side
from tropism.study.report.verdict import config_of, limits, proxy_tests, verdict
from tropism.study.report.visible import visible
from tropism.study.report.words import Words, words_of

SAMPLES_SHOWN = 12
CLIP_BYTES = 2_000_000
"""What all clips together may weigh in the page; newer rounds come first."""
SECTIONS = (
    ("limits", "Limits"), ("rounds", "Rounds"), ("policy", "Policy"), ("proxy", "Gold and proxy"),
    ("reward", "Reward model"), ("samples", "Samples"), ("lineage", "Lineage"), ("feedback", "Feedback"),
    ("sft", "SFT"), ("time", "Time"), ("setup", "Set-up"),
)  # fmt: skip
OF_TEXTS = ("proxy", "sft")
"""Sections that policies which act in episodes have nothing to put in."""


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
    words, samples = words_of(facts), side_by_side(facts, SAMPLES_SHOWN)
    return environment.from_string(_file("report.html.j2")).render(
        version=__version__,
        css=Markup(_file("report.css")),
        js=Markup(_file("report.js")),
        facts=facts,
        words=words,
        sections=[(id_, title) for id_, title in SECTIONS if not (words.episodes and id_ in OF_TEXTS)],
        subtitle=_subtitle(facts),
        verdict=verdict(facts),
        limits=limits(facts),
        **_rounds(facts),
        **_reward(facts),
        **_training(facts, words),
        sft=curves.draw(facts, "base", curves.SFT_PANELS),
        proxy=curves.gold_against_proxy(facts),
        proxy_tests=proxy_tests(facts),
        samples=samples,
        clips=_embedded(samples),
        clips_note=episodes.clips_note(facts) if words.episodes else "",
        by_start=episodes.by_start(facts) if words.episodes else [],
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
    if environment := config.get("environment", {}).get("id"):
        parts.append(str(environment))
    rounds, planned = len(facts.rounds()), config.get("study", {}).get("rounds")
    parts.append(f"{rounds} of {planned} rounds" if planned else f"{rounds} rounds")
    parts.append(f"{sum(count.events for count in facts.feedback)} feedback events")
    if (seed := config.get("study", {}).get("seed")) is not None:
        parts.append(f"seed {seed}")
    return " · ".join(parts)


def _training(facts: Facts, words: Words) -> dict[str, list[Chart]]:
    if not _logged(facts, "improve"):
        return {"ppo": [], "ppo_more": []}
    if not words.episodes:
        drawn = curves.draw(facts, "improve", curves.PPO_PANELS)
        return {"ppo": drawn, "ppo_more": curves.others(facts, "improve")}
    # which curves there are depends on the algorithm: only those that were logged
    drawn = [c for c in curves.draw(facts, "improve", curves.EPISODE_PANELS, curves.CLOCK) if c.svg]
    return {"ppo": [episodes.while_training(facts), *drawn], "ppo_more": curves.others(facts, "improve", curves.CLOCK)}


def _embedded(samples: list[Sample]) -> dict[Path, Markup]:
    """Clips as data URIs, until they weigh too much."""
    columns = max((len(sample.answers) for sample in samples), default=0)
    # the reference and the newest round are what a reader compares: then backwards
    order = [0, *range(columns - 1, 0, -1)] if columns else []
    found: dict[Path, Markup] = {}
    weight = 0
    for column in order:
        for path in (s.answers[column].clip for s in samples if column < len(s.answers)):
            if path is None or weight + path.stat().st_size * 4 / 3 > CLIP_BYTES:
                continue
            text = base64.b64encode(path.read_bytes()).decode("ascii")
            found[path] = Markup(f"data:{CLIPS[path.suffix]};base64,{text}")
            weight += len(text)
    return found


def _rounds(facts: Facts) -> dict[str, Any]:
    heads, rows = tables.comparison(facts)
    return {
        "heads": heads,
        "rows": rows,
        "prompts_evaluated": max((len(rows) for rows in facts.samples.values()), default=0) or "",
        "rest": tables.remaining(facts),
        "wins": (episodes.returns(facts) if words_of(facts).episodes else []) + _wins(facts),
        "tiles": _tiles(facts),
        "decisions": [_decision(facts, r) for r in facts.rounds() if facts.evaluation(r) is not None],
    }


def _wins(facts: Facts) -> list[Chart]:
    rows, words = [], words_of(facts)
    kinds = [("win_rate", ", raw"), ("win_rate_length_controlled", ", equal length")]
    title, unit = f"Win rates over {words.over}", f"win rate over {words.over}"
    if words.episodes:
        kinds, title, unit = [("win_rate", "")], _won(words), f"share of {words.items}, a tie counts half"
    for evaluation in facts.evaluated():
        for colour, (key, name) in enumerate(kinds):
            value = tables.number(evaluation.metrics, key)
            if value is None:
                continue
            low, high = (tables.number(evaluation.metrics, f"{key}_{end}") for end in ("low", "high"))
            label = f"Round {evaluation.round}{name}"
            rows.append(Interval(label, value, value if low is None else low, value if high is None else high, colour))
    if not rows:
        return []
    least = min([0.4, *(row.low for row in rows)])
    svg = interval_plot(rows, centre=0.5, x_label=f"{unit}, 95 % interval", limits=(max(0.0, least - 0.05), 1.0))
    return [Chart(title, svg)]


def _won(words: Words) -> str:
    return f"{words.items[:1].upper()}{words.items[1:]} won against {words.over}"


def _tiles(facts: Facts) -> list[Tile]:
    if not facts.evaluated():
        return []
    last, words = facts.evaluated()[-1], words_of(facts)
    tiles = _tiles_of_episodes(facts) if words.episodes else []
    for key, label in (
        ("win_rate", "Starts won" if words.episodes else f"Win rate over {words.over}"),
        ("win_rate_length_controlled", "… at equal length"),
    ):
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
            tiles.append(Tile(label, f"{was}{100 * after:.0f} %", f"{words.short} → round {last.round}" if was else ""))
    if (kl := tables.number(last.metrics, "kl_sequence")) is not None:
        tiles.append(Tile(f"KL to {words.over}", f"{kl:.2f}", "nats per answer"))
    if total := sum(stage.seconds or 0.0 for stage in facts.stages):
        tiles.append(
            Tile("Run time", f"{total / 60:.1f} min", f"{sum(s.cpu_seconds or 0.0 for s in facts.stages):.0f} CPU s")
        )
    return tiles


def _tiles_of_episodes(facts: Facts) -> list[Tile]:
    last, words = facts.evaluated()[-1], words_of(facts)
    before, after = (tables.number(last.metrics, f"{name}true_return") for name in ("reference_", ""))
    tiles = []
    if before is not None and after is not None:
        tiles.append(Tile("True return", f"{short(before)} → {short(after)}", f"{words.short} → round {last.round}"))
    if (gain := tables.number(last.metrics, "gain")) is not None:
        tiles.append(Tile("Gain", f"{'+' * (gain >= 0)}{short(gain)}", episodes.ends(last.metrics, "gain")))
    if (chance := tables.number(last.metrics, "random_return")) is not None:
        tiles.append(Tile("Random actions", short(chance), episodes.ends(last.metrics, "random_return")))
    made = [stage.values for stage in facts.stages if stage.activity == "improve"]
    steps, answers = (sum(int(values.get(name) or 0) for values in made) for name in ("steps", "answered"))
    if steps:
        tiles.append(Tile("Answers", f"{answers:,}", f"{steps:,} environment steps"))
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
        "coverage": episodes.coverage(facts),
        "fitting": curves.draw(facts, "improve", curves.REWARD_PANELS, curves.CLOCK)
        if words_of(facts).episodes
        else curves.draw(facts, "reward", curves.REWARD_PANELS),
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
