"""Import and export: every bad row is named, nothing is half done, and the literature's coding is fixed."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from feedback_cases import fill, new_log

from tropism.errors import DataError
from tropism.feedback.chain import verify
from tropism.feedback.events import FeedbackLog
from tropism.feedback.formats import ImportTeacher, RejectedRows, export_pairs
from tropism.feedback.people import erase_person
from tropism.feedback.records import Answer
from tropism.feedback.rows import choice_of_label, label_of_choice

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return new_log(tmp_path)


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def preferred(log: FeedbackLog) -> dict[str, str]:
    """Prompt -> the text that was preferred (or the choice, where none was)."""
    found = {}
    for judged in log.judgements(("train", "validation", "test"), kinds=["comparison"]):
        choice = judged.value["choice"]
        text = judged.candidates["ab".index(choice)].content["text"] if choice in ("a", "b") else choice
        found[judged.task.payload["prompt"]] = text
    return found


def test_pairs_are_imported(tmp_path: Path, log: FeedbackLog) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR, PAIR | {"prompt": "q", "strength": 2, "split": "test", "extra": [1]}])
    report = ImportTeacher().load(log, path)
    assert (report.rows, report.imported, report.rejected) == (2, 2, [])
    assert preferred(log) == {"p": "good", "q": "good"}
    judged = log.judgements(("test",))[0]
    assert judged.value["strength"] == 2
    assert judged.teacher_id == "import"
    assert judged.candidates[0].provenance.policy_id == "import"
    assert ImportTeacher().poll(log, list(log.queries().values())).done
    assert verify(log.database).ok


def test_trap_24_the_literatures_coding(tmp_path: Path, log: FeedbackLog) -> None:
    """0: the first is preferred, 1: the second, 0.5: equal, which is a tie and is kept."""
    assert [choice_of_label(label) for label in (0, 1, 0.5)] == ["a", "b", "tie"]
    assert [label_of_choice(choice_of_label(label)) for label in (0, 1, 0.5)] == [0, 1, 0.5]
    rows = [{"prompt": str(label), "first": "F", "second": "S", "label": label} for label in (0, 1, 0.5, 1.0)]
    rows[3]["prompt"] = "1.0"
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", rows))
    assert preferred(log) == {"0": "F", "1": "S", "0.5": "tie", "1.0": "S"}
    for judged in log.judgements():  # what the file calls first was shown first
        assert judged.candidates[judged.query.shown_order[0]].content["text"] == "F"


def test_trap_43_chosen_is_not_always_slot_a(tmp_path: Path, log: FeedbackLog) -> None:
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", [PAIR | {"prompt": f"p{i}"} for i in range(200)]))
    judged = log.judgements()
    assert 60 < sum(j.value["choice"] == "a" for j in judged) < 140
    assert 60 < sum(j.query.shown_order == (0, 1) for j in judged) < 140


BAD_ROWS = [
    ({"prompt": "p", "chosen": "x"}, "column rejected is missing"),
    ({"chosen": "x", "rejected": "y"}, "column prompt is missing"),
    ({"prompt": 7, "chosen": "x", "rejected": "y"}, "prompt is a number, not text"),
    ({"prompt": "p", "chosen": [{"role": "user"}], "rejected": "y"}, "chosen is a list, not text"),
    ({"prompt": " ", "chosen": "x", "rejected": "y"}, "prompt is empty"),
    ({"prompt": "p", "chosen": "", "rejected": "y"}, "chosen is empty"),
    ({"prompt": "p", "chosen": "x", "rejected": "x"}, "identical"),
    ({"prompt": "p\0", "chosen": "x", "rejected": "y"}, "NUL"),
    ({"prompt": "p", "chosen": "x", "rejected": "y", "strength": 9}, "strength is 9"),
    ({"prompt": "p", "chosen": "x", "rejected": "y", "split": "dev"}, "split is dev"),
    ({"prompt": "p", "chosen": "x", "rejected": "y", "label": 1}, "label beside chosen"),
    ({"prompt": "p", "first": "x", "second": "y"}, "column label is missing"),
    ({"prompt": "p", "first": "x", "second": "y", "label": 0.7}, "label is 0.7"),
    ({"prompt": "p", "first": "x", "second": "y", "label": True}, "label is True"),
    ({"prompt": "p", "first": "x", "second": "y", "label": 0.5, "strength": 1}, "beside a tie"),
    ({"prompt": "p", "first": "x", "rejected": "y", "chosen": "z"}, "both chosen/rejected and first/second"),
    ({"prompt": "p", "chosen": "x", "rejected": "y", "annotator": 3}, "annotator is a number"),
    (["p", "x", "y"], "a list, not an object"),
    (b'{"prompt": "p", "chosen": "x"', "not JSON"),
    (b'{"prompt": "p", "chosen": NaN, "rejected": "y"}', "NaN is no JSON number"),
    (b'{"prompt": "p\xff", "chosen": "x", "rejected": "y"}', "byte 14 is not valid UTF-8"),
    (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "y"}', "surrogate"),
    (b"[" * 100_000, "not usable JSON"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_named_and_changes_nothing(tmp_path: Path, log: FeedbackLog, bad: Any, reason: str) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR, bad, PAIR | {"prompt": "q"}])
    with pytest.raises(RejectedRows) as caught:
        ImportTeacher().load(log, path)
    assert [rejected.line for rejected in caught.value.report.rejected] == [2]
    assert reason in caught.value.report.rejected[0].reason
    assert f"line 2: {caught.value.report.rejected[0].reason}" in caught.value.problem
    assert set(log.counts().values()) == {0}
    report = ImportTeacher().load(log, path, skip_bad=True)
    assert (report.rows, report.imported, len(report.rejected)) == (3, 2, 1)


def test_doubled_and_contradicting_rows_are_named(tmp_path: Path, log: FeedbackLog) -> None:
    swapped = {"prompt": "p", "chosen": "bad", "rejected": "good"}
    rows = [PAIR, PAIR, swapped, PAIR | {"annotator": "Ada"}, swapped | {"annotator": "Bob"},
            {"prompt": "p", "first": "good", "second": "bad", "label": 0}, PAIR | {"split": "test"}]  # fmt: skip
    with pytest.raises(RejectedRows) as caught:
        ImportTeacher(validation_share=0).load(log, write(tmp_path / "x.jsonl", rows))
    said = {rejected.line: rejected.reason for rejected in caught.value.report.rejected}
    assert said[2] == said[6] == "the same as line 1"
    assert said[3] == "contradicts line 1 (the same pair, a row without annotator)"
    assert said[7] == "split test, but line 1 has this prompt in train"
    assert sorted(said) == [2, 3, 6, 7]


def test_a_prompt_keeps_its_split_across_imports(tmp_path: Path, log: FeedbackLog) -> None:
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", [PAIR | {"split": "test"}]))
    with pytest.raises(RejectedRows, match="in the study's test split already, not in train"):
        ImportTeacher().load(log, write(tmp_path / "y.jsonl", [PAIR | {"split": "train", "chosen": "new"}]))


def test_importing_again_or_more_changes_only_what_is_new(tmp_path: Path, log: FeedbackLog) -> None:
    rows = [PAIR | {"prompt": f"p{i}"} for i in range(5)]
    assert ImportTeacher().load(log, write(tmp_path / "x.jsonl", rows[:3])).imported == 3
    assert ImportTeacher().load(log, tmp_path / "x.jsonl").imported == 0
    assert ImportTeacher().load(log, write(tmp_path / "y.jsonl", rows)).imported == 2
    changed = [{"prompt": "p0", "chosen": "bad", "rejected": "good"}, PAIR | {"prompt": "p9"}]
    with pytest.raises(DataError, match="lines 1-2: teacher import has already answered"):
        ImportTeacher().load(log, write(tmp_path / "z.jsonl", changed))
    assert log.counts()["events"] == log.counts()["tasks"] == 5


def test_a_byte_order_mark_blank_lines_and_crlf_are_taken(tmp_path: Path, log: FeedbackLog) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\r\n\r\n" + json.dumps(PAIR | {"prompt": "é"}).encode()
    )
    assert ImportTeacher().load(log, path).imported == 2
    assert set(preferred(log)) == {"p", "é"}


def test_a_line_of_a_gigabyte_is_refused_without_reading_it_into_memory(tmp_path: Path, log: FeedbackLog) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR])
    with path.open("ab") as file:
        file.write(b'{"prompt": "')
        file.truncate(1 << 30)  # a hole: a gigabyte to read, nothing on the disk
        file.seek(1 << 30)
        file.write(b"\n" + json.dumps(PAIR | {"prompt": "q"}).encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RejectedRows) as caught:
        ImportTeacher(max_line_bytes=1 << 20).load(log, path)
    assert [(bad.line, bad.reason) for bad in caught.value.report.rejected] == [(2, "longer than 1048576 bytes")]
    assert caught.value.report.rows == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # kilobytes


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, log: FeedbackLog, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="is empty"):
        ImportTeacher().load(log, tmp_path / "x.jsonl", skip_bad=True)


def test_missing_files_and_files_of_bad_rows_only(tmp_path: Path, log: FeedbackLog) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        ImportTeacher().load(log, tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        ImportTeacher().load(log, tmp_path)
    with pytest.raises(RejectedRows, match="1 of 1 rows"):
        ImportTeacher().load(log, write(tmp_path / "x.jsonl", [{}]), skip_bad=True)


def test_annotators_are_people_who_can_leave(tmp_path: Path, log: FeedbackLog) -> None:
    rows = [PAIR | {"annotator": "Ada"}, PAIR | {"prompt": "q", "annotator": "Ada"}, PAIR | {"annotator": "Bob"}]
    path = write(tmp_path / "x.jsonl", rows)
    ImportTeacher().load(log, path)
    teachers = [j.teacher_id for j in log.judgements()]
    assert len(set(teachers)) == 2
    assert not any("Ada" in teacher or "Bob" in teacher for teacher in teachers)
    twice = max(set(teachers), key=teachers.count)
    erase_person(log.database, twice)
    assert len(log.judgements()) == 1
    with pytest.raises(DataError, match="was erased"):  # the file must not bring them back
        ImportTeacher().load(log, path)


def test_digests_are_equal_in_two_studies(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR | {"prompt": f"p{i}", "annotator": "Ada"} for i in range(4)])
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        log = new_log(tmp_path / name)
        ImportTeacher().load(log, path)
        digests.append(log.event_digests())
    assert digests[0] == digests[1]


def test_validation_prompts_are_held_out_by_a_share(tmp_path: Path, log: FeedbackLog) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR | {"prompt": f"p{i}"} for i in range(400)])
    ImportTeacher(validation_share=0.25).load(log, path)
    assert 70 < len(log.judgements(("validation",))) < 130


def test_export_and_import_agree(tmp_path: Path, log: FeedbackLog) -> None:
    rows = [{"prompt": "tie", "first": "F", "second": "S", "label": 0.5}, PAIR | {"strength": 2, "split": "test"},
            PAIR | {"prompt": "q", "annotator": "Ada"}]  # fmt: skip
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", rows))
    asked = fill(log, n=3)
    for q, choice in zip(asked, ("both_bad", "cannot_judge", "b"), strict=True):
        log.append(q, "o", Answer({"choice": choice}))
    log.append(asked[0], "o", Answer({"kind": "label", "slot": "a", "good": True}))
    report = export_pairs(log, tmp_path / "out.jsonl")
    assert report.written == 4
    assert report.left_out == {"both_bad": 1, "cannot_judge": 1, "label": 1}
    (tmp_path / "two").mkdir()
    second = new_log(tmp_path / "two")
    ImportTeacher().load(second, tmp_path / "out.jsonl")
    kept = {p: text for p, text in preferred(log).items() if text not in ("both_bad", "cannot_judge")}
    assert preferred(second) == kept
    shown = {
        j.task.payload["prompt"]: j.candidates[j.query.shown_order[0]].content["text"] for j in second.judgements()
    }
    assert shown["tie"] == "F"
    assert [p.name for p in tmp_path.glob(".*")] == []
    with pytest.raises(DataError, match="cannot be written"):
        export_pairs(log, tmp_path / "nowhere" / "out.jsonl")
