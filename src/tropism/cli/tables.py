"""What a study looks like in a terminal: its status, the final table, samples and rollouts.

Model text goes through ``visible`` and is printed without markup: neither ANSI sequences nor brackets in it act.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.cli.show import console
from tropism.errors import StoreError
from tropism.study.report.data import Facts, gather, read_jsonl
from tropism.study.report.visible import visible

if TYPE_CHECKING:
    from rich.table import Table

    from tropism.study.status import StudyStatus


def print_results(folder: Path) -> None:
    """The final table: the reference beside every round, then seconds per stage, then the verdict."""
    from tropism.study.report.tables import comparison
    from tropism.study.report.verdict import verdict
    from tropism.study.report.words import words_of

    out, facts = console(), gather(folder)
    heads, rows = comparison(facts)
    words = words_of(facts)
    on, interval = words.items.capitalize(), " [{}]"
    if words.episodes:  # returns have wide intervals: under the value, so that four columns fit into a terminal
        on, interval = f"The same {words.items}", "\n[{}]"
    if rows:
        table = _table(f"{visible(on)} (95 % intervals)", ["", *heads])
        table.columns[0].no_wrap = words.episodes
        styles = {"better": "green", "worse": "red"}
        for row in rows:
            cells = [
                _styled(
                    c.text + (interval.format(c.interval.replace(" to ", ", ")) if c.interval else ""),
                    styles.get(c.change, ""),
                )
                for c in row.cells
            ]
            table.add_row(_styled(row.label), *cells)
        out.print(table)
    _print_times(facts)
    out.print(verdict(facts), markup=False)


def print_status(status: StudyStatus) -> None:
    """Where a study is: stages with their times, what happens now, and who runs it."""
    out = console()
    end = "finished" if status.finished else f"{status.rounds_done} of {status.rounds} rounds done"
    out.print(f"{visible(status.name)} in {status.folder}: {end}", markup=False, soft_wrap=True)
    table = _table("", ["stage", "status", "wall s", "CPU s"])
    for stage in status.stages:
        table.add_row(_styled(visible(stage.name)), stage.status, _number(stage.seconds), _number(stage.cpu_seconds))
    if status.stages:
        out.print(table)
    feedback = ", ".join(f"{count} {name}" for name, count in status.feedback.items())
    out.print(f"feedback: {feedback or 'none'}", markup=False, soft_wrap=True)
    if status.holder is None:
        out.print(
            f"nobody runs it{'' if status.finished else f'; go on with: tropism run {status.folder}'}",
            markup=False,
            soft_wrap=True,
        )
        return
    holder = status.holder
    out.print(
        f"run by process {holder['pid']} on {holder['host']}: {visible(holder['command'])}",
        markup=False,
        soft_wrap=True,
    )
    if now := status.activity:
        count = f" {now['done']}/{now['total']}" if now.get("total") else ""
        out.print(
            f"now: {now['stage']}, {now['activity']}{count} {visible(now.get('note', ''))}",
            markup=False,
            soft_wrap=True,
        )


def _print_times(facts: Facts) -> None:
    from tropism.study.report.tables import peak_memory_mib, phases

    table = _table("Seconds per stage", ["stage", "wall", "CPU", "of which"])
    for phase in phases(facts):
        parts = ", ".join(f"{part.phase} {part.wall_s:.0f}" for part in phase.parts[:4])
        table.add_row(visible(phase.stage), _number(phase.seconds), _number(phase.cpu_seconds), _styled(visible(parts)))
    total, cpu = (sum(getattr(s, name) or 0.0 for s in facts.stages) for name in ("seconds", "cpu_seconds"))
    table.add_row("sum", _number(total), _number(cpu), "")
    out = console()
    out.print(table)
    if (peak := peak_memory_mib(facts)) is not None:
        out.print(f"peak memory {peak:.0f} MiB", markup=False)


def print_rollouts(folder: Path, round_: int, step: int, count: int) -> None:
    """``count`` stored rollouts of one PPO step, with the reward by component; or the episodes that ended from an
    environment step on. StoreError if nothing is stored."""
    from tropism.store.artifacts import ArtifactStore

    facts, out = gather(folder), console()
    if round_ in facts.episodes:
        _print_episodes(facts.episodes[round_], round_, step, count)
        return
    stage = next((s for s in facts.stages if s.activity == "improve" and s.round == round_), None)
    digest = None if stage is None else stage.folders.get("rollouts")
    if digest is None:
        raise StoreError(f"round {round_} of {folder} has no stored rollouts", "wait until its improve stage is done")
    shown, steps = 0, set()
    for row in read_jsonl(ArtifactStore(folder / "artifacts").path(digest)):
        steps.add(int(row["step"]))
        if int(row["step"]) != step or shown == count:
            continue
        shown += 1
        out.rule(f"round {round_}, step {step}, {row.get('stop', '')}")
        _print_text(out, "prompt", row["prompt"])
        _print_text(out, "answer", row["completion"])
        parts = {
            **row.get("reward", {}),
            "total": row.get("reward_total"),
            "KL (nats)": row.get("kl_nats"),
            "gold": row.get("gold"),
        }
        out.print(_parts(parts), markup=False)
    if not shown:
        raise StoreError(
            f"round {round_} has no step {step}", f"its steps are {min(steps)} to {max(steps)}" if steps else ""
        )


def _print_episodes(episodes: list[tuple[float, float]], round_: int, step: int, count: int) -> None:
    shown = [row for row in episodes if row[0] >= step][:count]
    if not shown:
        last = f"the last one ended at step {episodes[-1][0]:.0f}" if episodes else "none ended"
        raise StoreError(f"round {round_} has no episode that ended at step {step} or later", last)
    table = _table(f"Round {round_}, episodes from environment step {step} on", ["step", "true return"])
    for at, value in shown:
        table.add_row(f"{at:.0f}", f"{value:.4g}")
    console().print(table)


def print_samples(folder: Path, round_: int, count: int) -> None:
    """``count`` prompts or starts, by the reference and by every round up to ``round_``. StoreError if nothing is
    stored."""
    from dataclasses import replace

    from tropism.study.report.samples import side_by_side
    from tropism.study.report.words import words_of

    facts, out = gather(folder), console()
    episodes = words_of(facts).episodes
    if round_ not in facts.samples:
        there = f"there are samples of round {', '.join(map(str, sorted(facts.samples)))}" if facts.samples else ""
        raise StoreError(
            f"round {round_} of {folder} has no stored samples", there or "wait until it has been evaluated"
        )
    upto = replace(facts, samples={r: rows for r, rows in facts.samples.items() if r <= round_})
    for sample in side_by_side(upto, count):
        out.rule()
        if episodes:
            out.print(visible(sample.prompt), markup=False)
            for answer in sample.answers:
                said = "" if answer.gold is None else f"true return {answer.gold:.4g}, "
                out.print(f"  {visible(answer.who)}: {said}{visible(answer.text)}", markup=False, soft_wrap=True)
            continue
        _print_text(out, "prompt", sample.prompt)
        for answer in sample.answers:
            _print_text(out, answer.who, answer.text)
            out.print(
                "    " + _parts({"gold": answer.gold, **dict(answer.aspects), **dict(answer.scores)}),
                markup=False,
                soft_wrap=True,
            )


def _print_text(out: Any, name: str, text: object) -> None:
    out.print(f"{visible(name)}: {visible(text)}", markup=False, soft_wrap=True)


def _parts(values: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{visible(name)} {value:+.3f}" for name, value in values.items() if isinstance(value, int | float)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _styled(text: str, style: str = "") -> Any:
    """Text that rich does not parse."""
    from rich.text import Text

    return Text(text, style=style)


def _table(title: str, heads: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 or head == "of which" else "right")
    return table
