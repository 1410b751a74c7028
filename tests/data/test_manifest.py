"""The manifest beside an export says what it is made of, and knows when the file is no longer that export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_cases import pair

from tropism import __version__
from tropism.data import read
from tropism.data.exporting import export
from tropism.data.importing import opened
from tropism.data.manifest import manifest_path, read_manifest, reading_options
from tropism.data.records import Record
from tropism.digests import digest_file, digest_folder
from tropism.errors import DataError

ROWS = [{"prompt": f"p{i}", "first": "x", "second": "y", "label": (0, 1, 0.5)[i % 3]} for i in range(9)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"prompt": ""}\n')
    return path


def test_it_says_from_what_how_many_and_what_was_left_out(tmp_path: Path, source: Path) -> None:
    reading = read(source, licence="CC0-1.0")
    export(
        reading.records, tmp_path / "out.csv", "pairs", sources=[reading.source], licence="MIT",
        filters=["longer than 3 characters"], splits=None,
    )  # fmt: skip
    found = read_manifest(tmp_path / "out.csv")
    assert found is not None
    assert found["file"] == {"name": "out.csv", "kind": "csv", "sha256": digest_file(tmp_path / "out.csv")}
    counts = found["counts"]
    assert (counts["records"], counts["held"], counts["rows"], counts["left_out"]) == (9, 6, 6, {"tie": 3})
    assert counts["lost"] == {"order shown": 6}
    (origin,) = found["sources"]
    assert origin["files"] == [
        {"name": "source.jsonl", "sha256": digest_file(source), "bytes": source.stat().st_size}
    ]  # fmt: skip
    assert (origin["rows"], origin["rejected"], origin["format"]) == (10, 1, "pairs")
    assert found["licences"] == ["CC0-1.0", "MIT"]
    assert found["filters"] == ["longer than 3 characters"]
    assert found["versions"]["tropism"] == __version__
    assert str(tmp_path) not in json.dumps(found)


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.csv", "x.parquet"):
        made = []
        for run in ("1", "2"):
            (tmp_path / run).mkdir(exist_ok=True)
            export([pair(f"p{i}") for i in range(50)], tmp_path / run / name, "pairs")
            path = tmp_path / run / name
            made.append((path.read_bytes(), manifest_path(path).read_bytes()))
        assert made[0] == made[1]


def test_a_folder_has_one_beside_it_too(tmp_path: Path) -> None:
    export([pair(split="train")], tmp_path / "folder", "pairs")
    found = read_manifest(tmp_path / "folder")
    assert found is not None
    assert found["file"]["sha256"] == digest_folder(tmp_path / "folder")
    assert found["splits"] == {"train": 1}
    assert reading_options(tmp_path / "folder") == {"format": "pairs", "repeats": "keep", "empty": True}


def test_a_file_that_was_changed_since_is_anybodys(tmp_path: Path) -> None:
    export([pair("=p")], tmp_path / "x.csv", "pairs")
    assert reading_options(tmp_path / "x.csv") == {"format": "pairs", "repeats": "keep", "escaped": True, "empty": True}
    with (tmp_path / "x.csv").open("a") as file:
        file.write('"\'=q","a","b"\n')
    assert reading_options(tmp_path / "x.csv") == {}
    assert reading_options(tmp_path / "none.csv") == {}


BROKEN = pytest.mark.parametrize("content", ["{", "[]", '{"manifest": 99}', "\xff"])


def test_a_licence_stays_with_what_is_made_of_it(tmp_path: Path) -> None:
    export([pair()], tmp_path / "1.jsonl", "pairs", licence="CC-BY-4.0")
    first = opened(tmp_path / "1.jsonl")
    found = [record for record in first.records() if isinstance(record, Record)]
    export(found, tmp_path / "2.jsonl", "unpaired", sources=[first.reading.source], licence="MIT")
    second = read_manifest(tmp_path / "2.jsonl")
    assert second is not None
    assert second["licences"] == ["CC-BY-4.0", "MIT"]
    last = opened(tmp_path / "2.jsonl")
    assert len(list(last.records())) == 2
    assert last.reading.source["licence"] == "CC-BY-4.0, MIT"


@BROKEN
def test_a_broken_manifest_is_named(tmp_path: Path, content: str) -> None:
    export([pair()], tmp_path / "x.csv", "pairs")
    manifest_path(tmp_path / "x.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.csv\.manifest\.json") as caught:
        reading_options(tmp_path / "x.csv")
    assert "export the data again" in caught.value.fix
