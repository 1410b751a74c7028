"""Feedback that was there before a study: from any source into its log, and out of it again as records.

An import reads its source twice: once to find every row that cannot be used, once to write the others in one
transaction, so that a source with bad rows changes nothing unless asked to skip them. Importing the same again changes
nothing either. Left out of an export: what made the candidates, oracles' and judges' names, and a task's own columns.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.data.exporting import ExportReport, export
from tropism.data.exporting_rows import ExportOptions
from tropism.data.manifest import reading_options
from tropism.data.reading import Source, nothing_usable, open_source
from tropism.data.records import CandidateKind, Message, Prompt, Record, Rejected, prompt_text
from tropism.data.voting import (
    IN_WORDS,
    Guard,
    KnownSplit,
    Repeated,
    Splits,
    Unusable,
    Voices,
    Vote,
    nowhere,
    voice_id,
)
from tropism.data.writing import kind_of_target
from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_in
from tropism.feedback.records import Judgement, Query, Split
from tropism.feedback.teachers import Waiting, pending
from tropism.feedback.values import slot_names
from tropism.store.schema import event_texts, events, people, tasks

_BATCH = 1000
_SHOWN = 10  # rejected rows that an error names


@dataclass
class ImportReport:
    """``rows`` of the source, of which ``rejected`` could not be used; ``events`` came of the others, ``imported`` of
    them new. ``left_out``: what holds no judgement, or was said before, by reason."""

    rows: int = 0
    events: int = 0
    imported: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class RejectedRows(DataError):
    """A source with rows that cannot be used; ``report`` has them all. Nothing was changed."""

    def __init__(self, path: str | Path, report: ImportReport, done: str = "imported") -> None:
        first = "\n".join(f"  {placed(bad)}: {bad.reason}" for bad in report.rejected[:_SHOWN])
        more = len(report.rejected) - _SHOWN
        tail = f"\n  and {more} more" if more > 0 else ""
        super().__init__(
            f"{path}: {len(report.rejected)} of {report.rows} rows cannot be used; nothing was {done}\n{first}{tail}",
            f"mend these rows, or have the others {done} with --skip-bad",
        )
        self.report = report


def placed(bad: Rejected) -> str:
    """Where a rejected row stands."""
    return f"line {bad.line}" + (f" of {bad.file}" if bad.file else "")


def opened(
    path: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    licence: str | None = None,
    **options: Any,
) -> Source:
    """``open_source``, which also takes the word of a manifest beside the source: our exports are read as such."""
    said = reading_options(Path(path))
    named = said.pop("format", None)
    if format not in ("auto", named):
        said.pop("empty", None)  # an option of the format it was written in
    chosen = named if format == "auto" and named is not None else format
    stated = said.pop("licence", None)
    return open_source(path, format=chosen, columns=columns, licence=licence or stated, **(said | options))


def usable_records(source: Source, report: ImportReport, *, skip_bad: bool = False) -> Iterator[Record]:
    """The records of a source; the rows that gave none go into ``report``. For what is written whole at the end.

    Errors: RejectedRows at the end, if a row is bad and ``skip_bad`` is off; DataError without any record.
    """
    for made in source.records():
        if isinstance(made, Rejected):
            report.rejected.append(made)
        else:
            report.events += 1
            yield made
    report.rows = source.reading.rows
    report.left_out.update(source.reading.left_out)
    if report.rejected and (not skip_bad or not report.events):
        raise RejectedRows(source.reading.source["name"], report, "written")
    if not report.events:
        raise nothing_usable(source.reading)


@dataclass(frozen=True)
class ImportTeacher:
    """The teacher behind a source of judgements (kind ``import``). Those of a named annotator are votes of that person.

    Records without a split go where ``known_split`` or the study has their prompt; else to ``validation`` for a share
    ``validation_share`` of the prompts, chosen by a hash of the prompt, otherwise to ``train``. ``source`` is the
    candidates' policy in their provenance. ``format``, ``columns`` and ``options`` are those of ``data.open_source``.
    """

    id: str = "import"
    source: str = "import"
    validation_share: float = 0.1
    kind: str = "import"
    known_split: KnownSplit = nowhere
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def poll(self, log: FeedbackLog, queries: Sequence[Query]) -> Waiting:
        """Which of the queries the log has answers for: an import answers when it is loaded, never later."""
        left = pending(log, queries)
        return Waiting(len(queries) - len(left), left)

    def load(self, log: FeedbackLog, path: Path, *, skip_bad: bool = False, round: int = 0) -> ImportReport:
        """Import a source. Errors: RejectedRows (a DataError) if a row is bad and ``skip_bad`` is off; DataError if the
        source is missing, of an unknown format, without any judgement, changes meanwhile, or contradicts votes that are
        there.
        """
        report, content = self.check(log, path, skip_bad=skip_bad, round=round)
        source, again = self._open(path), ImportReport()
        with log.database.write() as connection:
            before = _count(connection)
            log.register_teacher_in(connection, self.id, self.kind)
            votes = self._votes(source, connection, again, round)
            key = _pseudonym_key(content)
            while batch := list(islice(votes, _BATCH)):
                self._write(connection, log, batch, key)
            if _content(source, again) != content or again.rejected != report.rejected:
                raise DataError(f"{path} changed while it was imported", "import it again; nothing was imported")
            report.imported = _count(connection) - before
        log.seal()
        return report

    def check(
        self, log: FeedbackLog, path: Path, *, skip_bad: bool = False, round: int = 0
    ) -> tuple[ImportReport, Mapping[str, Any]]:
        """Read a source and write nothing: what ``load`` would do and reject, and the content that it was found to
        have. Errors: as ``load``."""
        source, report = self._open(path), ImportReport()
        with log.database.read() as connection:
            for _ in self._votes(source, connection, report, round):
                pass
        if report.rejected and (not skip_bad or not report.events):
            raise RejectedRows(path, report)
        if not report.events:
            if not report.left_out:
                raise nothing_usable(source.reading)
            left = ", ".join(f"{count} {why}" for why, count in report.left_out.most_common())
            raise DataError(f"{path} holds no judgement to import ({left})", "give judgements, or demonstrations")
        return report, _content(source, report)

    def _open(self, path: Path) -> Source:
        return opened(path, format=self.format, columns=self.columns, **self.options)

    def _votes(
        self, source: Source, connection: Connection, report: ImportReport, round: int
    ) -> Iterator[tuple[Record, Vote]]:
        """The votes of a source; what gives none goes into the report. The study is looked at before the first one."""
        there = _splits_there(connection)

        def known(prompt: str) -> Split | None:
            return self.known_split(prompt) or there.get(_mark(prompt))

        splits = Splits(self.validation_share, known=known)
        guard = Guard(splits, "the study's", self._voices_there(connection))
        keeps = (source.format.repeats or source.format.usual_repeats) == "keep"
        for made in source.records():
            if isinstance(made, Rejected):
                report.rejected.append(made)
            elif made.value is None:
                report.left_out["without a judgement"] += 1
            else:
                try:
                    vote = guard.vote(made, source=self.source, round=round)
                    _check_there(made, vote, there)
                except Unusable as bad:
                    if keeps and isinstance(bad, Repeated):
                        report.left_out[f"judged again ({bad.general})"] += 1
                    else:
                        report.rejected.append(Rejected(made.line, str(bad)))
                    continue
                report.events += 1
                yield made, vote
        report.rows = source.reading.rows
        # rows are rejected once, whatever of them was refused, and in the order of the source
        report.rejected = sorted({(bad.file, bad.line): bad for bad in reversed(report.rejected)}.values(), key=_place)

    def _write(self, connection: Connection, log: FeedbackLog, batch: list[tuple[Record, Vote]], key: str) -> None:
        voters: dict[str, str] = {}
        for voice in sorted({vote.voice for record, vote in batch if record.teacher is None} - {1}):
            log.register_teacher_in(connection, voice_id(self.id, voice), self.kind)
        for name in sorted({record.teacher for record, _ in batch if record.teacher is not None}):
            # keyed by the content: a replay gives the same pseudonym, and without the file no name can be guessed
            alias = hmac.new(key.encode(), name.encode(), "sha256").hexdigest()[:16]
            voters[name] = register_in(connection, name, pseudonym=f"person-{alias}" if key else None)
        shown = [candidate for _, vote in batch for candidate in vote.candidates]
        log.put_in(connection, [vote.task for _, vote in batch], shown, [vote.query for _, vote in batch])
        said = [
            (
                vote.query,
                voice_id(self.id, vote.voice) if record.teacher is None else voters[record.teacher],
                vote.answer,
            )
            for record, vote in batch
        ]
        try:
            log.append_in(connection, said, origin="import")
        except DataError as error:
            where = f"lines {batch[0][0].line}-{batch[-1][0].line}"
            raise DataError(f"{where}: {error.problem}", f"{error.fix}; nothing was imported") from error

    def _voices_there(self, connection: Connection) -> Voices:
        """The unsigned texts that the log has."""
        ids = sa.select(events.c.query_id, events.c.target, events.c.teacher_id, event_texts.c.text)
        of_imports = ids.join(event_texts, event_texts.c.event_id == events.c.id).where(
            events.c.kind.in_(IN_WORDS), events.c.teacher_id.startswith(self.id, autoescape=True)
        )
        found: Voices = {}
        for query, target, teacher, text in connection.execute(of_imports.order_by(events.c.seq)):
            number = teacher.removeprefix(self.id).removeprefix("-") or "1"
            if number.isdigit() and teacher == voice_id(self.id, int(number)):
                found.setdefault((query, target), {})[digest(text)] = int(number)
        return found


def records_of(
    log: FeedbackLog, left: Counter[str], splits: Sequence[Split] = ("train", "validation", "test")
) -> Iterator[Record]:
    """The current view of a log as records; votes of people carry their pseudonym. What is no record goes into
    ``left``. A rating, label, critique, … of one of several candidates is a record of that candidate alone."""
    with log.database.read() as connection:
        persons = set(connection.execute(sa.select(people.c.pseudonym)).scalars())
    for judged in log.judgements(splits):
        try:
            yield _record(judged, judged.teacher_id if judged.teacher_id in persons else None)
        except Unusable as why:
            left[str(why)] += 1


def export_feedback(
    log: FeedbackLog,
    path: Path,
    format: str = "pairs",
    *,
    options: ExportOptions | None = None,
    splits: Sequence[Split] = ("train", "validation", "test"),
    licence: str | None = None,
    write: bool = True,
) -> ExportReport:
    """Write a study's current feedback; see ``exporting.export``. Pairs keep their ties, which have a label."""
    if options is None:
        options = ExportOptions(form="mixed" if kind_of_target(path) == "jsonl" else "label")
    left: Counter[str] = Counter()
    filters = ["the current view of a study's feedback", f"splits: {', '.join(splits)}"]
    found = records_of(log, left, splits)
    return export(found, path, format, options=options, licence=licence, filters=filters, left_before=left, write=write)


def _record(judged: Judgement, teacher: str | None) -> Record:
    """A judgement as a record. Errors: Unusable."""
    kind = str(judged.value["kind"])
    chosen, value, shown = list(judged.candidates), dict(judged.value), judged.query.shown_order or None
    if "slot" in value:
        slots = slot_names(judged.query.kind, len(chosen))
        chosen, value, shown = [chosen[slots.index(value["slot"])]], {**value, "slot": "c1"}, None
    elif kind != judged.query.kind:
        raise Unusable(f"a {kind} as the answer to a {judged.query.kind}")
    kinds = {candidate.kind for candidate in chosen} or {"text"}
    if len(kinds) > 1 or not kinds <= {"text", "reference", "segment"}:
        raise Unusable("not text")
    candidate_kind = cast(CandidateKind, kinds.pop())
    contents = [dict(candidate.content) for candidate in chosen]
    if candidate_kind == "text":
        if not all(isinstance(content.get("text"), str) for content in contents):
            raise Unusable("not text")
        contents = [{name: c[name] for name in ("text", "messages") if name in c} for c in contents]
    group = judged.task.payload.get("group")
    return Record(
        prompt=_prompt(judged.task.payload),
        candidates=tuple(contents),
        value=value,
        text=judged.text,
        kind=cast(Any, kind),
        candidate_kind=candidate_kind,
        teacher=teacher,
        shown=shown,
        split=judged.task.split,
        group=group if isinstance(group, str) else "",
    )


def _prompt(payload: Mapping[str, Any]) -> Prompt:
    if isinstance(payload.get("messages"), list):
        return tuple(cast(Message, dict(message)) for message in payload["messages"])
    if not isinstance(payload.get("prompt"), str):
        raise Unusable("not text")
    return str(payload["prompt"])


def _check_there(record: Record, vote: Vote, there: Mapping[str, Split]) -> None:
    """What the study has counts beside what the domain knows."""
    split = there.get(_mark(prompt_text(record.prompt)), vote.task.split)
    if split != vote.task.split:
        raise Unusable(f"this prompt is in the study's {split} split already, not in {vote.task.split}")


def _splits_there(connection: Connection) -> dict[str, Split]:
    """The split of every prompt that the study has a task of."""
    found: dict[str, Split] = {}
    for split, held in connection.execute(sa.select(tasks.c.split, tasks.c.payload).order_by(tasks.c.id)):
        if isinstance(held, dict) and isinstance(held.get("prompt"), str):
            found[_mark(held["prompt"])] = split
    return found


def _content(source: Source, report: ImportReport) -> dict[str, Any]:
    """What a source was found to hold."""
    return {"files": source.reading.source["files"], "rows": report.rows, "events": report.events}


def _pseudonym_key(content: Mapping[str, Any]) -> str:
    """The digest of the content that hides names; '' where there are no files: pseudonyms are random then."""
    files = [str(entry["sha256"]) for entry in content["files"]]
    return files[0] if len(files) == 1 else digest(files) if files else ""


def _mark(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _place(bad: Rejected) -> tuple[str, int]:
    return bad.file, bad.line


def _count(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()
