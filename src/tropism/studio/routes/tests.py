"""Blind tests of two policies by people: made, looked at, closed."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from sqlalchemy.engine import Connection
from starlette.responses import Response

from tropism.store import schema
from tropism.studio import ab
from tropism.studio.audit import note
from tropism.studio.auth import Engineer, EngineerReads, Here
from tropism.studio.problems import ApiError, reply
from tropism.studio.routes import answers_run as told
from tropism.studio.routes.forms import NewTest, Nothing
from tropism.studio.state import Studio

router = APIRouter(tags=["engineer"])
_table = schema.ab_tests


@router.get("/ab-tests", response_model=told.BlindTests)
def listed(studio: Here, _caller: EngineerReads) -> Response:
    """All tests, newest first, and the policies that could be tested."""
    with studio.database.read() as connection:
        rows = connection.execute(sa.select(_table).order_by(_table.c.created_at.desc())).all()
        items = [ab.shown(row, ab.result(connection, row.id)) for row in rows]
    policies = [{"id": id_, "stage": stage, "as": name} for id_, (stage, name) in ab.answers_by_policy(studio).items()]
    return reply({"items": items, "next": None, "policies": policies})


@router.post("/ab-tests", response_model=told.BlindTest)
def create(studio: Here, caller: Engineer, form: NewTest) -> Response:
    """Put a test's questions into the queue, before everything else."""
    made = ab.create(studio, form.policy_a, form.policy_b, form.name, form.wanted, caller.account_id)
    with studio.database.write() as connection:
        note(connection, caller.account_id, "ab_test.create", made)
    return _one(studio, made)


@router.get("/ab-tests/{id_}", response_model=told.BlindTest)
def one(studio: Here, _caller: EngineerReads, id_: str) -> Response:
    """One test."""
    return _one(studio, id_)


@router.post("/ab-tests/{id_}/close", response_model=told.BlindTest)
def close(studio: Here, caller: Engineer, id_: str, _form: Nothing) -> Response:
    """Stop asking: what nobody has claimed yet is not wanted any more."""
    state = schema.query_state
    with studio.database.write() as connection:
        _row(connection, id_)
        connection.execute(sa.update(_table).where(_table.c.id == id_).values(closed_at=time.time()))
        connection.execute(sa.update(state).where(state.c.ab_test == id_).values(wanted=state.c.taken))
        note(connection, caller.account_id, "ab_test.close", id_)
    return _one(studio, id_)


def _one(studio: Studio, id_: str) -> Response:
    with studio.database.read() as connection:
        return reply(ab.shown(_row(connection, id_), ab.result(connection, id_)))


def _row(connection: Connection, id_: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(_table).where(_table.c.id == id_)).first()
    if row is None:
        raise ApiError(404, "not_found", f"no test {id_!r:.80}", "ab-tests lists them")
    return row
