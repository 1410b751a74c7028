"""Which format a source has, what is refused as a whole, and the account of every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tropism.data import Reading, Record, Rejected, open_source, read
from tropism.data.formats import FORMATS
from tropism.errors import DataError

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
HH = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
TREE = {
    "message_tree_id": "t",
    "prompt": {
        **{"message_id": "m", "text": "q", "role": "prompter"},
        "replies": [{"text": text, "role": "assistant", "rank": i, "replies": []} for i, text in enumerate("ab")],
    },
}
WMT = {"srclang": "fr", "trglang": "en", "segmentId": "1", "judgeId": "j"}
WMT |= {"system1Id": "A", "system1rank": 1, "system2Id": "B", "system2rank": 2}
RECOGNISED: list[tuple[str, dict[str, Any]]] = [
    ("pairs", {"prompt": "p", "chosen": "a", "rejected": "b"}),
    ("pairs", {"chosen": "p a", "rejected": "p b"}),
    ("pairs", {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "b"}]}),
    ("pairs", {"prompt": "p", "first": "a", "second": "b", "label": 0.5, "annotator": "x"}),
    ("pairs", {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}}
        | {"rejected": {"from": "gpt", "value": "b"}}),
    ("unpaired", {"prompt": "p", "completion": "a", "label": True}),
    ("unpaired", {"messages": CHAT, "label": False}),
    ("unpaired", {"instruction": "i", "input": "", "output": "o", "kto_tag": True}),
    ("demonstrations", {"prompt": "p", "completion": "a"}),
    ("demonstrations", {"prompt": CHAT[:1], "completion": CHAT[1:]}),
    ("demonstrations", {"prompt": "p", "answer": "a"}),
    ("demonstrations", {"messages": CHAT}),
    ("demonstrations", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ("demonstrations", {"instruction": "i", "input": "", "output": "o"}),
    ("demonstrations", {"instruction": "i", "instances": [{"input": "", "output": "o"}]}),
    ("prompts", {"prompt": "p", "topic": "x"}),
    ("ranked", {"prompt": "p", "completions": ["a", "b"]}),
    ("votes", {"instruction": "i", "input": "", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 0}),
    ("votes", {"prompt": "p", "first": "a", "second": "b", "votes": {"x": 0, "y": 1}}),
    ("ratings", {"prompt": "p", "completion": "a", "score": 1, "scale": [0, 4]}),
    ("ratings", {"prompt": "p", "response": "a", "helpfulness": 1, "correctness": 4}),
    ("critiques", {"prompt": "p", "completion": "a", "critique": "too short"}),
    ("critiques", {"prompt": "p", "completion": "a", "correction": "longer"}),
    ("hh", HH),
    ("oasst", TREE),
    ("wmt", WMT),
    ("llmbar", {"input": "i", "output_1": "a", "output_2": "b", "label": 2}),
    ("tropism", {"tropism": 1, "prompt": "p"}),
]  # fmt: skip


def written(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("name", "row"), RECOGNISED, ids=[f"{n}-{'-'.join(r)}"[:60] for n, r in RECOGNISED])
def test_a_format_is_recognised_by_its_columns(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    reading = read(written(tmp_path, row))
    assert (reading.source["format"], reading.source["recognised"]) == (name, True)
    assert len(reading.records) >= 1
    named = read(tmp_path / "rows.jsonl", format=name)
    assert named.source["recognised"] is False
    assert named.records == reading.records


def test_what_is_recognised_covers_every_format_of_rows() -> None:
    assert {name for name, _ in RECOGNISED} == set(FORMATS) - {"ukp", "segments"}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "good": "a", "bad": "b"},
        {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
        {"text": "a whole document"},
        {"prompt": "p", "chosen": "a"},
        {"prompt": "p", "completion": "a", "label": True, "score": 3},
    ],
)
def test_what_is_not_sure_is_refused_with_the_list_of_formats(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        read(written(tmp_path, row))
    assert "its columns are " + ", ".join(sorted(row)) in refused.value.problem
    for name, kind in FORMATS.items():
        assert f"{name}: {kind.summary}" in refused.value.fix


def test_a_few_broken_rows_do_not_hide_the_format(tmp_path: Path) -> None:
    good = [{"prompt": f"p{i}", "completion": "a"} for i in range(5)]
    reading = read(written(tmp_path, "nonsense", {"x": 1}, *good))
    assert reading.source["format"] == "demonstrations"
    assert [bad.line for bad in reading.rejected] == [1, 2]


def test_a_row_of_another_format_is_not_taken_for_one_of_the_first(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"p{i}", "completion": "good"} for i in range(30)]
    path = written(tmp_path, *rows, {"prompt": "q", "completion": "bad", "label": False})
    (bad,) = read(path).rejected
    assert bad == Rejected(31, "a row of 'unpaired', not of 'demonstrations' as the first rows: name the format")
    named = read(path, format="demonstrations")
    assert (len(named.records), named.records[-1].meta) == (31, {"label": False})


def test_the_account_of_a_reading(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "who": i} for i in range(3)]
    path = written(tmp_path, *rows, {"prompt": "q", "chosen": "a", "rejected": "b"}, "", "[]")
    reading = read(path, licence="CC BY 4.0")
    assert reading.rows == len(reading.records) + len(reading.rejected) == 5
    assert reading.rejected == [
        Rejected(2, "the same as line 1"),
        Rejected(3, "the same as line 1"),
        Rejected(6, "a list, not an object with columns"),
    ]
    assert reading.repaired == {"blank lines skipped": 1}
    said = reading.source
    assert (said["name"], said["licence"], said["columns"]) == (str(path), "CC BY 4.0", {})
    assert (said["rows"], said["records"], said["rejected"], said["complete"]) == (5, 2, 3, True)
    assert said["columns_found"] == ["chosen", "prompt", "rejected", "who"]
    kept = read(path, repeats="keep")
    assert (len(kept.records), kept.noted) == (4, {"said again, the same": 2})
    assert kept.source["options"] == {"repeats": "keep"}


def test_a_source_streams_and_can_be_read_again(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "a"} for i in range(4)]
    source = open_source(written(tmp_path, *rows, "x"))
    for _ in range(2):
        made = list(source.records())
        assert [type(one) for one in made] == [Record] * 4 + [Rejected]
        assert (source.reading.rows, source.reading.records) == (5, [])
        assert source.reading.source["records"] == 4
    assert read(tmp_path / "rows.jsonl").source == source.reading.source


def test_the_first_rows_alone(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": f"p{i}", "completion": "a"} for i in range(9)))
    reading = read(path, limit=3)
    whole = read(path)
    assert (reading.rows, len(reading.records), reading.source["complete"]) == (3, 3, False)
    assert reading.source["files"] == whole.source["files"]  # the whole file's hash, whatever was read of it
    with pytest.raises(DataError, match="limit is 0"):
        read(path, limit=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"format": "pears"}, "unknown format 'pears'; did you mean 'pairs'?"),
        ({"strip_sufix": "x"}, "has no option 'strip_sufix'; did you mean 'strip_suffix'?"),
        ({"delimeter": ";"}, "has no option 'delimeter'; did you mean 'delimiter'?"),
        ({"columns": {"promt": "prompt"}}, "the column map names 'promt'"),
        ({"columns": {"prompt": "x", "completion": "x"}}, "the source's column 'x' two names"),
        ({"repeats": "maybe"}, "repeats is 'maybe'"),
        ({"format": "oasst", "take": "some"}, "take is 'some'"),
        ({"format": "votes", "coding": "x"}, "coding is 'x'"),
        ({"format": "ratings", "scale": (5, 1)}, "scale is (5, 1)"),
        ({"format": "ratings", "scale": "15"}, "scale is '15'"),
        ({"format": "segments"}, "holds no arrays"),
        ({"format": "ukp"}, "there is no arguments file"),
        ({"format": "pairs"}, "none of its 1 rows can be used as 'pairs': line 1: column chosen is missing (there are"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    path = written(tmp_path, {"prompt": "p", "completion": "a"})
    with pytest.raises(DataError) as refused:
        read(path, **arguments)
    assert said in str(refused.value)
    assert refused.value.fix


def test_a_source_that_holds_nothing_of_what_was_asked_for(tmp_path: Path) -> None:
    unranked = json.loads(json.dumps(TREE).replace('"rank": 0', '"rank": null').replace('"rank": 1', '"rank": null'))
    reading = read(written(tmp_path, unranked, TREE), format="oasst")
    assert (reading.rows, reading.empty_rows, len(reading.records)) == (2, 1, 1)
    assert reading.left_out == {"sibling sets that nobody ranked": 1}
    with pytest.raises(DataError, match=r"holds a record of 'oasst' \(1 sibling sets that nobody ranked\)"):
        read(written(tmp_path, unranked), format="oasst")


def test_ids_and_names_that_mean_two_things(tmp_path: Path) -> None:
    base = {"chosen": "a", "rejected": "b"}
    rows = [
        base | {"prompt": "p1", "id": "1", "annotator": "ann"},
        base | {"prompt": "p2", "id": "1", "annotator": "bob"},
        base | {"prompt": "p1", "id": "1", "annotator": "bob"},
        base | {"prompt": "p3", "id": "3", "annotator": "Ann "},
        base | {"prompt": "p4", "id": "4", "annotator": 7},
        base | {"prompt": "p5", "id": "5", "annotator": "７"},
        {"prompt": "p1", "chosen": "b", "rejected": "a", "annotator": "bob"},
    ]
    reading = read(written(tmp_path, *rows))
    assert [r.teacher for r in reading.records] == ["ann", "bob", "7"]
    assert [(bad.line, bad.reason) for bad in reading.rejected] == [
        (2, "id '1' is that of line 1 too, which asks something else"),
        (4, "annotator 'Ann ' and 'ann' of line 1 differ by case or white space alone"),
        (6, "annotator '７' and '7' of line 5 differ by case or white space alone"),
        (7, "contradicts line 3 (the same pair, annotator 'bob')"),
    ]


def test_ids_and_names_may_be_kept_on_demand(tmp_path: Path) -> None:
    base = {"chosen": "a", "rejected": "b"}
    rows = [base | {"prompt": "p", "id": 1, "annotator": "Q"}, base | {"prompt": "q", "id": 1, "annotator": "q"}]
    reading = read(written(tmp_path, *rows), repeats="keep")
    assert len(reading.records) == 2
    assert reading.noted == {"ids of several questions": 1}
    assert read(written(tmp_path, *(row | {"id": i} for i, row in enumerate(rows))), repeats="keep").noted == {
        "annotators who may be one": 1
    }


def test_ids_are_those_of_one_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path, {"prompt": name, "completion": "x", "id": 0}, name=f"{name}.jsonl")
    reading = read(tmp_path)
    assert [(r.prompt, r.source_id) for r in reading.records] == [("a", "0"), ("b", "0")]
    written(tmp_path, {"prompt": "a", "completion": "x"}, name="c.jsonl")
    (bad,) = read(tmp_path, repeats="reject").rejected
    assert (bad.line, bad.file, bad.reason) == (1, "c.jsonl", "the same as line 1 of a.jsonl")


def test_files_that_were_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path, {"prompt": name}, name=f"{name}.jsonl")
    reading = read(tmp_path, limit=1)
    assert [entry["name"] for entry in reading.source["files"]] == ["a.jsonl"]
    assert reading.source["files_left_out"] == ["b.jsonl"]


def test_a_reason_holds_nothing_that_acts_on_a_terminal(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "first": "a", "second": "b", "label": label} for label in (0, "\x1b[31m\u202ered", "x" * 999)
    ]
    reading = read(written(tmp_path, *rows), format="pairs")
    assert reading.rejected[0].reason.startswith("label is \\x1b[31m\\u202ered, not 0 (first preferred)")
    assert reading.rejected[1].reason.startswith("label is " + "x" * 57 + "..., not 0")


def test_a_reason_of_white_space_is_none(tmp_path: Path) -> None:
    reading = read(written(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b", "reason": " "}))
    assert reading.records[0].text is None
    assert reading.noted == {"reason without text": 1}


def test_rows_of_one_ranking_have_an_end(tmp_path: Path) -> None:
    row = {"srclang": "fr", "trglang": "en", "segmentId": "1", "judgeID": "j", "rankingID": "r"}
    row |= {"system1Id": "A", "system1rank": 1, "system2Id": "B", "system2rank": 2}
    reading = read(written(tmp_path, row | {"rankingID": "q"}, *[row] * 2500))
    assert (reading.rows, len(reading.records), len(reading.rejected)) == (2501, 1, 2500)
    assert "ranking r has more than 2000 rows" in reading.rejected[0].reason


def test_reading_is_the_contract(tmp_path: Path) -> None:
    reading = read(written(tmp_path, {"prompt": "p"}))
    assert isinstance(reading, Reading)
    assert reading.records[0] == Record(prompt="p", kind="prompt", line=1)
