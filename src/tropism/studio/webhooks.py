"""Telling other programs: signed, in order, tried again, at least once.

A delivery is a row before it is sent, so a killed studio sends it later. Feedback is told in batches of what came since
the last one; how far each webhook was told stands in its own deliveries. The signature is an HMAC-SHA256 over the time
and the body, so that neither can be changed and old ones can be refused. Left out: addresses that answer slowly for
ever (10 s each), and redirects, which are not followed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.horizon import settled_to
from tropism.studio.problems import ApiError

PAUSES_S: Final = (10.0, 60.0, 600.0, 3600.0, 6 * 3600.0)
"""Between attempts; after the last one a delivery is given up."""
BATCH: Final = 100
PATIENCE_S: Final = 10.0
_deliveries, _webhooks = schema.deliveries, schema.webhooks


def signature(secret: str, at: int, body: bytes) -> str:
    """The header's value for a body sent at ``at`` (UTC seconds)."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


@dataclass
class Cursor:
    """How far a webhook was told: the newest event's row, the newest finished stage's time, and the votes that were
    wanted when the queue was last empty (0: it has not been yet)."""

    seq: int
    at: float
    wanted: int

    def payload(self) -> dict[str, Any]:
        """What goes along with every delivery, so that the next process knows."""
        return {"seq": self.seq, "at": self.at, "wanted": self.wanted}


def create_in(connection: Connection, upto: int, url: str, events: list[str], created_by: str) -> tuple[str, str]:
    """(id, secret) of a new webhook, which is told what comes from now on. ``upto``: how far the log is settled.
    Errors: ApiError for no web address."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.fragment
        plain = plain and parts.port != 0
    except ValueError:
        plain = False
    if not plain:
        raise ApiError(400, "bad_request", f"{url!r:.80} is no plain web address", "give https://HOST/PATH")
    made, secret = f"hook-{secrets.token_hex(8)}", secrets.token_hex(32)
    row = {"id": made, "url": url, "secret": secret, "events": events, "created_by": created_by}
    connection.execute(sa.insert(_webhooks).values(row | {"created_at": time.time()}))
    newest = sa.select(sa.func.max(schema.events.c.seq)).where(schema.events.c.seq <= upto)
    seen = connection.execute(newest).scalar() or 0
    wanted, votes = _queue(connection)  # one that is not empty now is still to be told of
    _add(connection, made, "ping", Cursor(seen, time.time(), wanted if votes >= wanted else 0), {})
    return made, secret


class Deliverer:
    """Finds what is to be told, and tells it. One for each studio, in one thread."""

    def __init__(self, database: Database, client: httpx.Client | None = None) -> None:
        self.database = database
        self._client = client or httpx.Client(timeout=PATIENCE_S, follow_redirects=False, trust_env=False)
        self._cursors: dict[str, Cursor] = {}

    def turn(self) -> int:
        """Write down what is new, and send what is due. Returns how many deliveries arrived."""
        with self.database.read() as connection:
            hooks = connection.execute(sa.select(_webhooks).where(_webhooks.c.disabled_at.is_(None))).all()
        for hook in hooks:
            self._write_down(hook)
        return sum(self._send(hook) for hook in hooks)

    def _write_down(self, hook: sa.Row[Any]) -> None:
        """What is new as deliveries, each with how far it goes."""
        upto = settled_to(self.database)
        with self.database.read() as connection:
            cursor = self._cursors.get(hook.id) or _cursor(connection, hook.id)
            events = _events_after(connection, cursor.seq, upto) if "feedback" in hook.events else []
            stages = _stages_after(connection, cursor.at) if "stage" in hook.events else []
            wanted, votes = _queue(connection)
        self._cursors[hook.id] = cursor
        emptied = "queue" in hook.events and votes >= wanted > cursor.wanted
        if not (events or stages or emptied):
            return
        new = Cursor(
            events[-1]["seq"] if events else cursor.seq,
            stages[-1]["finished_at"] if stages else cursor.at,
            wanted if emptied else cursor.wanted,
        )
        with self.database.write() as connection:
            if events:
                _add(connection, hook.id, "feedback", new, {"events": events})
            if stages:
                _add(connection, hook.id, "stage", new, {"stages": stages})
            if emptied:
                _add(connection, hook.id, "queue", new, {"votes": votes})
        self._cursors[hook.id] = new

    def _send(self, hook: sa.Row[Any]) -> int:
        """Send one webhook's deliveries in order, until one fails or is not due yet; returns how many arrived."""
        table = _deliveries
        due = sa.select(table).where(table.c.webhook_id == hook.id, table.c.next_at.is_not(None))
        with self.database.read() as connection:
            rows = connection.execute(due.order_by(table.c.id).limit(BATCH)).all()
        arrived = 0
        for row in rows:
            if row.next_at > time.time():
                break
            error = self._post(hook, row)
            attempts, now = row.attempts + 1, time.time()
            again = now + PAUSES_S[row.attempts] if error and row.attempts < len(PAUSES_S) else None
            result = {"attempts": attempts, "error": error, "next_at": again, "delivered_at": None if error else now}
            with self.database.write() as connection:
                connection.execute(sa.update(table).where(table.c.id == row.id).values(result))
            if error:
                break
            arrived += 1
        return arrived

    def _post(self, hook: sa.Row[Any], row: sa.Row[Any]) -> str | None:
        """Send one delivery; why it did not arrive, or None."""
        at = int(time.time())
        body = canonical_json({"id": row.id, "event": row.event, "at": at, "data": row.payload})
        headers = {"Content-Type": "application/json", "X-Tropism-Signature": signature(hook.secret, at, body)}
        try:
            answer = self._client.post(hook.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return f"{type(error).__name__}: {error}"[:300]
        return None if answer.is_success else f"status {answer.status_code}"


def _add(connection: Connection, webhook: str, event: str, cursor: Cursor, payload: Mapping[str, Any]) -> None:
    row = {"id": f"delivery-{time.time_ns():x}-{secrets.token_hex(4)}", "webhook_id": webhook, "event": event}
    told = {"payload": {**payload, "upto": cursor.payload()}, "attempts": 0, "next_at": time.time()}
    connection.execute(sa.insert(_deliveries).values(row | told))


def _cursor(connection: Connection, webhook: str) -> Cursor:
    """How far a webhook was told, from what was written down for it."""
    statement = sa.select(_deliveries.c.payload).where(_deliveries.c.webhook_id == webhook)
    told = [payload["upto"] for payload in connection.execute(statement).scalars()]
    return Cursor(*(max(each[name] for each in told) for name in ("seq", "at", "wanted")))


def _events_after(connection: Connection, seq: int, upto: int) -> list[dict[str, Any]]:
    """The next settled feedback events, without free text: that belongs to people, and stays where it can be erased."""
    table = schema.events
    columns = (table.c.seq, table.c.id, table.c.kind, table.c.query_id, table.c.teacher_id, table.c.value)
    statement = sa.select(*columns, table.c.supersedes, table.c.created_at)
    statement = statement.where(table.c.seq > seq, table.c.seq <= upto)
    return [dict(row._mapping) for row in connection.execute(statement.order_by(table.c.seq).limit(BATCH))]


def _stages_after(connection: Connection, at: float) -> list[dict[str, Any]]:
    table = schema.stages
    columns = (table.c.name, table.c.round, table.c.status, table.c.finished_at)
    statement = sa.select(*columns).where(table.c.finished_at > at).order_by(table.c.finished_at)
    return [dict(row._mapping) for row in connection.execute(statement)]


def _queue(connection: Connection) -> tuple[int, int]:
    """(votes wanted, votes given) of all queries in the queue."""
    state = schema.query_state
    row = connection.execute(sa.select(sa.func.sum(state.c.wanted), sa.func.sum(state.c.votes))).one()
    return int(row[0] or 0), int(row[1] or 0)
