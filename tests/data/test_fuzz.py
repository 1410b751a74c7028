"""Damaged files of every kind: whatever is changed, cut or put in, a file is read, rejected row by row, or refused.

Nothing but DataError comes out, and every row that was read is accounted for.
"""

from __future__ import annotations

import gzip
import lzma
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_files import csv_of, jsonl, parquet

from tropism.data import Record, Rejected, open_source
from tropism.errors import DataError

PAIRS: list[dict[str, Any]] = [
    {"prompt": f"p{i} é", "chosen": f"a{i}", "rejected": "b", "annotator": "x"} for i in range(6)
]


def segments(path: Path) -> None:
    import numpy as np

    np.savez(path, **{"t/label": np.array([0, 1]), "t/indices_1": np.array([1, 2]), "t/indices_2": np.array([3, 4])})


MAKERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(jsonl(PAIRS)),
    "a.json": lambda path: path.write_bytes(b"[" + b",\n".join(jsonl([row]) for row in PAIRS) + b"]"),
    "a.csv": lambda path: path.write_bytes(csv_of(PAIRS)),
    "a.txt": lambda path: path.write_bytes("one\ntwo é\n".encode()),
    "utf16.jsonl": lambda path: path.write_bytes(jsonl(PAIRS).decode().encode("utf-16")),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(PAIRS))),
    "a.csv.xz": lambda path: path.write_bytes(lzma.compress(csv_of(PAIRS))),
    "a.parquet": lambda path: parquet(PAIRS, path),
    "a.npz": segments,
}


@cache
def content(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        MAKERS[name](path)
        return path.read_bytes()


CHANGES = st.lists(
    st.tuples(st.sampled_from(("set", "cut", "put", "drop")), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, place, new in changes:
        at = int(place * len(data))
        data = {
            "set": data[:at] + new + data[at + len(new) :],
            "cut": data[:at],
            "put": data[:at] + new + data[at:],
            "drop": data[:at] + data[at + len(new) :],
        }[what]
    return data


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=CHANGES)
@example(changes=[("cut", 0.0, b"x")])
def test_a_damaged_file(name: str, changes: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(damaged(content(name), changes))
        format = {"txt": "prompts", "npz": "segments"}.get(name.rpartition(".")[2], "pairs")
        try:
            source = open_source(path, format=format)
            made = list(source.records())
        except DataError as error:
            refused = error
        else:
            reading = source.reading
            used = sum(isinstance(one, Record) for one in made)  # each row gives one record here
            assert reading.rows == used + sum(isinstance(one, Rejected) for one in made) + reading.empty_rows
            assert len(reading.source["files"][0]["sha256"]) == 64
            return
        assert str(path) in refused.problem
        assert refused.fix
