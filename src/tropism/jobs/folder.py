"""The folder of one job: what it makes at its top, how it was made in ``run/``.

``OUT/`` is the result (a plain Hugging Face folder, or files); ``OUT/run/`` holds ``job.json`` (command, settings,
inputs with digests, versions), ``process.json`` (how the last process was tuned, on what), ``metrics.db``, trackers'
files, ``result.json`` (what came out) and, until the job is done, ``scratch/`` with checkpoints. The same command
again goes on where it was; a finished one is not done again; other settings or changed inputs are an error that names
them, once there is something to lose: a job that ended before its first checkpoint (a model that is not there, a limit
too high) begins anew. Left out: several jobs in one folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tropism.errors import ConfigError, InterruptedRun, LeaseHeldError, StoreError
from tropism.files import sync_folder, sync_path
from tropism.monitoring.trackers import Mirrors, TrackerName, check_installed, open_trackers
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.memory import tune
from tropism.runtime.stage import NoProgress, ProgressSink, StageRun
from tropism.runtime.versions import versions
from tropism.settings.overrides import differences
from tropism.store.metrics import MetricStore

if TYPE_CHECKING:
    from tropism.jobs.config import JobConfig

RESULT = "result.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
PROCESS = "process.json"
FREE = ("run.threads", "run.trackers", "run.tune_memory", "run.passive_wait")
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
    tune_memory: bool = True
    passive_wait: bool = True

    @classmethod
    def of(cls, config: JobConfig, inputs: Mapping[str, str]) -> Job:
        """The job that a config describes."""
        r = config.run
        settings = config.model_dump(mode="json")
        return cls(config.job, settings, inputs, r.seed, r.threads, r.trackers, r.tune_memory, r.passive_wait)


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
    with _writing(out):
        _claim(out)
        if (done := finished(out)) is not None:  # nothing is written, so the folder may be read-only
            _refuse_other(out, job)
            return done
        with _locked(out), StopRequest() as stop:
            _begin(out, job)
            if (done := finished(out)) is not None:  # by another process, just now
                return done
            return _do(out, job, work, progress, stop)


def _do(
    out: Path, job: Job, work: Callable[[JobFolder], None], progress: ProgressSink | None, stop: StopRequest
) -> dict[str, Any]:
    """The work itself, in a folder that is this job's and this process's."""
    tuning = tune(job.threads, job.tune_memory, job.passive_wait)
    machine = {"machine": platform.machine(), "system": platform.system()}
    write_json(out / "run" / PROCESS, asdict(tuning) | machine)
    record = MetricStore(out / "run" / "metrics.db")
    sink = Mirrors(record, open_trackers(job.trackers, out / "run", f"{job.name} {out.name}", job.settings))
    scratch, name = out / "run" / "scratch", job.name.replace(" ", "-")
    try:
        run = StageRun(name, scratch, job.seed, sink, progress or NoProgress(), stop.requested)
        folder = JobFolder(out, job, run)
        work(folder)
        write_json(out / "run" / RESULT, folder.values)
    except InterruptedRun as error:
        raise (stop.error(f"in {out}") if stop.requested() else error) from error
    finally:
        sink.close()
    shutil.rmtree(scratch, ignore_errors=True)
    return folder.values


def _claim(out: Path) -> None:
    """Make the folder; StoreError for one with something else in it."""
    if (out / "run" / "job.json").is_file():
        return
    if out.exists() and not (out.is_dir() and not [p for p in out.iterdir() if p.name != "run"]):
        raise StoreError(f"{out} is not an empty folder", "choose another --out: nothing is overwritten")
    (out / "run").mkdir(parents=True, exist_ok=True)


def _begin(out: Path, job: Job) -> None:
    """Write down what is begun, or check that it goes on; where nothing was kept so far, begin anew."""
    run = out / "run"
    if (run / "job.json").is_file():
        try:
            _refuse_other(out, job)
            return
        except (ConfigError, StoreError):
            if finished(out) is not None or _kept(run / "scratch"):
                raise
        for path in run.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    write_json(
        run / "job.json", {"job": job.name, "settings": job.settings, "inputs": job.inputs, "versions": versions()}
    )


def _kept(scratch: Path) -> bool:
    """Whether a job that did not end has left anything that the next process would go on from."""
    names = [p.relative_to(scratch) for p in scratch.rglob("*") if p.is_file()]
    return any(not any(part.startswith("partial-") for part in name.parts) for name in names)


def _refuse_other(out: Path, job: Job) -> None:
    """StoreError where the folder is another job's; ConfigError where settings or inputs are other ones."""
    before = json.loads((out / "run" / "job.json").read_text("utf-8"))
    if before["job"] != job.name:
        raise StoreError(f"{out} holds a {before['job']} job, not {job.name}", "choose another --out")
    now = json.loads(json.dumps(job.settings, default=str))
    changed = {k: v for k, v in differences(before["settings"], now).items() if k not in FREE}
    changed |= {f"input {k}": v for k, v in differences(before["inputs"], dict(job.inputs)).items()}
    if changed:
        shown = "; ".join(
            f"{key} was {_short(old)} and is now {_short(new)}" for key, (old, new) in [*changed.items()][:5]
        )
        raise ConfigError(
            f"{out} was begun with other settings: {shown}", "set them back to go on, or choose another --out"
        )


def _short(value: Any) -> str:
    """A value as an error shows it: of a digest the first digits."""
    digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"{value[:12]!r}…" if digest else repr(value)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """A full disk, a read-only folder, a file where a folder is meant: errors of the place, not of the program."""
    try:
        yield
    except (OSError, SafetensorError, sqlite3.OperationalError) as error:
        if _is_full(error):
            raise StoreError(
                f"{out} cannot be written: {os.strerror(errno.ENOSPC)}",
                "make room and run the same command again: it goes on",
            ) from error
        if isinstance(error, OSError) and error.errno in _FORBIDDEN and _touches(error, out):
            raise StoreError(f"{out} cannot be written: {os.strerror(error.errno)}", "choose another --out") from error
        raise


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # these tell the reason in words only
    return f"os error {errno.ENOSPC}" in str(error) or "disk is full" in str(error)


def _touches(error: OSError, out: Path) -> bool:
    """Whether the error is about OUT, something in it or a folder above it, and not about an input."""
    about = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
    return about is not None and (about.is_relative_to(out.absolute()) or out.absolute().is_relative_to(about))


@contextmanager
def writing_file(file: Path) -> Iterator[None]:
    """Around the writing of one file and of nothing else: StoreError where the place does not let it."""
    try:
        yield
    except OSError as error:
        problem = f"{file} cannot be written: {error.strerror or error}"
        raise StoreError(problem, "make room there, or choose another --out") from error


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object so that the file is whole or absent, after a power cut too."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")
    sync_path(partial)
    partial.rename(path)
    sync_folder(path.parent) if path.name == "job.json" else sync_path(path.parent)
