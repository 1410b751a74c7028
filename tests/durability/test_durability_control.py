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


RATED = Spec(
    PENDULUM.overrides
    | {
        "study.rounds": 3,
        "feedback.kind": "rating",
        "feedback.queries_per_round": 30,
        "feedback.oracle.rationality": 2.0,
        "feedback.oracle.skip_below": -0.5,
        "agent.steps": 6000,
    }
)
"""What a noisy rater who skips says hangs on a standard that is measured in the first session of the first round; and
the second round's stages, whose key it is part of, on what the third one asks."""
PERSON = {"feedback.teacher": "person", "study.rounds": 1}


@pytest.fixture(scope="module", params=[PENDULUM, RATED], ids=["compared", "rated"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Undisturbed]:
    return request.param, undisturbed(request.param, tmp_path_factory.mktemp("undisturbed") / "s")


def test_two_undisturbed_runs_are_equal(study: tuple[Spec, Undisturbed], tmp_path: Path) -> None:
    spec, expected = study
    run_to_end(spec, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome
    assert len(expected.outcome.events) == (80 if spec is PENDULUM else 90)


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
            queries = log.queries()  # before the candidates, which are there when their queries are
            candidates = log.candidates()
            for query in [q for q in queries.values() if q.id not in said][:1]:
                better = max(query.candidate_ids, key=lambda c: candidates[c].content["true_return"])
                choice = "ab"[query.candidate_ids.index(better)]
                acknowledged.append(log.append(query, ann, Answer({"choice": choice, "kind": "comparison"})))
                said.add(query.id)
        finally:
            database.close()


def killed_while_a_person_answers(spec: Spec, folder: Path) -> list[str]:
    """Kill a study ``KILLS`` times beside a person, run it to its end, and return the ids of what they were told was
    stored."""
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
    return acknowledged


@pytest.mark.parametrize("wait", [False, True], ids=["goes on", "waits"])
def test_kills_while_people_answer(wait: bool, tmp_path: Path) -> None:
    """What was asked hangs on when answers came, so runs differ; but no answer is lost, none doubled, and nobody is
    asked for more than was due, however often the asker was killed. Put back (questions put after the last checkpoint
    are forgotten): more than 40 are asked."""
    folder = tmp_path / "s"
    spec = Spec({**PENDULUM.overrides, **PERSON, "agent.steps": 20_000, "preferences.wait": wait})
    acknowledged = killed_while_a_person_answers(spec, folder)
    with Study.open(folder) as study:
        assert study.verify().ok
        log = FeedbackLog(study.database)
        stored = [j.event_id for j in log.judgements()]
        assert len(stored) == len(set(stored)) == len(log.queries()) == 40
        assert set(acknowledged) == set(stored)
        values = next(stage.values for stage in study.status().stages if stage.name == "improve-1")
        assert (values["asked"], values["answered"]) == (40, 40)


def test_kills_at_random_moments(study: tuple[Spec, Undisturbed], tmp_path: Path) -> None:
    spec, expected = study
    assert len(kill_many(spec, tmp_path, KILLS, 2025, expected)) == KILLS
