"""Import into a study and out of it: every bad row is named, nothing is half done, every kind of value is an event."""

from __future__ import annotations

import json
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from record_cases import CHAT, pair

from tropism.data.exporting import export
from tropism.data.formats.pairs import choice_of_label, label_of_choice
from tropism.data.importing import ImportTeacher, RejectedRows, export_feedback, records_of
from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.chain import verify
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import erase_person
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Task
from tropism.store.database import Database

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def new_log(folder: Path) -> FeedbackLog:
    return FeedbackLog(Database.create(folder / "study.db"))


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
    ({"prompt": "p", "chosen": [{"role": "user"}], "rejected": "y"}, "chosen[1].content is a null"),
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
    ({"prompt": "p", "chosen": "x", "rejected": "y", "annotator": 0.5}, "annotator is a number"),
    (["p", "x", "y"], "a list, not an object"),
    (b'{"prompt": "p", "chosen": "x"', "not JSON"),
    (b'{"prompt": "p", "chosen": NaN, "rejected": "y"}', "NaN is no JSON number"),
    (b'{"prompt": "p\xff", "chosen": "x", "rejected": "y"}', "byte 14 is not valid UTF-8"),
    (b'{"prompt": "p", "chosen": "\\ud800", "rejected": "y"}', "surrogate"),
    (b"[" * 100_000, "not usable JSON"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_named_and_changes_nothing(tmp_path: Path, log: FeedbackLog, bad: Any, reason: str) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR, bad, PAIR | {"prompt": "q"}, PAIR | {"prompt": "r"}])
    with pytest.raises(RejectedRows) as caught:
        ImportTeacher().load(log, path)
    assert [rejected.line for rejected in caught.value.report.rejected] == [2]
    assert reason in caught.value.report.rejected[0].reason
    assert f"line 2: {caught.value.report.rejected[0].reason}" in caught.value.problem
    assert set(log.counts().values()) == {0}
    report = ImportTeacher().load(log, path, skip_bad=True)
    assert (report.rows, report.imported, len(report.rejected)) == (4, 3, 1)


def test_doubled_and_contradicting_rows_are_named(tmp_path: Path, log: FeedbackLog) -> None:
    swapped = {"prompt": "p", "chosen": "bad", "rejected": "good"}
    rows = [
        PAIR, PAIR, swapped, PAIR | {"annotator": "Ada"}, swapped | {"annotator": "Bob"},
        {"prompt": "p", "first": "good", "second": "bad", "label": 0}, PAIR | {"split": "test", "chosen": "new"},
    ]  # fmt: skip
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
        ImportTeacher().load(log, path)
    assert [(bad.line, bad.reason) for bad in caught.value.report.rejected] == [(2, "longer than 16777216 bytes")]
    assert caught.value.report.rows == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024  # kilobytes


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, log: FeedbackLog, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="is empty"):
        ImportTeacher().load(log, tmp_path / "x.jsonl", skip_bad=True)


def test_missing_files_and_files_of_bad_rows_only(tmp_path: Path, log: FeedbackLog) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        ImportTeacher().load(log, tmp_path / "nothing.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder without data files"):
        ImportTeacher().load(log, tmp_path / "folder")
    with pytest.raises(DataError, match="is of no format that is known here"):
        ImportTeacher().load(log, write(tmp_path / "x.jsonl", [{"x": 1}]), skip_bad=True)
    with pytest.raises(RejectedRows, match="1 of 1 rows"):
        ImportTeacher(format="pairs").load(log, write(tmp_path / "x.jsonl", [{"x": 1}]), skip_bad=True)
    with pytest.raises(DataError, match="holds no judgement to import \\(1 without a judgement\\)"):
        ImportTeacher().load(log, write(tmp_path / "y.jsonl", [{"prompt": "x"}]))


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


def fill(log: FeedbackLog, kind: str = "comparison", k: int = 2, n: int = 1) -> list[Query]:
    """Tasks with K candidates of a policy and one query each; teacher ``o`` is known."""
    made = Provenance("sft", {"temperature": 1.0}, "engine 1", 7)
    tasks = [Task("train", {"prompt": f"{kind} {i}", "level": i}) for i in range(n)]
    shown = [[Candidate(t.id, "text", {"text": f"answer {i}", "tokens": [i]}, made) for i in range(k)] for t in tasks]
    log.add_tasks(tasks)
    log.add_candidates([c for row in shown for c in row])
    order = tuple(reversed(range(k)))
    rows = zip(tasks, shown, strict=True)
    queries = [Query(t.id, kind, tuple(c.id for c in row), order, 1) for t, row in rows]  # type: ignore[arg-type]
    log.add_queries(queries)
    log.register_teacher("o", "oracle")
    return queries


def test_export_and_import_agree(tmp_path: Path, log: FeedbackLog) -> None:
    rows = [{"prompt": "tie", "first": "F", "second": "S", "label": 0.5}, PAIR | {"strength": 2, "split": "test"},
            PAIR | {"prompt": "q", "annotator": "Ada"}]  # fmt: skip
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", rows))
    asked = fill(log, n=3)
    for q, choice in zip(asked, ("both_bad", "cannot_judge", "b"), strict=True):
        log.append(q, "o", Answer({"choice": choice}))
    log.append(asked[0], "o", Answer({"kind": "label", "slot": "a", "good": True}))
    report = export_feedback(log, tmp_path / "out.jsonl")
    assert report.rows == 4
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
        export_feedback(log, tmp_path / "nowhere" / "out.jsonl")


EVERY_KIND: list[dict[str, Any]] = [
    {"kind": "comparison", "prompt": "p0", "candidates": [{"text": "x"}, {"text": "y"}],
     "value": {"kind": "comparison", "choice": "both_bad"}, "teacher": "Ada", "text": "both lie"},
    {"kind": "ranking", "prompt": "p1", "candidates": [{"text": "x"}, {"text": "y"}, {"text": "z"}],
     "value": {"kind": "ranking", "rank": [["c2"], ["c1"]], "unranked": ["c3"]}, "shown": [2, 0, 1]},
    {"kind": "best_of", "prompt": "p2", "candidates": [{"text": "x"}, {"text": "y"}, {"text": "z"}],
     "value": {"kind": "best_of", "best": "c3"}},
    {"kind": "rating", "prompt": "p3", "candidates": [{"text": "x"}], "teacher": "Bob",
     "value": {"kind": "rating", "score": 3, "scale": [1, 5], "aspect": "helpful"}},
    {"kind": "label", "prompt": "p4", "candidates": [{"text": "x"}],
     "value": {"kind": "label", "name": "safe", "good": False}},
    {"kind": "approval", "prompt": "p5", "candidates": [{"text": "x"}],
     "value": {"kind": "approval", "approved": True}},
    {"kind": "critique", "prompt": "p6", "candidates": [{"text": "x y"}],
     "value": {"kind": "critique", "span": [0, 1]}, "text": "dull"},
    {"kind": "critique", "prompt": "p6", "candidates": [{"text": "x y"}], "value": {"kind": "critique"},
     "text": "long"},
    {"kind": "critique", "prompt": "p6", "candidates": [{"text": "x y"}], "value": {"kind": "critique"},
     "text": "odd"},
    {"kind": "correction", "prompt": "p6", "candidates": [{"text": "x y"}], "value": {"kind": "correction"},
     "text": "x z", "teacher": "Ada", "source_id": "c7"},
    {"kind": "demonstration", "prompt": [dict(m) for m in CHAT], "value": {"kind": "demonstration"}, "text": "2"},
    {"kind": "demonstration", "prompt": [dict(m) for m in CHAT], "value": {"kind": "demonstration"}, "text": "two"},
    {"kind": "ranking", "prompt": "p7", "candidates": [{"ref": "A"}, {"ref": "B"}], "candidate_kind": "reference",
     "value": {"kind": "ranking", "rank": [["c1", "c2"]]}, "group": "g"},
]  # fmt: skip


def test_every_kind_of_value_is_an_event_and_comes_out_again(tmp_path: Path, log: FeedbackLog) -> None:
    path = write(tmp_path / "x.jsonl", [{"tropism": 1, "split": "train", **row} for row in EVERY_KIND])
    report = ImportTeacher().load(log, path)
    assert (report.imported, report.events, report.rejected) == (13, 13, [])
    assert Counter(j.value["kind"] for j in log.judgements()) == Counter(row["kind"] for row in EVERY_KIND)
    assert verify(log.database).ok
    assert ImportTeacher().load(log, path).imported == 0
    written = export_feedback(log, tmp_path / "out.jsonl", "tropism")
    assert (written.rows, written.left_out) == (13, {})
    (tmp_path / "two").mkdir()
    second = new_log(tmp_path / "two")
    ImportTeacher().load(second, tmp_path / "out.jsonl")
    assert said(second) == said(log)


def said(log: FeedbackLog) -> set[tuple[Any, ...]]:
    """What a log holds, without the names of people, which differ between studies."""
    judged = log.judgements(("train", "validation", "test"))
    return {(j.task.id, j.query.id, digest(dict(j.value)), j.text, j.teacher_kind) for j in judged}


def test_a_remark_beside_a_comparison_is_a_record_of_its_own(log: FeedbackLog) -> None:
    (asked,) = fill(log)
    log.append(asked, "o", Answer({"choice": "a", "strength": 3}))
    log.append(asked, "o", Answer({"kind": "critique", "slot": "b", "span": [0, 3]}, text="so so"))
    left: Counter[str] = Counter()
    first, second = sorted(records_of(log, left), key=lambda record: record.kind, reverse=True)
    assert not left
    assert (first.kind, second.kind, first.shown, second.shown) == ("critique", "comparison", None, (1, 0))
    assert first.candidates == (second.candidates[1],) == ({"text": "answer 1"},)
    assert first.value == {"kind": "critique", "slot": "c1", "span": [0, 3]}
    assert (second.split, second.teacher, second.prompt) == ("train", None, "comparison 0")


def test_what_is_no_text_is_counted(tmp_path: Path, log: FeedbackLog) -> None:
    task = Task("train", {"arms": 3})
    arms = [Candidate(task.id, "arm", {"arm": i}, Provenance("sft")) for i in range(2)]
    log.add_tasks([task])
    log.add_candidates(arms)
    query = Query(task.id, "comparison", (arms[0].id, arms[1].id), (0, 1), 1)
    log.add_queries([query])
    log.register_teacher("o", "oracle")
    log.append(query, "o", Answer({"choice": "a"}))
    with pytest.raises(DataError, match=r"nothing to write .* \(1 not text\)"):
        export_feedback(log, tmp_path / "out.jsonl", "tropism")
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", [PAIR]))
    report = export_feedback(log, tmp_path / "out.jsonl")
    assert (report.records, report.held, report.left_out) == (2, 1, {"not text": 1})


def test_several_annotators_of_one_row_are_people_of_their_own(tmp_path: Path, log: FeedbackLog) -> None:
    rows = [
        {"prompt": f"p{i}", "first": "x", "second": "y", "votes": {"Ada": 0, "Bob": 1, "Eve": 0.5}} for i in range(5)
    ]
    path = write(tmp_path / "x.jsonl", rows)
    report = ImportTeacher().load(log, path)
    assert (report.rows, report.imported) == (5, 15)
    judged = log.judgements()
    assert len({j.teacher_id for j in judged}) == 3
    assert {j.teacher_kind for j in judged} == {"person"}
    assert len({j.query.id for j in judged}) == 5  # one query for all: their votes become one soft target
    report = export_feedback(log, tmp_path / "out.jsonl", "votes")
    assert (report.rows, report.held) == (5, 15)


def test_repeated_judgements_of_a_format_that_keeps_them_are_left_out_not_refused(
    tmp_path: Path, log: FeedbackLog
) -> None:
    row = {"prompt": "p", "first": "x", "second": "y", "votes": {"Ada": 0}}
    rows = [row | {"id": "1"}, row | {"id": "2"}, row | {"votes": {"Ada": 1, "Bob": 1}, "id": "3"}]
    report = ImportTeacher().load(log, write(tmp_path / "x.jsonl", rows))
    assert (report.imported, report.rejected) == (2, [])
    assert sum(report.left_out.values()) == 2


def test_any_kind_of_file_and_any_names_of_columns(tmp_path: Path, log: FeedbackLog) -> None:
    (tmp_path / "x.csv").write_text("question,good answer,bad answer,who\np,good,bad,Ada\nq,good,bad,Bob\n")
    names = {"prompt": "question", "chosen": "good answer", "rejected": "bad answer", "annotator": "who"}
    teacher = ImportTeacher(format="pairs", columns=names)
    assert teacher.load(log, tmp_path / "x.csv").imported == 2
    assert preferred(log) == {"p": "good", "q": "good"}
    rated = [{"prompt": "p", "completion": "good", "score": 4}]
    with pytest.raises(RejectedRows, match="no scale"):
        ImportTeacher().load(log, write(tmp_path / "y.jsonl", rated))
    assert ImportTeacher(options={"scale": [1, 5]}).load(log, tmp_path / "y.jsonl").imported == 1


def test_our_own_csv_is_read_as_it_was_written(tmp_path: Path, log: FeedbackLog) -> None:
    export([pair("=1+1", "'=2", "@x", "b")], tmp_path / "x.csv", "pairs")
    ImportTeacher().load(log, tmp_path / "x.csv")
    assert preferred(log) == {"=1+1": "@x"}


def test_rows_without_a_split_follow_what_the_study_has(tmp_path: Path, log: FeedbackLog) -> None:
    ImportTeacher().load(log, write(tmp_path / "x.jsonl", [PAIR | {"split": "test"}]))
    ImportTeacher().load(log, write(tmp_path / "y.jsonl", [PAIR | {"chosen": "another"}]))
    assert [j.task.split for j in log.judgements(("train", "validation", "test"))] == ["test", "test"]
    asked_of_domain = ImportTeacher(known_split=lambda prompt: "train")
    with pytest.raises(RejectedRows, match="in the study's test split already, not in train"):
        asked_of_domain.load(log, write(tmp_path / "z.jsonl", [PAIR | {"chosen": "a third"}]))


def test_a_source_that_changes_meanwhile_changes_nothing(tmp_path: Path, log: FeedbackLog) -> None:
    path = write(tmp_path / "x.jsonl", [PAIR])

    class Changing(ImportTeacher):
        def check(self, *given: Any, **named: Any) -> Any:
            found = super().check(*given, **named)
            write(path, [PAIR, PAIR | {"prompt": "q"}])
            return found

    with pytest.raises(DataError, match="changed while it was imported"):
        Changing().load(log, path)
    assert set(log.counts().values()) == {0}


def test_pseudonyms_stay_those_of_earlier_versions(tmp_path: Path, log: FeedbackLog) -> None:
    """A replay must find the same people: they are keyed by the SHA-256 of the file."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "p", "chosen": "good", "rejected": "bad", "annotator": "Ada"}\n')
    ImportTeacher().load(log, path)
    (judged,) = log.judgements()
    assert judged.teacher_id == "person-c4055ef036961835"
    assert judged.event_id == "21a493a1d5f8cae086ab3079"
