"""What a report counts as feedback is what fits may use; the rest of the log is named by why it is not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from fake_study import empty_study
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import erase_person, register_person
from tropism.feedback.queue import Claimed, Queue, QueueSettings
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Split, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.study.report.data import gather
from tropism.study.report.page import write_page


def ask(log: FeedbackLog, count: int, split: Split) -> list[Query]:
    tasks = [Task(split, {"prompt": f"{split} {i}"}) for i in range(count)]
    made = [[Candidate(t.id, "text", {"text": f"{t.id} {j}"}, Provenance("p")) for j in range(2)] for t in tasks]
    queries = [
        Query(t.id, "comparison", (pair[0].id, pair[1].id), (0, 1), 1) for t, pair in zip(tasks, made, strict=True)
    ]
    log.add_tasks(tasks)
    log.add_candidates([candidate for pair in made for candidate in pair])
    log.add_queries(queries)
    return queries


class Clerk:
    """Answers whatever the queue gives."""

    def __init__(self, queue: Queue, person: str) -> None:
        self.queue, self.person = queue, person

    def take(self) -> Claimed | None:
        claimed, _ = self.queue.claim(self.person)
        return claimed[0] if claimed else None

    def answer(self, claimed: Claimed, choice: str = "a") -> None:
        id_ = claimed.assignment_id
        self.queue.submit(id_, self.person, f"of {id_}", [Answer({"choice": choice}, None, 900)])


def answered(database: Database) -> tuple[FeedbackLog, list[str]]:
    """A log with everything in it: gold, repeats, an undo, an adjudication, a question on a test task."""
    log, queue = FeedbackLog(database), Queue(database, QueueSettings(gold_rate=0.2, repeat_rate=0.3, repeat_after=2))
    people = [register_person(database, name) for name in ("Ada", "Bob")]
    asked, held_out = ask(log, 24, "train"), ask(log, 1, "test")
    for query in asked[:6]:
        queue.set_gold(query.id, {"choice": "b"}, "lead")
    queue.want([held_out[0].id], 1)
    ada, bob = (Clerk(queue, person) for person in people)
    first = ada.take()
    assert first is not None
    ada.answer(first)
    ada.answer(queue.undo(first.assignment_id, ada.person), "b")
    while (turns := [(clerk, claimed) for clerk in (ada, bob) if (claimed := clerk.take())]) != []:
        for clerk, claimed in turns:
            clerk.answer(claimed)
    theirs = next(j for j in log.judgements() if j.teacher_id == ada.person)
    queue.adjudicate(theirs.query.id, ada.person, "settled", [Answer({"choice": "tie"})])
    return log, people


def test_only_what_may_be_fitted_on_is_counted(tmp_path: Path) -> None:
    folder = empty_study(tmp_path / "s")
    (folder / "study.toml").write_text('[study]\nname = "counts"\ndomain = "language"\n')
    database = Database.open(folder / "study.db")
    try:
        log, people = answered(database)
        facts = gather(folder)
        with database.read() as connection:
            table = schema.events
            rows = connection.execute(sa.select(table.c.kind, table.c.target, table.c.teacher_id)).all()
        per_person = Counter(judgement.teacher_id for judgement in log.judgements())
        assert {count.teacher: count.events for count in facts.feedback} == per_person
        aside = facts.set_aside
        assert sum(aside.values()) + sum(per_person.values()) == len(rows)
        assert aside["answers to gold questions"] == sum(row.target.startswith("#gold/") for row in rows) > 0
        assert aside["answers to repeats"] == sum(row.target.startswith("#repeat/") for row in rows) > 0
        once = {"retractions", "taken back", "replaced by a later answer", "on test tasks"}
        assert {why: aside[why] for why in once} == dict.fromkeys(once, 1)
        assert f"{aside['answers to repeats']} answers to repeats" in write_page(folder).read_text("utf-8")
        erase_person(database, people[1])
        facts = gather(folder)
        assert {count.teacher for count in facts.feedback} == {people[0]}
        assert facts.set_aside["by people who have left"] == sum(row.teacher_id == people[1] for row in rows)
        assert facts.set_aside["removals of a person"] == 1
    finally:
        database.close()
