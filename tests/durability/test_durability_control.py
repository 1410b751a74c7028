"""A control study that is killed at any moment comes to the same bits: agent, reward, events, evaluation."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from harness import Spec, Undisturbed, kill_many, outcome, run_to_end, start, undisturbed

from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.records import Answer
from tropism.runtime.seeding import uniform
from tropism.store.database import Database
from tropism.study.study import Study

pytestmark = [pytest.mark.durability, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("TROPISM_KILLS", "3"))
PENDULUM = Spec(
    {
        "study.domain": "control",
        "study.rounds": 2,
        "environment.id": "Pendulum-v1",
        "feedback.queries_per_round": 40,
        "preferences.sessions": 4,
        "reward.fit_steps": 40,
        "reward.fit_steps_again": 10,
        "agent.steps": 9000,
        "agent.checkpoint_seconds": 0.1,
        "evaluation.episodes": 4,
        "evaluation.clips": 0,
        "runtime.threads": 1,
    }
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(PENDULUM, tmp_path_factory.mktemp("undisturbed") / "s")


def test_two_undisturbed_runs_are_equal(expected: Undisturbed, tmp_path: Path) -> None:
    run_to_end(PENDULUM, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome
    assert len(expected.outcome.events) == 80


def answer_on_and_on(folder: Path, stop: threading.Event, acknowledged: list[str]) -> None:
    """A person in another process than the study's: answers whatever is open, and keeps the ids of what was stored."""
    said: set[str] = set()
    while not stop.is_set():
        time.sleep(0.1)
        if not (folder / "study.db").exists():
            continue
        database = Database.open(folder / "study.db")
        try:
            log, ann = FeedbackLog(database), register_person(database, "Ann")
            candidates = log.candidates()
            for query in [q for q in log.queries().values() if q.id not in said][:3]:
                better = max(query.candidate_ids, key=lambda c: candidates[c].content["true_return"])
                choice = "ab"[query.candidate_ids.index(better)]
                acknowledged.append(log.append(query, ann, Answer({"choice": choice, "kind": "comparison"})))
                said.add(query.id)
        finally:
            database.close()


def test_kills_while_people_answer(tmp_path: Path) -> None:
    """Asynchronous: what was asked hangs on when answers came, so runs differ; but no answer is lost, none doubled."""
    people = {"feedback.teacher": "person", "study.rounds": 1, "agent.steps": 60_000}
    spec, folder = Spec({**PENDULUM.overrides, **people}), tmp_path / "s"
    stop, acknowledged, kills = threading.Event(), list[str](), 0
    person = threading.Thread(target=answer_on_and_on, args=(folder, stop, acknowledged))
    person.start()
    try:
        for attempt in range(KILLS):
            child = start(spec, folder)
            time.sleep(1 + 4 * float(uniform(7, np.array(attempt), 0)))
            child.send_signal(signal.SIGKILL)
            child.communicate()
            kills += child.returncode == -signal.SIGKILL
        run_to_end(spec, folder)
    finally:
        stop.set()
        person.join()
    assert kills
    with Study.open(folder) as study:
        assert study.verify().ok
        log = FeedbackLog(study.database)
        stored = [j.event_id for j in log.judgements()]
        assert len(stored) == len(set(stored))
        assert set(acknowledged) == set(stored)
        assert len(stored) >= 40


def test_kills_at_random_moments(expected: Undisturbed, tmp_path: Path) -> None:
    assert len(kill_many(PENDULUM, tmp_path, KILLS, 2025, expected)) == KILLS
