"""How many judgements the whole studio takes over HTTP: with sessions, CSRF tokens and the audit log, as browsers send
them, 64 people at once; what 200 listeners of the event stream hear meanwhile; and what is left after kills.

    python benchmarks/studio_http.py [--quick] [--databases sqlite postgresql] [--postgres-url URL] [--kills 20]

The server is ``tropism studio`` in a process of its own; the people are coroutines of this one, each on a socket, and
take ``people_cores`` of the machine. A kill is SIGKILL in the middle of the load; the server starts again, and each
person sends again what had no answer, under the same submission id. After each run every row is looked through, as in
``studio_load.py``. What else runs on the machine lowers the figures; ``cpu_ms_per_pair``, of the server, does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from common import Claim, interval, write_result
from studio_load import Load, at_least, each_database, fresh, questions
from tropism.feedback.events import FeedbackLog
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.metrics import MetricStore
from tropism.studio.accounts import create_in
from tropism.studio.passwords import hash_password

PASSWORD = "correct horse battery"
TOML = '[study]\nname = "load"\ndomain = "language"\n\n[feedback]\nteacher = "person"\nvotes_per_query = {votes}\n'
TARGET, P99_MS = 300.0, 500.0
PARTS = ("throughput", "kills", "listeners")


class Gone(Exception):
    """The server went away in the middle of a request."""


class Connection(asyncio.Protocol):
    """One browser's connection, opened again when it broke. It knows just enough of HTTP for one answer at a time:
    what the people cost is taken from what the server has."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self._signed = b"\r\n\r\n"
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self._got, self._need = bytearray(), -1

    @property
    def cookie(self) -> str:
        """What stands in the header ``Cookie``."""
        return self._signed.decode().partition("Cookie: ")[2].partition("\r\n")[0]

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any], bytes]:
        """(status, JSON, the whole answer) of a request. Errors: Gone."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError as error:
                raise Gone from error
        if self._transport is None:
            raise Gone
        self._waiting = loop.create_future()
        start = f"POST /api/v1/{path} HTTP/1.1\r\n".encode()
        self._transport.write(start + b"%b%d%b" % (self._head, len(body), self._signed) + body)
        answer = await self._waiting
        return int(answer[9:12]), json.loads(answer[answer.index(b"\r\n\r\n") + 4 :]), answer

    async def sign_in(self, name: str) -> None:
        """A session, whose cookie and token go with every request from now on."""
        status, said, answer = await self.post("session", json.dumps({"name": name, "password": PASSWORD}).encode())
        cookie = re.search(rb"set-cookie: ([^;]+);", answer, re.IGNORECASE)
        if status != 200 or cookie is None:
            raise RuntimeError(f"no session for {name}: {status} {said}")
        self._signed = b"\r\nCookie: %b\r\nX-CSRF-Token: %b\r\n\r\n" % (cookie[1], said["csrf"].encode())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio: it is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._got, self._need = transport, bytearray(), -1

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio: it broke, or the server closed it."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Gone())

    def data_received(self, data: bytes) -> None:
        """Of asyncio: a piece of the answer."""
        self._got += data
        if self._need < 0:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._got.find(b"content-length: ", 0, end)
            self._need = end + 4 + (0 if at < 0 else int(self._got[at + 16 : self._got.index(b"\r\n", at)]))
        if len(self._got) >= self._need and self._waiting is not None:
            self._waiting.set_result(bytes(self._got))
            self._got, self._need = bytearray(), -1


class HttpLoad(Load):
    """The same closed-loop people as in ``studio_load.py``, over HTTP."""

    def __init__(self, database: Database, people: int, queries: int, votes: int) -> None:
        self.database, self.log = database, FeedbackLog(database)
        tasks, candidates, asked = questions(queries, "load")
        self.log.add_tasks(tasks)
        self.log.add_candidates(candidates)
        self.log.add_queries(asked)
        hashed = hash_password(PASSWORD)
        with database.write() as connection:
            for number in range(people):
                create_in(connection, f"Person {number}", "annotator", hashed)
        self.people = [f"Person {number}" for number in range(people)]
        self.claims, self.submits, self.acknowledged, self.failures = [], [], [], []
        self.again, self.killed = 0, False

    async def sign_in(self, port: int) -> list[Connection]:
        """Everybody with a session of their own."""
        connections = [Connection(port) for _ in self.people]
        for connection, name in zip(connections, self.people, strict=True):
            await connection.sign_in(name)
        return connections

    async def judge(self, connections: Sequence[Connection], over: Callable[[], bool]) -> float:
        """Let everybody judge until it is over; returns how many seconds that took."""
        began = time.monotonic()
        await asyncio.gather(*(self._judge(connection, over) for connection in connections))
        return time.monotonic() - began

    async def _judge(self, connection: Connection, over: Callable[[], bool]) -> None:
        while not over():
            begin = time.perf_counter()
            claimed = await self._send(connection, "queue/claim", b'{"count":1}')
            middle = time.perf_counter()
            if not claimed["items"]:
                raise RuntimeError(f"nothing left to judge ({claimed['empty']}): raise --queries")
            (item,) = claimed["items"]
            id_ = str(uuid.uuid4())
            body = b'{"submission_id":"%b","value":{"choice":"1"},"duration_ms":1500}' % id_.encode()
            stored = await self._send(connection, f"assignments/{item['assignment']}/submit", body)
            self.submits.append(time.perf_counter() - middle)
            self.claims.append(middle - begin)
            self.acknowledged.append((id_,))
            self.again += bool(stored["again"])

    async def _send(self, connection: Connection, path: str, body: bytes) -> dict[str, Any]:
        """Send until there is an answer: the same body, so that what was stored is not stored twice."""
        for _ in range(600):
            try:
                status, said, _ = await connection.post(path, body)
            except Gone:
                await asyncio.sleep(0.05)
                continue
            if status == 200:
                return said
            raise RuntimeError(f"{path}: {status} {said}")
        raise RuntimeError("the server did not come back")

    def violations(self) -> list[str]:
        """As of the store alone; what was acknowledged is known by its submission here."""
        table = schema.assignments
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(table.c.submission_id, table.c.event_ids, table.c.shown_order).where(
                    table.c.status == "submitted"
                )
            ).all()
            actions = connection.execute(sa.select(schema.audit.c.action)).scalars().all()
            values = connection.execute(sa.select(schema.events.c.id, schema.events.c.value)).all()
        said = {row.id: row.value for row in values}
        stored = {row.submission_id: tuple(row.event_ids) for row in rows}
        sent = [ids[0] for ids in self.acknowledged]
        lost = [id_ for id_ in sent if id_ not in stored]
        self.acknowledged = [stored[id_] for id_ in sent if id_ in stored]
        # everybody chose what was shown first: which slot that is was drawn for each assignment
        wrong = sum(said[row.event_ids[0]]["choice"] != "ab"[row.shown_order[0]] for row in rows)
        found = [each for each in super().violations() if not each.startswith("choices ") and "audit rows" not in each]
        notes = sum(action in ("queue.claim", "vote.submit") for action in actions)
        if notes < 2 * len(rows) or (not self.killed and notes > 2 * len(rows)):  # a claim may be lost with its answer
            found.append(f"{notes} audit rows of {2 * len(rows)}")
        found += [f"{len(lost)} acknowledged submissions are lost"] if lost else []
        return found + ([f"{wrong} answers in the wrong slot"] if wrong else [])


class Server:
    """``tropism studio`` on a study; ``start`` again after ``kill`` finds the same port."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder, self.url, self.port = folder, url, 0

    def start(self) -> None:
        """Come back when it listens."""
        command = [sys.executable, "-m", "tropism", "studio", str(self.folder), "--port", str(self.port)]
        command += [] if self.url is None else ["--database-url", self.url]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"studio of .*http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise RuntimeError("the studio did not come up")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def studio(kind: str, admin: str, given: argparse.Namespace) -> Iterator[tuple[HttpLoad, Server]]:
    """A fresh study under load, and its server."""
    with fresh(kind, admin) as database, tempfile.TemporaryDirectory() as other:
        folder = database.path.parent if kind == "sqlite" else Path(other)
        (folder / "study.toml").write_text(TOML.format(votes=given.votes))
        load = HttpLoad(database, given.people, given.queries, given.votes)
        url = None if kind == "sqlite" else database.engine.url.render_as_string(hide_password=False)
        serving = Server(folder, url)
        serving.start()
        try:
            yield load, serving
        finally:
            serving.kill()


def throughput(kind: str, admin: str, given: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Figures of one run on a fresh study, and what is wrong afterwards."""
    with studio(kind, admin, given) as (load, serving):
        time.sleep(given.warm)  # questions are made ready before people come

        async def judging() -> tuple[float, float, float]:
            people = await load.sign_in(serving.port)
            server, own, until = serving.cpu_s(), time.process_time(), time.monotonic() + given.seconds
            took = await load.judge(people, lambda: time.monotonic() > until)
            return took, serving.cpu_s() - server, time.process_time() - own

        took, cpu, own = asyncio.run(judging())
        pairs = len(load.acknowledged)
        found = {"pairs_per_s": pairs / took, "pairs": float(pairs)}
        found |= {"cpu_ms_per_pair": 1000 * cpu / pairs, "people_cpu_ms_per_pair": 1000 * own / pairs}
        found |= {"server_cores": cpu / took, "people_cores": own / took}
        for name, times in (("claim", load.claims), ("submit", load.submits)):
            for percent in (50, 99):
                found[f"{name}_p{percent}_ms"] = 1000 * float(np.percentile(times, percent))
        serving.stop()
        return found, load.violations()


def killed(kind: str, admin: str, given: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """SIGKILL the server again and again under load; what is wrong afterwards."""
    with studio(kind, admin, given) as (load, serving):

        async def kills() -> None:
            for _ in range(given.kills):
                await asyncio.sleep(given.between)
                serving.kill()
                await asyncio.to_thread(serving.start)

        async def both() -> None:
            people = await load.sign_in(serving.port)
            task = asyncio.create_task(kills())
            await load.judge(people, task.done)
            await task

        asyncio.run(both())
        serving.stop()
        load.killed = True
        found = load.violations()
        return {"pairs": float(len(load.acknowledged)), "kills": float(given.kills), "again": float(load.again)}, found


async def listen(port: int, cookie: str, steps: int) -> tuple[int, int]:
    """(metric events heard, breaks in the events' numbers) of one listener, until it has heard the last step."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n".encode())
    heard, breaks, last, kind = 0, 0, -1, ""
    while True:
        line = (await asyncio.wait_for(reader.readline(), 60)).decode().strip()
        if line.startswith("id: "):
            number = int(line.rpartition(".")[2])
            breaks += last >= 0 and number not in (last, last + 1)
            last = number
        elif line.startswith("event: "):
            kind = line[7:]
            breaks += kind == "reset"
        elif line.startswith("data: ") and kind == "metric":
            heard += 1
            if json.loads(line[6:])["step"] == steps:
                writer.close()
                return heard, breaks


def listeners(kind: str, admin: str, given: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """What ``given.listeners`` listeners hear of ``steps`` steps of a run, while people judge."""
    steps = 20 * round(given.seconds)
    with studio(kind, admin, given) as (load, serving):
        metrics = MetricStore(serving.folder / "metrics.db")
        metrics.write("improve-1", 0, {"ppo/score_mean": 0.0})

        async def all_at_once() -> list[tuple[int, int]]:
            people = await load.sign_in(serving.port)
            cookie = people[0].cookie
            heard = [asyncio.create_task(listen(serving.port, cookie, steps)) for _ in range(given.listeners)]
            await asyncio.sleep(3)  # all are there, and what was before is known
            until = time.monotonic() + given.seconds
            judging = asyncio.create_task(load.judge(people, lambda: time.monotonic() > until))
            for step in range(1, steps + 1):
                metrics.write("improve-1", step, {"ppo/score_mean": float(step)})
                await asyncio.sleep(given.seconds / steps)
            await judging
            return await asyncio.gather(*heard)

        found = asyncio.run(all_at_once())
        metrics.close()
        serving.stop()
        missed = sum(heard != steps for heard, _ in found) + sum(breaks for _, breaks in found)
        problems = [f"{missed} listeners missed something"] if missed else []
        return {"listeners": float(len(found)), "steps": float(steps), "pairs": float(len(load.acknowledged))}, problems


def measure(kind: str, admin: str, given: argparse.Namespace) -> tuple[list[Claim], dict[str, Any]]:
    """Claims about one database, and all figures."""
    claims: list[Claim] = []
    figures: dict[str, Any] = {}

    def none(name: str, found: list[str]) -> None:
        claims.append(Claim(f"http/{kind}/{name}", len(found), len(found), len(found), "0", not found))
        figures.setdefault("violations", []).extend(found[:20])

    if "throughput" in given.parts:
        runs, problems = zip(*(throughput(kind, admin, given) for _ in range(given.repeats)), strict=True)
        figures["runs"] = list(runs)
        claims.append(at_least(f"http/{kind}/pairs_per_s", [run["pairs_per_s"] for run in runs], TARGET))
        for what in ("claim", "submit"):
            mean, low, high = interval([run[f"{what}_p99_ms"] for run in runs])
            claims.append(Claim(f"http/{kind}/{what}_p99_ms", mean, low, high, f"< {P99_MS:g}", mean < P99_MS))
        none("violations", [each for found in problems for each in found])
    for part, run in (("kills", killed), ("listeners", listeners)):
        if part in given.parts:
            figures[part], found = run(kind, admin, given)
            none(f"violations_{part}", found)
    return claims, figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--postgres-url", help="a server to use; without it one is started")
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--votes", type=int, default=3, help="people who are asked each query")
    parser.add_argument("--queries", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warm", type=float, default=10.0, help="seconds between the server's start and the load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, default=2.0, help="seconds of load between kills")
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="one short run, written nowhere")
    given = parser.parse_args()
    if given.quick:
        given.seconds, given.repeats, given.queries, given.kills = min(given.seconds, 4.0), 1, 2000, min(given.kills, 2)
        given.warm, given.listeners = 3.0, min(given.listeners, 50)
    claims, figures = each_database(measure, given)
    names = ("people", "votes", "queries", "seconds", "repeats", "kills", "between", "listeners")
    settings = {name: getattr(given, name) for name in names}
    write_result("studio_http", claims, {"settings": settings, "figures": figures}, given.quick)


if __name__ == "__main__":
    main()
