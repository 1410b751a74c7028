"""The studio behind nginx and Caddy, with the very configurations of docs/deploying-the-studio.md; and what it believes
of a proxy. A proxy that is not installed is skipped."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from studio_cases import PASSWORD, Running, ask, make_study, running

from tropism.errors import ConfigError
from tropism.studio.settings import StudioSettings

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "deploying-the-studio.md"
NAME = "studio.example.org"
SETTINGS = StudioSettings(names=(NAME,))


def block(language: str) -> str:
    """The page's configuration for a proxy."""
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    assert found, f"{PAGE.name} shows no {language}"
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def put(text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is not in the page's configuration"
    return text.replace(old, new)


@contextmanager
def nginx(folder: Path, base: str) -> Iterator[int]:
    port = free_port()
    site = put(block("nginx"), "listen 443", f"listen 127.0.0.1:{port}")
    site = put(put(site, "/etc/ssl/studio.pem", f"{folder}/cert.pem"), "/etc/ssl/studio.key", f"{folder}/key.pem")
    site = put(site, "http://127.0.0.1:7860", base)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # its workers must be able to enter the folder
    whole = f"{user}daemon off;\nerror_log stderr;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n"
    (folder / "nginx.conf").write_text(f"{whole}{places}{site}}}\n")
    with serving(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")], port, folder):
        yield port


@contextmanager
def caddy(folder: Path, base: str) -> Iterator[int]:
    port = free_port()
    site = put(block("caddy"), f"{NAME} {{", f"https://{NAME}:{port} {{\n\ttls {folder}/cert.pem {folder}/key.pem")
    site = put(site, "127.0.0.1:7860", base.removeprefix("http://"))
    whole = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}/caddy\n}}\n{site}"
    (folder / "Caddyfile").write_text(whole)
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with serving(command, port, folder):
        yield port


@contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """The proxy, from when it listens to the end of the block."""
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / "proxy.log").read_text()
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(20)


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for the name, and how to check it."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


class Browser(httpx.Client):
    """A browser that finds the name at a port of this machine."""

    def __init__(self, port: int, context: ssl.SSLContext, origin: str) -> None:
        headers = {"Host": NAME, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
        super().__init__(
            base_url=f"https://127.0.0.1:{port}/api/v1/", verify=context, headers=headers, trust_env=False, timeout=30
        )

    def send(self, request: httpx.Request, **more: Any) -> httpx.Response:
        request.extensions["sni_hostname"] = NAME
        return super().send(request, **more)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_the_pages_configuration_works(proxy: Callable[..., Any], tmp_path: Path) -> None:
    name = proxy.__name__
    if shutil.which(name) is None or shutil.which("openssl") is None:
        pytest.skip(f"{name} or openssl is not installed")
    context = certificate(tmp_path)
    with running(make_study(tmp_path / "s"), SETTINGS) as here, proxy(tmp_path, here.base) as port:
        here.account("engineer", "Eve")
        with Browser(port, context, f"https://{NAME}") as browser:
            signed = browser.post("session", json={"name": "Eve", "password": PASSWORD})
            assert signed.status_code == 200, signed.text
            cookie = signed.headers["set-cookie"].lower()
            assert all(word in cookie for word in ("secure", "httponly", "samesite=strict"))
            assert "strict-transport-security" in signed.headers
            browser.headers["X-CSRF-Token"] = signed.json()["csrf"]
            # httpx keeps a cookie for the address it called: the browser's is for the name
            browser.headers["Cookie"] = signed.headers["set-cookie"].split(";")[0]
            invited = browser.post("lead/invitations", json={"role": "annotator"}).json()
            assert invited["url"].startswith(f"https://{NAME}/#/invitation/")
            payload = {"split": "train", "payload": {"prompt": "x" * (2 << 20)}}
            assert (
                browser.post("queries", json={"tasks": [payload], "candidates": [], "queries": []}).status_code == 200
            )
            large = browser.post("lead/guidelines", json={"text": "x" * (2 << 20)})
            assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
            foreign = browser.post("session", json={}, headers={"Origin": "https://evil.example"})
            assert foreign.json()["error"]["code"] == "origin"
            events_come_at_once(browser, here)


def events_come_at_once(browser: Browser, here: Running) -> None:
    """What happens is told while the answer is still under way, not when a buffer is full."""
    with browser.stream("GET", "stream?types=queue") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        first = _next_queue(lines)
        ask(here.studio, "comparison", 3)
        began = time.monotonic()
        here.studio.queue.counts()
        while _next_queue(lines)["queries"] < first.get("queries", 0) + 3:
            pass
        assert time.monotonic() - began < 8


def _next_queue(lines: Iterator[str]) -> dict[str, Any]:
    return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))


def test_only_a_known_proxy_is_believed(tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "Host": NAME, "Origin": f"https://{NAME}"}
    for proxies, believed in ((("127.0.0.1",), True), (("127.0.0.0/8",), True), (("192.0.2.7",), False)):
        folder = make_study(tmp_path / f"{proxies[0].replace('/', '-')}")
        with running(folder, StudioSettings(names=(NAME,), proxies=proxies)) as here:
            here.account("lead", "Lea")
            signed = here.nobody().post("session", json={"name": "Lea", "password": PASSWORD}, headers=forwarded)
            assert ("secure" in signed.headers["set-cookie"].lower()) == believed
    with pytest.raises(ConfigError, match=r"--proxy 10\.0\.0\.1/8"):
        StudioSettings(proxies=("10.0.0.1/8",))
    with pytest.raises(ConfigError, match="--proxy box"):
        StudioSettings(proxies=("box",))


def test_nobody_comes_to_a_studio_without_login_through_a_proxy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--solo with --name"):
        StudioSettings(solo=True, names=(NAME,))
    with running(make_study(tmp_path / "s"), StudioSettings(solo=True)) as here:
        assert here.nobody().get("session").json()["account"]["role"] == "admin"
        for header in ({"X-Forwarded-For": "198.51.100.4"}, {"Forwarded": "for=198.51.100.4"}):
            refused = here.nobody().get("session", headers=header)
            assert refused.status_code == 403
            assert "set-cookie" not in refused.headers
            assert "--solo" in refused.json()["error"]["fix"]
