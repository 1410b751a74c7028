"""Getting in, staying in, and being put out: sessions, cookies, guessed passwords, roles that are given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from studio_cases import PASSWORD, Caller, Running, make_study, running


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_study(tmp_path_factory.mktemp("sessions") / "s")) as studio:
        yield studio


@pytest.fixture(scope="module")
def people(here: Running) -> dict[str, Caller]:
    return here.everybody()


def test_a_session_of_before_is_no_session_after_signing_in(here: Running) -> None:
    name = here.account("annotator")
    attacker, victim = here.nobody().sign_in(name), Caller(here.base)
    known = dict(attacker.cookies)
    victim.cookies.update(known)
    victim.sign_in(name)
    (new,) = {cookie.value for cookie in victim.cookies.jar} - set(known.values())
    assert len(new) >= 43
    assert attacker.get("me").status_code == 401  # the planted one has ended


def test_the_cookie_is_for_this_site_alone(here: Running) -> None:
    answer = here.nobody().post("session", json={"name": here.account("annotator"), "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "domain" not in cookie
    secure = here.nobody().post(
        "session", json={"name": here.account("annotator"), "password": PASSWORD},
        headers={"X-Forwarded-Proto": "https"},
    )  # fmt: skip
    assert "secure" in secure.headers["set-cookie"].lower()


def test_guessing_passwords_takes_ever_longer(here: Running) -> None:
    name = here.account("annotator", "guessed at")
    stranger = here.nobody()

    def guess(who: str, password: str) -> httpx.Response:
        return stranger.post("session", json={"name": who, "password": password})

    for who in ("nobody at all", name):
        codes = [guess(who, f"wrong {i}").json()["error"]["code"] for i in range(7)]
        assert codes == ["wrong_password"] * 5 + ["slow_down"] * 2, who
    locked = guess(name.upper(), PASSWORD)  # the right one does not help, nor does writing the name otherwise
    assert locked.status_code == 429
    assert 1 <= int(locked.headers["retry-after"]) <= 2
    time.sleep(2.1)
    assert guess(name, PASSWORD).status_code == 200
    assert guess(name, "wrong again").json()["error"]["code"] == "wrong_password"


def test_many_guesses_at_once_are_no_way_round_the_wait(here: Running) -> None:
    name = here.account("annotator", "stormed")
    codes: list[str] = []

    def guess(number: int) -> None:
        answer = here.nobody().post("session", json={"name": name, "password": f"wrong {number}"})
        codes.append(answer.json()["error"]["code"])

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes.count("wrong_password") == 5
    assert codes.count("slow_down") == 11


def test_whoever_is_disabled_is_out_at_once(here: Running, people: dict[str, Caller]) -> None:
    gone = here.person("annotator", "leaves")
    assert gone.get("me").status_code == 200
    id_ = gone.get("session").json()["account"]["id"]
    assert people["lead"].patch(f"lead/people/{id_}", json={"status": "disabled"}).status_code == 200
    assert gone.get("me").status_code == 401
    answer = here.nobody().post("session", json={"name": "leaves", "password": PASSWORD})
    assert answer.json()["error"]["code"] == "wrong_password"


def test_nobody_rises_above_those_who_lift_them(here: Running, people: dict[str, Caller]) -> None:
    ids = {role: caller.get("session").json()["account"]["id"] for role, caller in people.items()}
    lead = people["lead"]
    for target, change in [
        ("lead", {"role": "admin"}), ("annotator", {"role": "lead"}), ("annotator", {"role": "admin"}),
        ("engineer", {"role": "viewer"}), ("admin", {"status": "disabled"}), ("lead", {"status": "disabled"}),
    ]:  # fmt: skip
        answer = lead.patch(f"lead/people/{ids[target]}", json=change)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed"), (target, change)
    assert lead.post("lead/invitations", json={"role": "lead"}).status_code == 403
    admin = people["admin"]
    assert admin.patch(f"lead/people/{ids['admin']}", json={"role": "viewer"}).status_code == 403  # one must stay
    new = here.person("viewer", "rises").get("session").json()["account"]["id"]
    assert lead.patch(f"lead/people/{new}", json={"role": "reviewer"}).json()["role"] == "reviewer"
