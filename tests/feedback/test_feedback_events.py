"""The log: idempotent appends, corrections, the current view, frozen sets, and the split law."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from feedback_cases import candidates, fill, new_log, query, task

from databases import DATABASES, new_database
from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.records import Answer, Query
from tropism.feedback.teachers import PersonTeacher, pending
from tropism.reward.dataset import RewardData
from tropism.store import schema


@pytest.fixture(params=DATABASES)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedbackLog]:
    with new_database(request.param, tmp_path) as database:
        yield FeedbackLog(database)


def test_records_come_back_as_they_went_in(log: FeedbackLog) -> None:
    asked = fill(log, n=1, k=3, kind="ranking")[0]
    t = task("0")
    assert log.tasks([t.id]) == {t.id: t}
    assert log.candidates() == {c.id: c for c in candidates(t, 3)}
    assert log.queries([asked.id]) == {asked.id: asked}
    assert log.queries(round=2) == {}
    with pytest.raises(DataError, match="no task 'nothing'"):
        log.tasks(["nothing"])


def test_votes_of_several_people_on_one_query_are_one_soft_target(log: FeedbackLog) -> None:
    asked = fill(log, n=1)[0]
    people = [register_person(log.database, f"P{i}") for i in range(3)]
    for person, choice in zip(people, ("a", "a", "b"), strict=True):
        log.append(asked, person, Answer({"choice": choice}))
    log.append(asked, "o", Answer({"choice": "b"}))
    judged = log.judgements()
    assert sorted(j.teacher_kind for j in judged) == ["oracle", "person", "person", "person"]
    choices = RewardData.from_judgements(judged).choices
    by_weight = dict(zip(choices.weight.tolist(), choices.target.tolist(), strict=True))
    assert by_weight == {3.0: pytest.approx([2 / 3, 1 / 3]), 1.0: [0.0, 1.0]}


def test_a_remark_is_no_answer(log: FeedbackLog) -> None:
    asked = fill(log, n=1)[0]
    person = register_person(log.database, "Ada")
    log.append(asked, person, Answer({"kind": "critique", "slot": "a"}, text="too long"))
    assert pending(log, [asked]) == [asked]
    log.append(asked, person, Answer({"choice": "cannot_judge"}))
    assert pending(log, [asked]) == []


def test_adding_twice_changes_nothing(log: FeedbackLog) -> None:
    fill(log)
    before = log.counts()
    fill(log)
    assert log.counts() == before
    assert before["tasks"] == before["queries"] == 4
    assert before["candidates"] == 8


def test_trap_43_shown_order_is_stored_and_values_speak_of_slots(log: FeedbackLog) -> None:
    asked = fill(log, n=1)[0]
    assert asked.shown_order == (1, 0)
    log.append(asked, "o", Answer({"choice": "a"}))
    judged = log.judgements()[0]
    assert judged.query.shown_order == (1, 0)
    assert judged.candidates[0].id == asked.candidate_ids[0]  # slot a, although it was shown second
    with log.database.read() as connection:
        rows = connection.execute(sa.select(schema.query_slots).order_by(schema.query_slots.c.slot)).all()
    assert [row.shown_position for row in rows] == [1, 0]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Query(task("0").id, "comparison", ("x", "y"), (0, 1), 1), "candidate 'x', which is missing"),
        (Query(task("1").id, "comparison", query(task("0")).candidate_ids, (0, 1), 1), "mixes tasks"),
        (Query(task("0").id, "comparison", query(task("0")).candidate_ids, (0, 0), 1), "shown in order (0, 0)"),
        (Query(task("0").id, "riddle", query(task("0")).candidate_ids, (0, 1), 1), "kind 'riddle'"),
        (Query(task("0").id, "comparison", query(task("0")).candidate_ids[:1], (0,), 1), "comparison of 1"),
    ],
)
def test_broken_queries_are_refused(log: FeedbackLog, broken: Query, said: str) -> None:
    fill(log, n=2)
    with pytest.raises(DataError) as caught:
        log.add_queries([broken])
    assert said in caught.value.problem


def test_replaying_appends_nothing_and_digests_agree_between_studies(tmp_path: Path) -> None:
    digests = []
    for name, replay in (("one", 1), ("two", 3)):
        (tmp_path / name).mkdir()
        log = new_log(tmp_path / name)
        votes = [(q, "o", Answer({"choice": "b"}, text="because", duration_ms=len(name))) for q in fill(log)]
        for _ in range(replay):
            ids = log.append_many(votes[:2]) + log.append_many(votes)[2:]
        assert len(set(ids)) == 4
        digests.append(log.event_digests())
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


def test_skips_are_no_events(log: FeedbackLog) -> None:
    asked = fill(log)
    ids = log.append_many([(asked[0], "o", Answer(None)), (asked[1], "o", Answer({"choice": "a"}))])
    assert ids[0] is None
    assert log.counts()["events"] == 1
    with pytest.raises(DataError, match="skip"):
        log.append(asked[0], "o", Answer(None))


def test_a_bad_vote_in_a_batch_leaves_nothing_behind(log: FeedbackLog) -> None:
    asked = fill(log)
    for bad in ((asked[1], "stranger", Answer({"choice": "a"})), (asked[1], "o", Answer({"choice": "c"}))):
        with pytest.raises(DataError):
            log.append_many([(asked[0], "o", Answer({"choice": "a"})), bad])
    with pytest.raises(DataError, match="no query"):
        log.append(query(task("unknown")), "o", Answer({"choice": "a"}))
    assert log.counts()["events"] == 0


def test_second_answer_is_refused_and_a_correction_supersedes(log: FeedbackLog) -> None:
    asked = fill(log)[0]
    first = log.append(asked, "o", Answer({"choice": "a"}))
    with pytest.raises(DataError, match=f"already answered .*event {first}"):
        log.append(asked, "o", Answer({"choice": "b"}))
    second = log.correct(first, Answer({"choice": "b"}))
    assert log.correct(first, Answer({"choice": "b"})) == second  # a replay
    with pytest.raises(DataError, match=f"corrected already, by {second}"):
        log.correct(first, Answer({"choice": "tie"}))
    third = log.correct(second, Answer({"choice": "tie"}))
    assert [j.event_id for j in log.judgements()] == [third]
    assert len(log.event_digests()) == 3
    with pytest.raises(DataError, match="target"):
        log.correct(third, Answer({"kind": "rating", "slot": "a", "score": 1, "scale": [0, 1]}))
    with pytest.raises(DataError, match="no vote"):
        log.correct("nothing", Answer({"choice": "a"}))


def test_contradiction_within_one_call_is_found(log: FeedbackLog) -> None:
    asked = fill(log)[0]
    with pytest.raises(DataError, match="in the same call"):
        log.append_many([(asked, "o", Answer({"choice": c})) for c in ("a", "b")])
    assert log.append_many([(asked, "o", Answer({"choice": "a"}))] * 2)[0] is not None
    assert log.counts()["events"] == 1


def test_several_ratings_of_one_query_stand_side_by_side(log: FeedbackLog) -> None:
    asked = fill(log, n=1, k=2, kind="rating")[0]
    for slot in ("c1", "c2"):
        for aspect in ("helpful", "honest"):
            log.append(asked, "o", Answer({"slot": slot, "aspect": aspect, "score": 3, "scale": [1, 5]}))
    assert len(log.judgements(kinds=["rating"])) == 4
    assert log.judgements(kinds=["comparison"]) == []


def test_words_need_text_and_keep_it_apart(log: FeedbackLog) -> None:
    asked = fill(log)[0]
    with pytest.raises(DataError, match="critique without text"):
        log.append(asked, "o", Answer({"kind": "critique", "slot": "a"}))
    log.append(asked, "o", Answer({"kind": "critique", "slot": "a", "span": [0, 6]}, text="too curt"))
    judged = log.judgements()[0]
    assert judged.text == "too curt"
    assert judged.value == {"kind": "critique", "slot": "a", "span": [0, 6]}
    with log.database.read() as connection:
        row = connection.execute(sa.select(schema.events)).one()
    assert "curt" not in str(row)
    with pytest.raises(DataError, match="erasure as an answer"):
        log.append(asked, "o", Answer({"kind": "erasure", "reason": "x"}))


def test_order_of_judgements_does_not_depend_on_arrival(tmp_path: Path) -> None:
    orders = []
    for name, step in (("one", 1), ("two", -1)):
        (tmp_path / name).mkdir()
        log = new_log(tmp_path / name)
        asked = fill(log, n=6)
        log.register_teacher("p", "judge")
        for q in asked[::step]:
            for teacher in ("o", "p")[::step]:
                log.append(q, teacher, Answer({"choice": "a"}))
        orders.append([j.event_id for j in log.judgements()])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 12


def test_test_tasks_are_never_trained_on(log: FeedbackLog) -> None:
    held_out = fill(log, n=1, split="test")[0]
    asked = fill(log, n=1)[0]
    seen = log.append(asked, "o", Answer({"choice": "a"}))
    unseen = log.append(held_out, "o", Answer({"choice": "a"}))
    assert [j.event_id for j in log.judgements()] == [seen]
    assert [j.event_id for j in log.judgements(splits=("test",))] == [unseen]
    with pytest.raises(DataError, match=f"event {unseen} is about task {held_out.task_id} of the test split"):
        log.freeze([seen, unseen])
    with log.database.read() as connection:
        assert connection.execute(sa.select(schema.event_sets)).all() == []


def test_frozen_sets_are_named_by_their_members(log: FeedbackLog) -> None:
    ids = [log.append(q, "o", Answer({"choice": "a"})) for q in fill(log)]
    assert log.freeze(ids) == log.freeze(ids[::-1] + ids[:1]) == digest(sorted(ids))
    with pytest.raises(DataError, match="empty set"):
        log.freeze([])
    with pytest.raises(DataError, match="no vote 'nothing'"):
        log.freeze([*ids, "nothing"])


def test_teachers_are_of_one_kind(log: FeedbackLog) -> None:
    log.register_teacher("o", "oracle")
    log.register_teacher("o", "oracle")
    with pytest.raises(DataError, match="of kind oracle, not judge"):
        log.register_teacher("o", "judge")
    with pytest.raises(DataError, match="kind person"):
        log.register_teacher("ada", "person")


def test_people_are_waited_for(log: FeedbackLog) -> None:
    asked = fill(log, n=3)
    people = [register_person(log.database, name) for name in ("Ada", "Bob")]
    teacher = PersonTeacher(votes_per_query=2)
    assert teacher.poll(log, asked).open == asked
    event = log.append(asked[0], people[0], Answer({"choice": "a"}))
    log.correct(event, Answer({"choice": "b"}))  # still one person
    assert teacher.poll(log, asked).open == asked
    assert pending(log, asked) == asked[1:]
    assert pending(log, asked, teacher_id=people[1]) == asked
    for q in asked:
        log.append(q, people[1], Answer({"choice": "cannot_judge"}))
    waiting = teacher.poll(log, asked)
    assert (waiting.answered, waiting.done) == (1, False)
    assert waiting.open == asked[1:]
