"""Preference pairs in all their forms: which prompt, which answers, which vote, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tropism.data import Record, read
from tropism.data.formats.pairs import choice_of_label, label_of_choice
from tropism.data.strict_json import BadRow
from tropism.errors import DataError

GOOD: dict[str, Any] = {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"}


def written(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def one(folder: Path, row: object, **options: Any) -> Record:
    return read(written(folder, row), **options).records[0]


BAD_ROWS: list[tuple[bytes, str]] = [
    (b'{"chosen": "a", "rejected": "b"}', "column prompt is missing"),
    (b'{"prompt": "p", "chosen": "a"}', "column rejected is missing"),
    (b'{"prompt": "p", "first": "a", "second": "b"}', "column label is missing"),
    (b'{"prompt": 7, "chosen": "a", "rejected": "b"}', "prompt is a number"),
    (b'{"prompt": "p", "chosen": ["a"], "rejected": "b"}', "chosen[1] is a text, not a message"),
    (b'{"prompt": "p", "chosen": "a", "rejected": null}', "rejected is a null"),
    (b'{"prompt": "p", "chosen": " ", "rejected": "b"}', "chosen is empty"),
    (b'{"prompt": "p", "first": "a", "second": "b", "label": 2}', "label is 2"),
    (b'{"prompt": "p", "first": "a", "second": "b", "label": true}', "label is True"),
    (b'{"prompt": "p", "first": "a", "rejected": "b"}', "both chosen/rejected and first/second"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "label": 0}', "a label beside chosen and rejected"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "strength": "3"}', "strength is 3"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "strength": 4}', "strength is 4"),
    (b'{"prompt": "p", "first": "a", "second": "b", "label": 0.5, "strength": 1}', "strength 1 beside a tie"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "split": "dev"}', "split is dev"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": ""}', "annotator is empty"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "a"}', "identical"),
    (b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b"}', "byte 13 is not valid UTF-8"),
    (b'{"prompt": "p", "chosen": "a\\u0000", "rejected": "b"}', "NUL"),
    (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "chosen holds half a surrogate pair"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "strength": NaN}', "NaN is no JSON number"),
    (b'{"prompt": "p", "chosen": "a"', "not JSON"),
    (b"[" * 100_000, "not usable JSON"),
    (b'["p", "a", "b"]', "a list, not an object"),
    (b"1" * 5000, "not usable JSON"),
    (b'{"prompt": "w1 w2", "chosen": "w4", "rejected": "w3"}', "contradicts line 1 (the same pair, a row without"),
    (b'{"prompt": "w1 w2", "first": "w4", "second": "w3", "label": 1}', "the same as line 1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_rejected_with_its_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    reading = read(written(tmp_path, GOOD, line), format="pairs")
    assert (reading.rows, len(reading.records)) == (2, 1)
    (bad,) = reading.rejected
    assert bad.line == 2
    assert reason in bad.reason


def test_labels_are_coded_as_in_the_literature() -> None:
    assert [choice_of_label(label) for label in (0, 1, 0.5)] == ["a", "b", "tie"]
    assert [label_of_choice(choice_of_label(label)) for label in (0, 1, 0.5)] == [0, 1, 0.5]
    for wrong in (2, -1, True, "0", None, 0.25):
        with pytest.raises(BadRow, match="label is"):
            choice_of_label(wrong)


def test_the_columns_of_a_pair(tmp_path: Path) -> None:
    row = GOOD | {"strength": 2, "annotator": "ann", "split": "validation", "group": "g", "id": 7, "source": "x"}
    record = one(tmp_path, row)
    assert record.candidates == ({"text": "w3"}, {"text": "w4"})
    assert record.value == {"kind": "comparison", "choice": "a", "strength": 2}
    assert (record.kind, record.teacher, record.split, record.group) == ("comparison", "ann", "validation", "g")
    assert (record.source_id, record.shown, record.line) == ("7", None, 1)
    assert record.meta == {"source": "x"}


def test_first_and_second_say_the_order_shown(tmp_path: Path) -> None:
    record = one(tmp_path, {"prompt": "p", "first": "x", "second": "y", "label": 1})
    assert record.value == {"kind": "comparison", "choice": "b", "strength": 0}
    assert record.shown == (0, 1)


def test_an_implicit_prompt_ends_before_the_last_white_space_in_common(tmp_path: Path) -> None:
    reading = read(written(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is black."}))
    record = reading.records[0]
    assert record.prompt == "The sky is"
    assert [c["text"] for c in record.candidates] == [" blue.", " black."]
    assert reading.repaired == {"prompt taken from the answers' common beginning": 1}
    longer = one(tmp_path, {"chosen": "Say it now", "rejected": "Say it now please"})
    assert (longer.prompt, [c["text"] for c in longer.candidates]) == ("Say it", [" now", " now please"])


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def test_chat_messages_with_the_prompt_in_its_column(tmp_path: Path) -> None:
    row = {
        "prompt": turns("hi"),
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no", "name": None}],
    }
    record = one(tmp_path, row)
    assert record.prompt == ({"role": "user", "content": "hi"},)
    assert record.candidates[0] == {"text": "yes", "messages": [{"role": "assistant", "content": "yes"}]}
    assert record.candidates[1]["text"] == "no"


def test_chat_messages_with_the_prompt_inside(tmp_path: Path) -> None:
    row = {"chosen": turns("hi", "hello", "and?", "good"), "rejected": turns("hi", "hello", "and?", "bad")}
    record = one(tmp_path, row)
    assert list(record.prompt) == turns("hi", "hello", "and?")
    assert [c["text"] for c in record.candidates] == ["good", "bad"]
    early = {"chosen": turns("hi", "one", "a", "good"), "rejected": turns("hi", "one", "b", "bad")}
    record = one(tmp_path, early)
    assert list(record.prompt) == turns("hi")  # the answers begin with the assistant's turn
    assert record.candidates[0]["text"] == "assistant: one\n\nuser: a\n\nassistant: good"


def test_a_text_prompt_that_the_messages_repeat(tmp_path: Path) -> None:
    reading = read(written(tmp_path, {"prompt": "hi", "chosen": turns("hi", "x"), "rejected": turns("hi", "y")}))
    assert list(reading.records[0].prompt) == turns("hi")
    assert [c["text"] for c in reading.records[0].candidates] == ["x", "y"]
    assert reading.repaired == {"prompt repeated in the answers taken off": 1}


def test_turns_as_from_and_value(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": {"from": "gpt", "value": "y"},
    }
    record = one(tmp_path, row)
    assert [m["role"] for m in record.prompt if not isinstance(m, str)] == ["system", "user"]
    assert record.candidates[1]["text"] == "y"
    wrong = row | {"chosen": {"from": "robot", "value": "x"}}
    assert "the speaker robot is none of" in read(written(tmp_path, row, wrong)).rejected[0].reason


def test_a_column_map_gives_other_names_to_our_columns(tmp_path: Path) -> None:
    row = {"question": "q", "good_answer": "x", "bad_answer": "y", "prompt": "kept"}
    columns = {"prompt": "question", "chosen": "good_answer", "rejected": "bad_answer"}
    record = one(tmp_path, row, columns=columns)
    assert (record.prompt, record.candidates[0]["text"]) == ("q", "x")
    assert record.meta == {"prompt (of the source)": "kept"}
    with pytest.raises(DataError, match="the column map names 'chosn'"):
        read(tmp_path / "rows.jsonl", format="pairs", columns={"chosn": "good_answer"})
    with pytest.raises(
        DataError, match=r"column chosen is missing: the column map calls it good_answr \(.*mean good_answer\?"
    ):
        read(tmp_path / "rows.jsonl", format="pairs", columns={"chosen": "good_answr"})


def test_cells_of_csv_are_read_as_what_the_column_wants(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,first,second,label,strength,annotator\np,x,"y\n=z",1,2,\np,x,w,0.5,,ann\n')
    one, two = read(path).records
    assert (one.value, one.teacher, one.line) == ({"kind": "comparison", "choice": "b", "strength": 2}, None, 2)
    assert one.candidates[1] == {"text": "y\n=z"}
    assert (two.value, two.teacher, two.line) == ({"kind": "comparison", "choice": "tie", "strength": 0}, "ann", 4)
