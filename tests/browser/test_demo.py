"""``tropism demo studio``: from nothing to clips and pairs in a browser, stopped by Ctrl-C, gone on with afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from judging_cases import item_on, press, wait_for_other

from tropism.feedback.events import FeedbackLog
from tropism.study.study import Study

SMALL = ("sft.steps=20", "world.options.pretrain.steps=20", "sft.demonstrations=200", "feedback.queries_per_round=4")
SENT = "!Object.keys(localStorage).some((key) => key.startsWith('tropism.outbox.'))"
ADDRESS = re.compile(r"^studio of studio demo: (http://127\.0\.0\.1:\d+)$", re.M)


@contextmanager
def demo(folder: Path, log: Path, *settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The demo and its address, while it runs."""
    command = [sys.executable, "-m", "tropism", "demo", "studio", str(folder), "--port", "0"]
    command += [word for setting in settings for word in ("--set", setting)]
    with log.open("wb") as said:
        alone = {"env": {**os.environ, "PYTHONUNBUFFERED": "1"}, "start_new_session": True}
        run = subprocess.Popen(command, stdout=said, stderr=said, **alone)
    try:
        until = time.monotonic() + 120
        while (found := ADDRESS.search(log.read_text())) is None:
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < until, "the studio did not come up"
            time.sleep(0.1)
        yield run, found[1]
    finally:
        run.kill()
        run.wait()


def somebody_in(group: int) -> bool:
    """Whether a process group has any process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(run: subprocess.Popen[bytes], log: Path) -> None:
    """Ctrl-C in a terminal, which goes to every process there, ends all of them without a fuss."""
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=30) == 0, log.read_text()
    said = log.read_text()
    assert said.rstrip().endswith("goes on")
    assert "Traceback" not in said
    assert "Warning" not in said
    assert "error" not in said
    until = time.monotonic() + 10  # whoever draws clips looks once a second whether the studio is there
    while somebody_in(run.pid):
        assert time.monotonic() < until, "a process of the demo is left"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_demo_of_the_studio(tmp_path: Path, chromium: Any) -> None:
    folder, log = tmp_path / "demo", tmp_path / "log"
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    try:
        with demo(folder, log, *SMALL) as (run, address):
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector("text=HalfCheetah-v5")  # clips are there before the language model is
            page.wait_for_selector(".player button:first-child:not([disabled])")
            item = item_on(page)
            press(page, ["e"])
            wait_for_other(page, item)
            for _ in range(3):  # claimed ahead; then what the policy wrote comes before further clips
                page.wait_for_selector("[data-item]")
                item = item_on(page)
                press(page, ["1"])
                wait_for_other(page, item)
            while page.query_selector(".candidate .prose") is None:
                if page.query_selector("[data-item]") is not None and "wait for people" in log.read_text():
                    item = item_on(page)
                    press(page, ["1"])
                    wait_for_other(page, item)
                page.wait_for_timeout(200)
            assert "Answer:" in page.inner_text(".task .prose")
            item = item_on(page)
            press(page, ["2"])
            wait_for_other(page, item)
            while not page.evaluate(SENT):
                page.wait_for_timeout(100)
            stop(run, log)
        with demo(folder, log) as (run, _):
            stop(run, log)
    finally:
        context.close()
    with Study.open(folder) as study:
        feedback = FeedbackLog(study.database)
        (pair,) = feedback.judgements()
        assert (pair.query.round, pair.query.kind) == (1, "comparison")
        assert len(feedback.judgements(splits=("test",))) >= 4, "clips: judged, and in no fit"
        assert len(feedback.queries(round=0)) == 12, "filmed once"
        assert study.verify().ok
