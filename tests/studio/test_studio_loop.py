"""The loop closes over HTTP: a run with people as its teacher, the studio beside it, and somebody who answers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from studio_cases import Caller

from tropism.feedback.events import FeedbackLog
from tropism.study.study import Study

TESTS = Path(__file__).parent.parent


def start(folder: Path) -> subprocess.Popen[str]:
    overrides = {
        "study.domain": "bandit:BanditDomain", "feedback.queries_per_round": 12, "feedback.teacher": "person",
        "improve.steps": 10, "study.rounds": 2,
    }  # fmt: skip
    if not folder.exists():
        Study.create(folder, overrides=overrides).close()
    command = [sys.executable, "-m", "tropism", "run", str(folder), "--studio", "--solo", "--port", "0"]
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    )


def listening(run: subprocess.Popen[str]) -> str:
    assert run.stdout is not None
    for line in run.stdout:
        if found := re.search(r"studio of .*(http://127\.0\.0\.1:\d+)", line):
            return found[1]
    raise AssertionError("the studio did not come up")


def test_a_run_goes_on_as_its_questions_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    folder = tmp_path / "s"
    run = start(folder)
    said: list[str] = []
    try:
        me = Caller(listening(run)).enter()
        assert run.stdout is not None
        reading = threading.Thread(target=lambda: said.extend(run.stdout or ()), daemon=True)
        reading.start()
        rounds: set[int] = set()
        end = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < end:
            try:
                items = me.claim(4)
                for item in items:
                    assert me.submit(item["assignment"], {"choice": "1"}).status_code == 200
                rounds.add(me.get("runs").json()["rounds_done"])
            except httpx.TransportError:  # the run has ended, and the studio with it
                break
            time.sleep(0.1 if not items else 0)
        assert run.wait(timeout=60) == 0, said
    finally:
        run.kill()
    with Study.open(folder) as study:
        assert study.status().finished
        log = FeedbackLog(study.database)
        judgements = log.judgements()
        assert len(judgements) == len(log.queries()) > 20  # the world is small: a pair may come up twice
        assert {judgement.teacher_kind for judgement in judgements} == {"person"}
        assert study.verify().ok
    assert {0, 1} <= rounds


def test_the_studio_ends_with_the_run_however_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    for how, expected in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        run = start(tmp_path / "s")
        base = listening(run)
        assert Caller(base).get("session").status_code == 200
        run.send_signal(how)
        assert run.wait(timeout=30) == expected
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                Caller(base).get("session")
            except httpx.TransportError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the studio outlived its run")
