"""A study backed up while somebody writes, and restored elsewhere: nothing is lost, and what is damaged is refused."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from queue_cases import Case

from bandit_studies import make
from databases import DATABASES, new_address, new_database
from tropism.cli.main import main
from tropism.digests import digest_folder
from tropism.errors import StoreError
from tropism.feedback.chain import verify
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.records import Answer
from tropism.store import schema, server
from tropism.store.copying import LEFT_OUT
from tropism.store.database import Database
from tropism.store.lease import TrainerLease
from tropism.study.backup import NOTE, back_up, restore
from tropism.study.study import Study

WRITER = Path(__file__).parent / "feedback_cases.py"
NEW = Answer({"choice": "b"}, "one more")


@contextmanager
def study_on(kind: str, folder: Path, **more: Any) -> Iterator[Study]:
    """A study of the bandit, with its database in a file or on a server."""
    if kind == "sqlite":
        with make(folder, **more) as study:
            yield study
        return
    with new_address(template=False) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv(server.VARIABLE, url)
        study = make(folder, **more)
        patch.delenv(server.VARIABLE)
        with study:
            yield study


@contextmanager
def on(kind: str) -> Iterator[str | None]:
    """Where a study is restored to: the address of an empty database, or None for a file."""
    if kind == "sqlite":
        yield None
        return
    with new_address(template=False) as url:
        yield url


def rows_of(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that a copy has, JSON as its text."""
    found = {}
    with database.read() as connection:
        for table in schema.metadata.sorted_tables:
            columns = [sa.cast(c, sa.Text) if isinstance(c.type, sa.JSON) else c for c in table.columns]
            rows = connection.execute(sa.select(*columns).order_by(*table.primary_key.columns)).all()
            found[table.name] = [tuple(row) for row in rows]
    return found


def in_order(database: Database) -> list[tuple[int, str]]:
    """(number, digest) of every event."""
    with database.read() as connection:
        table = schema.events
        rows = connection.execute(sa.select(table.c.seq, table.c.digest).order_by(table.c.seq)).all()
    return [(row.seq, row.digest) for row in rows]


@pytest.mark.parametrize("kind", DATABASES)
def test_a_backup_made_while_somebody_writes_is_whole(kind: str, tmp_path: Path) -> None:
    with study_on(kind, tmp_path / "s") as study:
        study.run(until="improve-1")
        Case(study.database, n=2000, people=1)
        path = study.folder / "study.db"
        writer = subprocess.Popen([sys.executable, WRITER, path, "w", "2000"], stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout is not None
            told = [writer.stdout.readline().strip() for _ in range(20)]
            first = back_up(study.folder, tmp_path / "backup")
            assert writer.poll() is None, "the writer wrote all along"
            renewed = back_up(study.folder, tmp_path / "backup")
        finally:
            writer.kill()
            writer.communicate()
        assert first.problems == () == renewed.problems
        assert 20 < first.events <= renewed.events <= len(FeedbackLog(study.database).event_digests())
        restore(tmp_path / "backup", tmp_path / "again")
        with Study.open(tmp_path / "again") as again:
            found = verify(again.database)
            assert (found.problems, found.events, found.head) == ([], renewed.events, renewed.head)
            assert found.seals >= 1
            kept, everything = in_order(again.database), in_order(study.database)
            assert kept == everything[: len(kept)], "what was there at one moment, and nothing of later"
            with again.database.read() as connection:
                ids = set(connection.execute(sa.select(schema.events.c.id)).scalars())
                named = set(connection.execute(sa.select(schema.artifacts.c.digest)).scalars())
            assert ids.issuperset(told), "what was durable before the backup began is in it"
            assert set(again.artifacts.all()) == named == set(renewed.artifacts)
            for name in named:
                again.artifacts.verify(name)


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "sqlite"), ("postgresql", "sqlite"), ("sqlite", "postgresql")]
)
def test_a_restored_study_goes_on_where_it_was(source: str, target: str, tmp_path: Path) -> None:
    with study_on(source, tmp_path / "s") as study, on(target) as url:
        study.run(until="improve-1")
        back_up(study.folder, tmp_path / "backup")
        restore(tmp_path / "backup", tmp_path / "again", url)
        with Study.open(tmp_path / "again") as again:
            assert again.database.is_server == (target == "postgresql")
            assert again.metrics.table("reward-1") == study.metrics.table("reward-1")
            before = {stage.name: stage.seconds for stage in again.status().stages}
            assert set(before) == {"base", "collect-1", "reward-1", "improve-1"}
            study.run()
            after = again.run()
            assert after.finished
            assert {stage.name: stage.seconds for stage in after.stages if stage.name in before} == before
            assert again.verify().ok
            told = [FeedbackLog(each.database).event_digests() for each in (study, again)]
            assert told[0] == told[1]
            outputs = [[(s.name, s.folders, s.values) for s in each.status().stages] for each in (study, again)]
            assert outputs[0] == outputs[1], "the same weights, bit for bit, as the study that was not moved"


@pytest.mark.parametrize("target", DATABASES)
@pytest.mark.parametrize("source", DATABASES)
def test_every_row_is_carried_over(source: str, target: str, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "study.toml").write_text('[study]\ndomain = "bandit:BanditDomain"\n')
    with new_database(source, folder) as database, on(target) as url, TrainerLease(database).acquire():
        busy(database)
        before = rows_of(database)
        back_up(folder, tmp_path / "backup")
        note = restore(tmp_path / "backup", tmp_path / "again", url)
        again = Database.open(tmp_path / "again" / "study.db")
        assert again.is_server == (target == "postgresql")
        after = rows_of(again)
        assert note.events == len(after["events"]) > 3
        for name, rows in before.items():
            assert after[name] == ([] if name in LEFT_OUT else rows), name
        assert before["lease"]
        assert before["sessions"]
        # and it takes in what comes: numbers go on behind those that are there
        register_person(again, "Somebody new")
        case_log = FeedbackLog(again)
        (open_query,) = list(case_log.queries().values())[-1:]
        case_log.append(open_query, "o", NEW)
        assert verify(again).ok
        again.close()
    with sqlite3.connect(tmp_path / "backup" / "study.db") as raw:
        assert raw.execute("SELECT count(*) FROM sessions").fetchone() == (0,)


def busy(database: Database) -> None:
    """What a studio leaves in a database: votes, one taken back, a repeat, a skip, a draft, an account, a session."""
    case = Case(database, n=6, people=2, repeat_rate=0.5, votes_per_query=2)
    for _ in range(3):
        for person in range(2):
            for claimed in case.claim(person):
                case.submit(claimed, person)
    undone = case.claim(0)[0]
    case.submit(undone)
    back = case.queue.undo(undone.assignment_id, case.people[0])
    case.queue.draft(back.assignment_id, case.people[0], {"text": "half a thought", "n": 1.0})
    case.log.seal(force=True)
    with database.write() as connection:
        account = {"id": "account-1", "name": "Ann", "role": "admin", "pseudonym": case.people[0], "settings": {}}
        connection.execute(sa.insert(schema.accounts).values(account | {"status": "active", "created_at": 1.5}))
        times = {"created_at": 1.0, "seen_at": 1.0, "expires_at": 2.0}
        row = {"token_hash": "x", "account_id": "account-1", "csrf": "y"}
        connection.execute(sa.insert(schema.sessions).values(row | times))
        for table, name in ((schema.seen, "query_id"), (schema.looked, "task_id")):
            about = undone.query.id if table is schema.seen else "task-of-an-evaluation"
            connection.execute(sa.insert(table).values({name: about, "teacher_id": case.people[1], "at": 3.25}))
        stage = {"key": "k", "name": "base", "round": 0, "status": "running", "seed": 1, "inputs": {"ratio": 1e-07}}
        connection.execute(sa.insert(schema.stages).values(stage))  # outputs: NULL, which is not JSON's null


def test_a_renewed_backup_takes_over_what_it_has(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        study.run(until="improve-1")
        (study.folder / "own.py").write_text("x = 1\n")
        first = back_up(study.folder, tmp_path / "b")
        place = tmp_path / "b" / "artifacts"
        before = {path.relative_to(place): path.stat().st_ino for path in place.rglob("*") if path.is_file()}
        damaged = next(iter(sorted(before)))
        (place / damaged).unlink()
        (place / damaged).write_bytes(b"rot")
        study.run(until="decide-1")
        second = back_up(study.folder, tmp_path / "b")
    assert set(first.artifacts) < set(second.artifacts)
    after = {path.relative_to(place): path.stat().st_ino for path in place.rglob("*") if path.is_file()}
    same = [name for name in before if after[name] == before[name]]
    assert len(same) >= len(before) - len(list((place / damaged).parent.rglob("*"))), "linked, not copied"
    assert damaged not in same, "what has rotted is taken from the study again"
    assert all(digest_folder(folder) == folder.name for folder in place.glob("??/*"))
    assert (tmp_path / "b" / "own.py").read_text() == "x = 1\n"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "s"]


def test_a_backup_that_was_killed_between_its_renames_is_found_again(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        back_up(study.folder, tmp_path / "b")
        (tmp_path / "b").rename(tmp_path / ".b.old")
        shutil.rmtree(tmp_path / "s" / "artifacts")  # this one cannot be made; the other is back
        (tmp_path / "s" / "study.db").rename(tmp_path / "s" / "away")
        with pytest.raises(StoreError, match=r"study\.db does not exist"):
            back_up(study.folder, tmp_path / "b")
    assert (tmp_path / "b" / NOTE).is_file()
    assert not (tmp_path / ".b.old").exists()


def test_a_kill_leaves_a_whole_backup_or_none(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        study.run(until="improve-1")
    target = tmp_path / "b"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), str(target)]
    ends = []
    for calls in (3, 10, 20, 30, 40, 60, 1000):  # killed at its so-manieth fsync; the last one lives
        ends.append(subprocess.run([*command, str(calls)], check=False, timeout=60).returncode)
        if target.exists():
            restore(target, tmp_path / f"again-{calls}")
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0
    assert (tmp_path / "again-1000" / "study.toml").is_file()
    assert not list(tmp_path.glob(".b.*")), "what the killed ones left is gone"


KILLED = """
import os, signal, sys
from pathlib import Path
from tropism.study.backup import back_up
left, sync = int(sys.argv[3]), os.fsync
def counted(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
os.fsync = counted
back_up(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_is_no_place_for_a_backup_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study, make(tmp_path / "other") as other:
        study.run(until="reward-1")
        for place, words in (
            (tmp_path / "s" / "b", "lies in the study"),
            (tmp_path / "s", "lies in the study"),
            (tmp_path / "other", "is no backup of a study"),
            (tmp_path / "no" / "where", "does not exist"),
        ):
            with pytest.raises(StoreError, match=words):
                back_up(study.folder, place)
        with pytest.raises(StoreError, match="is no study"):
            back_up(tmp_path / "nothing", tmp_path / "b")
        back_up(study.folder, tmp_path / "b")
        with pytest.raises(StoreError, match="another study"):
            back_up(other.folder, tmp_path / "b")
        assert json.loads((tmp_path / "b" / NOTE).read_text())["events"] > 0, "the backup that was there stays"


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        study.run(until="reward-1")
        back_up(study.folder, tmp_path / "b")
    for number, (harm, words) in enumerate(HARMS):
        broken = tmp_path / f"b{number}"
        shutil.copytree(tmp_path / "b", broken)
        harm(broken)
        with pytest.raises(StoreError, match=words):
            restore(broken, tmp_path / "again")
        assert not (tmp_path / "again").exists()
    with pytest.raises(StoreError, match="is not an empty folder"):
        restore(tmp_path / "b", tmp_path / "s")
    with pytest.raises(StoreError, match="is no backup"):
        restore(tmp_path / "s", tmp_path / "again")


def _spoil_artifact(backup: Path) -> None:
    path = next(path for path in sorted(backup.glob("artifacts/??/*/*")) if path.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _lose_artifact(backup: Path) -> None:
    shutil.rmtree(next(iter(sorted(backup.glob("artifacts/??/*")))))


def _change_vote(backup: Path) -> None:
    with sqlite3.connect(backup / "study.db") as raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("""UPDATE events SET value = '{"choice":"tie"}' WHERE seq = 3""")


def _lose_votes(backup: Path) -> None:
    with sqlite3.connect(backup / "study.db") as raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)")


def _cut_file(backup: Path) -> None:
    path = backup / "study.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _lose_file(backup: Path) -> None:
    (backup / "study.db").unlink()


def _newer(backup: Path) -> None:
    note = json.loads((backup / NOTE).read_text())
    (backup / NOTE).write_text(json.dumps(note | {"format": 99}))


HARMS = (
    (_spoil_artifact, "is damaged"),
    (_lose_artifact, "is missing"),
    (_change_vote, "was changed"),
    (_lose_votes, "events should be"),
    (_cut_file, "damaged"),
    (_lose_file, "has no study.db"),
    (_newer, "format 99"),
)


def test_a_backup_that_somebody_has_open_is_restored_with_its_log(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        back_up(study.folder, tmp_path / "b")
    raw = sqlite3.connect(tmp_path / "b" / "study.db")
    with raw:
        raw.execute("INSERT INTO guidelines VALUES (1, 'be fair', 'Ann', 0.0)")
    assert (tmp_path / "b" / "study.db-wal").stat().st_size > 0
    restore(tmp_path / "b", tmp_path / "again")
    raw.close()
    with sqlite3.connect(tmp_path / "again" / "study.db") as restored:
        assert restored.execute("SELECT text FROM guidelines").fetchall() == [("be fair",)]


def test_the_damage_of_a_study_is_said_and_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make(tmp_path / "s") as study:
        study.run(until="reward-1")
    lost = sorted((tmp_path / "s" / "artifacts").glob("??/*"))[0]
    shutil.rmtree(lost)
    _change_vote(tmp_path / "s")
    (tmp_path / "s" / "metrics.db").write_bytes(b"no curves at all" * 1000)
    with pytest.raises(SystemExit) as end:
        main(["backup", str(tmp_path / "s"), str(tmp_path / "b")])
    assert end.value.code == 1
    said = capsys.readouterr()
    assert f"artifact {lost.name} is missing" in said.err
    assert "was changed" in said.err
    assert "metrics.db was left out" in said.err
    with pytest.raises(SystemExit) as end:
        main(["restore", str(tmp_path / "b"), str(tmp_path / "again")])
    assert end.value.code in (0, None)
    assert "events in" in capsys.readouterr().out


def test_a_server_in_use_takes_no_study(tmp_path: Path) -> None:
    with make(tmp_path / "s") as study:
        back_up(study.folder, tmp_path / "b")
    with new_database("postgresql", tmp_path) as database:
        register_person(database, "Ann")
        url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with pytest.raises(StoreError, match="holds a study already"):
            restore(tmp_path / "b", tmp_path / "again", url)
    assert not (tmp_path / "again").exists()
