"""What is refused before anything is looked at: foreign hosts, bodies of another shape or size, paths that lead out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from studio_cases import Caller, Running, make_study, running

from tropism.studio.settings import StudioSettings


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_study(tmp_path_factory.mktemp("requests") / "s")) as studio:
        yield studio


@pytest.fixture(scope="module")
def people(here: Running) -> dict[str, Caller]:
    return here.everybody()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80", "[", "a b"]
)
def test_a_foreign_host_name_is_refused(here: Running, host: str) -> None:
    answer = here.nobody().get("session", headers={"Host": host})
    assert answer.status_code in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "[::1]:80", "192.168.0.7"])
def test_addresses_are_hosts(here: Running, host: str) -> None:
    assert here.nobody().get("session", headers={"Host": host}).status_code == 200


def test_a_name_that_was_given_is_a_host(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings(names=("Studio.example",))) as studio:
        assert studio.nobody().get("session", headers={"Host": "studio.example"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/api/v1/session", "/api/v1/runs", "/nothing", "/", "/healthz", "/api/v1/queue/claim"]
)
def test_every_answer_has_the_security_headers(here: Running, path: str) -> None:
    headers = httpx.get(f"{here.base}{path}", trust_env=False).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
    if path.startswith("/api/"):
        assert headers["cache-control"] == "no-store"


DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = [
    b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b'{"count": NaN}', b'{"count": 1e999}', DEEP,
    b'{"count": ' + b"9" * 5000 + b"}", b'{"count": 99999999999999999999}', b'{"count": true}', b'{"count": "1"}',
    b'{"count": 1, "count": 1, "other": 2}', b'{"kinds": ["\\u0000"]}', b'{"kinds": ["\\ud800"]}', b'{"kinds": [1]}',
    b'{"kinds": {}}', b'{"kinds": ["x"], "count": -1}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_of_another_shape_is_refused(people: dict[str, Caller], body: bytes) -> None:
    answer = people["annotator"].post("queue/claim", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["code"] in ("malformed", "bad_request")


def test_bodies_that_are_no_json_or_too_large(here: Running, people: dict[str, Caller]) -> None:
    annotator = people["annotator"]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = annotator.post("queue/claim", content=b'{"count": 1}', headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "not_json")
    large = b'{"body": {"x": "' + b"y" * (2 << 20) + b'"}}'
    pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
    for content in (large, pieces):  # with its length said beforehand, and in chunks
        answer = annotator.put("assignments/x/draft", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_backslash_before_u0000_is_text(here: Running, people: dict[str, Caller]) -> None:
    answer = people["lead"].post("lead/guidelines/preview", content=rb'{"text": "\\u0000 \u00e9"}', headers={
        "Content-Type": "application/json"
    })  # fmt: skip
    assert answer.status_code == 200
    assert "u0000" in answer.json()["html"]


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/assets/../../app.py", "/assets/..%2f..%2fapp.py",
        "/....//app.py", "/%2e%2e%2f%2e%2e%2fserving.py", "//etc/passwd", "/%2fetc%2fpasswd", "/..%5capp.py",
        "/index.html%00.js", "/static/../state.py", "/" + "a" * 5000 + ".js", "/manifest.json/../../app.py",
    ],
)  # fmt: skip
def test_nothing_outside_the_front_ends_folder_is_served(here: Running, path: str) -> None:
    host, port = here.base.removeprefix("http://").split(":")
    import socket

    with socket.create_connection((host, int(port)), timeout=10) as raw:  # a client would tidy the address up
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert answer.split(b" ", 2)[1] in (b"404", b"400", b"414", b"431")
    assert b"import" not in answer
