"""From the first link to people with accounts of their own; tokens; what the command refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from studio_cases import PASSWORD, Running, make_study, running

from tropism.errors import ConfigError
from tropism.studio import accounts
from tropism.studio.serving import refuse_open_door, serve
from tropism.studio.settings import StudioSettings


def test_the_first_link_makes_one_administrator(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s")) as here:
        assert here.nobody().get("session").json()["setup_needed"] is True
        token, _ = accounts.invite(here.studio.database, "admin", None, 60)
        body = {"token": token, "name": "Ada", "password": PASSWORD}
        first, late = here.nobody(), here.nobody()
        made = first.post("setup", json=body)
        assert made.json()["account"]["role"] == "admin"
        assert late.post("setup", json=body | {"name": "Eve"}).status_code == 410
        second, _ = accounts.invite(here.studio.database, "admin", None, 60)
        assert late.post("setup", json=body | {"name": "Eve", "token": second}).status_code == 410
        assert late.post("setup", json=body | {"token": "x" * 43}).status_code == 404
        assert here.nobody().get("session").json()["setup_needed"] is False


def test_an_invitation_makes_one_account_of_its_role(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s")) as here:
        lead = here.person("lead")
        url = lead.post("lead/invitations", json={"role": "annotator"}).json()["url"]
        token = url.rpartition("/")[2]
        assert url.startswith(f"{here.base}/#/invitation/")
        guest = here.nobody()
        assert guest.get(f"invitations/{token}").json()["role"] == "annotator"
        assert guest.post("setup", json={"token": token, "name": "x", "password": PASSWORD}).status_code == 404
        taken = guest.post(f"invitations/{token}", json={"name": "THE LEAD", "password": PASSWORD})
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")
        assert guest.post(f"invitations/{token}", json={"name": "Bo", "password": "short"}).status_code == 422
        made = guest.post(f"invitations/{token}", json={"name": " Bo ", "password": PASSWORD})
        assert (made.json()["account"]["name"], made.json()["account"]["role"]) == ("Bo", "annotator")
        again = here.nobody().post(f"invitations/{token}", json={"name": "Cy", "password": PASSWORD})
        assert (again.status_code, again.json()["error"]["code"]) == (410, "gone")
        assert here.nobody().sign_in("bo").get("me").status_code == 200


def test_settings_and_a_new_password(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s")) as here:
        me, elsewhere = here.person("annotator"), here.person("annotator")
        assert me.patch("account", json={"language": "zh", "theme": "dark"}).json()["account"]["settings"] == {
            "language": "zh",
            "theme": "dark",
        }
        assert me.patch("account", json={"theme": None}).json()["account"]["settings"] == {"language": "zh"}
        assert me.patch("account", json={"role": "admin"}).status_code == 422
        wrong = me.patch("account", json={"password": "another long one", "old_password": "no"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "wrong_password")
        assert me.patch("account", json={"password": "another long one", "old_password": PASSWORD}).status_code == 200
        assert elsewhere.get("me").status_code == 401
        assert me.get("me").status_code == 200
        here.nobody().sign_in("the annotator", "another long one")
        assert me.delete("session").status_code == 204
        assert me.get("me").status_code == 401


def test_a_token_is_shown_once_and_ends_when_it_is_revoked(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s")) as here:
        engineer = here.person("engineer")
        made = engineer.post("tokens", json={"name": "loop", "scope": "read", "days": 1}).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        assert here.nobody().get("feedback", headers=headers).status_code == 200
        assert made["token"] not in engineer.get("tokens").text
        other = here.person("engineer", "another engineer")
        assert other.delete(f"tokens/{made['id']}").status_code == 404
        assert other.get("tokens").json()["items"] == []
        assert other.get("tokens", params={"all": True}).status_code == 403
        assert engineer.delete(f"tokens/{made['id']}").status_code == 204
        assert here.nobody().get("feedback", headers=headers).status_code == 401


def test_solo_is_for_this_machine_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--solo with --host 0\.0\.0\.0"):
        StudioSettings(solo=True, host="0.0.0.0")
    with running(make_study(tmp_path / "s"), StudioSettings(solo=True)) as here:
        session = here.nobody().get("session").json()
        assert (session["solo"], session["account"]["role"]) == (True, "admin")
        assert here.nobody().post("session", json={"name": "solo", "password": ""}).status_code == 401
        assert here.nobody().post("queue/claim", json={}).status_code == 401  # a page must ask for its session first


def test_others_may_reach_it_once_there_is_an_account(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    open_door = StudioSettings(host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 while this studio has no account"):
        serve(folder, open_door, print)
    with running(folder, open_door) as here:
        here.account("admin")
        here.studio.setup_needed = not accounts.any_account(here.studio.database)
        refuse_open_door(here.studio)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    with running(folder) as here:
        port = int(here.base.rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} cannot be had"):
            serve(make_study(tmp_path / "t"), StudioSettings(port=port), print)


def test_the_command_prints_where_it_is_and_the_first_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tropism", "studio", str(make_study(tmp_path / "s")), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as run:
        assert run.stdout is not None
        link, listens = run.stdout.readline(), run.stdout.readline()
        base = re.search(r"http://127\.0\.0\.1:\d+", listens)
        token = re.search(r"/#/setup/([\w-]{43})", link)
        assert base, listens
        assert token, link
        here = Running(base[0], None, None)  # type: ignore[arg-type]
        body = {"token": token[1], "name": "Ada", "password": PASSWORD}
        assert here.nobody().post("setup", json=body).status_code == 200
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=20) in (0, -signal.SIGTERM, 143)
