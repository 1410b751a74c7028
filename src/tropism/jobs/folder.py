"""The folder of one job: what it makes at its top, how it was made in ``run/``.

``OUT/`` is the result (a plain Hugging Face folder, or files); ``OUT/run/`` holds ``job.json`` (command, settings,
inputs with digests, versions), ``metrics.db``, trackers' files, ``result.json`` (what came out) and, until the job is
done, ``scratch/`` with checkpoints. The same command again goes on where it was; a finished one is not done again;
other settings or changed inputs are an error that names them. Left out: several jobs in one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError, InterruptedRun, LeaseHeldError, StoreError
from tropism.files import sync_folder, sync_path
from tropism.monitoring.trackers import Mirrors, TrackerName, check_installed, open_trackers
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.memory import tune
from tropism.runtime.stage import NoProgress, ProgressSink, StageRun
from tropism.runtime.versions import versions
from tropism.settings.overrides import differences
from tropism.store.metrics import MetricStore

RESULT = "result.json"
FREE = ("run.threads", "run.trackers")
"""Settings that may change when a job goes on: they change no result, but for last bits (threads)."""


@dataclass(frozen=True)
class Job:
    """What a job is: everything that its result depends on. ``inputs`` maps names to digests (or hub commits)."""

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    threads: int = 0
    trackers: tuple[TrackerName, ...] = ()


@dataclass
class JobFolder:
    """One job's folder while it runs."""

    out: Path
    job: Job
    run: StageRun
    values: dict[str, Any] = field(default_factory=dict)

    def publish(self, made: Path) -> None:
        """Put the files of a complete folder to the top of ``out``. ``config.json`` goes last: without it nothing
        takes the folder for a model."""
        files = [p for p in sorted(made.rglob("*")) if p.is_file()]
        for file in sorted(files, key=lambda p: p.name == "config.json"):
            target = self.out / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(file, partial)
            sync_path(partial)
            partial.replace(target)
        sync_path(self.out)

    def publish_folder(self, made: Path, name: str) -> None:
        """Put a complete folder to ``out/name``, in one rename."""
        if made.is_dir():  # gone already where a kill came between the rename and the job's end
            shutil.rmtree(self.out / name, ignore_errors=True)
            made.rename(self.out / name)
            sync_path(self.out)


def finished(out: Path) -> dict[str, Any] | None:
    """The values of a finished job's folder; None if there is no finished job in it."""
    path = out / "run" / RESULT
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def run_job(
    out: Path, job: Job, work: Callable[[JobFolder], None], progress: ProgressSink | None = None
) -> dict[str, Any]:
    """Do ``work`` in ``out`` (a new or empty folder, or that of the same job) and return its ``values``; a job that is
    finished already only returns them. An error or a kill leaves what is needed to go on.

    Errors: StoreError for a folder with something else in it; ConfigError where settings or inputs differ from what
    the job began with; LeaseHeldError where another process runs it; InterruptedRun on SIGTERM and Ctrl-C.
    """
    check_installed(job.trackers)
    _prepare(out, job)
    with _locked(out), StopRequest() as stop:
        if (done := finished(out)) is not None:
            return done
        tune(job.threads)
        record = MetricStore(out / "run" / "metrics.db")
        sink = Mirrors(record, open_trackers(job.trackers, out / "run", f"{job.name} {out.name}", job.settings))
        scratch, name = out / "run" / "scratch", job.name.replace(" ", "-")
        try:
            run = StageRun(name, scratch, job.seed, sink, progress or NoProgress(), stop.requested)
            folder = JobFolder(out, job, run)
            work(folder)
            _write(out / "run" / RESULT, folder.values)
        except InterruptedRun as error:
            raise (stop.error(f"in {out}") if stop.requested() else error) from error
        finally:
            sink.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return folder.values


def _prepare(out: Path, job: Job) -> None:
    """Make the folder, or check that it is this job's."""
    about = out / "run" / "job.json"
    if not about.is_file():
        if out.exists() and not (out.is_dir() and not [p for p in out.iterdir() if p.name != "run"]):
            raise StoreError(f"{out} is not an empty folder", "choose another --out: nothing is overwritten")
        (out / "run").mkdir(parents=True, exist_ok=True)
        _write(about, {"job": job.name, "settings": job.settings, "inputs": job.inputs, "versions": versions()})
        return
    before = json.loads(about.read_text("utf-8"))
    if before["job"] != job.name:
        raise StoreError(f"{out} holds a {before['job']} job, not {job.name}", "choose another --out")
    now = json.loads(json.dumps(job.settings, default=str))
    changed = {k: v for k, v in differences(before["settings"], now).items() if k not in FREE}
    changed |= {f"input {k}": v for k, v in differences(before["inputs"], dict(job.inputs)).items()}
    if changed:
        shown = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, (old, new) in list(changed.items())[:5])
        raise ConfigError(
            f"{out} was begun with other settings: {shown}", "set them back to go on, or choose another --out"
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    with (out / "run" / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LeaseHeldError(
                f"another process runs the job in {out}", "wait for it, or choose another --out"
            ) from error
        yield
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")
    sync_path(partial)
    partial.rename(path)
    sync_folder(path.parent) if path.name == "job.json" else sync_path(path.parent)
