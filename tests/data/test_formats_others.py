"""What rows of each format come to: prompt, candidates, value, teacher, group, and what is carried along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tropism.data import Reading, Record, read
from tropism.data.records import from_json, to_json
from tropism.errors import DataError


def reading(folder: Path, *rows: dict[str, Any], **options: Any) -> Reading:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(path, **options)


def first(folder: Path, row: dict[str, Any], **options: Any) -> Record:
    return reading(folder, row, **options).records[0]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# ---- one answer ----


def test_demonstrations_of_every_form(tmp_path: Path) -> None:
    rows = {
        "plain": {"prompt": "q", "completion": " a"},
        "chat": {"prompt": [user("q")], "completion": [assistant("a")]},
        "mixed": {"prompt": "q", "completion": [assistant("a")]},
        "messages": {"messages": [user("q"), assistant("x"), user("r"), assistant("a")]},
        "turns": {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            "system": "be kind",
        },
        "input": {"instruction": "do", "input": "this", "output": "a"},
        "no input": {"instruction": "do", "input": "", "output": "a"},
    }
    made = {name: first(tmp_path, row) for name, row in rows.items()}
    assert (made["plain"].prompt, made["plain"].text) == ("q", " a")
    assert (made["chat"].prompt, made["chat"].text) == ((user("q"),), "a")
    assert (made["mixed"].prompt, made["mixed"].text) == ((user("q"),), "a")
    assert (made["messages"].prompt, made["messages"].text) == ((user("q"), assistant("x"), user("r")), "a")
    assert made["turns"].prompt == ({"role": "system", "content": "be kind"}, user("q"))
    assert (made["input"].prompt, made["no input"].prompt) == ("do\n\nthis", "do")
    assert made["no input"].meta == {}
    for record in made.values():
        assert (record.kind, record.value, record.candidates) == ("demonstration", {"kind": "demonstration"}, ())


def test_a_system_message_and_what_was_said_before(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be kind"}
    said = [["one", "two"]]
    rows = {
        "plain": {"prompt": "q", "completion": "a", "system": "be kind"},
        "chat": {"prompt": [user("q")], "completion": "a", "system": "be kind"},
        "history": {"instruction": "do", "input": "x", "output": "a", "history": said, "system": "be kind"},
        "nothing": {"instruction": "do", "input": "", "output": "a", "history": [], "system": ""},
    }
    made = {name: first(tmp_path, row) for name, row in rows.items()}
    assert made["plain"].prompt == made["chat"].prompt == (system, user("q"))
    assert made["history"].prompt == (system, user("one"), assistant("two"), user("do\n\nx"))
    assert (made["nothing"].prompt, made["nothing"].meta) == ("do", {})
    repeated = {"prompt": "q", "system": "be kind", "chosen": [user("q"), assistant("a")]}
    pair = first(tmp_path, repeated | {"rejected": [user("q"), assistant("b")]})
    assert pair.prompt == (system, user("q"))
    assert [c["text"] for c in pair.candidates] == ["a", "b"]
    alpaca = first(tmp_path, {"instruction": "do", "input": "x", "chosen": "a", "rejected": "b", "history": said})
    assert alpaca.prompt == (user("one"), assistant("two"), user("do\n\nx"))
    twice = {"prompt": [system, user("q")], "completion": "a", "system": "be kind"}
    with pytest.raises(DataError, match="a column system beside messages"):
        reading(tmp_path, twice)
    with pytest.raises(DataError, match=r"history\[1\] is a text, not a question"):
        reading(tmp_path, {"instruction": "do", "output": "a", "history": ["x"]})


def test_every_instance_is_a_demonstration(tmp_path: Path) -> None:
    row = {
        "id": "s1",
        "instruction": "add",
        "instances": [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}],
    }
    made = reading(tmp_path, row | {"name": "adding"})
    assert [(r.prompt, r.text, r.source_id) for r in made.records] == [
        ("add\n\n1 2", "3", "s1"),
        ("add\n\n2 2", "4", "s1"),
    ]
    assert made.records[0].meta == {"name": "adding"}
    assert made.rows == 1


def test_a_written_out_end_token_is_stripped_on_demand(tmp_path: Path) -> None:
    made = reading(tmp_path, {"prompt": "q", "answer": "a<end>"}, {"prompt": "r", "answer": "b"}, strip_suffix="<end>")
    assert [r.text for r in made.records] == ["a", "b"]
    assert made.repaired == {"suffix '<end>' taken off": 1}
    refused = reading(
        tmp_path, {"prompt": "q", "answer": "<end>"}, {"prompt": "r", "answer": "b"}, strip_suffix="<end>"
    )
    assert refused.rejected[0].reason == "the answer is empty"


def test_parts_of_a_message_and_other_keys(tmp_path: Path) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Bo"}]
    made = reading(tmp_path, {"messages": [*said, assistant("c")]})
    assert made.records[0].prompt == ({"role": "user", "content": "ab", "name": "Bo"},)
    assert made.repaired == {"text parts of a message joined": 1}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    record = first(tmp_path, {"messages": [user("q"), call, {"role": "tool", "content": "7"}, assistant("seven")]})
    assert record.prompt[1] == {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}


def test_labels(tmp_path: Path) -> None:
    made = reading(
        tmp_path,
        {"prompt": "p", "completion": "a", "label": True, "annotator": "x", "reason": "clear"},
        {"prompt": "p", "completion": "b", "label": False, "name": "safe"},
    )
    one, two = made.records
    assert one.value == {"kind": "label", "slot": "c1", "name": "good", "good": True}
    assert (one.kind, one.teacher, one.text, one.candidates) == ("label", "x", "clear", ({"text": "a"},))
    assert two.value == {"kind": "label", "slot": "c1", "name": "safe", "good": False}
    tagged = first(tmp_path, {"messages": [user("q"), assistant("a")], "kto_tag": False}, quality="helpful")
    assert tagged.value == {"kind": "label", "slot": "c1", "name": "helpful", "good": False}
    assert tagged.candidates == ({"text": "a"},)


def test_prompts(tmp_path: Path) -> None:
    made = reading(tmp_path, {"prompt": "p", "topic": "t"}, {"prompt": [user("q")]}, {"prompt": "p"})
    assert [r.prompt for r in made.records] == ["p", (user("q"),)]
    assert made.records[0].meta == {"topic": "t"}
    assert made.rejected[0].reason == "the same prompt as line 1"


# ---- several answers ----


def test_rankings(tmp_path: Path) -> None:
    plain = first(tmp_path, {"prompt": "p", "completions": ["best", "worse", "worst"]})
    assert plain.value == {"kind": "ranking", "rank": [["c1"], ["c2"], ["c3"]], "unranked": []}
    ties = first(tmp_path, {"prompt": "p", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 2, None]})
    assert ties.value == {"kind": "ranking", "rank": [["c2"], ["c1", "c3"]], "unranked": ["c4"]}
    assert [c["text"] for c in ties.candidates] == ["a", "b", "c", "d"]  # the file's order
    chat = first(tmp_path, {"prompt": [user("q")], "completions": [[assistant("a")], [assistant("b")]]})
    assert chat.candidates[1] == {"text": "b", "messages": [assistant("b")]}


def test_transcripts(tmp_path: Path) -> None:
    head = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    record = first(tmp_path, {"chosen": head + " good\n\nlines", "rejected": head + " bad"})
    assert record.prompt == (user("one"), assistant("two"), user("three"))
    assert [c["text"] for c in record.candidates] == ["good\n\nlines", "bad"]
    assert record.value == {"kind": "comparison", "choice": "a", "strength": 0}
    early = reading(tmp_path, {"chosen": head + " x", "rejected": "\n\nHuman: one\n\nAssistant: other"})
    assert early.records[0].prompt == (user("one"),)
    assert early.records[0].candidates[0]["text"] == "assistant: two\n\nuser: three\n\nassistant: x"
    assert early.noted == {"transcripts that part before their last turn": 1}
    broken = [
        ({"chosen": "x" + head + " a", "rejected": head + " b"}, "does not begin with a turn"),
        ({"chosen": head + " a\n\nHuman: z", "rejected": head + " b"}, "ends with a turn of the human"),
        ({"chosen": head + " a", "rejected": "\n\nHuman: else\n\nAssistant: b"}, "no first message in common"),
        ({"chosen": head + " a", "rejected": head + " a"}, "identical"),
    ]
    for row, said in broken:
        with pytest.raises(DataError, match=said):
            reading(tmp_path, row, format="hh")


def reply(text: str, *replies: dict[str, Any], role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "t1",
    "tree_state": "ready",
    "prompt": reply(
        "q",
        reply("second", reply("more?", reply("late", rank=0), reply("lost", rank=1), role="prompter"), rank=1),
        reply("first", reply("and?", reply("only"), role="prompter"), rank=0),
        reply("gone", reply("below", role="prompter"), rank=2, deleted=True),
        role="prompter",
    ),
}


def test_a_tree_gives_a_ranking_for_each_message_with_ranked_replies(tmp_path: Path) -> None:
    made = reading(tmp_path, TREE)
    assert [(r.source_id, [c["text"] for c in r.candidates], r.value and r.value["rank"]) for r in made.records] == [
        ("q", ["second", "first"], [["c2"], ["c1"]]),
        ("more?", ["late", "lost"], [["c1"], ["c2"]]),
    ]
    assert made.records[1].prompt == (user("q"), assistant("second"), user("more?"))
    assert {r.group for r in made.records} == {"t1"}
    assert made.left_out == {"deleted messages": 1}


def test_a_tree_gives_demonstrations(tmp_path: Path) -> None:
    best = reading(tmp_path, TREE, take="best")
    assert [r.text for r in best.records] == ["first", "only"]
    assert best.records[1].prompt == (user("q"), assistant("first"), user("and?"))
    assert [r.text for r in reading(tmp_path, TREE, take="all").records] == ["second", "first", "late", "lost", "only"]


def test_votes_of_several_annotators(tmp_path: Path) -> None:
    row = {"idx": 3, "motivation_app": "Mail", "instruction": "i", "input": "x", "response1": "a", "response2": ""}
    made = reading(
        tmp_path, row | {"annotator1": 0, "annotator2": 1, "annotator3": 2, "annotator4": None, "cmp": "m_n"}
    )
    said = [(r.teacher, r.value and r.value["choice"]) for r in made.records]
    assert said == [("annotator1", "tie"), ("annotator2", "a"), ("annotator3", "b")]
    record = made.records[0]
    assert (record.prompt, record.group, record.source_id, record.meta) == ("i\n\nx", "Mail", "3", {"cmp": "m_n"})
    assert (made.noted, made.left_out) == ({"empty answers": 1}, {"annotators without a vote": 1})
    named = reading(
        tmp_path, {"prompt": "p", "first": "a", "second": "b", "votes": {"x": 0, "y": 0.5, "z": {"choice": "both_bad"}}}
    )
    assert [(r.teacher, r.value and r.value["choice"]) for r in named.records] == [
        ("x", "a"),
        ("y", "tie"),
        ("z", "both_bad"),
    ]
    assert named.records[0].shown == (0, 1)
    coded = reading(tmp_path, row | {"annotator1": 0, "annotator2": 1}, coding="first-second")
    assert [r.value and r.value["choice"] for r in coded.records] == ["a", "b"]
    with pytest.raises(DataError, match="response2 is empty"):
        reading(tmp_path, row | {"annotator1": 0}, empty=False)


def test_a_pair_that_comes_again_is_a_judgement_of_its_own(tmp_path: Path) -> None:
    row = {"instruction": "i", "input": "", "response1": "a", "response2": "b", "annotator1": 1}
    made = reading(tmp_path, row | {"idx": 0}, row | {"idx": 1}, row | {"idx": 2, "annotator1": 2})
    assert len(made.records) == 3
    assert made.noted == {"said again, the same": 1, "said again, otherwise": 1}


def test_pairs_of_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    rows = [{"input": "i", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2, 3)]
    path.write_text(json.dumps({"Natural": rows[:1], "Hard": rows[1:]}))
    made = read(path)
    assert [(r.group, r.value and r.value["choice"]) for r in made.records] == [("Natural", "a"), ("Hard", "b")]
    assert made.rejected[0].reason == "label is 3, not 1 (the first is better) or 2 (the second)"


# ---- scores and words ----


def test_ratings_on_a_scale(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "completion": "a",
        "score": 4,
        "scale": [1, 5],
        "aspect": "tone",
        "segment": [0, 2],
        "annotator": "x",
    }
    record = first(tmp_path, row)
    assert record.value == {
        "kind": "rating",
        "slot": "c1",
        "score": 4,
        "scale": [1, 5],
        "aspect": "tone",
        "segment": [0, 2],
    }
    by_option = first(tmp_path, {"prompt": "p", "answer": "a", "score": 3.5}, scale=(0, 10))
    assert by_option.value == {"kind": "rating", "slot": "c1", "score": 3.5, "scale": [0, 10], "aspect": "overall"}


def test_a_row_of_aspects_gives_a_rating_for_each(tmp_path: Path) -> None:
    steer = {
        "prompt": "p",
        "response": "a",
        "helpfulness": 3,
        "correctness": 4,
        "coherence": None,
        "complexity": 1,
        "verbosity": 0,
    }
    made = reading(tmp_path, steer)
    assert [(r.value["aspect"], r.value["score"], r.value["scale"]) for r in made.records if r.value] == [
        *(("helpfulness", 3, [0, 4]), ("correctness", 4, [0, 4])),
        *(("complexity", 1, [0, 4]), ("verbosity", 0, [0, 4])),
    ]
    assert made.left_out == {"aspects without a score": 1}
    own = reading(
        tmp_path,
        {"prompt": "p", "answer": "a", "fun": 1, "style": 2},
        format="ratings",
        aspects=["fun", "style"],
        scale=(1, 7),
    )
    assert [r.value["aspect"] for r in own.records if r.value] == ["fun", "style"]
    with pytest.raises(DataError, match="no scale: add a column"):
        reading(tmp_path, {"prompt": "p", "answer": "a", "fun": 1}, format="ratings", aspects=["fun"])


def test_critiques_and_corrections(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "completion": "abc",
        "critique": "wrong",
        "span": [1, 3],
        "correction": "abd",
        "annotator": "x",
    }
    remark, mended = reading(tmp_path, row).records
    assert remark.value == {"kind": "critique", "slot": "c1", "span": [1, 3]}
    assert (remark.text, remark.kind, remark.teacher) == ("wrong", "critique", "x")
    assert (mended.text, mended.value) == ("abd", {"kind": "correction", "slot": "c1"})
    with pytest.raises(DataError, match="the correction is the answer itself"):
        reading(tmp_path, {"prompt": "p", "completion": "abc", "correction": "abc"})


# ---- corpora of several files, references and segments ----


def test_arguments_and_their_judgements(tmp_path: Path) -> None:
    topic = "tv-is-better_books"
    arguments = [{"id": f"a{i}", "topic": topic, "stance": "Books", "text": f"text {i}"} for i in range(3)]
    arguments += [
        {"id": "b", "topic": "other_x", "stance": "X", "text": "t"},
        {"id": "a1", "topic": topic, "stance": "Books", "text": "new"},
    ]
    (tmp_path / "arguments.jsonl").write_text("".join(json.dumps(a) + "\n" for a in arguments))
    votes = "\n".join(
        [
            *("topic,arg1,arg2,worker,value,reason,mace_competence", f"{topic},a0,a1,w1,a2,because,0.5"),
            *(
                f"{topic},a0,a1,w2,equal,,0.1",
                f"{topic},a0,a9,w1,a1,x,0",
                f"{topic},a0,b,w1,a1,x,0",
                f"{topic},a1,a2,w1,A1,x,0",
            ),
        ]
    )
    (tmp_path / "judgements.csv").write_text(votes + "\n")
    made = read(tmp_path)
    assert made.source["format"] == "ukp"
    one, two = made.records
    assert one.prompt == "Debate: tv is better\nStance: Books\nGive a convincing argument for this stance."
    assert (one.candidates, one.shown) == (({"text": "text 0"}, {"text": "text 1"}), (0, 1))
    assert (one.value and one.value["choice"], one.teacher, one.text, one.group) == ("b", "w1", "because", topic)
    assert one.meta == {"arguments": ["a0", "a1"], "mace_competence": "0.5"}
    assert (two.value and two.value["choice"], two.text) == ("tie", None)
    assert [(bad.line, bad.file, bad.reason) for bad in made.rejected] == [
        (5, "arguments.jsonl", "argument a1 came before with another content"),
        (4, "judgements.csv", "arg2 is a9, which is no argument of the arguments file"),
        (5, "judgements.csv", "arg2 is of topic other_x, not tv-is-better_books"),
        (6, "judgements.csv", "value is A1, not a1, a2 or equal"),
    ]
    with pytest.raises(DataError, match="no arguments file"):
        read(tmp_path / "judgements.csv", format="ukp")


def test_rankings_of_systems(tmp_path: Path) -> None:
    five = {"srclang": "fr", "trglang": "en", "segmentId": "9", "srcIndex": "9", "judgeId": "j1"}
    for i, rank in enumerate((2, 1, 2, -1, 3), 1):
        five |= {f"system{i}Id": f"S{i}", f"system{i}rank": rank}
    record = first(tmp_path, five)
    assert record.value == {"kind": "ranking", "rank": [["c2"], ["c1", "c3"], ["c5"]], "unranked": ["c4"]}
    assert (record.candidates[0], record.candidate_kind) == ({"ref": "S1"}, "reference")
    assert (record.prompt, record.teacher, record.group) == ("Translate segment 9 from fr to en.", "j1", "fr-en")
    base = {"srclang": "fr", "trglang": "en", "segmentId": "9", "judgeID": "j1", "rankingID": "r1"}
    ranks = {"A": 1, "B": 3, "C": 2}
    pairs = [
        base | {"system1Id": a, "system1rank": ranks[a], "system2Id": b, "system2rank": ranks[b]}
        for a, b in ("AB", "AC", "BC")
    ]
    made = reading(tmp_path, *pairs, pairs[0] | {"rankingID": "r2"})
    assert [r.value and r.value["rank"] for r in made.records] == [[["c1"], ["c3"], ["c2"]], [["c1"], ["c2"]]]
    assert (made.rows, made.records[0].source_id, made.noted) == (4, "r1", {})
    assert reading(tmp_path, *pairs[:2]).noted == {"rankings with pairs that no row has": 1}


def test_segments_by_their_starts(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "PT/ant/indices_num4_q100": [10, 20, 30, 40],
        "PT/ant/indices_2_num4_q100": [50, 60, 70, 80],
        "PT/ant/label_human": [0, 1, -1],
        "U/pen/len50/indices_1": [1],
        "U/pen/len50/indices_2": [2],
        "U/pen/len50/label": [1],
        "plain/indices_1": [3],
        "plain/indices_2": [4],
        "plain/label": [0],
    }
    np.savez(tmp_path / "s.npz", **{name: np.array(held) for name, held in arrays.items()})
    made = read(tmp_path / "s.npz")
    assert [(r.group, r.value and r.value["choice"]) for r in made.records] == [
        *(("PT/ant", "a"), ("PT/ant", "b"), ("PT/ant", "tie"), ("U/pen/len50", "b"), ("plain", "a")),
    ]
    assert made.records[0].candidates == (
        {"source": "PT/ant", "start": 10, "length": 100},
        {"source": "PT/ant", "start": 50, "length": 100},
    )
    assert made.records[3].candidates[0]["length"] == 50
    assert made.records[4].candidates[0] == {"source": "plain", "start": 3}
    assert read(tmp_path / "s.npz", length=25).records[4].candidates[0]["length"] == 25
    assert (made.rows, made.empty_rows, made.left_out) == (6, 1, {"pairs of segments without a label": 1})


def test_segments_with_their_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs, act = rng.normal(size=(2, 4, 7, 3)), rng.integers(0, 5, size=(2, 4, 7))
    steps = {"obs1": obs[0], "act1": act[0], "obs2": obs[1], "act2": act[1]}
    np.savez(tmp_path / "s.npz", **steps, label=np.array([0, 1, 0.5, 2]))
    made = read(tmp_path / "s.npz")
    assert made.records[1].candidates == (
        {"file": "s.npz", "row": 1, "side": 1, "length": 7},
        {"file": "s.npz", "row": 1, "side": 2, "length": 7},
    )
    assert [r.value and r.value["choice"] for r in made.records] == ["a", "b", "tie"]
    np.savez(tmp_path / "t.npz", **steps, label=np.array([0, 1, 0.5, 2]))
    assert [(bad.line, bad.file) for bad in read(tmp_path).rejected] == [(4, "s.npz"), (4, "t.npz")]
    assert made.rejected[0].reason == "s: label is 2.0, not 0 (first), 1 (second), -1 or 0.5 (equal)"


# ---- our own form ----


RECORDS = [
    Record("p"),
    Record(
        "p",
        ({"text": "a"}, {"text": "b"}),
        {"kind": "comparison", "choice": "both_bad", "strength": 0},
        kind="comparison",
    ),
    Record(
        (user("q"),),
        ({"text": "a", "messages": [assistant("a")]}, {"text": "b"}),
        {"kind": "ranking", "rank": [["c2"], ["c1"]], "unranked": []},
        "why",
        "ranking",
        teacher="x",
        shown=(1, 0),
        split="test",
        group="g",
        source_id="7",
        meta={"n": [1, None, {"k": 2.5}]},
    ),
    Record(
        "p",
        ({"ref": "S"},),
        {"kind": "approval", "slot": "c1", "approved": True},
        kind="approval",
        candidate_kind="reference",
    ),
    Record("p", (), {"kind": "demonstration"}, "a", "demonstration"),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_comes_back_from_its_json(tmp_path: Path, record: Record) -> None:
    assert from_json(json.loads(json.dumps(to_json(record)))) == record
    back = first(tmp_path, to_json(record))
    assert to_json(back) == to_json(record)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tropism": 2}, "a record of version 2, not 1"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"prompt": None}, "without a prompt"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": [{"role": "user"}]}, "no role or no content"),
        ({"kind": "vote"}, "kind is 'vote'"),
        ({"kind": "ranking"}, "kind is 'ranking', but its value's is 'comparison'"),
        ({"candidates": "ab"}, "candidates is a str"),
        ({"candidates": ["a", "b"]}, "candidates holds a str"),
        ({"shown": [0, 0]}, "shown is [0, 0]"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"value": {"kind": "comparison", "choice": "c"}}, "choice"),
        ({"candidates": [{"text": "a"}]}, "a comparison of 1 candidates"),
        ({"candidates": [{"text": "a"}] * 3, "value": None}, "a comparison of 3 candidates"),
    ],
)
def test_a_broken_record_is_rejected(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = to_json(RECORDS[1])
    made = reading(tmp_path, good, good | change, format="tropism")
    assert len(made.records) == 1
    assert said in made.rejected[0].reason
