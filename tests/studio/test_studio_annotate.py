"""Judging over HTTP: from a claim to an event in the log, by every kind of question."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_cases import Running, ask, events, make_study, running

from tropism.feedback.chain import verify
from tropism.feedback.records import Answer, QueryKind
from tropism.feedback.values import slot_names
from tropism.studio.settings import StudioSettings


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Running]:
    with running(make_study(tmp_path / "s"), StudioSettings(solo=True)) as here:
        yield here


def test_a_vote_is_stored_in_canonical_slots_with_the_order_that_was_shown(solo: Running) -> None:
    queries = {query.id: query for query in ask(solo.studio, "comparison", 8)}
    me, shown_first = solo.nobody().enter(), []
    for _ in range(8):
        (item,) = me.claim()
        chosen = item["candidates"][0]
        assert [c["key"] for c in item["candidates"]] == ["1", "2"]
        assert me.submit(item["assignment"], {"choice": "1", "strength": 2}).json()["stored"] is True
        event = events(solo.studio)[-1]
        held = solo.studio.log.candidates(queries[event.query_id].candidate_ids)
        slot = "ab".index(event.value["choice"])
        assert held[queries[event.query_id].candidate_ids[slot]].content["text"] == chosen["text"]
        assert event.value == {"kind": "comparison", "choice": event.value["choice"], "strength": 2}
        assert (event.duration_ms, event.origin) == (1234, "studio")
        shown_first.append(event.value["choice"])
    assert set(shown_first) == {"a", "b"}  # the place on the screen is drawn for each assignment
    assert me.post("queue/claim", json={}).json() == {"items": [], "empty": {"reason": "done", "open": 0, "claimed": 0}}
    solo.studio.log.seal(force=True)
    assert verify(solo.studio.database).ok


VALUES: list[tuple[QueryKind, int, Any, str | None, list[Any]]] = [
    ("comparison", 2, {"choice": "tie"}, None, [{"choice": "tie", "strength": 0}]),
    ("comparison", 2, {"choice": "cannot_judge"}, "no idea", [{"choice": "cannot_judge", "strength": 0}]),
    ("ranking", 4, {"rank": [["2"], ["1", "3"]]}, None, [{"rank": [[1], [0, 2]], "unranked": [3]}]),
    ("best_of", 3, {"best": "3"}, None, [{"best": 2}]),
    ("best_of", 3, {"best": "all_bad"}, None, [{"best": "all_bad"}]),
    (
        "rating", 1, {"ratings": [{"candidate": "1", "aspect": "overall", "score": 4}]}, None,
        [{"slot": 0, "score": 4, "scale": [1, 5], "aspect": "overall"}],
    ),
    ("label", 1, {"label": "good", "good": False}, None, [{"slot": 0, "name": "good", "good": False}]),
    ("label", 2, {"labels": [{"candidate": "2", "good": True}]}, None, [{"slot": 1, "name": "good", "good": True}]),
    ("approval", 1, {"thumb": "up"}, None, [{"slot": 0, "approved": True}]),
    ("correction", 2, {"candidate": "2"}, "better so", [{"slot": 1}]),
    ("critique", 2, {"candidate": "1", "span": [0, 6]}, "why?", [{"slot": 0, "span": [0, 6]}]),
    ("demonstration", 0, {}, "like this", [{}]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "k", "value", "text", "stored"), VALUES)
def test_every_kind_is_stored_once(
    solo: Running, kind: QueryKind, k: int, value: Any, text: str | None, stored: list[Any]
) -> None:
    (query,) = ask(solo.studio, kind, k=k)
    me = solo.nobody().enter()
    (item,) = me.claim()
    order = solo.studio.assignments.find(item["assignment"], solo.pseudonym("solo")).shown_order
    names = slot_names(kind, len(query.candidate_ids))

    def by_slot(part: Any) -> Any:  # places on the screen as slots
        if isinstance(part, list):
            return [by_slot(each) for each in part]
        return names[order[part]]

    places = {"slot", "rank", "unranked"}
    for each in stored:
        if isinstance(each.get("best"), int):
            each["best"] = by_slot(each["best"])
    expected = [{"kind": kind} | {n: by_slot(v) if n in places else v for n, v in each.items()} for each in stored]
    submission = str(uuid.uuid4())
    answers = [me.submit(item["assignment"], value, submission, text=text).json() for _ in range(3)]
    assert [answer["again"] for answer in answers] == [False, True, True]
    assert [event.value for event in events(solo.studio)] == expected
    assert all((event.text_digest is not None) == (text is not None) for event in events(solo.studio))


BAD: list[tuple[QueryKind, int, Any]] = [
    ("comparison", 2, {"choice": "3"}),
    ("comparison", 2, {"choice": "a"}),
    ("comparison", 2, {"choice": "tie", "strength": 2}),
    ("comparison", 2, {"choice": "1", "strength": 9}),
    ("comparison", 2, {"choice": ["1"]}),
    ("comparison", 2, {"choice": "1", "extra": 1}),
    ("comparison", 2, {}),
    ("ranking", 3, {"rank": []}),
    ("ranking", 3, {"rank": "1"}),
    ("ranking", 3, {"rank": [["1", "1"], ["2"]]}),
    ("ranking", 3, {"rank": [[["1"]], ["2"]]}),
    ("best_of", 3, {"best": None}),
    ("rating", 1, {"ratings": []}),
    ("rating", 1, {"ratings": [{"candidate": "1", "aspect": "overall", "score": 6}]}),
    ("rating", 1, {"ratings": [{"candidate": "1", "aspect": "other", "score": 3}]}),
    ("rating", 1, {"ratings": [{"candidate": "1", "aspect": "overall", "score": "4"}]}),
    ("rating", 1, {"ratings": [3]}),
    ("rating", 2, {"ratings": [{"candidate": "1", "aspect": "overall", "score": 3}]}),
    ("label", 1, {"label": "nice", "good": True}),
    ("label", 1, {"label": "good", "good": 1}),
    ("label", 1, {"label": ["good"], "good": True}),
    ("correction", 1, {"candidate": "1"}),
    ("critique", 1, {"candidate": "1", "span": [5, 2]}),
    ("critique", 1, {"candidate": "1", "span": "all"}),
    ("demonstration", 0, {"text": "x"}),
    ("approval", 1, {"thumb": "sideways"}),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_study(tmp_path_factory.mktemp("many") / "s"), StudioSettings(solo=True)) as here:
        yield here


@pytest.mark.parametrize(("kind", "k", "value"), BAD)
def test_what_does_not_fit_the_question_is_refused_and_stores_nothing(
    many: Running, kind: QueryKind, k: int, value: Any
) -> None:
    ask(many.studio, kind, k=k)
    me = many.nobody().enter()
    (item,) = me.claim()
    before = len(events(many.studio))
    refused = me.submit(item["assignment"], value)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["code"] == "bad_value"
    assert refused.json()["error"]["fix"]
    assert len(events(many.studio)) == before
    skipped = me.post(f"assignments/{item['assignment']}/skip", json={"submission_id": str(uuid.uuid4())})
    assert skipped.json() == {"stored": True, "again": False}


PLACE = {"candidate": "1"}
REMARKS: dict[str, dict[str, Any]] = {"critique": PLACE, "correction": PLACE, "demonstration": {}}
MAIN: dict[QueryKind, tuple[int, Any, str | None]] = {
    "comparison": (2, {"choice": "1"}, None),
    "ranking": (3, {"rank": [["2"], ["1"]]}, None),
    "best_of": (3, {"best": "1"}, None),
    "rating": (1, {"ratings": [{"candidate": "1", "score": 3}]}, None),
    "label": (1, {"label": "good", "good": True}, None),
    "approval": (1, {"thumb": "down"}, None),
    "critique": (2, {"candidate": "2"}, "why?"),
    "correction": (2, {"candidate": "2"}, "better"),
    "demonstration": (0, {}, "mine"),
}


@pytest.mark.parametrize("kind", MAIN)
def test_what_fits_beside_an_answer(solo: Running, kind: QueryKind) -> None:
    """All remarks at once beside every kind, but the kind's own; and an answer with remarks can be taken back whole."""
    k, value, text = MAIN[kind]
    ask(solo.studio, kind, k=k)
    me = solo.nobody().enter()
    (item,) = me.claim()
    fitting = [remark for remark in REMARKS if remark != kind and kind != "demonstration"]
    for remark in REMARKS.keys() - set(fitting):
        extra = [{"kind": remark, "value": REMARKS[remark], "text": "words"}]
        refused = me.submit(item["assignment"], value, text=text, extra=extra)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_value")
    assert not events(solo.studio)
    extra = [{"kind": remark, "value": REMARKS[remark], "text": f"my {remark}"} for remark in fitting]
    assert me.submit(item["assignment"], value, text=text, extra=extra).status_code == 200
    stored = events(solo.studio)
    assert sorted(event.kind for event in stored) == sorted([kind, *fitting])
    assert len({event.target for event in stored}) == len(stored)
    assert len(solo.studio.log.judgements()) == len(stored)
    again = me.post(f"assignments/{item['assignment']}/undo", json={}).json()["item"]
    assert solo.studio.log.judgements() == []
    assert me.submit(again["assignment"], value, text=text, extra=extra).status_code == 200
    assert len(solo.studio.log.judgements()) == len(stored)
    solo.studio.log.seal(force=True)
    assert verify(solo.studio.database).ok


def test_a_remark_can_be_corrected_later(solo: Running) -> None:
    ask(solo.studio, "approval", k=1)
    me = solo.nobody().enter()
    (item,) = me.claim()
    extra = [{"kind": "correction", "value": {}, "text": "better"}]
    assert me.submit(item["assignment"], {"thumb": "down"}, extra=extra).status_code == 200
    remark = next(event for event in events(solo.studio) if event.kind == "correction")
    solo.studio.log.correct(remark.id, Answer({}, "better still"))
    kinds = {(j.value["kind"], j.text) for j in solo.studio.log.judgements()}
    assert kinds == {("approval", None), ("correction", "better still")}


def test_undo_opens_the_question_again_and_nothing_is_deleted(solo: Running) -> None:
    ask(solo.studio, "comparison")
    me = solo.nobody().enter()
    (item,) = me.claim()
    me.submit(item["assignment"], {"choice": "1"})
    opened = me.post(f"assignments/{item['assignment']}/undo", json={}).json()["item"]
    assert [c["text"] for c in opened["candidates"]] == [c["text"] for c in item["candidates"]]
    assert me.submit(opened["assignment"], {"choice": "2"}).status_code == 200
    kinds = [event.kind for event in events(solo.studio)]
    assert kinds == ["comparison", "retraction", "comparison"]
    (judgement,) = solo.studio.log.judgements()
    first = events(solo.studio)[0]
    assert judgement.value["choice"] != first.value["choice"]


def test_undo_too_late_says_so(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings(solo=True, undo_s=0.0)) as here:
        ask(here.studio, "comparison")
        me = here.nobody().enter()
        (item,) = me.claim()
        me.submit(item["assignment"], {"choice": "1"})
        late = me.post(f"assignments/{item['assignment']}/undo", json={})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "undo_too_late")


def test_a_draft_comes_back_with_the_next_claim(solo: Running) -> None:
    ask(solo.studio, "demonstration", k=0)
    me = solo.nobody().enter()
    (item,) = me.claim()
    place = f"assignments/{item['assignment']}"
    assert me.put(f"{place}/draft", json={"body": {"text": "half an ans"}}).status_code == 204
    (again,) = me.claim()
    assert again["assignment"] == item["assignment"]
    assert again["draft"] == {"text": "half an ans"}
    assert me.post(f"{place}/heartbeat", json={}).json()["expires_at"] >= item["expires_at"]
    assert me.post(f"{place}/release", json={}).status_code == 204
    assert me.put(f"{place}/draft", json={"body": {"x": "y" * 300_000}}).status_code == 413


def test_the_page_learns_places_and_nothing_else(solo: Running) -> None:
    queries = ask(solo.studio, "ranking", 3, k=4)
    items = solo.nobody().enter().claim(3)
    said = json.dumps(items)
    for secret in (
        "secret-policy",
        "temperature",
        "0.1234567",
        "987654321",
        "purpose",
        "gold",
        "tokens",
        *[q.id for q in queries],
    ):
        assert secret not in said
    for query in queries:
        for secret in (query.task_id, *query.candidate_ids):
            assert secret not in said
    keys = {"assignment", "kind", "expires_at", "guideline_version", "task", "candidates", "form", "draft"}
    assert all(set(item) == keys for item in items)
    assert all(set(c) == {"key", "viewer", "text", "html"} for item in items for c in item["candidates"])


def test_an_empty_queue_says_why(solo: Running) -> None:
    me = solo.nobody().enter()
    assert me.post("queue/claim", json={}).json()["empty"]["reason"] == "nothing_asked"
    ask(solo.studio, "comparison")
    assert me.post("queue/claim", json={"kinds": ["ranking"]}).json()["empty"]["reason"] == "wrong_kind"
    me.claim()
    other = solo.person("annotator")
    assert other.post("queue/claim", json={}).json()["empty"] == {"reason": "all_claimed", "open": 0, "claimed": 1}


def test_what_was_put_aside_is_there_when_no_other_kind_is_left(solo: Running) -> None:
    ask(solo.studio, "label", 1, k=1)
    me = solo.nobody().enter()
    (item,) = me.claim()
    assert me.post(f"assignments/{item['assignment']}/release", json={}).status_code == 204
    found = me.post("queue/claim", json={"kinds": ["comparison"]}).json()
    assert (found["items"], found["empty"]["reason"]) == ([], "wrong_kind")
    assert [each["assignment"] for each in me.claim()] == [item["assignment"]]


def test_another_persons_assignment_is_not_there(solo: Running) -> None:
    ask(solo.studio, "comparison", 2)
    (item,) = solo.nobody().enter().claim()
    other = solo.person("admin")
    place = f"assignments/{item['assignment']}"
    body = {"submission_id": str(uuid.uuid4())}
    refused = [
        other.submit(item["assignment"], {"choice": "1"}),
        other.post(f"{place}/skip", json=body),
        other.post(f"{place}/undo", json={}),
        other.post(f"{place}/heartbeat", json={}),
        other.put(f"{place}/draft", json={"body": {}}),
        other.post(f"{place}/release", json={}),
        other.get(f"{place}/clips/1/clip.mp4"),
    ]
    assert [(r.status_code, r.json()["error"]["code"]) for r in refused] == [(403, "not_yours")] * len(refused)
    assert not events(solo.studio)
