"""Records become judgements: canonical slots, splits by prompt or group, teachers apart, everything accounted for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_cases import CHAT, demonstration, pair, ranking, records, single

from tropism.data.judgements import to_demonstrations, to_judgements, to_prompts
from tropism.data.records import Record
from tropism.data.voting import Unusable, as_vote
from tropism.errors import DataError
from tropism.feedback.chance import uniform

JUDGED = ("comparison", "ranking", "rating", "label", "approval", "critique", "correction", "demonstration")


def preferred(record: Record) -> Any:
    """What a record's own value says, in texts."""
    return _said(record.value or {}, [str(c["text"]) for c in record.candidates], record.kind)


def _said(value: Any, texts: list[str], kind: str) -> Any:
    names = ("a", "b") if kind == "comparison" else tuple(f"c{i + 1}" for i in range(len(texts)))
    text = dict(zip(names, texts, strict=True))
    if kind == "comparison":
        return text.get(value["choice"], value["choice"])
    if kind == "ranking":
        return [sorted(text[slot] for slot in group) for group in value["rank"]]
    return text.get(value.get("slot", "c1"))


@given(records(JUDGED))
def test_canonical_slots_say_what_the_record_says(record: Record) -> None:
    vote = as_vote(record, "train")
    assert [c.id for c in vote.candidates] == sorted(c.id for c in vote.candidates)
    texts = [str(c.content["text"]) for c in vote.candidates]
    assert _said(vote.answer.value, texts, record.kind) == preferred(record)
    if record.shown is not None:
        seen = [texts[i] for i in vote.query.shown_order]
        assert seen == [record.candidates[i]["text"] for i in record.shown]
    given = record.value or {}
    kept = {key: vote.answer.value[key] for key in given if key not in ("choice", "rank", "slot")}
    assert kept == {key: given[key] for key in kept}
    assert vote.answer.text == record.text


@given(records(("ranking",)), st.randoms())
def test_the_order_in_a_file_changes_no_id(record: Record, random: Any) -> None:
    order = list(range(len(record.candidates)))
    random.shuffle(order)
    name = {f"c{old + 1}": f"c{new + 1}" for new, old in enumerate(order)}
    assert record.value is not None
    value = {"kind": "ranking", "rank": [[name[slot] for slot in group] for group in record.value["rank"]]}
    shown = None if record.shown is None else tuple(order.index(slot) for slot in record.shown)
    other = Record(
        record.prompt, tuple(record.candidates[i] for i in order), value, record.text, "ranking", shown=shown,
        group=record.group,
    )  # fmt: skip
    one, two = as_vote(record, "train"), as_vote(other, "train")
    assert (one.query, one.answer) == (two.query, two.answer)


def test_ids_of_a_plain_pair_never_change() -> None:
    """Studies that imported pairs with earlier versions find the same tasks, candidates and queries again."""
    vote = as_vote(pair(), "train")
    assert vote.task.id == "659d26a56ebd7e65df605278"
    assert vote.query.candidate_ids == ("858bc6fd82aaeac4314bd7c7", "c55d68bff66de9d044b8174f")
    assert (vote.query.id, vote.query.shown_order) == ("a85415c27e90b58ee7d4c91a", (1, 0))
    assert vote.answer.value == {"kind": "comparison", "choice": "b", "strength": 0}
    shown = as_vote(pair("q", "x", "y", "b", shown=(0, 1)), "train")
    assert (shown.query.id, shown.query.shown_order) == ("f10b2067a78884e1afe08b2f", (0, 1))


def test_trap_43_what_was_preferred_is_not_always_slot_a() -> None:
    judged = to_judgements(pair(f"p{i}") for i in range(300)).judgements
    assert 110 < sum(j.value["choice"] == "a" for j in judged) < 190
    assert 110 < sum(j.query.shown_order == (0, 1) for j in judged) < 190


def test_trap_44_tie_both_bad_and_cannot_judge_stay_apart() -> None:
    judged = to_judgements(pair(c, choice=c) for c in ("tie", "both_bad", "cannot_judge")).judgements
    assert [j.value["choice"] for j in judged] == ["tie", "both_bad", "cannot_judge"]


def test_a_prompt_keeps_its_split_when_the_file_grows() -> None:
    def split(count: int) -> dict[str, str]:
        judged = to_judgements([pair(f"p{i}") for i in range(count)], validation_share=0.25).judgements
        return {str(j.task.payload["prompt"]): j.task.split for j in judged}

    small, grown = split(200), split(400)
    assert small.items() <= grown.items()
    assert 30 < sum(s == "validation" for s in small.values()) < 70
    assert all(s == ("validation" if uniform(0, "split", p) < 0.25 else "train") for p, s in small.items())
    other = to_judgements([pair(f"p{i}") for i in range(200)], validation_share=0.25, seed=1).judgements
    assert {j.task.payload["prompt"]: j.task.split for j in other} != small


def test_splits_by_group_keep_a_group_together() -> None:
    rows = [pair(f"p{i}", group=f"g{i % 20}") for i in range(200)]
    judged = to_judgements(rows, validation_share=0.3, split_by="group").judgements
    of: dict[str, set[str]] = {}
    for j in judged:
        of.setdefault(str(j.task.payload["group"]), set()).add(j.task.split)
    assert len(judged) == 200
    assert all(len(splits) == 1 for splits in of.values())
    assert {s for splits in of.values() for s in splits} == {"train", "validation"}
    by_prompt = to_judgements(rows, validation_share=0.3).judgements
    assert any({j.task.split for j in by_prompt if j.task.payload["group"] == g} != s for g, s in of.items())


def test_own_splits_and_known_splits_are_kept_and_test_rows_never_train() -> None:
    rows = [pair("a", split="test"), pair("b", split="validation"), pair("c"), pair("d")]
    judged = to_judgements(rows, validation_share=0, known_split=lambda prompt: "test" if prompt == "c" else None)
    assert [(j.task.payload["prompt"], j.task.split) for j in judged.judgements] == [
        ("b", "validation"),
        ("d", "train"),
    ]
    assert [j.task.payload["prompt"] for j in judged.test] == ["a", "c"]
    assert judged.summary()["judgements"] == {"test": 2, "train": 1, "validation": 1}


def test_one_prompt_never_comes_in_two_splits() -> None:
    rows = [pair("p", line=1), pair("p", "x", line=2, split="test"), pair("q", line=3, split="train")]
    judged = to_judgements(rows, validation_share=0, known_split=lambda prompt: "test" if prompt == "q" else None)
    assert [(bad.line, bad.reason) for bad in judged.dropped] == [
        (2, "split test, but line 1 has this prompt in train"),
        (3, "this prompt is in the test split already, not in train"),
    ]
    assert judged.summary()["dropped"] == {"its prompt is in another split": 2}
    grouped = [pair("p", group="g", split="train", line=1), pair("q", group="g", split="test", line=2)]
    assert [bad.line for bad in to_judgements(grouped, split_by="group").dropped] == [2]
    assert not to_judgements(grouped).dropped


def test_teachers_are_kept_apart_and_say_each_thing_once() -> None:
    rows = [pair(line=1), pair(line=2), pair(choice="b", line=3), pair(choice="b", line=4, teacher="Ada"),
            pair("p", "bad", "good", line=5, teacher="Ada"), pair(choice="tie", line=6, teacher="Ada"),
            pair(line=7, text="why")]  # fmt: skip
    judged = to_judgements(rows)
    assert [(j.teacher_id, j.teacher_kind) for j in judged.judgements] == [("import", "import"), ("Ada", "person")]
    assert len({j.query.id for j in judged.judgements}) == 1
    assert len({j.event_id for j in judged.judgements}) == 2
    assert {bad.line: bad.reason for bad in judged.dropped} == {
        2: "the same as line 1",
        3: "contradicts line 1 (the same pair, a row without annotator)",
        5: "the same as line 4",
        6: "contradicts line 4 (the same pair, annotator 'Ada')",
        7: "the same as line 1 in other words (the same pair, a row without annotator)",
    }
    assert judged.records == len(judged.judgements) + len(judged.dropped)


def test_several_aspects_and_remarks_on_one_answer_are_several_judgements() -> None:
    rating = {"kind": "rating", "score": 3, "scale": [1, 5]}
    rows = [
        single("p", "x", rating | {"aspect": "helpful"}, line=1),
        single("p", "x", rating | {"aspect": "correct"}, line=1),
        single("p", "x", {"kind": "critique"}, "too long", line=2),
        single("p", "x", {"kind": "critique"}, "too dull", line=3),
        single("p", "x", {"kind": "critique"}, "too dull", line=4),
        single("p", "x", {"kind": "critique"}, "so so", teacher="Ada", line=5),
        single("p", "x", {"kind": "critique", "span": [0, 1]}, "no", teacher="Ada", line=6),
        single("p", "x", {"kind": "critique", "span": [0, 1]}, "yes", teacher="Ada", line=7),
        demonstration("p", "one", line=8),
        demonstration("p", "two", line=9),
    ]
    judged = to_judgements(rows)
    assert {bad.line: bad.reason for bad in judged.dropped} == {
        4: "the same as line 3",
        7: "a second critique beside that of line 6 (the same answers, annotator 'Ada'): join them, or give spans",
    }
    assert len({j.event_id for j in judged.judgements}) == 8
    # whom nobody names are as many as there are texts, and a query's id is the digest of what was asked
    assert Counter(j.teacher_id for j in judged.judgements) == {"import": 4, "import-2": 2, "Ada": 2}
    assert len({j.query.id for j in judged.judgements if j.query.kind == "demonstration"}) == 1


BAD = [
    (Record("p"), "no judgement"),
    (Record("p", ({"text": "x"},), None, None, "rating"), "no judgement"),
    (pair(first="x", second="x"), "identical"),
    (pair(choice="c"), "choice"),
    (ranking("p", ["x", "y"], [["c1"]]), "untouched ranking"),
    (ranking("p", ["x", "y"], [["c1"], ["c3"]]), "no slot 'c3'"),
    (single("p", "x", {"kind": "rating", "score": 9, "scale": [1, 5]}), "outside the scale"),
    (single("p", "x", {"kind": "critique"}), "a critique without text"),
    (demonstration("p", " "), "a demonstration without text"),
]


@pytest.mark.parametrize(("record", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_what_gives_no_judgement_is_listed_with_its_reason(record: Record, reason: str) -> None:
    judged = to_judgements([record, pair("q")])
    assert len(judged.judgements) == 1
    assert reason in judged.dropped[0].reason
    assert sum(judged.summary()["dropped"].values()) == 1
    with pytest.raises(Unusable):
        as_vote(record, "train")


def test_shares_out_of_range_are_refused() -> None:
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="validation share"):
            to_judgements([], validation_share=share)


def test_chats_keep_their_messages() -> None:
    payload = to_judgements([Record(CHAT, *_rest(pair()))]).judgements[0].task.payload
    assert payload["messages"] == [dict(m) for m in CHAT]
    assert payload["prompt"].endswith("user: =1+1?")


def _rest(record: Record) -> tuple[Any, ...]:
    return record.candidates, record.value, record.text, record.kind


def test_demonstrations_are_of_train_prompts_and_come_once() -> None:
    rows = [
        demonstration("p", "one"), demonstration("p", "one"), demonstration("p", "two", split="train"),
        demonstration("q", "no", split="test"), demonstration("q", "no", split="validation"),
        single("r", "x", {"kind": "correction"}, "mended"), pair("s"), Record("t"),
    ]  # fmt: skip
    assert [(p["prompt"], text) for p, text in to_demonstrations(rows)] == [
        ("p", "one"), ("p", "two"), ("r", "mended")]  # fmt: skip
    assert [text for _, text in to_demonstrations(rows, splits=("test",))] == ["no"]


def test_chosen_sides_are_demonstrations_only_when_asked_for() -> None:
    best = Record("p", ({"text": "x"}, {"text": "y"}), {"kind": "best_of", "best": "c2"}, None, "best_of")
    none = Record("n", ({"text": "x"}, {"text": "y"}), {"kind": "best_of", "best": "all_bad"}, None, "best_of")
    rows = [pair("a"), pair("b", choice="b"), pair("t", choice="tie"), best, none,
            ranking("r", list("xyz"), [["c3"], ["c1", "c2"]]), ranking("s", list("xy"), [["c1", "c2"]])]  # fmt: skip
    assert to_demonstrations(rows) == []
    assert [(p["prompt"], text) for p, text in to_demonstrations(rows, chosen=True)] == [
        ("a", "good"), ("b", "bad"), ("p", "y"), ("r", "z")]  # fmt: skip


def test_prompts_are_distinct_tasks_split_as_judgements_are() -> None:
    rows = [pair(f"p{i % 50}", f"x{i}", group="g") for i in range(200)] + [Record("new", split="test"), Record("p0")]
    tasks = to_prompts(rows, validation_share=0.3)
    assert len({task.payload["prompt"] for task in tasks}) == len(tasks) == 51
    judged = to_judgements(rows, validation_share=0.3).judgements
    assert {j.task.id for j in judged} < {task.id for task in tasks}
    assert tasks[-1].split == "test"


@given(st.lists(records(JUDGED), max_size=12))
def test_every_record_is_accounted_for(found: list[Record]) -> None:
    judged = to_judgements(found)
    assert judged.records == len(found) == len(judged.judgements) + len(judged.test) + len(judged.dropped)
    assert sum(judged.reasons.values()) == len(judged.dropped)
    assert all(j.task.split != "test" for j in judged.judgements)
    events = [j.event_id for j in (*judged.judgements, *judged.test)]
    assert len(set(events)) == len(events)
