"""The studio on one machine, the training on another, one database: what docs/deploying-the-studio.md says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studio_cases import running

from bandit_studies import make
from databases import new_address
from tropism.store import server
from tropism.studio.settings import StudioSettings

TESTS = Path(__file__).resolve().parent.parent


def test_training_goes_on_elsewhere_as_people_answer_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, desk = tmp_path / "trainer", tmp_path / "desk"
    desk.mkdir()
    with new_address(template=False) as url:
        monkeypatch.setenv(server.VARIABLE, url)
        make(trainer, feedback__teacher="person", feedback__queries_per_round=8, study__rounds=1).close()
        monkeypatch.delenv(server.VARIABLE)
        for name in ("study.toml", "study.url"):
            shutil.copyfile(trainer / name, desk / name)
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
        with running(desk, StudioSettings()) as here:
            judge = here.person("annotator")
            command = [sys.executable, "-m", "tropism", "run", str(trainer)]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                answered, until = 0, time.monotonic() + 120
                while process.poll() is None and time.monotonic() < until:
                    for item in judge.claim():
                        assert judge.submit(item["assignment"], {"choice": "1"}).status_code == 200
                        answered += 1
                    time.sleep(0.05)
            finally:
                process.kill()
                said = process.communicate()[0].decode()
            assert process.returncode == 0, said
            assert answered == 8
            watcher = here.person("engineer")
            run = watcher.get("runs").json()
            assert run["rounds_done"] == 1
            assert {stage["status"] for stage in run["stages"]} == {"done"}
            (model,) = watcher.get("reward-models").json()["items"]
            assert model["assessment"]
            assert {"policy", "reward_model", "event_set"} <= {
                n["kind"] for n in watcher.get("lineage").json()["nodes"]
            }
            assert here.person("lead").get("lead/progress").json()["votes"] == 8
            assert watcher.get("runs/improve-1/metrics").json()["names"] == [], "curves stay where they are written"
            assert here.studio.artifacts.all() == []
            shutil.copytree(trainer / "artifacts", desk / "artifacts")
            assert here.studio.artifacts.all(), "artifacts may come later"
