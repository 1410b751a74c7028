"""Tampering is found and named; erasure is no tampering; concurrent and killed writers lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from feedback_cases import fill, new_log

from databases import DATABASES, new_database
from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback import chain
from tropism.feedback.appending import event_row, insert_events
from tropism.feedback.chain import verify
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import erase_person, person, register_person
from tropism.feedback.records import Answer
from tropism.store import lineage, schema
from tropism.store.database import Database

HERE = Path(__file__).parent


@pytest.fixture(params=DATABASES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedbackLog]:
    """An empty log."""
    with new_database(request.param, tmp_path) as database:
        yield FeedbackLog(database)


@pytest.fixture
def log(made: FeedbackLog) -> FeedbackLog:
    """Twelve events in three seals and one open."""
    asked = fill(made, n=13)
    quiet = FeedbackLog(made.database, seal_after_s=1e9)
    for start in (0, 4, 8):
        for q in asked[start : start + 4]:
            quiet.append(q, "o", Answer({"choice": "a"}, text=f"reason {start}"))
        quiet.seal(force=True)
    quiet.append(asked[12], "o", Answer({"choice": "tie"}))
    return quiet


def tamper(log: FeedbackLog, *statements: str) -> list[str]:
    """Change rows behind the triggers' back; returns what verification then says."""
    if log.database.is_server:
        with log.database.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # neither triggers nor keys
            for statement in statements:
                connection.exec_driver_sql(statement)
        return verify(log.database).problems
    with log.database.engine.connect() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
        for name in names:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.commit()
        raw = connection.connection.dbapi_connection
        assert raw is not None
        raw.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            raw.execute(statement)
    return verify(log.database).problems


def event_id(log: FeedbackLog, seq: int) -> str:
    with log.database.read() as connection:
        return connection.execute(sa.select(schema.events.c.id).where(schema.events.c.seq == seq)).scalar_one()


def test_untouched_feedback_verifies(log: FeedbackLog) -> None:
    report = verify(log.database)
    assert report.ok
    assert (report.events, report.sealed, report.open, report.seals) == (13, 12, 1, 3)
    assert report.head != chain.GENESIS
    assert log.counts()["open"] == 1
    assert log.seal(force=True) == 1
    assert verify(log.database, expected_head=report.head).ok


@pytest.mark.parametrize("seq", [6, 13])  # one sealed, one open
def test_a_changed_value_is_named(log: FeedbackLog, seq: int) -> None:
    problems = tamper(log, f"""UPDATE events SET value = '{{"choice":"b","kind":"comparison"}}' WHERE seq = {seq}""")
    assert [p for p in problems if event_id(log, seq) in p and "was changed" in p]


def test_a_changed_value_with_a_mended_digest_breaks_its_seal(log: FeedbackLog) -> None:
    with log.database.read() as connection:
        row = dict(connection.execute(sa.select(schema.events).where(schema.events.c.seq == 6)).one()._mapping)
    forged = chain.event_digest(row | {"value": {"kind": "comparison", "choice": "b", "strength": 0}})
    problems = tamper(
        log,
        f"""UPDATE events SET value = '{{"choice":"b","kind":"comparison","strength":0}}', digest = '{forged}',
        id = '{forged[:24]}' WHERE seq = 6""",
    )
    assert any(f"event {row['id']} of seal 2 is missing" in p for p in problems)
    assert any("members of seal 2" in p for p in problems)


def test_a_deleted_event_is_named(log: FeedbackLog) -> None:
    gone = event_id(log, 7)
    assert f"event {gone} of seal 2 is missing" in tamper(log, "DELETE FROM events WHERE seq = 7")


def test_a_deleted_event_and_membership_are_noticed(log: FeedbackLog) -> None:
    gone = event_id(log, 7)
    problems = tamper(log, "DELETE FROM events WHERE seq = 7", f"DELETE FROM seal_members WHERE event_id = '{gone}'")
    assert any("seal 2 has 3 members, not the 4" in p for p in problems)


def test_reordered_seals_are_named(log: FeedbackLog) -> None:
    swap = []
    for table, column in (("seals", "seq"), ("seal_members", "seal")):
        swap.append(f"UPDATE {table} SET {column} = {column} - 3 WHERE {column} < 3")
        swap.append(f"UPDATE {table} SET {column} = -{column} WHERE {column} < 0")  # -2 and -1: 1 and 2 change places
    problems = tamper(log, *swap)
    assert "seal 1 does not follow the seal before it" in problems
    assert "seal 1 was changed" in problems


def test_reordered_members_are_named(log: FeedbackLog) -> None:
    problems = tamper(
        log,
        "UPDATE seal_members SET position = -1 WHERE seal = 2 AND position = 0",
        "UPDATE seal_members SET position = 0 WHERE seal = 2 AND position = 1",
        "UPDATE seal_members SET position = 1 WHERE seal = 2 AND position = -1",
    )
    assert problems == ["the members of seal 2 are not those it was made of, or not in their order"]


def test_a_missing_seal_is_named(log: FeedbackLog) -> None:
    problems = tamper(log, "DELETE FROM seals WHERE seq = 2")
    assert "seal 2 is missing (the next one is seal 3)" in problems
    assert "members of seal 2, which is missing" in problems


def test_a_cut_off_tail_is_found_by_a_noted_head(log: FeedbackLog) -> None:
    head = verify(log.database).head
    tail = "(SELECT event_id FROM seal_members WHERE seal = 3)"
    tamper(
        log,
        f"DELETE FROM event_texts WHERE event_id IN {tail}",
        f"DELETE FROM events WHERE id IN {tail}",
        "DELETE FROM seal_members WHERE seal = 3",
        "DELETE FROM seals WHERE seq = 3",
    )
    assert verify(log.database).ok  # by itself the shorter chain is whole …
    assert "it was cut or rewritten" in verify(log.database, expected_head=head).problems[0]  # … but a witness knows


def test_changed_text_candidate_query_and_set_are_named(log: FeedbackLog) -> None:
    frozen = log.freeze([event_id(log, 1), event_id(log, 2)])
    first = log.judgements()[0]
    problems = tamper(
        log,
        "UPDATE event_texts SET text = 'forged' WHERE event_id = (SELECT id FROM events WHERE seq = 3)",
        "DELETE FROM event_texts WHERE event_id = (SELECT id FROM events WHERE seq = 4)",
        f"""UPDATE candidates SET content = '{{"text":"forged"}}' WHERE id = '{first.candidates[0].id}'""",
        f"UPDATE query_slots SET shown_position = 1 - shown_position + 5 WHERE query_id = '{first.query.id}'",
        f"DELETE FROM event_set_members WHERE event_id = '{event_id(log, 2)}'",
    )
    assert f"the text of event {event_id(log, 3)} was changed" in problems
    assert any(f"the text of event {event_id(log, 4)} is missing" in p for p in problems)
    assert f"candidate {first.candidates[0].id} was changed" in problems
    assert f"query {first.query.id} was changed" in problems
    assert f"event set {frozen[:24]} does not hold the events it was frozen with" in problems


def test_a_doubled_row_is_named(log: FeedbackLog) -> None:
    doubled = event_id(log, 5)
    columns = ", ".join(c.name for c in schema.events.columns if c.name != "seq")
    problems = tamper(
        log,
        "CREATE TABLE copy AS SELECT * FROM events",
        f"DROP TABLE events{' CASCADE' if log.database.is_server else ''}",
        "ALTER TABLE copy RENAME TO events",
        f"INSERT INTO events (seq, {columns}) SELECT 99, {columns} FROM events WHERE seq = 5",
    )
    assert problems == [f"event {doubled} is doubled (row 99)"]


def test_sealing_waits_for_many_or_old_rows(made: FeedbackLog) -> None:
    log = made
    asked = fill(log, n=12)
    quick = FeedbackLog(log.database, seal_every=5, seal_after_s=1e9)
    for q in asked[:4]:
        quick.append(q, "o", Answer({"choice": "a"}))
    assert verify(log.database).sealed == 0
    quick.append(asked[4], "o", Answer({"choice": "a"}))
    assert verify(log.database).sealed == 5
    quick.append_many([(q, "o", Answer({"choice": "a"})) for q in asked[5:11]])
    assert (verify(log.database).sealed, verify(log.database).seals) == (11, 3)
    FeedbackLog(log.database, seal_after_s=0.01).append(asked[11], "o", Answer({"choice": "b"}))
    time.sleep(0.02)
    assert FeedbackLog(log.database, seal_after_s=0.01).seal() + verify(log.database).open in (0, 1)
    assert verify(log.database).sealed == 12


# ---- people ----


def test_pseudonyms_are_stable_and_random(log: FeedbackLog) -> None:
    ada = register_person(log.database, "Ada", "ada@example.org")
    assert register_person(log.database, "Ada", "ada@example.org") == ada
    assert register_person(log.database, "Ada", "another@example.org") != ada
    assert "Ada" not in ada
    known = person(log.database, ada)
    assert known is not None
    assert (known["name"], known["contact"]) == ("Ada", "ada@example.org")
    assert person(log.database, "nobody") is None


def test_erasure_removes_the_person_and_verification_survives(made: FeedbackLog) -> None:
    log = made
    asked = fill(log, n=3)
    ada, bob = register_person(log.database, "Ada Lovelace", "ada@example.org"), register_person(log.database, "Bob")
    theirs = log.append(asked[0], ada, Answer({"choice": "a"}, text="my whispered reason"))
    kept = log.append(asked[0], bob, Answer({"choice": "b"}, text="bob's reason"))
    with log.database.write() as c:
        lineage.record_reward_model(c, "r1", "x", 1, None, {})
    frozen = log.freeze([theirs, kept])
    with log.database.write() as c:
        lineage.record_reward_model(c, "r2", "y", 1, frozen, {})
        lineage.record_policy(c, "p1", "z", 1, None, None, "r2", "candidate", {})
    head = verify(log.database).head

    event = erase_person(log.database, ada, "wrote to us")
    assert erase_person(log.database, ada) == event
    assert [j.event_id for j in log.judgements()] == [kept]
    assert lineage.refit_after_erasure(log.database, ada) == lineage.Refit(["r2"], ["p1"])
    log.seal(force=True)
    assert verify(log.database, expected_head=head).ok
    with pytest.raises(DataError, match="was erased"):
        log.append(asked[1], ada, Answer({"choice": "a"}))
    with pytest.raises(DataError, match="was erased"):
        log.freeze([theirs])
    assert register_person(log.database, "Ada Lovelace", "ada@example.org") != ada
    with pytest.raises(DataError, match="no person 'ghost'"):
        erase_person(log.database, "ghost")


def test_nothing_of_an_erased_person_stays_in_the_files(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    ada = register_person(log.database, "Ada Lovelace", "ada@example.org")
    log.append(fill(log)[0], ada, Answer({"choice": "a"}, text="my whispered reason"))
    erase_person(log.database, ada)
    log.database.close()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for trace in (b"Lovelace", b"ada@example.org", b"whispered"):
        assert trace not in held
    assert ada.encode() in held


def test_text_digests_cannot_be_guessed_without_the_salt(log: FeedbackLog) -> None:
    digests = []
    for name in ("Ada", "Bob"):
        pseudonym = register_person(log.database, name)
        id = log.append(log.queries()[sorted(log.queries())[0]], pseudonym, Answer({"choice": "a"}, text="yes"))
        with log.database.read() as connection:
            statement = sa.select(schema.events.c.text_digest).where(schema.events.c.id == id)
            digests.append(connection.execute(statement).scalar_one())
    assert digests[0] != digests[1]
    assert digest("yes") not in digests


# ---- several writers, and killed ones ----


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    program = [sys.executable, HERE / "feedback_cases.py", path, name, str(count)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_four_processes_append_and_nothing_is_lost_or_doubled(made: FeedbackLog) -> None:
    log = made
    fill(log, n=200)
    writers = [start_writer(log.database.path, f"w{i}", 200) for i in range(4)]
    said = []
    for writer in writers:
        out, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        said += out.split()
    assert len(set(said)) == 800
    assert sorted(said) == sorted(j.event_id for j in log.judgements())
    log.seal(force=True)
    report = verify(log.database)
    assert report.ok, report.problems
    assert (report.events, report.sealed, report.open) == (800, 800, 0)


def test_a_killed_writer_loses_nothing_it_reported(made: FeedbackLog) -> None:
    log = made
    fill(log, n=80)
    reported: set[str] = set()
    for kill_after in (3, 17, 40):
        writer = start_writer(log.database.path, "w", 80)
        assert writer.stdout is not None
        reported |= {writer.stdout.readline().strip() for _ in range(kill_after)}
        writer.send_signal(signal.SIGKILL)
        reported |= set(writer.stdout.read().split())
        writer.wait(10)
        found = verify(log.database)
        assert found.ok, found.problems
        assert reported <= {j.event_id for j in log.judgements()}
        assert Database.open(log.database.path) is not None
    last = start_writer(log.database.path, "w", 80)
    out, _ = last.communicate(timeout=120)
    assert last.returncode == 0
    assert len(log.judgements()) == 80
    assert set(out.split()) == {j.event_id for j in log.judgements()}
    log.seal(force=True)
    assert verify(log.database).sealed == 80


def test_a_row_that_appears_below_sealed_ones_is_sealed_too(made: FeedbackLog) -> None:
    """A server numbers rows when they are written: one that is committed late has a lower number than others."""
    asked = fill(made, n=3)
    first = register_person(made.database, "Ada")
    made.append(asked[0], "o", Answer({"choice": "a"}))
    if made.database.is_server:
        with made.database.transaction() as late:
            row = event_row(asked[1], first, Answer({"choice": "b"}), None, "")
            insert_events(late, [row])
            made.append(asked[2], "o", Answer({"choice": "a"}))
            made.seal(force=True)
    else:
        made.append(asked[1], first, Answer({"choice": "b"}))
    made.seal(force=True)
    assert made.counts()["open"] == 0
    assert verify(made.database).open == 0
