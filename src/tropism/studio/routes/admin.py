"""The audit log, tokens for programs, webhooks."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query
from starlette.responses import Response

from tropism.store import schema
from tropism.store.horizon import settled_to
from tropism.studio import webhooks
from tropism.studio.audit import entries, note
from tropism.studio.auth import Admin, AdminReads, Engineer, EngineerReads, Here
from tropism.studio.passwords import new_token, token_digest
from tropism.studio.problems import ApiError, reply
from tropism.studio.routes import answers as told
from tropism.studio.routes.answers import Listed
from tropism.studio.routes.forms import Limit, NewToken, NewWebhook, Number
from tropism.studio.settings import DAY_S

router = APIRouter(tags=["admin"])
_tokens, _hooks, _deliveries = schema.api_tokens, schema.webhooks, schema.deliveries


@router.get("/audit", response_model=Listed[told.AuditEntry])
def audit(
    studio: Here,
    _caller: AdminReads,
    after: Number = None,
    limit: Limit = 100,
    action: Annotated[str | None, Query(max_length=80)] = None,
) -> Response:
    """Who did what, newest first."""
    with studio.database.read() as connection:
        items = entries(connection, after, limit, action)
    return reply({"items": items, "next": items[-1]["seq"] if len(items) == limit else None})


@router.get("/tokens", response_model=Listed[told.TokenShown])
def tokens(studio: Here, caller: EngineerReads, all: bool = False) -> Response:
    """One's own tokens; an administrator sees everybody's with ``all``."""
    if all and caller.role != "admin":
        raise ApiError(403, "not_allowed", "everybody's tokens are an administrator's to see")
    accounts = schema.accounts
    statement = sa.select(_tokens, accounts.c.name.label("account")).join_from(
        _tokens, accounts, accounts.c.id == _tokens.c.account_id
    )
    if not all:
        statement = statement.where(_tokens.c.account_id == caller.account_id)
    with studio.database.read() as connection:
        rows = connection.execute(statement.order_by(_tokens.c.created_at.desc())).all()
    names = ("id", "name", "account", "scope", "created_at", "expires_at", "revoked_at")
    return reply({"items": [{name: getattr(row, name) for name in names} for row in rows], "next": None})


@router.post("/tokens", response_model=told.TokenMade)
def create_token(studio: Here, caller: Engineer, form: NewToken) -> Response:
    """A token with the rights of this account, within a scope, for some days."""
    token, now = new_token(), time.time()
    made = {"id": f"token-{secrets.token_hex(8)}", "name": form.name, "scope": form.scope}
    times = {"created_at": now, "expires_at": now + form.days * DAY_S}
    with studio.database.write() as connection:
        row = made | times | {"token_hash": token_digest(token), "account_id": caller.account_id}
        connection.execute(sa.insert(_tokens).values(row))
        note(connection, caller.account_id, "token.create", made["id"], {"scope": form.scope})
    return reply(made | times | {"token": token})


@router.delete("/tokens/{id_}", status_code=204)
def revoke_token(studio: Here, caller: Engineer, id_: str) -> Response:
    """A token ends at once. An administrator may end anybody's."""
    own = [] if caller.role == "admin" else [_tokens.c.account_id == caller.account_id]
    with studio.database.write() as connection:
        statement = sa.update(_tokens).where(_tokens.c.id == id_, _tokens.c.revoked_at.is_(None), *own)
        if connection.execute(statement.values(revoked_at=time.time())).rowcount == 0:
            raise ApiError(404, "not_found", f"no token {id_!r:.80} of yours", "tokens lists them")
        note(connection, caller.account_id, "token.revoke", id_)
    studio.sessions.forget()
    return Response(status_code=204)


@router.get("/webhooks", response_model=Listed[told.HookShown])
def hooks(studio: Here, _caller: AdminReads) -> Response:
    """Webhooks, without their secrets."""
    with studio.database.read() as connection:
        rows = connection.execute(sa.select(_hooks).order_by(_hooks.c.created_at)).all()
    names = ("id", "url", "events", "created_at", "disabled_at")
    return reply({"items": [{name: getattr(row, name) for name in names} for row in rows], "next": None})


@router.post("/webhooks", response_model=told.HookMade)
def create_hook(studio: Here, caller: Admin, form: NewWebhook) -> Response:
    """Tell an address what happens from now on; the secret of its signatures is shown this once."""
    upto = settled_to(studio.database)
    with studio.database.write() as connection:
        made, secret = webhooks.create_in(connection, upto, form.url, sorted(set(form.events)), caller.account_id)
        note(connection, caller.account_id, "webhook.create", made, {"url": form.url})
    studio.stirred.set()
    return reply({"id": made, "url": form.url, "events": sorted(set(form.events)), "secret": secret})


@router.delete("/webhooks/{id_}", status_code=204)
def end_hook(studio: Here, caller: Admin, id_: str) -> Response:
    """Tell it nothing more."""
    now = time.time()
    with studio.database.write() as connection:
        statement = sa.update(_hooks).where(_hooks.c.id == id_, _hooks.c.disabled_at.is_(None))
        if connection.execute(statement.values(disabled_at=now)).rowcount == 0:
            raise ApiError(404, "not_found", f"no webhook {id_!r:.80}", "webhooks lists them")
        connection.execute(sa.update(_deliveries).where(_deliveries.c.webhook_id == id_).values(next_at=None))
        note(connection, caller.account_id, "webhook.end", id_)
    return Response(status_code=204)


@router.get("/webhooks/{id_}/deliveries", response_model=Listed[told.Delivery])
def deliveries(
    studio: Here, _caller: AdminReads, id_: str, after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 50,
) -> Response:  # fmt: skip
    """What was sent to a webhook, newest first, and what came of it."""
    statement = sa.select(_deliveries).where(_deliveries.c.webhook_id == id_).order_by(_deliveries.c.id.desc())
    if after is not None:
        statement = statement.where(_deliveries.c.id < after)
    with studio.database.read() as connection:
        rows: list[Any] = list(connection.execute(statement.limit(limit)))
    names = ("id", "event", "attempts", "next_at", "delivered_at", "error")
    items = [{name: getattr(row, name) for name in names} for row in rows]
    return reply({"items": items, "next": items[-1]["id"] if len(items) == limit else None})
