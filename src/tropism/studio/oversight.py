"""What a lead sees: progress, people, disagreements, cost. Figures of judgement quality are ``judged.py``'s.

Left out: names in what is exported; here leads see names, since they work with these people.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.feedback.projection import current_view, read_candidates, read_queries, read_tasks
from tropism.feedback.values import slot_names
from tropism.store import schema
from tropism.studio.presenting import candidate_text, shown_task, shown_text

HOUR_S = 3600.0
_given, _state, _events, _queries = schema.assignments, schema.query_state, schema.events, schema.queries


def progress(connection: Connection) -> dict[str, Any]:
    """The queue by kind, votes by hour of the last two days, and when it will be done at the pace of the last hours."""
    sums = [sa.func.sum(column) for column in (_state.c.wanted, _state.c.votes, _state.c.open, _state.c.late)]
    joined = _state.join(_queries, _queries.c.id == _state.c.query_id)
    by_kind: dict[str, dict[str, int]] = {}
    totals = dict.fromkeys(("queries", "wanted", "votes", "open", "late"), 0)
    for row in connection.execute(
        sa.select(_queries.c.kind, sa.func.count(), *sums).select_from(joined).group_by(_queries.c.kind)
    ):
        counted = dict(zip(totals, map(int, row[1:]), strict=True))
        by_kind[row.kind] = {name: counted[name] for name in ("queries", "wanted", "votes", "open")}
        totals = {name: totals[name] + counted[name] for name in totals}
    now = time.time()
    hours = _by_hour(connection, now - 48 * HOUR_S)
    recent = sum(count for at, count in hours if at > now - 3 * HOUR_S)
    first = min((at for at, count in hours if at > now - 3 * HOUR_S), default=now)
    pace = recent / max(now - first, 60.0)
    left = totals["wanted"] - totals["votes"]
    return totals | {
        "by_kind": by_kind,
        "rate_per_hour": hours,
        "eta_s": None if pace == 0 else left / pace,
    }


def _by_hour(connection: Connection, since: float) -> list[list[float]]:
    """[[start of the hour, votes], …] of the hours that have any."""
    statement = sa.select(_given.c.submitted_at).where(_given.c.status == "submitted", _given.c.submitted_at >= since)
    counts: dict[float, int] = {}
    for at in connection.execute(statement).scalars():
        hour = at // HOUR_S * HOUR_S
        counts[hour] = counts.get(hour, 0) + 1
    return [[hour, count] for hour, count in sorted(counts.items())]


def people(connection: Connection, after: str | None, limit: int, only: str | None = None) -> list[dict[str, Any]]:
    """Accounts by name, with their work in numbers."""
    accounts, sessions = schema.accounts, schema.sessions
    statement = sa.select(accounts).order_by(accounts.c.name).limit(limit)
    statement = statement if after is None else statement.where(accounts.c.name > after)
    statement = statement if only is None else statement.where(accounts.c.id == only)
    rows = connection.execute(statement).all()
    work = _work(connection, [row.pseudonym for row in rows])
    seen = dict(
        connection.execute(
            sa.select(sessions.c.account_id, sa.func.max(sessions.c.seen_at)).group_by(sessions.c.account_id)
        ).all()
    )
    return [
        {
            "id": row.id, "name": row.name, "role": row.role, "status": row.status, "pseudonym": row.pseudonym,
            "last_seen": seen.get(row.id), **work[row.pseudonym],
        }
        for row in rows
    ]  # fmt: skip


def _work(connection: Connection, pseudonyms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Votes, skips and the median time for one, by person."""
    statement = sa.select(_given.c.teacher_id, _given.c.status, _given.c.duration_ms)
    where = (_given.c.teacher_id.in_(pseudonyms), _given.c.status.in_(("submitted", "skipped")))
    found: dict[str, dict[str, Any]] = {p: {"votes": 0, "skipped": 0} for p in pseudonyms}
    times: dict[str, list[float]] = {p: [] for p in pseudonyms}
    for person, status, duration_ms in connection.execute(statement.where(*where)):
        found[person]["votes" if status == "submitted" else "skipped"] += 1
        if status == "submitted" and duration_ms is not None:
            times[person].append(duration_ms / 1000)
    for person in found:
        found[person]["median_seconds"] = statistics.median(times[person]) if times[person] else None
    return found


def cost(connection: Connection) -> dict[str, Any]:
    """Seconds of people's time, and votes. A pause is no work: each vote counts at most five times the median."""
    statement = sa.select(_given.c.duration_ms).where(_given.c.status == "submitted", _given.c.duration_ms.is_not(None))
    seconds = [milliseconds / 1000 for milliseconds in connection.execute(statement).scalars()]
    votes = connection.execute(sa.select(sa.func.count()).where(_given.c.status == "submitted")).scalar_one()
    if not seconds:
        return {"seconds": 0.0, "votes": votes, "seconds_per_vote": None}
    longest = 5 * statistics.median(seconds)
    mean = statistics.fmean(min(each, longest) for each in seconds)
    return {"seconds": mean * votes, "votes": votes, "seconds_per_vote": mean}


def disagreements(
    connection: Connection, hidden: Collection[str], after: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Queries on which people with the same question gave different answers, by id; and where the next page begins.

    ``hidden``: those that the reader may still judge.
    """
    people_on = (
        sa.select(_events.c.query_id)
        .join(_queries, _queries.c.id == _events.c.query_id)
        .where(*current_view(), _events.c.kind == _queries.c.kind)
        .group_by(_events.c.query_id)
        .having(sa.func.count(sa.distinct(_events.c.teacher_id)) > 1)
        .order_by(_events.c.query_id)
    )
    several = list(
        connection.execute(people_on if after is None else people_on.where(_events.c.query_id > after)).scalars()
    )
    found: list[dict[str, Any]] = []
    for start in range(0, len(several), 200):
        part = [id_ for id_ in several[start : start + 200] if id_ not in hidden]
        for id_, votes in _votes(connection, part).items():
            share = _majority(votes)
            if share < 1:
                found.append({"query": id_, "votes": votes, "share": share})
            if len(found) == limit:
                return _described(connection, found), id_
    return _described(connection, found), None


def _votes(connection: Connection, query_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Current votes of the kind that was asked for, by query; adjudications too, which say so."""
    accounts, texts = schema.accounts, schema.event_texts
    joined = (
        _events.join(_queries, _queries.c.id == _events.c.query_id)
        .outerjoin(accounts, accounts.c.pseudonym == _events.c.teacher_id)
        .outerjoin(texts, texts.c.event_id == _events.c.id)
    )
    statement = (
        sa.select(_events, accounts.c.name, texts.c.text)
        .select_from(joined)
        .where(*current_view(), _events.c.kind == _queries.c.kind, _events.c.query_id.in_(query_ids))
        .order_by(_events.c.query_id, _events.c.seq)
    )
    adjudged = sa.select(_given.c.query_id, _given.c.teacher_id).where(
        _given.c.purpose == "adjudication", _given.c.status == "submitted", _given.c.query_id.in_(query_ids)
    )
    settled = {(row.query_id, row.teacher_id) for row in connection.execute(adjudged)}
    found: dict[str, list[dict[str, Any]]] = {id_: [] for id_ in query_ids}
    for row in connection.execute(statement):
        vote = {"person": row.name or row.teacher_id, "value": row.value, "text": row.text, "at": row.created_at}
        found[row.query_id].append(vote | {"adjudication": (row.query_id, row.teacher_id) in settled})
    return found


def _majority(votes: Sequence[Mapping[str, Any]]) -> float:
    """The share of the commonest answer for each target, the least over targets. Strength is left aside."""
    said: dict[bytes, dict[bytes, int]] = {}
    for vote in votes:
        value = {name: what for name, what in vote["value"].items() if name != "strength"}
        about = canonical_json([value.get("slot"), value.get("aspect"), value.get("name")])
        counts = said.setdefault(about, {})
        key = canonical_json(value)
        counts[key] = counts.get(key, 0) + 1
    return min((max(counts.values()) / sum(counts.values()) for counts in said.values()), default=1.0)


def _described(connection: Connection, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what the question was: task, and candidates by canonical slot."""
    asked = read_queries(connection, [each["query"] for each in found])
    tasks = read_tasks(connection, sorted({query.task_id for query in asked.values()}))
    held = read_candidates(connection, sorted({id_ for query in asked.values() for id_ in query.candidate_ids}))
    for each in found:
        query = asked[each["query"]]
        names = slot_names(query.kind, len(query.candidate_ids))
        candidates = [held[id_] for id_ in query.candidate_ids]
        segments = any(candidate.kind == "segment" for candidate in candidates)
        each["kind"], each["task"] = query.kind, shown_task(tasks[query.task_id], segments)
        each["candidates"] = [
            {
                "slot": name,
                **({"viewer": "clip"} if candidate.kind == "segment" else shown_text(candidate_text(candidate))),
            }
            for name, candidate in zip(names, candidates, strict=True)
        ]
        each["adjudicated"] = any(vote["adjudication"] for vote in each["votes"])
    return found
