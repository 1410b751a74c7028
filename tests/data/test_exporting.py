"""What is exported is read again as it was, in every format and kind of file; what cannot be held is counted."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_cases import CHAT, demonstration, messages, pair, ranking, records, single, texts

from tropism.data import read
from tropism.data.exporting import export
from tropism.data.exporting_rows import ExportOptions
from tropism.data.manifest import reading_options
from tropism.data.records import Reading, Record, to_json
from tropism.data.tables import escape_cell, unescape_cell
from tropism.data.voting import as_vote
from tropism.digests import canonical_json, digest
from tropism.errors import DataError

KINDS = {
    "pairs": ("comparison",),
    "unpaired": ("label",),
    "demonstrations": ("demonstration",),
    "ranked": ("ranking",),
    "votes": ("comparison",),
    "ratings": ("rating",),
    "critiques": ("critique", "correction"),
    "prompts": ("prompt",),
    "tropism": (
        *("comparison", "label", "demonstration", "ranking", "rating", "critique", "correction", "approval", "prompt"),
    ),
}
FILES = ("x.jsonl", "x.csv", "x.parquet", "x")
FITTING = {"tropism": FILES[:1], "votes": FILES[:2]}
CASES = [(format, name) for format in KINDS for name in FITTING.get(format, FILES)]
chats = st.builds(lambda head, last: (*head, {"role": "user", "content": last}), st.lists(messages, max_size=2), texts)


def again(path: Path, **options: Any) -> Reading:
    """Read an export as its manifest says."""
    return read(path, **reading_options(path), **options)


def said(record: Record) -> str:
    """Everything a record says, in one form whatever its slots: texts, order shown, value, who, whence, the rest."""
    if record.value is None:
        return digest(to_json(record))
    vote = as_vote(record, record.split or "train")
    query = dataclasses.asdict(vote.query)
    if record.kind == "demonstration":
        query.pop("id")
    rest = [record.teacher, record.split, record.source_id, dict(record.meta)]
    return canonical_json([vote.task.payload, query, dict(vote.answer.value or {}), record.text, rest]).decode()


def everything(found: list[Record]) -> Counter[str]:
    return Counter(map(said, found))


def distinct(found: list[Record]) -> list[Record]:
    """Prompts and ids made different, so that no record repeats or contradicts another."""
    made = []
    for i, record in enumerate(found):
        if isinstance(record.prompt, str):
            prompt: Any = f"{record.prompt} {i}"
        else:
            last = record.prompt[-1]
            prompt = (*record.prompt[:-1], {**last, "content": f"{last['content']} {i}"})
        source = record.source_id and f"{record.source_id} {i}"
        made.append(dataclasses.replace(record, prompt=prompt, source_id=source))
    return made


@st.composite
def datasets(draw: st.DrawFn, kinds: tuple[str, ...]) -> list[Record]:
    prompts = draw(st.sampled_from([texts, chats]))
    meta = st.dictionaries(st.sampled_from(["note", "=x1", "source url"]), texts, max_size=2)
    return distinct(draw(st.lists(records(kinds, prompts, meta), min_size=1, max_size=6)))


@pytest.mark.parametrize(("format", "name"), CASES)
def test_round_trips_lose_nothing(tmp_path_factory: pytest.TempPathFactory, format: str, name: str) -> None:
    folder = tmp_path_factory.mktemp("round")
    number = iter(range(10**6))

    @settings(
        max_examples=20 if name.endswith(("l", "v")) else 6, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(datasets(KINDS[format]))
    def trip(found: list[Record]) -> None:
        path = folder / f"{next(number)}{name}"
        options = ExportOptions(form="label")
        if not any(_held(record, format) for record in found):
            return
        problem = ""
        try:
            report = export(found, path, format, options=options)
        except DataError as error:
            problem = error.problem
        if problem:  # a file that would be empty is not written
            assert f"nothing to write to {path}" in problem
            assert "reads as chat messages" in problem
            assert not path.exists()
            return
        back = again(path)
        assert not back.rejected
        assert report.records == len(found) == report.held + sum(report.left_out.values())
        assert len(back.records) == report.held
        if not report.lost:
            assert everything(back.records) <= everything(found)
        if not report.left_out:
            assert len(back.records) == len(found)

    trip()


def _held(record: Record, format: str) -> bool:
    choice = (record.value or {}).get("choice")
    return choice in ("a", "b", "tie") if format == "pairs" else format != "votes" or record.teacher is not None


FULL = [
    pair("p 1", teacher="Ada", split="train", group="g", source_id="7", shown=(1, 0), strength=2, text="why",
         meta={"url": "=x", "n": "3"}),
    pair("p 2", choice="b", shown=(0, 1)),
    pair("p 3", choice="tie", shown=(0, 1), split="test"),
    ranking("p 4", ["x", "y", "z", "-w"], [["c3"], ["c1", "c4"]], teacher="Bob", text="so"),
    single("p 5", "x", {"kind": "rating", "score": 3, "scale": [1, 5], "aspect": "helpful"}, "hm", split="validation"),
    single("p 5", "x", {"kind": "rating", "score": 4, "scale": [1, 5], "aspect": "right", "segment": [0, 2]}),
    single("p 6", "long text", {"kind": "critique", "span": [0, 4]}, "-- too long", teacher="Ada"),
    single("p 6", "long text", {"kind": "correction"}, "text", teacher="Ada"),
    single("p 7", "x", {"kind": "label", "name": "safe", "good": False}, "no"),
    single("p 7", "x", {"kind": "label", "name": "good", "good": True}),
    demonstration("p 8", "@home", source_id="d", group="g"),
    demonstration(CHAT, "2", split="train"),
    Record("p 9", split="test", group="g"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "name"), CASES)
def test_the_same_votes_come_back(tmp_path: Path, format: str, name: str) -> None:
    """Written out, so that it cannot pass by leaving everything out."""
    plain = [r for r in FULL if r.kind in KINDS[format] and (isinstance(r.prompt, str) or name == "x.jsonl")]
    if format == "votes":
        plain = [dataclasses.replace(r, teacher=r.teacher or "Eve", text=None) for r in plain]
    report = export(plain, tmp_path / name, format, options=ExportOptions(form="label"))
    back = again(tmp_path / name)
    assert everything(back.records) == everything(plain)
    assert (report.left_out, report.lost) == (Counter(), Counter())
    assert report.held == report.records == len(plain) > 0


def test_a_second_trip_changes_no_byte(tmp_path: Path) -> None:
    for format in ("pairs", "ranked", "ratings", "critiques", "unpaired", "demonstrations"):
        kept = [r for r in FULL if r.kind in KINDS[format]]
        export(kept, tmp_path / "1.jsonl", format, options=ExportOptions(form="label"))
        export(again(tmp_path / "1.jsonl").records, tmp_path / "2.jsonl", format, options=ExportOptions(form="label"))
        assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_pairs_as_trl_wants_them(tmp_path: Path) -> None:
    rows = [pair("p"), pair("q", choice="b", strength=1, shown=(0, 1)), pair("r", choice="tie"),
            pair("s", choice="both_bad"), pair("t", choice="cannot_judge"), ranking("u", ["x", "y"], [["c1"], ["c2"]]),
            Record("v"), Record("w", ({"ref": "A"}, {"ref": "B"}), pair().value, None, "comparison", "reference"),
            dataclasses.replace(pair(), prompt=CHAT)]  # fmt: skip
    report = export(rows, tmp_path / "x.jsonl", "pairs")
    written = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert written[:2] == [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "bad", "rejected": "good", "strength": 1},
    ]
    assert written[2]["prompt"] == list(CHAT)
    assert written[2]["chosen"] == [{"role": "assistant", "content": "good"}]
    assert report.left_out == {
        "tie": 1, "both_bad": 1, "cannot_judge": 1, "ranking": 1, "no judgement": 1,
        "answers that are no text (reference)": 1}  # fmt: skip
    assert report.lost == {"order shown": 1}
    assert (report.records, report.held, report.rows) == (9, 3, 3)


def test_ties_have_a_row_by_option(tmp_path: Path) -> None:
    rows = [pair("p"), pair("q", choice="tie", shown=(1, 0)), pair("r", choice="both_bad")]
    export(rows, tmp_path / "x.jsonl", "pairs", options=ExportOptions(form="mixed"))
    written = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert written == [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "first": "bad", "second": "good", "label": 0.5},
    ]
    export(rows, tmp_path / "y.csv", "pairs", options=ExportOptions(form="label"))
    assert [r.value["choice"] for r in again(tmp_path / "y.csv").records if r.value] == ["a", "tie"]
    with pytest.raises(DataError, match="form mixed has not"):
        export(rows, tmp_path / "y.csv", "pairs", options=ExportOptions(form="mixed"))


def test_unpaired_rows_of_labels_approvals_and_pairs(tmp_path: Path) -> None:
    rows = [pair("p", source_id="1"), pair("q", choice="both_bad"), pair("r", choice="tie"),
            single("s", "x", {"kind": "approval", "approved": True})]  # fmt: skip
    report = export(rows, tmp_path / "x.jsonl", "unpaired")
    back = again(tmp_path / "x.jsonl")
    assert not back.rejected
    found = [(r.prompt, r.candidates[0]["text"], r.value and (r.value["name"], r.value["good"])) for r in back.records]
    assert found == [
        ("p", "good", ("good", True)), ("p", "bad", ("good", False)), ("q", "good", ("good", False)),
        ("q", "bad", ("good", False)), ("s", "x", ("approval", True))]  # fmt: skip
    assert (report.held, report.rows, report.left_out["tie"]) == (3, 5, 1)
    assert report.lost == {"comparison (two labels)": 2, "approval (a label named approval)": 1}
    report = export(rows, tmp_path / "y.jsonl", "unpaired", options=ExportOptions(unpair=False))
    assert report.left_out == {"comparison": 3}


def test_demonstrations_of_chosen_answers_by_option(tmp_path: Path) -> None:
    rows = [demonstration("p", "x"), pair("q"), pair("r", choice="tie"),
            single("s", "bad", {"kind": "correction"}, "good")]  # fmt: skip
    assert export(rows, tmp_path / "x.jsonl", "demonstrations").held == 2
    report = export(rows, tmp_path / "y.csv", "demonstrations", options=ExportOptions(chosen=True))
    assert [(r.prompt, r.text) for r in again(tmp_path / "y.csv").records] == [("p", "x"), ("q", "good"), ("s", "good")]
    assert report.lost == {"comparison (a demonstration)": 1, "correction (a demonstration)": 1}
    assert report.left_out == {"comparison": 1}


def test_prompts_and_demonstrations_are_written_once(tmp_path: Path) -> None:
    rows = [pair("p", teacher="Ada"), pair("p", teacher="Bob"), pair("q"), pair("q", "good", "other")]
    report = export(rows, tmp_path / "p.jsonl", "prompts")
    assert (report.rows, report.left_out) == (2, {"a prompt that was written before": 2})
    report = export(rows, tmp_path / "d.jsonl", "demonstrations", options=ExportOptions(chosen=True))
    assert (report.rows, report.left_out) == (3, {"a demonstration that was written before": 1})
    for name in ("p", "d"):
        assert not read(tmp_path / f"{name}.jsonl").rejected


def test_repeats_that_were_kept_are_kept_again(tmp_path: Path) -> None:
    rows = [pair("p"), pair("p"), pair("p", choice="b")]
    export(rows, tmp_path / "x.jsonl", "pairs")
    back = again(tmp_path / "x.jsonl")
    assert (len(back.records), back.rejected) == (3, [])
    assert len(read(tmp_path / "x.jsonl").rejected) == 2  # as anybody's file


def test_votes_of_one_pair_share_a_row(tmp_path: Path) -> None:
    rows = [pair(teacher="Ada", choice="both_bad"), pair(teacher="Bob", choice="b", strength=3), pair(),
            pair(teacher="Bob"), pair(teacher="Eve", text="since"), pair("q", teacher="Ada")]  # fmt: skip
    rows = [dataclasses.replace(row, shown=(1, 0)) for row in rows]
    report = export(rows, tmp_path / "x.csv", "votes")
    assert (report.rows, report.held) == (2, 4)
    assert report.left_out == {"a vote without annotator": 1, "a second vote of one annotator on one pair": 1}
    assert report.lost == {"reason": 1}
    back = again(tmp_path / "x.csv").records
    wanted = [dataclasses.replace(rows[i], text=None) for i in (0, 1, 4, 5)]
    assert everything(back) == everything(wanted)


def test_messages_and_plain_prompts_do_not_share_a_table(tmp_path: Path) -> None:
    rows = [pair(), dataclasses.replace(pair(), prompt=CHAT)]
    for name in ("x.parquet", "x"):
        with pytest.raises(DataError, match=r"column prompt holds text in some rows and lists in others") as caught:
            export(rows, tmp_path / name, "pairs")
        assert "conversational" in caught.value.fix
        assert list(tmp_path.iterdir()) == []
    report = export(rows, tmp_path / "x.parquet", "pairs", options=ExportOptions(conversational="always"))
    assert report.lost == {"plain prompt (a user message)": 1}
    assert [len(r.prompt) for r in again(tmp_path / "x.parquet").records] == [1, 4]
    report = export(rows, tmp_path / "y.csv", "pairs", options=ExportOptions(conversational="never"))
    assert report.lost == {"messages (plain text)": 1}
    assert all(isinstance(r.prompt, str) for r in again(tmp_path / "y.csv").records)


def test_a_datasets_folder_has_a_part_for_each_split(tmp_path: Path) -> None:
    import datasets

    rows = [pair(f"p{i}", split=s) for i, s in enumerate(["train", "test", "train", None])]
    export(rows, tmp_path / "all", "pairs")
    loaded = datasets.load_from_disk(str(tmp_path / "all"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 2, "test": 1, "unsplit": 1}
    assert Counter(r.split for r in again(tmp_path / "all").records) == {"train": 2, "test": 1, None: 1}
    export(rows[3:], tmp_path / "one", "pairs")
    assert len(datasets.load_from_disk(str(tmp_path / "one"))) == 1
    with pytest.raises(DataError, match="is a folder already"):
        export(rows, tmp_path / "all", "pairs")


def test_trap_50_no_cell_of_csv_is_a_formula(tmp_path: Path) -> None:
    signs = ["=1+1", "+1", "-1", "@x", "'=1", "''", "\t=1", "\r=1", " =1", "x=1"]
    rows = [pair(f"{sign}", f"{sign} a", f"{sign} b", group=sign.strip(), meta={"=cmd": sign}) for sign in signs]
    export(rows, tmp_path / "x.csv", "pairs")
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [r.prompt for r in again(tmp_path / "x.csv").records] == signs
    assert [r.meta["'=cmd"] for r in again(tmp_path / "x.csv").records] == signs
    assert all(unescape_cell(escape_cell(sign)) == sign for sign in signs)


def test_what_a_kind_of_file_changes_is_counted(tmp_path: Path) -> None:
    rows = [pair("p", "a\r\nb", meta={"n": 1, "t": "x"}), pair("q", meta={"n": 2.5}), pair("r", meta={"n": None})]
    assert export(rows, tmp_path / "x.csv", "pairs").lost == {
        "CRLF inside a text (LF in CSV)": 1, "type of n (text in CSV)": 2, "null in column n": 1}  # fmt: skip
    report = export(rows, tmp_path / "x.parquet", "pairs")
    assert report.lost == {"whole numbers of n (floating point in a table)": 1, "null in column n": 1}
    nested = [pair("p", meta={"deep": {"a": 1}}), pair("q", meta={"deep": "x"})]
    assert export(nested, tmp_path / "y.parquet", "pairs").lost == {"type of deep (JSON text in a table)": 2}
    assert export(nested, tmp_path / "y.jsonl", "pairs").lost == {}
    assert export([pair("p", "null")], tmp_path / "n.csv", "pairs").lost == {
        "'null' (which pandas and datasets take for null in CSV)": 1}  # fmt: skip
    assert again(tmp_path / "n.csv").records[0].candidates[0]["text"] == "null"
    taken = [pair("p", meta={"label": 1, "prompt": "x"})]
    assert sum(export(taken, tmp_path / "z.jsonl", "pairs").lost.values()) == 2


BAD_TEXTS = [
    ("x.jsonl", "\ud800", "half a surrogate pair"),
    ("x.jsonl", "a\0b", "NUL"),
    ("x.csv", '[{"role": "user", "content": "x"}]', "reads as chat messages in CSV"),
]


@pytest.mark.parametrize(("name", "text", "reason"), BAD_TEXTS, ids=[r for _, _, r in BAD_TEXTS])
def test_text_that_no_file_holds_is_left_out_and_counted(tmp_path: Path, name: str, text: str, reason: str) -> None:
    report = export([pair("p", text), pair("q")], tmp_path / name, "pairs")
    assert [(reason in why, count) for why, count in report.left_out.items()] == [(True, 1)]
    assert [r.prompt for r in again(tmp_path / name).records] == ["q"]
    said = export([Record(text), Record("q")], tmp_path / f"p{name}", "prompts").left_out
    assert [reason in why for why in said] == [True]


def test_empty_answers_stay_where_readers_take_them(tmp_path: Path) -> None:
    rows = [pair("p", ""), pair("q")]
    for name in ("x.jsonl", "x.parquet", "x"):
        export(rows, tmp_path / name, "pairs")
        assert everything(again(tmp_path / name).records) == everything(rows)
    report = export(rows, tmp_path / "x.csv", "pairs")
    assert report.left_out == {"an empty answer, which CSV does not tell from none": 1}
    chat = [dataclasses.replace(pair("p", ""), prompt=CHAT), pair("q")]
    assert export(chat, tmp_path / "c.jsonl", "pairs").left_out == {"an empty answer": 1}


def test_a_killed_or_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export([pair()], tmp_path / "x.jsonl", "pairs")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left") as caught:
        export([pair("q")], tmp_path / "x.jsonl", "pairs")
    assert caught.value.fix == "make space"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path: Path) -> None:
    cases: list[tuple[str, str, str]] = [
        ("pears", "x.jsonl", "did you mean 'pairs'"), ("pairs", "x.xlsx", "suffix"), ("tropism", "x.csv", "no table"),
        ("votes", "x.parquet", "no column"), ("ranked", "x.jsonl", "nothing to write"),
        ("pairs", "no/x.jsonl", "cannot be written"),
    ]  # fmt: skip
    for format, name, problem in cases:
        with pytest.raises(DataError, match=problem) as caught:
            export([pair()], tmp_path / name, format)
        assert caught.value.fix
    with pytest.raises(DataError, match="nothing to write"):
        export([], tmp_path / "x.jsonl", "pairs")
    with pytest.raises(DataError, match="form is 'x'"):
        ExportOptions(form="x")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_writes_nothing_and_says_the_same(tmp_path: Path) -> None:
    for name in FILES:
        plan = export(FULL[:3], tmp_path / name, "pairs", write=False)
        assert list(tmp_path.iterdir()) == []
        assert (plan.sha256, plan.manifest) == ("", None)
    done = export(FULL[:3], tmp_path / "x.csv", "pairs")
    plan = export(FULL[:3], tmp_path / "y.csv", "pairs", write=False)
    assert (plan.rows, plan.left_out, plan.lost, plan.splits) == (done.rows, done.left_out, done.lost, done.splits)


def test_only_the_splits_asked_for(tmp_path: Path) -> None:
    report = export(FULL[:3], tmp_path / "x.jsonl", "pairs", splits=("train", "validation"))
    assert (report.records, report.held, report.filtered) == (3, 1, 2)
