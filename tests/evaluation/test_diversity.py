"""distinct-n by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tropism.errors import DataError
from tropism.evaluation.diversity import distinct_n


def test_distinct_by_hand():
    texts = [[1, 2, 1, 2], [1, 2], [5], []]
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(2 / 4)  # (1, 2), (2, 1); never across two texts
    assert distinct_n(texts, 5) == 0
    with pytest.raises(DataError, match="distinct-0"):
        distinct_n(texts, 0)


def test_evaluation_needs_no_torch():
    code = (
        "import sys, tropism.evaluation.winrate, tropism.evaluation.bradley_terry, tropism.evaluation.diversity;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
