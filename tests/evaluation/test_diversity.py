"""distinct-n and lengths by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tropism.errors import DataError
from tropism.evaluation.diversity import distinct_n, length_summary


def test_distinct_by_hand():
    texts = [[1, 2, 1, 2], [1, 2], [5], []]
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(2 / 4)  # (1, 2), (2, 1); never across two texts
    assert distinct_n(texts, 5) == 0
    with pytest.raises(DataError, match="distinct-0"):
        distinct_n(texts, 0)


def test_lengths_by_hand():
    found = length_summary([[1, 2, 3, 4], [1, 2], [], [7, 7]])
    assert (found["mean"], found["median"], found["empty"]) == (2, 2, 0.25)
    with pytest.raises(DataError, match="no sequences"):
        length_summary([])


def test_evaluation_needs_no_torch():
    code = (
        "import sys, tropism.evaluation.winrate, tropism.evaluation.bradley_terry, tropism.evaluation.diversity;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
