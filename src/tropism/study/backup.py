"""Backing up a study while it runs and people judge, and restoring it elsewhere.

A backup is a folder that looks like a study: ``study.db`` (whatever database the study has), ``metrics.db``,
``artifacts/``, study.toml and whatever else lies in the study's folder, and ``backup.json``, which says what must be in
it. The database comes first, as of one moment; artifacts are stored before they are named, so all that it names are
there. It appears by one rename, complete; an earlier backup of the same study in its place goes only then.

Left out: ``scratch/`` (a stage that was under way is begun anew), ``clips/`` (they are drawn again), hidden files, and
what settings name outside the folder (data, models).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tropism import __version__
from tropism.digests import digest_folder
from tropism.errors import StoreError
from tropism.feedback.chain import VerifyReport, verify
from tropism.store import schema, server
from tropism.store.artifacts import ArtifactStore
from tropism.store.beside import made_beside
from tropism.store.copying import load, snapshot
from tropism.store.database import Database
from tropism.store.failures import as_store_error
from tropism.store.lineage import live_artifacts

FORMAT: Final = 1
NOTE: Final = "backup.json"
_OWN: Final = frozenset({"artifacts", "scratch", "live", "clips", "study.url", NOTE})
_DATABASES: Final = ("study.db", "metrics.db")


@dataclass(frozen=True)
class Backup:
    """What a backup holds. ``head``: the newest seal of the feedback's chain. ``problems``: what was wrong with the
    study itself, in words; a restored study has the same."""

    format: int
    tropism: str
    made_at: float
    events: int
    seals: int
    head: str
    artifacts: tuple[str, ...]
    problems: tuple[str, ...]


def back_up(folder: Path, target: Path) -> Backup:
    """Back a study up into ``target``: a new folder, or an earlier backup of the same study, which is renewed. Runs
    beside whoever trains and judges.

    Errors: StoreError if ``folder`` is no study, ``target`` is something else or lies in it, or the disk is full.
    """
    _must_be_study(folder)
    if target.resolve().is_relative_to(folder.resolve()):
        raise StoreError(f"{target} lies in the study that is to be backed up", "give a folder elsewhere")
    with as_store_error(target), made_beside(target, 0o700) as partial:  # it holds names and texts
        earlier = _earlier(target)
        source = Database.open(folder / "study.db")
        try:
            snapshot(source, partial / "study.db")
        finally:
            source.close()
        copy = Database.open(partial / "study.db")
        try:
            found = verify(copy, None if earlier is None else earlier.head)
            needed = _needed_artifacts(copy, ArtifactStore(folder / "artifacts"))
            copy.checkpoint()
        finally:
            copy.close()
        _must_continue(target, earlier, found)
        kept, missing = _copy_artifacts(folder, None if earlier is None else target, partial, needed)
        problems = (*found.problems, *missing, *_copy_metrics(folder, partial))
        _copy_files(folder, partial)
        made = Backup(
            FORMAT, __version__, time.time(), found.events, found.seals, found.head, tuple(kept), tuple(problems)
        )
        (partial / NOTE).write_text(json.dumps(asdict(made), indent=1) + "\n", "utf-8")
    return made


def restore(source: Path, folder: Path, url: str | None = None) -> Backup:
    """Make a study of a backup: in a new or empty ``folder``, with its database there or, with ``url``, on a server.

    Everything is looked at before the folder appears: the feedback's digests and chain, every artifact's content.
    Errors: StoreError if it is no backup or is damaged, ``folder`` is in use, or the server's database is not empty.
    """
    note = _read_note(source)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StoreError(f"{folder} is not an empty folder", "restore into a new folder")
    with as_store_error(folder), made_beside(folder) as partial:
        _restore_database(source, partial, note)
        stored = ArtifactStore(partial / "artifacts")
        there = ArtifactStore(source / "artifacts")
        for name in note.artifacts:
            if stored.put(there.path(name)) != name:
                raise StoreError(f"artifact {name} of {source} is damaged", "take another backup")
        _copy_at_rest(source, partial, "metrics.db")
        _copy_files(source, partial)
        for name in ("artifacts", "scratch"):
            (partial / name).mkdir(exist_ok=True)
        if url is not None:
            _load_onto_server(partial, url, note)
    return note


def _restore_database(source: Path, partial: Path, note: Backup) -> None:
    """The backup's study.db, and the proof that it is whole."""
    _copy_at_rest(source, partial, "study.db")
    path = partial / "study.db"
    if not path.exists():
        raise StoreError(f"{source} has no study.db any more", "take another backup")
    database = Database.open(path)
    try:
        with database.read() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
        if said != "ok":
            raise StoreError(f"{source / 'study.db'} is damaged: {said}", "take another backup")
        _must_agree(source, note, verify(database))
        database.checkpoint()
    finally:
        database.close()


def _load_onto_server(partial: Path, url: str, note: Backup) -> None:
    path = partial / "study.db"
    database = Database.open(path)
    try:
        load(database, url)
    finally:
        database.close()
    there = Database.open(url)
    try:
        _must_agree(there.place, note, verify(there))
    finally:
        there.close()
    path.unlink()
    server.note_address(path, url)


def _must_be_study(folder: Path) -> None:
    if not (folder / "study.toml").is_file():
        raise StoreError(f"{folder} is no study (it has no study.toml)", f"tropism new {folder} --recipe NAME")


def _must_continue(target: Path, earlier: Backup | None, found: VerifyReport) -> None:
    """An earlier backup is replaced only by one of the same study that knows all that it knew."""
    if earlier is None:
        return
    cut = any("noted head" in problem for problem in found.problems)
    if cut or found.events < earlier.events:
        raise StoreError(
            f"{target} holds a backup with {earlier.events} events that this study does not have: it is of another "
            "study, or the feedback was cut or rewritten since",
            "give another folder, and look at `tropism feedback verify`",
        )


def _must_agree(place: Path | str, note: Backup, found: VerifyReport) -> None:
    """Errors: StoreError where the feedback is not what the backup's note says."""
    for what, wanted, there in (
        ("events", note.events, found.events),
        ("seals", note.seals, found.seals),
        ("the head of the chain", note.head, found.head),
    ):
        if wanted != there:
            raise StoreError(f"{place}: {what} should be {wanted}, not {there}", "take another backup")
    new = [problem for problem in found.problems if problem not in note.problems]
    if new:
        raise StoreError(f"{place}: {new[0]}", "take another backup")


def _needed_artifacts(database: Database, stored: ArtifactStore) -> list[str]:
    """Digests of the artifacts that the study speaks of, sorted. Other digests are spoken of too; an artifact is what
    was noted as one, or is there (segments are, before their stage has ended)."""
    with database.read() as connection:
        noted = set(connection.execute(sa.select(schema.artifacts.c.digest)).scalars())
    return sorted(live_artifacts(database) & (noted | set(stored.all())))


def _copy_artifacts(
    folder: Path, earlier: Path | None, partial: Path, needed: list[str]
) -> tuple[list[str], list[str]]:
    """(digests copied, what is wrong with the others). Those of an earlier backup are linked, after a look at them."""
    study, made = ArtifactStore(folder / "artifacts"), ArtifactStore(partial / "artifacts")
    kept: list[str] = []
    problems: list[str] = []
    for name in needed:
        before = None if earlier is None else ArtifactStore(earlier / "artifacts")
        if before is not None and before.has(name) and digest_folder(before.path(name)) == name:
            _link(before.path(name), partial / "artifacts" / name[:2] / name)
        elif not study.has(name):
            problems.append(f"artifact {name} is missing from {study.root}")
            continue
        elif (found := made.put(study.path(name))) != name:
            problems.append(f"artifact {name} of {study.root} is damaged: its content has digest {found}")
            made.sweep({*kept})
            continue
        kept.append(name)
    return kept, problems


def _link(source: Path, target: Path) -> None:
    """The same files once more, without their bytes where the disk can do that: artifacts never change."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # no such links on this file system
            shutil.copyfile(path, place)


def _copy_metrics(folder: Path, partial: Path) -> list[str]:
    """The curves, as of one moment; what is wrong with them. A damaged file is left behind: nothing hangs on curves."""
    path = folder / "metrics.db"
    if not path.is_file():
        return []
    with closing(sqlite3.connect(partial / path.name)) as target:
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
                source.backup(target)
        except sqlite3.DatabaseError as error:
            target.close()
            (partial / path.name).unlink(missing_ok=True)
            return [f"{path} was left out: {error}"]
    return []


def _copy_at_rest(source: Path, partial: Path, name: str) -> None:
    """A backup's database. It may lie where nobody can write; its log is there if somebody has it open as a study."""
    for suffix in ("", "-wal"):
        if (source / f"{name}{suffix}").exists():
            shutil.copyfile(source / f"{name}{suffix}", partial / f"{name}{suffix}")


def _copy_files(folder: Path, partial: Path) -> None:
    """Whatever else lies in the folder: study.toml, resolved.json, the report, functions and data of one's own."""
    for path in sorted(folder.iterdir()):
        if path.name in _OWN or path.name.startswith((".", *_DATABASES)):
            continue
        if path.is_dir():
            shutil.copytree(path, partial / path.name)
        elif path.is_file():
            shutil.copyfile(path, partial / path.name)


def _earlier(target: Path) -> Backup | None:
    """The backup that is to be renewed; None where there is nothing yet. Errors: StoreError for anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    return _read_note(target)


def _read_note(folder: Path) -> Backup:
    """What a backup says of itself. Errors: StoreError if it is none, or of a newer tropism."""
    fix = "give a folder that `tropism backup` made"
    try:
        found: Any = json.loads((folder / NOTE).read_text("utf-8"))
        given = {**found, "artifacts": tuple(found["artifacts"]), "problems": tuple(found["problems"])}
        note = Backup(**given)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{folder} is no backup of a study (it has no {NOTE})", fix) from None
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{folder / NOTE} cannot be read: {error}", fix) from error
    if note.format != FORMAT:
        raise StoreError(f"{folder} is a backup of format {note.format}, made by tropism {note.tropism}", "upgrade")
    return note
