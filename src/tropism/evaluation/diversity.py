"""Diversity and length of token sequences. Left out: embedding-based diversity (it needs a model)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tropism.errors import DataError


def distinct_n(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all sequences (Li et al. 2016), in [0, 1]; 0 if none is long enough.

    It falls as more text is counted: compare only sets of about the same size.
    """
    if n < 1:
        raise DataError(f"distinct-{n}", "give n >= 1")
    grams = [tuple(s[i : i + n]) for s in sequences for i in range(len(s) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def length_summary(sequences: Sequence[Sequence[int]]) -> dict[str, float]:
    """``mean``, ``std``, ``median`` and ``p95`` of the lengths in tokens, and the share of ``empty`` sequences."""
    if not sequences:
        raise DataError("no sequences", "sample at least one")
    lengths = np.array([len(s) for s in sequences], dtype=np.float64)
    return {
        "mean": float(lengths.mean()),
        "std": float(lengths.std()),
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "empty": float((lengths == 0).mean()),
    }
