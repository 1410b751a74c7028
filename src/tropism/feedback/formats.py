"""Import and export of preference pairs as JSONL.

An import reads its file twice: once to find every row that cannot be used, once to write the others in one
transaction, so that a file with bad rows changes nothing unless asked to skip them. Importing the same file again
changes nothing either. Left out: other formats (see ``rows.py``), and exports of other values than comparisons.
"""

from __future__ import annotations

import hmac
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.chance import shuffled, uniform
from tropism.feedback.events import FeedbackLog, Vote
from tropism.feedback.people import register_in
from tropism.feedback.records import Answer, Candidate, Judgement, Provenance, Query, Split, Task
from tropism.feedback.rows import BadRow, Lines, PairRow, label_of_choice, parse_row
from tropism.feedback.teachers import Waiting, pending
from tropism.store.schema import events, people, tasks

_BATCH = 1000


@dataclass(frozen=True)
class Rejected:
    """A row that was not imported, and why."""

    line: int
    reason: str


@dataclass
class ImportReport:
    """``rows`` in the file that were read, of which ``rejected`` could not be used; ``imported`` events are new."""

    rows: int = 0
    imported: int = 0
    rejected: list[Rejected] = field(default_factory=list)


class RejectedRows(DataError):
    """A file with rows that cannot be used; ``report`` has them all. Nothing was changed."""

    def __init__(self, path: Path, report: ImportReport) -> None:
        first = "\n".join(f"  line {bad.line}: {bad.reason}" for bad in report.rejected[:10])
        more = len(report.rejected) - 10
        tail = f"\n  and {more} more" if more > 0 else ""
        super().__init__(
            f"{path}: {len(report.rejected)} of {report.rows} rows cannot be used; nothing was imported\n{first}{tail}",
            "mend these rows, or import the others with --skip-bad",
        )
        self.report = report


@dataclass(frozen=True)
class ImportTeacher:
    """The teacher behind a file of judged pairs (kind ``import``). Rows with an annotator are votes of that person.

    Rows without a split go where ``known_split`` has their prompt (None: it does not know it); else to ``validation``
    for a share ``validation_share`` of the prompts, chosen by a hash of the prompt, otherwise to ``train``. ``source``
    is the candidates' policy in their provenance.
    """

    id: str = "import"
    source: str = "import"
    validation_share: float = 0.1
    max_line_bytes: int = 16 << 20
    kind: str = "import"
    known_split: Callable[[str], Split | None] = lambda prompt: None

    def poll(self, log: FeedbackLog, queries: Sequence[Query]) -> Waiting:
        """Which of the queries the log has answers for: an import answers when it is loaded, never later."""
        left = pending(log, queries)
        return Waiting(len(queries) - len(left), left)

    def load(self, log: FeedbackLog, path: Path, *, skip_bad: bool = False, round: int = 0) -> ImportReport:
        """Import a file. Errors: RejectedRows (a DataError) if a row is bad and ``skip_bad`` is off; DataError if the
        file is missing, empty, without any usable row, changes meanwhile, or contradicts votes that are there.
        """
        report, content = self.check(log, path, skip_bad=skip_bad)
        bad = {rejected.line for rejected in report.rejected}
        again = Lines(path, self.max_line_bytes)
        with log.database.write() as connection:
            before = _count(connection)
            log.register_teacher_in(connection, self.id, self.kind)
            good = ((number, line) for number, line in again if line is not None and number not in bad)
            changed = DataError(f"{path} changed while it was imported", "import it again; nothing was imported")
            try:
                while batch := [(number, parse_row(line)) for number, line in islice(good, _BATCH)]:
                    self._write(connection, log, batch, content, round)
            except BadRow as error:
                raise changed from error
            if again.digest != content:
                raise changed
            report.imported = _count(connection) - before
        log.seal()
        return report

    def check(self, log: FeedbackLog, path: Path, *, skip_bad: bool = False) -> tuple[ImportReport, str]:
        """Read a file and write nothing: what ``load`` would reject, and the file's digest. Errors: as ``load``."""
        lines = Lines(path, self.max_line_bytes)
        report = self._check(log, lines)
        if report.rows == 0:
            raise DataError(f"{path} is empty", 'give one JSON object per line: {"prompt", "chosen", "rejected"}')
        if report.rejected and (not skip_bad or len(report.rejected) == report.rows):
            raise RejectedRows(path, report)
        return report, lines.digest

    def split_of(self, row: PairRow) -> Split:
        """The split of a row's prompt."""
        known = row.split or self.known_split(row.prompt)
        if known is not None:
            return known
        return "validation" if uniform(0, "split", row.prompt) < self.validation_share else "train"

    def _check(self, log: FeedbackLog, lines: Lines) -> ImportReport:
        """The first reading: which rows cannot be used, and why."""
        report = ImportReport()
        with log.database.read() as connection:
            there = set(connection.execute(sa.select(tasks.c.id)).scalars())
        splits: dict[str, tuple[str, int]] = {}
        votes: dict[str, tuple[str | None, int]] = {}
        for number, line in lines:
            report.rows += 1
            try:
                if line is None:
                    raise BadRow(f"longer than {self.max_line_bytes} bytes")
                row = parse_row(line)
                self._check_split(row, number, splits, there)
                _check_doubled(row, number, votes)
            except BadRow as bad:
                report.rejected.append(Rejected(number, str(bad)))
        return report

    def _check_split(self, row: PairRow, number: int, splits: dict[str, tuple[str, int]], there: set[str]) -> None:
        """Splits are by prompt: within the file, and with what the study has."""
        split = self.split_of(row)
        known = self.known_split(row.prompt)
        for other in get_args(Split):
            if other != split and (other == known or Task(other, {"prompt": row.prompt}).id in there):
                raise BadRow(f"this prompt is in the study's {other} split already, not in {split}")
        old, line = splits.setdefault(digest(row.prompt)[:32], (split, number))
        if old != split:
            raise BadRow(f"split {split}, but line {line} has this prompt in {old}")

    def _write(
        self, connection: Connection, log: FeedbackLog, batch: list[tuple[int, PairRow]], file: str, round: int
    ) -> None:
        voters: dict[str | None, str] = {None: self.id}
        for name in sorted({row.annotator for _, row in batch if row.annotator is not None}):
            # keyed by the file: a replay gives the same pseudonym, and without the file no name can be guessed from it
            alias = hmac.new(file.encode(), name.encode(), "sha256").hexdigest()[:16]
            voters[name] = register_in(connection, name, pseudonym=f"person-{alias}")
        votes: list[Vote] = []
        made: list[tuple[Task, tuple[Candidate, Candidate]]] = []
        for _, row in batch:
            task = Task(self.split_of(row), {"prompt": row.prompt})
            pair, query, answer = self._vote(task, row, round)
            made.append((task, pair))
            votes.append((query, voters[row.annotator], answer))
        log.add_tasks_in(connection, [task for task, _ in made])
        log.add_candidates_in(connection, [candidate for _, pair in made for candidate in pair])
        log.add_queries_in(connection, [query for query, _, _ in votes])
        try:
            log.append_in(connection, votes, origin="import")
        except DataError as error:
            where = f"lines {batch[0][0]}-{batch[-1][0]}"
            raise DataError(f"{where}: {error.problem}", f"{error.fix}; nothing was imported") from error

    def _vote(self, task: Task, row: PairRow, round: int) -> tuple[tuple[Candidate, Candidate], Query, Answer]:
        """Slots in an order that says nothing about the vote, so that ``chosen`` is not always slot a."""
        made_by = Provenance(self.source)
        first, second = (Candidate(task.id, "text", {"text": text}, made_by) for text in (row.first, row.second))
        pair = (first, second) if first.id < second.id else (second, first)
        swapped = pair[0] is second
        choice = row.choice if not swapped or row.choice == "tie" else {"a": "b", "b": "a"}[row.choice]
        shown = (
            ((1, 0) if swapped else (0, 1)) if row.position_known else shuffled(2, 0, "import", pair[0].id, pair[1].id)
        )
        query = Query(task.id, "comparison", (pair[0].id, pair[1].id), shown, round)
        return pair, query, Answer({"choice": choice, "strength": row.strength})


@dataclass
class ExportReport:
    """Pairs written, and how many judgements were left out by reason."""

    written: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def export_pairs(
    log: FeedbackLog, path: Path, splits: Sequence[Split] = ("train", "validation", "test")
) -> ExportReport:
    """Write current comparisons as JSONL that ``ImportTeacher`` reads; ties have the form first, second, label 0.5.

    Votes of people carry their pseudonym as ``annotator``. The file appears only when it is complete.
    """
    report, left = ExportReport(), Counter[str]()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with log.database.read() as connection:
        persons = _people(connection)
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in _exported(log.judgements(splits), persons, left):
                file.write(line + "\n")
                report.written += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}", "choose a folder with space and permission"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    report.left_out = dict(left)
    return report


def _exported(judgements: list[Judgement], persons: set[str], left: Counter[str]) -> Iterator[str]:
    for judged in judgements:
        if judged.value["kind"] != "comparison":
            left[judged.value["kind"]] += 1
            continue
        texts = [candidate.content.get("text") for candidate in judged.candidates]
        choice = judged.value["choice"]
        if "prompt" not in judged.task.payload or None in texts:
            left["not text"] += 1
        elif choice not in ("a", "b", "tie"):
            left[choice] += 1
        else:
            row = {"prompt": judged.task.payload["prompt"], "split": judged.task.split}
            shown = judged.query.shown_order
            if choice == "tie":
                row |= {"first": texts[shown[0]], "second": texts[shown[1]], "label": label_of_choice("tie")}
            else:
                chosen = "ab".index(choice)
                row |= {"chosen": texts[chosen], "rejected": texts[1 - chosen], "strength": judged.value["strength"]}
            if judged.teacher_id in persons:
                row["annotator"] = judged.teacher_id
            yield json.dumps(row, ensure_ascii=False)


def _check_doubled(row: PairRow, number: int, votes: dict[str, tuple[str | None, int]]) -> None:
    winner = row.winner()
    mark = None if winner is None else digest(winner)[:32]
    old, line = votes.setdefault(row.pair_key()[:32], (mark, number))
    if line == number:
        return
    who = f"annotator {row.annotator!r}" if row.annotator is not None else "a row without annotator"
    raise BadRow(f"the same as line {line}" if old == mark else f"contradicts line {line} (the same pair, {who})")


def _count(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()


def _people(connection: Connection) -> set[str]:
    return set(connection.execute(sa.select(people.c.pseudonym)).scalars())
