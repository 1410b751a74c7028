"""The studio from Python: push questions, pull feedback, read the run.

    with Studio("http://127.0.0.1:7860", token) as studio:
        studio.push(tasks=[{"split": "train", "payload": {"prompt": "…"}}], candidates=[…], queries=[…])
        for event in studio.feedback(): …

Left out: judging, which is for people; accounts and webhooks, which are set up once on the studio's pages.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from tropism.errors import StoreError, TropismError


class StudioError(TropismError):
    """The studio refused a request: ``status`` of HTTP and ``code`` as in docs/studio-api.md."""

    def __init__(self, status: int, code: str, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Pushed:
    """Ids in the order given, and how many queries were new."""

    tasks: list[str]
    candidates: list[str]
    queries: list[str]
    new: int


@dataclass(frozen=True)
class Event:
    """One feedback event. ``seq`` is where to go on reading; ``value`` is in canonical slots; ``guideline`` is the
    version that was in force."""

    seq: int
    id: str
    kind: str
    query: str
    teacher: str
    value: Mapping[str, Any]
    text: str | None
    supersedes: str | None
    origin: str
    duration_ms: int | None
    guideline: int | None
    at: float


class Studio:
    """A studio at an address, with an API token of scope ``read`` or ``write`` (Accounts → Tokens).

    Requests that found the studio busy or away are sent again ``retries`` times; they change nothing twice.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0, retries: int = 4) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/api/v1/", headers=headers, timeout=timeout_s)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def push(
        self,
        tasks: Sequence[Mapping[str, Any]] = (),
        candidates: Sequence[Mapping[str, Any]] = (),
        queries: Sequence[Mapping[str, Any]] = (),
    ) -> Pushed:
        """Put questions into the queue, as ``POST queries`` takes them; what is there already stays as it is."""
        body = {"tasks": list(tasks), "candidates": list(candidates), "queries": list(queries)}
        return Pushed(**self._ask("POST", "queries", json=body))

    def feedback(self, after: int = 0) -> Iterator[Event]:
        """Events behind ``after``, in the order in which they came, until there are no more for now.

        Events on questions that the token's account may itself still judge are passed over; read from an earlier
        ``after`` again when those are complete.
        """
        while True:
            page = self._ask("GET", "feedback", params={"after": after, "limit": 500})
            for item in page["items"]:
                yield Event(**item)
            after = page["next"]
            if not page["more"]:
                return

    def runs(self) -> dict[str, Any]:
        """The run: stages, rounds, what it does at this moment."""
        return self._ask("GET", "runs")

    def metrics(self, stage: str, names: Sequence[str], points: int = 400) -> dict[str, list[tuple[int, float | None]]]:
        """Curves of a stage by name: (step, value), thinned to ``points``."""
        params = {"names": ",".join(names), "points": points}
        found = self._ask("GET", f"runs/{quote(stage, safe='')}/metrics", params=params)
        return {name: [(step, value) for step, value in curve] for name, curve in found["series"].items()}

    def lineage(self, id_: str | None = None) -> dict[str, Any]:
        """The graph, or what one vote shaped or is behind one policy."""
        return self._ask("GET", "lineage" if id_ is None else f"lineage/{quote(id_, safe='')}")

    def ab_test(self, id_: str) -> dict[str, Any]:
        """A blind test of two policies by people: wins, losses, ties, interval, whether to stop."""
        return self._ask("GET", f"ab-tests/{quote(id_, safe='')}")

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """One request's JSON. Errors: StudioError for a refusal, StoreError where no studio answers."""
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                answer = self._client.request(method, path, **more)
            except httpx.TransportError as error:
                if last:
                    fix = "start it, and check the address"
                    raise StoreError(f"no studio answers at {self._client.base_url}: {error}", fix) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if answer.status_code not in (429, 503) or last:
                break
            time.sleep(min(float(answer.headers.get("Retry-After", "1")), 30.0))
        return _content(answer)


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except json.JSONDecodeError as error:
        raise StudioError(answer.status_code, "not_json", "what answers is no studio", "check the address") from error
    if answer.is_success and isinstance(content, dict):
        return content
    said = content.get("error") if isinstance(content, dict) else None
    said = said if isinstance(said, dict) else {"code": "unknown", "message": answer.text[:200], "fix": ""}
    raise StudioError(answer.status_code, said["code"], said["message"], said["fix"])


def webhook_is_genuine(secret: str, header: str, body: bytes, *, tolerance_s: float = 300.0) -> bool:
    """Whether a webhook's body was signed with the secret not longer than ``tolerance_s`` ago. ``header`` is
    ``X-Tropism-Signature``; ``body`` the bytes as they came."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at, given = parts.get("t", ""), parts.get("v1", "")
    if not at.isdecimal() or len(at) > 15 or abs(time.time() - int(at)) > tolerance_s:
        return False
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(mac.encode(), given.encode())
