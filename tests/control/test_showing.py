"""Clips of an agent that learns: the same questions each time, on tasks that nothing is fitted on."""

from __future__ import annotations

from pathlib import Path

from tiny import REACH

from tropism.control.ppo import PpoSettings
from tropism.control.showing import Shelf, show_learning
from tropism.environments.segments import Segment
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.queue import Queue
from tropism.feedback.records import Answer, Query
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database


def shown(folder: Path) -> tuple[Database, ArtifactStore, list[Query]]:
    folder.mkdir()
    database, artifacts = Database.create(folder / "study.db"), ArtifactStore(folder / "artifacts")
    settings = PpoSettings(steps_per_environment=50)
    asked = show_learning(
        Shelf(FeedbackLog(database), artifacts, "somebody"), REACH, settings, steps=2000, count=9, length=8,
        goal="Reach it.", copies=4,
    )  # fmt: skip
    return database, artifacts, asked


def test_the_questions_can_be_judged_and_nothing_is_fitted_on_them(tmp_path: Path) -> None:
    database, artifacts, asked = shown(tmp_path / "a")
    log = FeedbackLog(database)
    tasks, candidates = log.tasks(), log.candidates()
    chunks = set()
    assert len(asked) == 9
    for query in asked:
        assert (tasks[query.task_id].split, query.round) == ("test", 0)
        for id_ in query.candidate_ids:
            content = candidates[id_].content
            segment = Segment.read(artifacts.path(content["artifact"]) / f"{content['row']:05d}")
            assert len(segment) == 8
            chunks.add(segment.step // 200)  # of 50 steps in each of 4 environments
    assert chunks == {0, 5, 9}, "its beginning, its middle, its end"
    queue, person = Queue(database), register_person(database, "Ada")
    assert queue.claim(person)[0] == []  # on test tasks: only where somebody wants it
    queue.want([query.id for query in asked], 1)
    (claimed,) = queue.claim(person)[0]
    queue.submit(claimed.assignment_id, person, "s", [Answer({"choice": "a"})])
    assert log.judgements() == []
    assert len(log.judgements(splits=("test",))) == 1
    database.close()


def test_the_same_arguments_ask_the_same_questions(tmp_path: Path) -> None:
    (one, _, first), (other, _, second) = shown(tmp_path / "a"), shown(tmp_path / "b")
    assert first == second
    for database in (one, other):
        database.close()
