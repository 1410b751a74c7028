"""The queue under many processes and threads, and under SIGKILL: nothing is over its overlap, doubled or lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from queue_cases import Case, violations

from databases import DATABASES, new_database
from tropism.errors import TropismError
from tropism.feedback.chain import verify
from tropism.feedback.queue import Queue, QueueSettings
from tropism.feedback.records import Answer
from tropism.store import schema
from tropism.store.database import Database

HERE = Path(__file__).parent
SETTINGS = QueueSettings(votes_per_query=3, gold_rate=0.1, repeat_rate=0.1, repeat_after=3, lease_s=1.5)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with new_database(request.param, tmp_path) as made:
        yield made


def judge_forever(queue: Queue, person: str, seed: int, told: threading.Lock) -> None:
    """Claim and answer until there is nothing left; say of every stored answer what was stored. Now and then skip, take
    back, send twice, or walk away."""
    draw = random.Random(seed)
    while True:
        claimed, empty = queue.claim(person, draw.choice((1, 1, 2, 4)))
        if empty is not None and empty.reason in ("done", "yours_are_done"):
            return
        if empty is not None:
            time.sleep(0.05)
        for one in claimed:
            what = draw.random()
            submission = str(uuid.UUID(int=draw.getrandbits(128)))
            if what < 0.03:
                continue
            try:
                if what < 0.06:
                    queue.skip(one.assignment_id, person, submission)
                    continue
                answer = [Answer({"choice": draw.choice(("a", "b", "tie"))}, f"{person}'s reason")]
                stored = queue.submit(one.assignment_id, person, submission, answer)
                with told:
                    print(json.dumps([one.assignment_id, submission, list(stored.event_ids)]), flush=True)
                if what < 0.2:
                    assert queue.submit(one.assignment_id, person, submission, answer).again
                elif what < 0.25:
                    queue.undo(one.assignment_id, person)
            except TropismError as error:  # the same person is in two processes here, as in two windows
                if type(error).__name__ not in ("AlreadyAnswered", "NotYours"):
                    raise


def main(path: Path, people: list[str], seed: int) -> None:
    """One process of judges, a thread for each person."""
    queue, told = Queue(Database.open(path), SETTINGS), threading.Lock()
    threads = [
        threading.Thread(target=judge_forever, args=(queue, person, seed * 100 + i, told))
        for i, person in enumerate(people)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(database: Database, people: list[str], seed: int) -> subprocess.Popen[str]:
    program = [sys.executable, HERE / "test_feedback_queue_stress.py", database.path, str(seed), *people]
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)


def prepared(database: Database, n: int) -> Case:
    case = Case(database, n=n, people=8)
    for query in case.queries[:6]:
        Queue(database, SETTINGS).set_gold(query.id, {"choice": "a"}, "lead")
    return case


def check(database: Database, case: Case, told: list[str]) -> None:
    """Nothing that was acknowledged is missing, nothing is there that must not be."""
    assert violations(database) == []
    with database.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(schema.assignments))}
        events = set(connection.execute(sa.select(schema.events.c.id)).scalars())
    for line in told:
        if not line.endswith("\n"):  # cut off by the kill: it was not told
            continue
        assignment, submission, event_ids = json.loads(line)
        assert rows[assignment].submission_id == submission
        assert set(event_ids) <= events
    case.log.seal(force=True)
    report = verify(database)
    assert report.ok, report.problems
    assert report.open == 0


def test_eight_processes_break_nothing(database: Database) -> None:
    case = prepared(database, 40)
    started = [start(database, [case.people[i], case.people[(i + 1) % 8]], i) for i in range(8)]
    told: list[str] = []
    for process in started:
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0
        told += out.splitlines(keepends=True)
    assert len(told) >= 40 * 3
    check(database, case, told)
    states = case.states().values()
    assert all(state.open == 0 for state in states)
    assert sum(state.votes for state in states) >= 0.9 * 40 * 3  # a query that many have skipped may want votes still


def test_killed_processes_lose_nothing_and_their_leases_recover(database: Database) -> None:
    case = prepared(database, 30)
    told: list[str] = []
    for round_ in range(3):
        victims = [start(database, case.people[i::2], 10 * round_ + i) for i in range(2)]
        for victim in victims:
            assert victim.stdout is not None
            told += [victim.stdout.readline() for _ in range(8)]
            victim.send_signal(signal.SIGKILL)
            told += victim.stdout.readlines()
            victim.wait(30)
        assert violations(database) == []
    last = start(database, case.people, 99)
    out, _ = last.communicate(timeout=200)
    assert last.returncode == 0
    check(database, case, told + out.splitlines(keepends=True))
    assert sum(state.votes for state in case.states().values()) >= 0.9 * 30 * 3


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2]))
