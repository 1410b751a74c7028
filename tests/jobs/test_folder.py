"""Job folders: go on, do nothing twice, mix nothing up, publish whole files."""

from __future__ import annotations

import errno
import json
import os
import platform
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tropism.errors import ConfigError, InterruptedRun, LeaseHeldError, StoreError
from tropism.jobs.config import resolve
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.sft import SftConfig

JOB = Job("sft", {"sft": {"steps": 3}, "run": {"threads": 1}}, {"data": "abc"}, seed=0)


class Counter:
    """Work of three steps with a checkpoint after each; ``die_at`` raises behind that step."""

    def __init__(self, die_at: int | None = None) -> None:
        self.die_at, self.steps = die_at, [0]

    def __call__(self, folder: JobFolder) -> None:
        found = folder.run.latest_checkpoint("count")
        for step in range(found[0] if found else 0, 3):
            self.steps.append(step)
            folder.run.log(step, {"count/step": float(step)})
            folder.run.checkpoint("count", step + 1, lambda place: (place / "x").write_text("x") and None)
            if step + 1 == self.die_at:
                raise RuntimeError("pulled the plug")
        with folder.run.making("model") as made:
            (made / "config.json").write_text("{}")
            (made / "weights").write_text("123")
        folder.publish(folder.run.folder / "model")
        folder.values["done"] = len(self.steps) - 1


def test_a_job_goes_on_behind_its_last_checkpoint_and_is_not_done_twice(tmp_path: Path) -> None:
    out, first, second, third = tmp_path / "out", Counter(die_at=2), Counter(), Counter()
    with pytest.raises(RuntimeError, match="plug"):
        run_job(out, JOB, first)
    assert not (out / "config.json").exists()
    assert run_job(out, JOB, second) == {"done": 1}
    assert second.steps == [0, 2]
    assert (out / "weights").read_text() == "123"
    assert not (out / "run" / "scratch").exists()
    assert run_job(out, JOB, third) == {"done": 1}
    assert third.steps == [0]


def test_every_run_writes_down_how_its_process_was_tuned(tmp_path: Path) -> None:
    out = tmp_path / "out"
    threads = torch.get_num_threads()
    run_job(out, replace(JOB, threads=1, tune_memory=False), Counter())
    torch.set_num_threads(threads)
    found = json.loads((out / "run" / "process.json").read_text())
    assert (found["threads"], found["mallopt"]) == (1, False)
    assert found["wait_policy"]
    assert found["machine"] == platform.machine()


def test_a_job_of_a_config_is_tuned_as_it_says() -> None:
    job = Job.of(resolve(SftConfig, {}, ["run.seed=4", "run.passive_wait=false", "run.threads=3"]), {"data": "abc"})
    assert (job.name, job.seed, job.threads, job.tune_memory, job.passive_wait) == ("sft", 4, 3, True, False)
    assert job.settings["run"]["passive_wait"] is False


def test_other_settings_or_inputs_are_refused_by_name_and_change_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(out, JOB, Counter())
    before = (out / "run" / "job.json").read_bytes()
    with pytest.raises(ConfigError, match=r"sft\.steps was 3 and is now 4"):
        run_job(out, Job("sft", {"sft": {"steps": 4}, "run": {"threads": 1}}, {"data": "abc"}, 0), Counter())
    with pytest.raises(ConfigError, match="input data was 'abc' and is now 'xyz'"):
        run_job(out, Job("sft", JOB.settings, {"data": "xyz"}, 0), Counter())
    with pytest.raises(StoreError, match="holds a sft job"):
        run_job(out, Job("ppo", JOB.settings, JOB.inputs, 0), Counter())
    assert (out / "run" / "job.json").read_bytes() == before
    assert run_job(out, Job("sft", {"sft": {"steps": 3}, "run": {"threads": 2}}, JOB.inputs, 0), Counter())


def test_a_job_that_kept_nothing_begins_anew_with_other_settings(tmp_path: Path) -> None:
    """A typing error in the first try must not cost a new folder; a checkpoint must not be lost to one."""
    out, other = tmp_path / "out", Job("sft", {"sft": {"steps": 4}, "run": {"threads": 1}}, {"data": "xyz"}, 0)

    def fail(folder: JobFolder) -> None:
        folder.run.log(0, {"count/step": 7.0})
        raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        run_job(out, JOB, fail)
    with pytest.raises(RuntimeError, match="plug"):
        run_job(out, other, Counter(die_at=1))
    about = json.loads((out / "run" / "job.json").read_text())
    assert about["inputs"] == {"data": "xyz"}
    with sqlite3.connect(out / "run" / "metrics.db") as metrics:
        dump = "\n".join(metrics.iterdump())
    assert "count/step" in dump
    assert "7.0" not in dump
    with pytest.raises(ConfigError, match=r"sft\.steps was 4 and is now 3"):
        run_job(out, JOB, Counter())
    assert run_job(out, other, Counter()) == {"done": 2}


def test_a_full_disk_is_said_and_the_job_goes_on_when_there_is_room(tmp_path: Path) -> None:
    def fill(folder: JobFolder) -> None:
        folder.run.checkpoint("count", 1, lambda place: (place / "x").write_text("x") and None)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="No space left on device") as caught:
        run_job(tmp_path / "out", JOB, fill)
    assert "make room" in str(caught.value)
    assert run_job(tmp_path / "out", JOB, Counter()) == {"done": 2}


def test_a_place_that_cannot_be_written_is_told_from_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"(?s)file/out cannot be written.*choose another --out"):
        run_job(tmp_path / "file" / "out", JOB, Counter())

    def read(_: JobFolder) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret.jsonl"))

    with pytest.raises(PermissionError, match=r"secret\.jsonl"):
        run_job(tmp_path / "out", JOB, read)


def test_a_finished_job_is_read_from_a_folder_that_nobody_may_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(out, JOB, Counter())
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run_job(out, JOB, Counter()) == {"done": 3}
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not an empty folder"):
        run_job(tmp_path, JOB, Counter())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def intrude(folder: JobFolder) -> None:
        with pytest.raises(LeaseHeldError):
            run_job(out, JOB, Counter())
        folder.values["ok"] = True

    assert run_job(out, JOB, intrude) == {"ok": True}


CHILD = """
import os, signal, sys
from pathlib import Path
from tropism.jobs.folder import Job, run_job

def work(folder):
    os.kill(os.getpid(), signal.SIGTERM)
    folder.run.check_stop()

try:
    run_job(Path(sys.argv[1]), Job("sft", {}, {}, 0), work)
except Exception as error:
    print(type(error).__name__, getattr(error, "exit_code", None))
"""


def test_sigterm_is_a_clean_stop_with_its_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "out")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [InterruptedRun.__name__, "143"], done.stderr


def test_what_was_begun_and_what_came_out_are_on_disk(tmp_path: Path) -> None:
    run_job(tmp_path / "out", JOB, Counter())
    about: dict[str, Any] = json.loads((tmp_path / "out" / "run" / "job.json").read_text())
    assert about["settings"] == JOB.settings
    assert about["inputs"] == {"data": "abc"}
    assert about["versions"]["torch"]
    assert json.loads((tmp_path / "out" / "run" / "result.json").read_text()) == {"done": 3}
