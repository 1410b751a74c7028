"""``tropism data``: what a file holds is shown without acting on the terminal; any format in, any format out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tropism.data import read
from tropism.data.importing import ImportTeacher
from tropism.data.manifest import read_manifest
from tropism.feedback.events import FeedbackLog
from tropism.study.study import Study

Cli = Callable[..., tuple[int, str, str]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int = 6, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more} for i in range(count)]


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_import_makes_our_own_form_and_a_manifest(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,good answer,bad answer,rater\np,x,y,Ada\nq,x,y,Bob\n")
    names = "prompt=question,chosen=good answer,rejected=bad answer,annotator=rater"
    command = ["data", "import", tmp_path / "x.csv", "--columns", names, "--format", "pairs", "--licence", "CC0-1.0"]
    status, out, err = cli(*command, "--out", tmp_path / "out.jsonl", "--plan")
    assert (status, err, files(tmp_path)) == (0, "", {"x.csv"})
    assert "plan (nothing was written)" in out
    assert "2, of which 2 are held in 2 rows as tropism" in out
    status, out, err = cli(*command, "--out", tmp_path / "out.jsonl")
    assert (status, err) == (0, "")
    assert files(tmp_path) == {"x.csv", "out.jsonl", "out.jsonl.manifest.json"}
    assert [(r.prompt, r.teacher) for r in read(tmp_path / "out.jsonl").records] == [("p", "Ada"), ("q", "Bob")]
    made = read_manifest(tmp_path / "out.jsonl")
    assert made is not None
    assert made["licences"] == ["CC0-1.0"]
    assert made["sources"][0]["files"][0]["name"] == "x.csv"


def test_bad_rows_stop_an_import_and_an_export_unless_left_out(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [*pairs(20), *({"prompt": "", "chosen": "a", "rejected": "b"},) * 12])
    for command in (
        ["data", "import", source, "--out", tmp_path / "out.jsonl"],
        ["data", "export", source, tmp_path / "out.jsonl", "--to", "unpaired"],
    ):
        status, out, err = cli(*command)
        assert (status, out) == (2, "")
        assert "12 of 32 rows cannot be used; nothing was written" in err
        assert "  line 21: prompt is empty" in err
        assert "line 31" not in err
        assert "and 2 more" in err
        assert files(tmp_path) == {"x.jsonl"}
    status, out, _ = cli("data", "import", source, "--out", tmp_path / "out.jsonl", "--skip-bad")
    assert status == 0
    assert "32 rows, 12 of them rejected" in out
    assert "line 21: prompt is empty" in out
    assert len(read(tmp_path / "out.jsonl").records) == 20


def test_export_from_any_format_into_any_other(cli: Cli, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "first": "x", "second": "y", "label": (0, 1, 0.5)[i % 3]} for i in range(9)]
    source = write(tmp_path / "x.jsonl", rows)
    for to, name, more, held in (
        ("pairs", "pairs.csv", [], 6),
        ("pairs", "label.parquet", ["--form", "label"], 9),
        ("unpaired", "kto.jsonl", [], 6),
        ("demonstrations", "folder", ["--chosen", "--conversational", "always"], 6),
        ("tropism", "own.jsonl", [], 9),
    ):
        status, out, err = cli("data", "export", source, tmp_path / name, "--to", to, *more)
        assert (status, err) == (0, "")
        assert f"9, of which {held} are held in" in out
        back = read(tmp_path / name, format=to, **({"escaped": True} if name.endswith("csv") else {}))
        assert len(back.records) == (2 * held if to == "unpaired" else held)
    assert "3: tie" in cli("data", "export", source, tmp_path / "again.csv", "--to", "pairs")[1]
    status, out, _ = cli("data", "export", tmp_path / "own.jsonl", tmp_path / "some.jsonl", "--to", "pairs",
                         "--split", "train,test")  # fmt: skip
    assert status == 2  # they have no split


def test_export_of_a_studys_feedback(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [*pairs(3, annotator="Ada"), {**pairs(4)[3], "split": "test"}])
    with Study.create(tmp_path / "study", recipe="tinytalk") as study:
        ImportTeacher(validation_share=0).load(FeedbackLog(study.database), source)
    status, out, err = cli("data", "export", tmp_path / "study", tmp_path / "out.csv", "--to", "pairs")
    assert (status, err) == (0, "")
    assert "4 are held in 4 rows as pairs" in out
    assert "1 test, 3 train" in out or "3 train, 1 test" in out
    back = read(tmp_path / "out.csv", escaped=True).records
    assert {r.teacher is None or r.teacher.startswith("person-") for r in back} == {True}
    assert "Ada" not in (tmp_path / "out.csv").read_text()
    cli("data", "export", tmp_path / "study", tmp_path / "test.jsonl", "--to", "tropism", "--split", "test")
    assert [r.split for r in read(tmp_path / "test.jsonl").records] == ["test"]
    status, _, err = cli("data", "export", tmp_path / "study", tmp_path / "o.csv", "--to", "pairs", "--format", "hh")
    assert status == 2
    assert "has no format of its own" in err


def test_show_says_what_a_file_holds(cli: Cli, tmp_path: Path) -> None:
    votes = [{"prompt": f"p{i}", "first": "x" * (i + 1), "second": "y", "group": "g" if i % 2 else "h", "id": f"r{i}",
              "votes": {"Ada": 0, "Bob": int(i == 0)}} for i in range(4)]  # fmt: skip
    source = write(tmp_path / "x.jsonl", [*votes, {"prompt": "q", "first": "x", "second": "x", "votes": {"Ada": 0}}])
    status, out, err = cli("data", "show", source, "-n", "1", "--licence", "MIT")
    assert (status, err) == (0, "")
    for said in (
        "votes, recognised by its columns", "MIT", "5, of which 1 cannot be used", "8 comparison", "7 a, 1 b",
        "4 different", "2: 4 h, 4 g", "2: 4 Ada, 4 Bob",
        "75.0 % of two answers are equal", "4 judged by several of 2 annotators", "1 … 1 … 1 … 2 … 4",
        "line 5: the two answers are identical", "1 of 8, line 1: comparison", "teacher Ada", "id r0", 'choice "a"',
    ):  # fmt: skip
        assert said in " ".join(out.split()), said
    assert out.count("of 8, line") == 1
    assert files(tmp_path) == {"x.jsonl"}


def test_show_makes_hostile_text_harmless(cli: Cli, tmp_path: Path) -> None:
    bad = "\x1b[31mred\x1b[0m \u202etxet\u202c [bold]x[/bold] \u200b"
    rows = [{"prompt": bad, "chosen": bad + "1", "rejected": bad + "2", "annotator": bad, "group": bad, bad: bad}]
    status, out, _ = cli("data", "show", write(tmp_path / "x.jsonl", rows))
    assert status == 0
    assert not any(sign in out for sign in "\x1b\u202e\u200b\u202c")
    assert "⟨ESC⟩[31mred" in out
    assert "[bold]x[/bold]" in out
    rows = [{"prompt": "p", "chosen": "x", "rejected": "y", "split": bad}] * 2 + pairs(3)
    _, out, _ = cli("data", "show", write(tmp_path / "y.jsonl", rows))
    assert "\x1b" not in out
    assert "split is" in out


def test_show_cuts_long_texts_and_says_so(cli: Cli, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "x" * 5000, "rejected": "y"}]
    _, out, _ = cli("data", "show", write(tmp_path / "x.jsonl", rows))
    assert "… (5000 characters)" in out
    assert "x" * 700 not in out.replace("\n", "")


def test_what_cannot_be_done_says_why(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", pairs())
    other = write(tmp_path / "y.jsonl", [{"a": 1}])
    for arguments, says in (
        (["show", tmp_path / "none.jsonl"], "No such file"),
        (["show", other], "is of no format that is known here"),
        (["show", source, "--columns", "x"], "is not OURS=THEIRS"),
        (["show", source, "--option", "scale"], "is not KEY=VALUE"),
        (["import", source, "--out", tmp_path / "o.csv"], "fit no table"),
        (["export", source, tmp_path / "o.xlsx", "--to", "pairs"], "suffix"),
        (["export", source, tmp_path / "o.csv", "--to", "pear"], "did you mean 'pairs'"),
        (["export", source, tmp_path / "o.csv", "--to", "ranked"], "nothing to write"),
        (["export", source, tmp_path / "o.csv", "--to", "pairs", "--split", "dev"], "is no split"),
        (["export", source, tmp_path / "o.csv", "--to", "pairs", "--form", "x"], "form is 'x'"),
    ):
        status, out, err = cli("data", *arguments)
        assert (status, out) == (2, ""), arguments
        assert says in err, arguments
        assert "\nfix: " in err
    assert files(tmp_path) == {"x.jsonl", "y.jsonl"}


def test_an_export_that_was_escaped_is_shown_as_it_was(cli: Cli, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [{"prompt": "=1", "chosen": "x", "rejected": "y"}])
    cli("data", "export", source, tmp_path / "o.csv", "--to", "pairs")
    assert "'=1" in (tmp_path / "o.csv").read_text()
    _, out, _ = cli("data", "show", tmp_path / "o.csv")
    assert "pairs, as its manifest says" in out
    assert [line.split() for line in out.splitlines() if line.startswith("  prompt  ")][-1] == ["prompt", "=1"]
