"""What ``tropism data`` prints: what a source holds, what was written, records.

Text from data goes through ``visible`` and is printed without markup: nothing in it acts on a terminal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tropism.cli.show import console
from tropism.study.report.visible import visible

if TYPE_CHECKING:
    from tropism.data.describing import Description
    from tropism.data.exporting import ExportReport
    from tropism.data.importing import ImportReport
    from tropism.data.records import Reading, Record, Rejected

REJECTED = 10
"""Rejected rows that are shown; the others are counted."""
LONGEST = 600
"""Characters of a text that are shown."""
_COMMON = 5

Lines = list[tuple[str, str]]


def print_source(reading: Reading, made: Description, rejected: Sequence[Rejected], *, named: bool) -> None:
    """The account of a source. ``named``: whoever asked named the format."""
    source = reading.source
    how = "as named" if named else "recognised by its columns" if source["recognised"] else "as its manifest says"
    files = source["files"]
    shown = [f"{entry['name']} ({entry['bytes']} bytes, sha256 {entry['sha256'][:12]}…)" for entry in files[:_COMMON]]
    lines: Lines = [
        ("source", source["name"]),
        ("format", f"{source['format']}, {how}"),
        *(("file", text) for text in shown),
        *([("", f"and {len(files) - _COMMON} more files")] if len(files) > _COMMON else []),
        ("licence", source["licence"] or "not stated (--licence)"),
        ("rows", f"{reading.rows}, of which {len(rejected)} cannot be used"),
        ("records", f"{made.records}"),
    ]
    lines += [(name, f"{count}: {what}") for name, counts in _accounts(reading) for what, count in counts.most_common()]
    _print(lines + _described(made))
    _print_rejected(rejected)


def print_export(done: ExportReport, read: ImportReport | None = None) -> None:
    """What was written, or would be, and what was not."""
    planned = not done.sha256
    lines: Lines = []
    if read is not None:
        lines.append(("read", f"{read.rows} rows, {len(read.rejected)} of them rejected"))
    lines.append(("records", f"{done.records}, of which {done.held} are held in {done.rows} rows as {done.format}"))
    if done.filtered:
        lines.append(("filtered", f"{done.filtered}: of other splits"))
    lines += [("left out", f"{count}: {why}") for why, count in done.left_out.most_common()]
    lines += [("changed", f"{count}: {what}") for what, count in done.lost.most_common()]
    lines.append(("splits", _counted(done.splits)))
    if planned:
        lines.append(("would be", f"{done.path} ({done.kind})"))
        console().print("plan (nothing was written)", markup=False)
    else:
        lines += [
            ("written", f"{done.path} ({done.kind}, sha256 {done.sha256[:12]}…)"),
            ("manifest", f"{done.manifest}"),
        ]
    _print(lines)
    if read is not None:
        _print_rejected(read.rejected)


def print_records(records: Sequence[Record], total: int) -> None:
    """Records, one below the other, with their texts made safe."""
    from tropism.data.records import prompt_text
    from tropism.feedback.values import slot_names

    out = console()
    for number, record in enumerate(records, 1):
        about = [
            ("teacher", record.teacher),
            ("split", record.split),
            ("group", record.group),
            ("id", record.source_id),
        ]
        facts = ", ".join(f"{name} {value}" for name, value in about if value)
        out.rule(visible(f"{number} of {total}, line {record.line}: {record.kind}"))
        if facts:
            _print([("", facts)])
        lines: Lines = [("prompt", prompt_text(record.prompt))]
        slots = slot_names(record.kind, len(record.candidates)) if record.candidates else ()
        for slot, content in zip(slots, record.candidates, strict=True):
            text = content.get("text")
            lines.append((slot, text if isinstance(text, str) else json.dumps(dict(content), ensure_ascii=False)))
        if record.value is not None:
            lines.append(("value", _value(record.value)))
        if record.text is not None:
            lines.append(("text", record.text))
        if record.meta:
            lines.append(("meta", json.dumps(dict(record.meta), ensure_ascii=False)))
        _print(lines, LONGEST)


def _described(made: Description) -> Lines:
    lines: Lines = [
        ("kinds", _counted(made.kinds)),
        ("answers", _counted(made.choices)),
        ("splits", _counted(made.splits)),
        ("prompts", f"{len(made.prompts)} different" + (f", {made.chats} of them chats" if made.chats else "")),
    ]
    if made.answers:
        lines.append(("candidates", f"{len(made.answers)} different"))
    if made.groups:
        lines.append(("groups", f"{len(made.groups)}: {_counted(made.groups)}"))
    named = f"{len(made.annotators)}: {_counted(made.annotators)}" if made.annotators else "none named"
    nameless = f"; {made.nameless} records without one" if made.annotators and made.nameless else ""
    lines.append(("annotators", named + nameless))
    if (agreement := made.agreement()) is not None:
        alpha = "" if agreement.alpha is None else f", Krippendorff's alpha {agreement.alpha:.3f}"
        said = f"{100 * agreement.share:.1f} % of two answers are equal{alpha}"
        lines.append(
            ("agreement", f"{said} ({agreement.items} judged by several of {agreement.annotators} annotators)")
        )
    for name, points in made.quartiles().items():
        least, low, median, high, late, most = points
        spread = f"{least} … {low} … {median} … {high} … {most}, 99 % to {late}"
        lines.append((f"{name} length", f"{spread} characters"))
    return lines


def _accounts(reading: Reading) -> list[tuple[str, Counter[str]]]:
    return [("repaired", reading.repaired), ("noted", reading.noted), ("left out", reading.left_out)]


def _print_rejected(rejected: Sequence[Rejected]) -> None:
    from tropism.data.importing import placed

    if not rejected:
        return
    console().print(f"{len(rejected)} rows that cannot be used:", markup=False)
    _print([("", f"{placed(bad)}: {bad.reason}") for bad in rejected[:REJECTED]])
    if len(rejected) > REJECTED:
        _print([("", f"and {len(rejected) - REJECTED} more")])


def _value(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(held, ensure_ascii=False)}" for name, held in value.items() if name != "kind")


def _counted(counts: Mapping[str, int]) -> str:
    """The most common with their counts, and how many others there are."""
    ordered = Counter(counts).most_common()
    more = f", and {len(ordered) - _COMMON} more" if len(ordered) > _COMMON else ""
    return ", ".join(f"{count} {name}" for name, count in ordered[:_COMMON]) + more or "none"


def _print(lines: Lines, longest: int = 0) -> None:
    """Aligned lines; what follows a line break in a text is indented too."""
    out = console()
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        cut = f"{text[:longest]}… ({len(text)} characters)" if longest and len(text) > longest else text
        body = visible(cut).replace("\n", "\n" + " " * (width + 4))
        out.print(f"  {name:<{width}}  {body}", markup=False, soft_wrap=True)
