"""Rows of files: the same whatever the file, its compression and its encoding; every file described by its hash."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tropism.data import read
from tropism.data.files import data_files, is_hub_name, kind_of_file, split_of_name
from tropism.data.tables import escape_cell, unescape_cell
from tropism.errors import DataError

ROWS = [{"prompt": f"p{i}", "completion": f"c{i} é 世 🙂"} for i in range(5)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def csv_of(rows: list[dict[str, str]], sign: str = ",") -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [sign.join(map(cell, rows[0])), *(sign.join(map(cell, row.values())) for row in rows)]
    return "".join(line + "\n" for line in lines).encode()


def parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


CONTENTS: dict[str, bytes] = {
    "a.jsonl": jsonl(ROWS),
    "a.ndjson": jsonl(ROWS),
    "a.json": json.dumps(ROWS).encode(),
    "object.json": json.dumps({"version": 2, "data": ROWS}).encode(),
    "lines.json": jsonl(ROWS),
    "a.csv": csv_of(ROWS),
    "a.tsv": csv_of(ROWS, "\t"),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "a.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "A.CSV.GZ": gzip.compress(csv_of(ROWS)),
    "members.jsonl.gz": gzip.compress(jsonl(ROWS[:2])) + gzip.compress(jsonl(ROWS[2:])) + bytes(512),
    "streams.jsonl.xz": lzma.compress(jsonl(ROWS[:2])) + lzma.compress(jsonl(ROWS[2:])),
    "utf16.jsonl": jsonl(ROWS).decode().encode("utf-16"),
    "utf16.json": json.dumps(ROWS, ensure_ascii=False).encode("utf-16"),
    "utf16.csv": csv_of(ROWS).decode().encode("utf-16"),
    "mark.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS),
    "crlf.csv": csv_of(ROWS).replace(b"\n", b"\r\n"),
    "no_last_line_end.jsonl": jsonl(ROWS)[:-1],
}


@pytest.mark.parametrize("name", CONTENTS)
def test_all_kinds_of_files_hold_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    reading = read(path)
    assert [(r.prompt, r.text) for r in reading.records] == [(r["prompt"], r["completion"]) for r in ROWS]
    assert (reading.rows, reading.rejected) == (5, [])
    sha256 = hashlib.sha256(CONTENTS[name]).hexdigest()
    assert reading.source["files"] == [{"name": name, "sha256": sha256, "bytes": len(CONTENTS[name])}]


def test_parquet_plain_and_compressed(tmp_path: Path) -> None:
    parquet(ROWS * 40, tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    for name in ("a.parquet", "b.parquet.gz"):
        reading = read(tmp_path / name)
        assert [(r.prompt, r.line) for r in reading.records] == [(f"p{i % 5}", i + 1) for i in range(200)]
        assert reading.source["files"][0]["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_table_of_pandas_with_gaps(tmp_path: Path) -> None:
    import pandas as pd

    rows = [
        {"prompt": "p", "first": "a", "second": "b", "label": 1, "strength": 2.0, "when": pd.Timestamp("2024-01-02")},
        {"prompt": "q", "first": "a", "second": "b", "label": 0.5, "strength": None, "when": pd.NaT},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    one, two = read(tmp_path / "t.parquet").records
    assert one.value == {"kind": "comparison", "choice": "b", "strength": 2}
    assert two.value == {"kind": "comparison", "choice": "tie", "strength": 0}
    assert one.meta == {"when": "2024-01-02T00:00:00"}
    assert two.meta == {}


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    single = datasets.Dataset.from_list(ROWS)
    single.save_to_disk(str(tmp_path / "single"))
    reading = read(tmp_path / "single")
    assert [r.prompt for r in reading.records] == [r["prompt"] for r in ROWS]
    assert {r.split for r in reading.records} == {None}
    assert all(len(entry["sha256"]) == 64 for entry in reading.source["files"])
    parts = datasets.DatasetDict(
        {"train": single, "test": datasets.Dataset.from_list([{"prompt": "t", "completion": "x"}])}
    )
    parts.save_to_disk(str(tmp_path / "parts"))
    reading = read(tmp_path / "parts")
    assert [r.split for r in reading.records] == ["train"] * 5 + ["test"]
    assert len(read(tmp_path / "parts", parts=["test"]).records) == 1
    with pytest.raises(DataError, match="has no part 'dev'; its parts are"):
        read(tmp_path / "parts", parts=["dev"])


def test_parts_that_are_no_split_are_groups(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list(ROWS[:1])
    parts = datasets.DatasetDict({"train_sft": one, "helpful": datasets.Dataset.from_list(ROWS[1:2])})
    parts.save_to_disk(str(tmp_path / "d"))
    made = read(tmp_path / "d").records
    assert [(r.split, r.group) for r in made] == [("train", ""), (None, "helpful")]
    assert len(read(tmp_path / "d", parts="helpful").records) == 1


def test_a_datasets_folder_whose_data_are_damaged(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS * 50).save_to_disk(str(tmp_path / "d"))
    (arrow,) = (tmp_path / "d").glob("*.arrow")
    content = arrow.read_bytes()
    arrow.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"no usable datasets folder|cannot be read further"):
        read(tmp_path / "d")


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "train-00000.jsonl").write_bytes(jsonl(ROWS[:3]))
    (tmp_path / "test.csv").write_bytes(csv_of(ROWS[3:]))
    (tmp_path / "notes.txt").write_text("not data\n")
    (tmp_path / "x.manifest.json").write_text("{}")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    reading = read(tmp_path)
    assert [(r.prompt, r.split) for r in reading.records] == [
        *(("p3", "test"), ("p4", "test")),
        *(("p0", "train"), ("p1", "train"), ("p2", "train")),
    ]
    assert [entry["name"] for entry in reading.source["files"]] == ["test.csv", "train-00000.jsonl"]
    (tmp_path / "train-00000.jsonl").write_bytes(jsonl(ROWS[:3]) + b"nonsense\n")
    (bad,) = read(tmp_path).rejected
    assert (bad.line, bad.file) == (4, "train-00000.jsonl")


def test_the_name_of_a_file_alone_says_no_split(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(jsonl(ROWS))
    assert {r.split for r in read(tmp_path / "test.jsonl").records} == {None}


def test_prompts_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"one\r\n\r\ntwo\n")
    reading = read(tmp_path / "p.txt")
    assert [(r.prompt, r.line) for r in reading.records] == [("one", 1), ("two", 3)]
    assert reading.repaired == {"CRLF line ends": 2, "blank lines skipped": 1}


def test_an_object_of_several_lists_names_their_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"x": ROWS[:2], "y": ROWS[2:]}))
    reading = read(tmp_path / "a.json")
    assert [r.group for r in reading.records] == ["x", "x", "y", "y", "y"]


def test_cells_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    texts = ["=1+1", "'quoted", "-x", "@y", "plain", "''", "\tz", "it's"]
    for text in texts:
        assert unescape_cell(escape_cell(text)) == text
        assert not escape_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    rows = [{"prompt": escape_cell(text), "completion": "c"} for text in texts]
    (tmp_path / "a.csv").write_bytes(csv_of(rows))
    assert [r.prompt for r in read(tmp_path / "a.csv", escaped=True).records] == texts
    assert read(tmp_path / "a.csv").records[0].prompt == "'=1+1"  # as it stands, unless one knows


def test_a_column_separator_that_is_no_comma(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_of(ROWS, ";").replace(b'"', b""))
    with pytest.raises(DataError, match="separated by ';'"):
        read(tmp_path / "a.csv")
    assert len(read(tmp_path / "a.csv", delimiter=";").records) == 5
    with pytest.raises(DataError, match="delimiter is ';;'"):
        read(tmp_path / "a.csv", delimiter=";;")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("a.jsonl", "jsonl"), ("a.b.NDJSON.GZ", "jsonl"), ("a.tsv.xz", "csv"), ("a.parquet", "parquet")),
        *(("a.gz", None), ("a", None), ("a.pkl", None), ("jsonl", None)),
    ],
)
def test_a_file_is_what_its_name_says(name: str, kind: str | None) -> None:
    assert kind_of_file(Path(name)) == kind


def test_names_of_splits() -> None:
    said = {name: split_of_name(name) for name in ("train.csv", "test-00000-of-2", "dev", "val", "training", "contest")}
    assert said == {
        **{"train.csv": "train", "test-00000-of-2": "test", "dev": "validation", "val": "validation"},
        **{"training": None, "contest": None},
    }


def test_what_is_taken_for_a_name_on_the_hub(tmp_path: Path) -> None:
    assert is_hub_name("owner/name")
    assert not any(map(is_hub_name, ("owner/name.jsonl", "/owner/name", "name", "a/b/c", "../a", str(tmp_path))))
    program = "from tropism.data import read\ntry:\n    read('nobody/nothing')\n"
    program += "except Exception as e:\n    print(type(e).__name__, e)"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=120, check=True
    )
    assert done.stdout.startswith("DataError the data set nobody/nothing cannot be loaded: ")


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pkl").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, said in (
        ("none.jsonl", "No such file"),
        ("empty", "without data files"),
        ("a.pkl", "of no kind"),
        ("pipe.jsonl", "no ordinary file"),
    ):
        with pytest.raises(DataError, match=said):
            data_files(tmp_path / name)


def test_reading_loads_nothing_heavy() -> None:
    code = "import tropism.data, sys, json\nfrom tropism.data import read\n"
    code += (
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), suffix=st.sampled_from(("", ".gz", ".xz")))
def test_any_text_comes_back_from_every_kind_of_file(rows: list[tuple[str, str]], suffix: str) -> None:
    made = [{"prompt": prompt, "completion": text} for prompt, text in rows]
    packed: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("a.jsonl", jsonl(made)), ("a.csv", csv_of(made)), ("a.json", json.dumps(made).encode())):
            path = Path(folder) / (name + suffix)
            path.write_bytes(packed[suffix](content))
            reading = read(path, format="demonstrations")
            assert [(r.prompt, r.text) for r in reading.records] == rows, name
            assert not reading.rejected
