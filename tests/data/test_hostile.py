"""Hostile files: exactly these rows rejected for these reasons, or mended by these rules, or the whole file refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import BOMBS, CASES, REFUSED, Case

from tropism.data import read
from tropism.errors import DataError

MOST_MEMORY = 450 << 10
"""KiB of a process that reads all bombs, one after the other, libraries included."""


def check(case: Case, folder: Path) -> None:
    """Read a case's file and hold what comes out against what must."""
    path = case.write(folder)
    if case.error:
        with pytest.raises(DataError) as refused:
            read(path, **case.options)
        assert case.error in refused.value.problem + refused.value.fix
        assert refused.value.fix, "an error says what to do"
        return
    reading = read(path, **case.options)
    assert len(reading.records) == case.records, reading.rejected
    said = {bad.line: bad.reason for bad in reading.rejected}
    assert set(said) == set(case.rejected), said
    for line, reason in case.rejected.items():
        assert reason in said[line]
    assert len(reading.rejected) == len(said), "a line is rejected once"
    assert dict(reading.repaired) == dict(case.repaired)
    used = {record.line for record in reading.records}
    assert not used & set(said), "a row is used or rejected"


@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_malformed_file(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_refused(name: str, tmp_path: Path) -> None:
    check(REFUSED[name], tmp_path)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) + len(REFUSED) + len(BOMBS) >= 40


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.timeout(240)
def test_files_that_would_fill_the_memory(tmp_path: Path) -> None:
    """All in one process of its own, whose peak is measured; writing them is this process's."""
    files = {}
    for name, case in BOMBS.items():
        files[name] = str(case.write(tmp_path))
    here = Path(__file__).parent
    program = f"import sys\nsys.path.insert(0, {str(here)!r})\nimport test_hostile\ntest_hostile.read_bombs()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    assert set(peaks) == set(BOMBS)
    assert max(peaks.values()) < MOST_MEMORY, peaks


def peak_memory() -> int:
    """KiB that this process had at most. (``ru_maxrss`` would count what its parent had before it.)"""
    (high,) = [said for said in Path("/proc/self/status").read_text().splitlines() if said.startswith("VmHWM:")]
    return int(high.split()[1])


def read_bombs() -> None:
    """In the process of its own: read every file, print the peak memory after each (KiB)."""
    peaks = {}
    for name, path in json.loads(sys.stdin.read()).items():
        case = BOMBS[name]
        if case.error:
            with pytest.raises(DataError, match=case.error):
                read(path, **case.options)
        else:
            reading = read(path, **case.options)
            assert (len(reading.records), [bad.line for bad in reading.rejected]) == (case.records, list(case.rejected))
        peaks[name] = peak_memory()
    print(json.dumps(peaks))
