"""Signing in and out, the first administrator, invitations, and one's own account."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tropism import __version__
from tropism.store import schema
from tropism.studio import accounts
from tropism.studio.audit import note
from tropism.studio.auth import AnyWriter, Here, Visitor, cookie_name, set_cookie
from tropism.studio.passwords import token_digest
from tropism.studio.problems import ApiError, reply
from tropism.studio.roles import Caller
from tropism.studio.routes.answers import AccountChanged, InvitationShown, SessionState
from tropism.studio.routes.forms import AccountChange, NewAccount, Setup, SignIn
from tropism.studio.sessions import Opened
from tropism.studio.state import Studio

router = APIRouter(tags=["session"])


@router.get("/session", response_model=SessionState)
async def who(request: Request, studio: Here, caller: Visitor) -> Response:
    """Who is signed in here, and what every page needs to know. Under ``--solo`` it signs in whoever asks."""
    if caller is None and studio.solo_account is not None:
        return await to_thread.run_sync(_enter, studio, request, studio.solo_account)
    if studio.setup_needed:
        studio.setup_needed = not await to_thread.run_sync(accounts.any_account, studio.database)
    return reply(_state(studio, caller))


@router.post("/session", response_model=SessionState)
def sign_in(request: Request, studio: Here, form: SignIn) -> Response:
    """A new session, whatever cookie came along: nobody can be made to use one that somebody else knows."""
    account = accounts.sign_in(studio.database, form.name, form.password, studio.settings.login_attempts)
    return _enter(studio, request, account)


@router.delete("/session", status_code=204)
def sign_out(studio: Here, caller: AnyWriter) -> Response:
    """End this session."""
    if caller.session is not None:
        studio.sessions.end(caller.session)
    gone = Response(status_code=204)
    gone.delete_cookie(cookie_name(studio), path="/", httponly=True, samesite="strict")
    return gone


@router.post("/setup", response_model=SessionState)
def setup(request: Request, studio: Here, form: Setup) -> Response:
    """Make the first administrator, by the link that the studio has printed."""
    made = accounts.accept(studio.database, form.token, form.name, form.password, first=True)
    return _enter(studio, request, made)


@router.get("/invitations/{token}", response_model=InvitationShown)
def look_at_invitation(studio: Here, token: str) -> Response:
    """What an invitation is for."""
    with studio.database.read() as connection:
        row = accounts.invitation(connection, token, first=False)
    return reply({"role": row.role, "expires_at": row.expires_at})


@router.post("/invitations/{token}", response_model=SessionState)
def accept_invitation(request: Request, studio: Here, token: str, form: NewAccount) -> Response:
    """Make the account that somebody was invited to."""
    made = accounts.accept(studio.database, token, form.name, form.password, first=False)
    return _enter(studio, request, made)


@router.patch("/account", response_model=AccountChanged)
def change_account(studio: Here, caller: AnyWriter, form: AccountChange) -> Response:
    """Change one's own settings or password; a new password ends all other sessions."""
    settings = form.model_dump(exclude_unset=True)
    password, old = settings.pop("password", None), settings.pop("old_password", None)
    if password is not None:
        _change_password(studio, caller, old or "", password)
    changed = accounts.change_settings(studio.database, caller, settings)
    studio.sessions.forget()
    return reply({"account": caller.shown() | {"settings": changed}})


def _change_password(studio: Studio, caller: Caller, old: str, password: str) -> None:
    hashed = accounts.change_password(studio.database, caller, old, password)
    table = schema.accounts
    with studio.database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id == caller.account_id).values(password_hash=hashed))
        studio.sessions.end_all_in(connection, caller.account_id, but=caller.session)
        note(connection, caller.account_id, "account.password", caller.account_id)


def _enter(studio: Studio, request: Request, account_id: str) -> Response:
    """A new session of an account; the one that the browser had ends."""
    before = request.cookies.get(cookie_name(studio))
    with studio.database.write() as connection:
        if before:
            table = schema.sessions
            connection.execute(sa.delete(table).where(table.c.token_hash == token_digest(before)))
        opened: Opened = studio.sessions.open_in(connection, account_id)
    studio.sessions.forget()
    caller = studio.sessions.by_cookie(opened.token)
    if caller is None:
        raise ApiError(403, "not_allowed", "this account is disabled", "ask a lead")
    studio.setup_needed = False
    answer = reply(_state(studio, caller))
    set_cookie(answer, studio, request, opened)
    return answer


def _state(studio: Studio, caller: Caller | None) -> dict[str, Any]:
    facts = studio.facts
    return {
        "account": None if caller is None else caller.shown(),
        "csrf": None if caller is None else caller.csrf,
        "solo": studio.settings.solo,
        "setup_needed": studio.setup_needed,
        "study": {"name": facts.name, "domain": facts.domain, "kind": facts.kind, "rounds": facts.rounds},
        "version": __version__,
    }
