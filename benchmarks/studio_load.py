"""How many judgements the studio takes: durable pairs of claim and submit per second, with 64 people at once.

    python benchmarks/studio_load.py --store [--quick] [--databases sqlite postgresql] [--postgres-url URL]

``--store``: the queue alone, called by one thread per person, with an audit row in the transaction of every claim and
every submit, as the application writes them. SQLite syncs every commit (FULL); PostgreSQL runs as it comes (fsync and
synchronous_commit on), started in a temporary folder by scripts/postgres.sh unless a URL names a server whose user may
make databases. Bulk ingest is ``FeedbackLog.append_many`` in batches of 500, the queries added along. After each run
every row is looked through: overlap, one person twice, slots, the hash chain, answers that were acknowledged and lost.

Several repeats, each on a fresh database; claims are means with t intervals. What else runs on the machine lowers the
figures; ``cpu_ms_per_pair``, of this process, says what they cost.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from common import Claim, interval, write_result
from tropism.feedback.chain import verify
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_in
from tropism.feedback.queue import Queue, QueueSettings
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.rows import Rows
from tropism.store.server import make_engine

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "postgres.sh"
AUDIT = "INSERT INTO audit (at, account_id, action, object, detail) VALUES (?, ?, ?, ?, '{}')"
BATCH = 500
TARGETS = {"sqlite": 900.0, "postgresql": 300.0, "ingest": 1000.0}
"""Per second; the store's share of what the whole application must reach (300 pairs)."""


def questions(count: int, name: str) -> tuple[list[Task], list[Candidate], list[Query]]:
    """``count`` comparisons, each of a task of its own."""
    tasks = [Task("train", {"prompt": f"{name} {i}: what do you think of it, and why?"}) for i in range(count)]
    made = Provenance("policy", {"temperature": 1.0})
    pairs = [[Candidate(t.id, "text", {"text": f"Answer {j}. " * 20}, made) for j in range(2)] for t in tasks]
    queries = [
        Query(task.id, "comparison", (pair[0].id, pair[1].id), (0, 1), 1)
        for task, pair in zip(tasks, pairs, strict=True)
    ]
    return tasks, [candidate for pair in pairs for candidate in pair], queries


class Load:
    """Closed-loop people: each claims, answers, and claims again, until the time is over."""

    def __init__(self, database: Database, people: int, queries: int, votes: int) -> None:
        self.database = database
        self.queue = Queue(database, QueueSettings(votes_per_query=votes))
        self.log = FeedbackLog(database)
        tasks, candidates, asked = questions(queries, "load")
        self.log.add_tasks(tasks)
        self.log.add_candidates(candidates)
        self.log.add_queries(asked)
        with database.write() as connection:
            self.people = [register_in(connection, f"Person {i}") for i in range(people)]
        self.queue.counts()  # takes the queries into the queue
        self.claims: list[float] = []
        self.submits: list[float] = []
        self.acknowledged: list[tuple[str, ...]] = []
        self.failures: list[BaseException] = []

    def run(self, seconds: float) -> dict[str, float]:
        """Pairs per second, latencies in milliseconds, and this process's CPU time."""
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._person, args=(person, until)) for person in self.people]
        began, cpu = time.monotonic(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        if self.failures:
            raise self.failures[0]
        pairs = len(self.acknowledged)
        found = {"pairs_per_s": pairs / took, "pairs": float(pairs), "cpu_ms_per_pair": 1000 * cpu / pairs}
        for name, times in (("claim", self.claims), ("submit", self.submits)):
            for percent in (50, 99):
                found[f"{name}_p{percent}_ms"] = 1000 * float(np.percentile(times, percent))
        return found

    def _person(self, person: str, until: float) -> None:
        try:
            while time.monotonic() < until:
                begin = time.perf_counter()
                claimed, _ = self.queue.claim(person, also=lambda rows: self._note(rows, person, "queue.claim"))
                middle = time.perf_counter()
                if not claimed:
                    raise RuntimeError("there are too few queries for this machine: raise --queries")
                stored = self.queue.submit(
                    claimed[0].assignment_id, person, uuid.uuid4().hex, [Answer({"choice": "a"}, None, 1500)],
                    also=lambda rows: self._note(rows, person, "vote.submit"),
                )  # fmt: skip
                self.submits.append(time.perf_counter() - middle)
                self.claims.append(middle - begin)
                self.acknowledged.append(stored.event_ids)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self.failures.append(error)

    @staticmethod
    def _note(rows: Rows, person: str, action: str) -> None:
        rows.run(AUDIT, time.time(), person, action, "")

    def violations(self) -> list[str]:
        """What must not be, found by looking through every row."""
        self.log.seal(force=True)
        report = verify(self.database)
        found = list(report.problems)
        if report.open:
            found.append(f"{report.open} events are not sealed")
        a, state, events = schema.assignments, schema.query_state, schema.events
        with self.database.read() as connection:
            counted = sa.func.count()
            doubled = sa.select(counted).select_from(
                sa.select(a.c.query_id).group_by(a.c.query_id, a.c.teacher_id).having(counted > 1).subquery()
            )
            voted = sa.select(counted).where(a.c.query_id == state.c.query_id, a.c.status == "submitted")
            off = sa.or_(state.c.votes != voted.scalar_subquery(), state.c.votes + state.c.open > state.c.wanted)
            wrong = connection.execute(sa.select(counted).select_from(state).where(off)).scalar_one()
            twice = connection.execute(doubled).scalar_one()
            there = set(connection.execute(sa.select(events.c.id)).scalars())
            notes = connection.execute(sa.select(counted).select_from(schema.audit)).scalar_one()
            choices = {value["choice"] for value in connection.execute(sa.select(events.c.value)).scalars()}
        told = {id_ for ids in self.acknowledged for id_ in ids}
        found += [f"{wrong} queries count wrongly or are over their overlap"] if wrong else []
        found += [f"{twice} queries were given twice to one person"] if twice else []
        found += [f"{len(told - there)} acknowledged answers are lost"] if told - there else []
        found += [f"{len(there - told)} answers nobody heard of"] if there - told else []
        found += [f"{notes} audit rows of {2 * len(told)}"] if notes != 2 * len(told) else []
        found += [] if choices == {"a"} else [f"choices {choices} of slot a alone"]
        return found


def ingest(database: Database, count: int) -> float:
    """Events per second, appended in bulk together with what they are about."""
    log = FeedbackLog(database)
    log.register_teacher("import", "import")
    tasks, candidates, queries = questions(count, "ingest")
    began = time.monotonic()
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        log.add_tasks(tasks[part])
        log.add_candidates(candidates[2 * start : 2 * (start + BATCH)])
        log.add_queries(queries[part])
        log.append_many([(query, "import", Answer({"choice": "b"}, f"reason {query.id}")) for query in queries[part]])
    log.seal(force=True)
    took = time.monotonic() - began
    report = verify(database)
    if not report.ok or report.events != count:
        raise RuntimeError(f"after the ingest: {report.events} events of {count}, {report.problems[:3]}")
    return count / took


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The address of a PostgreSQL server's own database."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="tropism-pg-") as folder:
        Path(folder).chmod(0o755)  # the server's user must be able to enter
        done = subprocess.run(
            [SCRIPT, "start", f"{folder}/pg"], capture_output=True, text=True, timeout=120, check=True
        )
        try:
            yield done.stdout.strip()
        finally:
            subprocess.run([SCRIPT, "stop", f"{folder}/pg"], check=True, timeout=120)


@contextmanager
def fresh(kind: str, admin: str) -> Iterator[Database]:
    """An empty study's database."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            database = Database.create(Path(folder) / "study.db")
            yield database
            database.close()
        return
    name = f"load_{uuid.uuid4().hex}"
    engine = make_engine(admin)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        database = Database.open(sa.make_url(admin).set(database=name).render_as_string(hide_password=False))
        try:
            yield database
        finally:
            database.close()
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def measure(kind: str, admin: str, given: argparse.Namespace) -> tuple[list[Claim], dict[str, Any]]:
    """Claims about one database, and all its figures."""
    runs: list[dict[str, float]] = []
    ingests: list[float] = []
    violations: list[str] = []
    for _ in range(given.repeats):
        with fresh(kind, admin) as database:
            load = Load(database, given.people, given.queries, given.votes)
            runs.append(load.run(given.seconds))
            violations += load.violations()
        with fresh(kind, admin) as database:
            ingests.append(ingest(database, given.ingest))
    claims = [
        at_least(f"store/{kind}/pairs_per_s", [run["pairs_per_s"] for run in runs], TARGETS[kind]),
        at_least(f"store/{kind}/ingest_events_per_s", ingests, TARGETS["ingest"]),
        Claim(f"store/{kind}/violations", len(violations), len(violations), len(violations), "0", not violations),
    ]
    return claims, {"runs": runs, "ingest_events_per_s": ingests, "violations": violations[:20]}


def each_database(
    measured: Callable[[str, str, argparse.Namespace], tuple[list[Claim], dict[str, Any]]], given: argparse.Namespace
) -> tuple[list[Claim], dict[str, Any]]:
    """Claims about all of ``given.databases``, and figures by database; a server is there while it is measured."""
    claims: list[Claim] = []
    figures: dict[str, Any] = {}
    for kind in given.databases:
        with server(given.postgres_url) if kind == "postgresql" else nullcontext("") as admin:
            found, figures[kind] = measured(kind, admin, given)
        claims += found
    return claims, figures


def at_least(name: str, values: Sequence[float], target: float) -> Claim:
    """A rate that holds if its mean reaches the target."""
    mean, low, high = interval(values)
    return Claim(name, mean, low, high, f">= {target:g}", mean >= target)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", required=True, help="the queue alone, without HTTP")
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--postgres-url", help="a server to use; without it one is started")
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--votes", type=int, default=3, help="people who are asked each query")
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--ingest", type=int, default=10_000, help="events of the bulk ingest")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short run, written nowhere")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.repeats, given.queries, given.ingest = min(given.seconds, 3.0), 1, 4000, 2000
    claims, figures = each_database(measure, given)
    settings = {name: getattr(given, name) for name in ("people", "votes", "queries", "ingest", "seconds", "repeats")}
    name = "studio_store" if len(given.databases) > 1 else f"studio_store_{given.databases[0]}"
    write_result(name, claims, {"settings": settings, "figures": figures}, given.quick)


if __name__ == "__main__":
    main()
