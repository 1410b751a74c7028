"""Diversity of token sequences. Left out: embedding-based diversity (it needs a model)."""

from __future__ import annotations

from collections.abc import Sequence

from tropism.errors import DataError


def distinct_n(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all sequences (Li et al. 2016), in [0, 1]; 0 if none is long enough.

    It falls as more text is counted: compare only sets of about the same size.
    """
    if n < 1:
        raise DataError(f"distinct-{n}", "give n >= 1")
    grams = [tuple(s[i : i + n]) for s in sequences for i in range(len(s) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
