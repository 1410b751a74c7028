"""``Study``: a folder that holds everything about one loop, made once, run as often as it takes.

    study.toml      what to do            study.db     feedback, stages, lineage
    resolved.json   what that came to     metrics.db   curves
    artifacts/      checkpoints, rollouts, samples     scratch/  the running stage's own    report.html

Left out: anything about models or texts; those belong to the domain.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tropism.errors import InterruptedRun, StoreError, TropismError
from tropism.feedback.chain import VerifyReport, verify
from tropism.files import sync_folder, sync_path
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.memory import tune
from tropism.runtime.stage import ProgressSink
from tropism.settings.overrides import expand, parse_overrides
from tropism.settings.recipes import for_job, read_recipe
from tropism.settings.toml import to_toml
from tropism.store.artifacts import ArtifactStore
from tropism.store.beside import remove_dead
from tropism.store.database import Database
from tropism.store.lease import TrainerLease
from tropism.store.lineage import live_artifacts
from tropism.store.metrics import MetricStore
from tropism.study import config as configuration
from tropism.study.resolved import write_resolved
from tropism.study.rounds import Loop
from tropism.study.stages import StageRunner
from tropism.study.status import StudyStatus, read_status

Overrides = Mapping[str, Any] | Sequence[str]
"""Settings laid over study.toml: ``{"ppo.steps": 40}`` or ``["ppo.steps=40"]``."""


class Study:
    """One study folder. Make it with ``create`` or ``open``; ``run`` goes on where it was."""

    def __init__(self, folder: Path, config: configuration.Config) -> None:
        self.folder, self.config = folder, config

    @classmethod
    def create(cls, folder: Path | str, recipe: str | None = None, overrides: Overrides = ()) -> Study:
        """Make a study folder, all of it or nothing. An existing folder must be empty.

        ``recipe``: a built-in recipe's name or a TOML file of one's own, whose paths are seen from where it is; those
        in ``overrides`` are seen from the working directory.
        Errors: ConfigError for a bad recipe or setting; StoreError if the folder is not empty or cannot be written.
        """
        folder = Path(folder)
        layers = [(expand(_mapping(overrides)), Path())]
        if recipe is not None and recipe.endswith(".toml"):
            layers.insert(0, (for_job(read_recipe(Path(recipe)), recipe, None), Path(recipe).parent))
        elif recipe is not None:
            layers.insert(0, ({"recipe": recipe}, Path()))
        own = configuration.gather(*layers)
        config = configuration.resolve(own, folder)
        with _disk_errors(folder):
            if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
                what = "has a study already" if (folder / "study.toml").exists() else "is not an empty folder"
                fix = "choose another folder; `tropism run` goes on with an existing study"
                raise StoreError(f"{folder} {what}", fix)
        partial = folder.absolute().parent / f".{folder.name}.new-{os.getpid()}"
        with _disk_errors(folder):
            try:
                remove_dead(partial)
                (partial / "artifacts").mkdir(parents=True)
                (partial / "scratch").mkdir()
                (partial / "study.toml").write_text(to_toml(own), "utf-8")
                Database.create(partial / "study.db").close()
                MetricStore(partial / "metrics.db").close()
                sync_folder(partial)
                partial.rename(folder)
                sync_path(folder.absolute().parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return cls(folder, config)

    @classmethod
    def open(cls, folder: Path | str, overrides: Overrides = ()) -> Study:
        """Open a study folder. ``overrides`` hold for this process only and are not written to study.toml.

        Errors: StoreError if it is no study; ConfigError if study.toml cannot be used.
        """
        folder = Path(folder)
        if not (folder / "study.toml").is_file():
            raise StoreError(f"{folder} is no study (it has no study.toml)", f"tropism new {folder} --recipe NAME")
        return cls(folder, configuration.load(folder / "study.toml", _mapping(overrides)))

    @cached_property
    def database(self) -> Database:
        """The open study.db."""
        return Database.open(self.folder / "study.db")

    @cached_property
    def metrics(self) -> MetricStore:
        """The open metrics.db."""
        return MetricStore(self.folder / "metrics.db")

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """The artifact store."""
        return ArtifactStore(self.folder / "artifacts")

    def run(self, until: str | None = None, progress: ProgressSink | None = None) -> StudyStatus:
        """Do what is left to do, up to the stage ``until`` (``improve-1``) or to the end.

        SIGTERM and Ctrl-C end it at the next durable point with InterruptedRun, whose ``exit_code`` is 143 or 130.
        Errors: LeaseHeldError if another process runs this study; ConfigError if settings of finished stages changed.
        """
        process = self.config.runtime
        threads = process.threads or getattr(self.config.domain_class, "threads", 0)
        tuning = tune(threads, process.tune_memory, process.passive_wait)
        with _disk_errors(self.folder), TrainerLease(self.database).acquire() as lease, StopRequest() as stop:
            runner = StageRunner(
                self.database,
                self.artifacts,
                self.metrics,
                self.folder / "scratch",
                lease=lease,
                stop=stop,
                progress=progress,
                keep_scratch=self.config.runtime.keep_scratch,
            )
            self.artifacts.sweep(set(self.artifacts.all()))  # copies that a killed process left unfinished
            domain = self.config.domain_class(self.config.domain)
            loop = Loop(self.config, domain, runner)
            loop.check()
            write_resolved(self.folder / "resolved.json", self.config, tuning, loop.data)
            try:
                for stage in loop.stages():
                    if stage == until:
                        break
                else:
                    runner.marker.end()
            except InterruptedRun as error:
                if stop.signal is not None:
                    error.exit_code = 128 + stop.signal
                raise
        return self.status()

    def status(self) -> StudyStatus:
        """How far the study is and who runs it; reads only, and blocks nobody."""
        return read_status(self.folder, self.config, self.database)

    def report(self) -> Path:
        """Write report.html from what is there and return its path."""
        from tropism.study.report import write_report

        return write_report(self)

    def verify(self) -> VerifyReport:
        """Recompute every feedback event's digest and the chain of seals."""
        return verify(self.database)

    def gc(self) -> int:
        """Delete artifacts that the lineage does not need; returns the bytes freed. Takes the trainer's lease."""
        with TrainerLease(self.database).acquire():
            return self.artifacts.sweep(live_artifacts(self.database))

    def samples(self, round: int) -> list[dict[str, Any]]:
        """The evaluation's stored samples of a round, as rows of JSON. Errors: StoreError if there are none."""
        return list(self._rows("evaluate", round, "samples"))

    def rollouts(self, round: int) -> list[dict[str, Any]]:
        """What was sampled while the policy of a round improved, with reward by component."""
        return list(self._rows("improve", round, "rollouts"))

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        for name in ("database", "metrics"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, kind: str, round_: int, folder: str) -> Iterator[dict[str, Any]]:
        stage = next((s for s in self.status().stages if s.name == f"{kind}-{round_}" and s.status == "done"), None)
        if stage is None or folder not in stage.folders:
            rounds = [s.round for s in self.status().stages if s.name.startswith(kind) and s.status == "done"]
            raise StoreError(f"round {round_} has no {folder}", f"rounds that have: {rounds or 'none yet'}")
        for path in sorted(self.artifacts.path(stage.folders[folder]).rglob("*.jsonl")):
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)


def _mapping(overrides: Overrides) -> Mapping[str, Any]:
    if isinstance(overrides, Mapping):
        return overrides
    items: Iterable[str] = [overrides] if isinstance(overrides, str) else overrides
    return parse_overrides(items)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk, wherever a stage notices it, as an error with a fix."""
    try:
        yield
    except TropismError:
        raise
    except Exception as error:
        number, said = _system_error(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = "free some space, then run the same command again: it goes on from the last checkpoint"
            raise StoreError(f"the disk that holds {folder} is full ({said})", fix) from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM):
            place = getattr(error, "filename", None) or folder
            raise StoreError(f"{place} cannot be written ({said})", "give write permission") from error
        if number in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST):
            place = getattr(error, "filename", None) or folder
            raise StoreError(f"{place} cannot be a folder ({said})", "remove that file, or choose another") from error
        raise


def _system_error(error: Exception) -> tuple[int | None, str]:
    """The system's error number and words; compiled writers of weights and tokenizers have it in their text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, str(error.strerror)
    found = re.search(r"\(os error (\d+)\)", str(error))
    return (int(found[1]), os.strerror(int(found[1]))) if found else (None, "")
