"""How far annotators agree: Krippendorff's alpha, Cohen's and Fleiss' kappa, shares of equal answers.

Tables are ``values [items, annotators]`` with NaN where nothing was said. Left out: alpha for ratio scales and for
spans of text.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tropism.errors import DataError
from tropism.feedback.quality.estimates import Estimate, bootstrap_weights, percentiles
from tropism.feedback.quality.votes import Floats, Integers

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(values: Floats, level: Level, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """Krippendorff's alpha (Content Analysis, 2004, chapter 11) with a bootstrap interval over items.

    1 − observed / expected disagreement, over items with two answers or more; ``n`` is their number. 1 is perfect, 0
    chance, NaN where all answers are alike (nothing could have disagreed). Errors: DataError without such items.
    """
    table = _answered_twice(values)
    one = np.ones((1, len(table)))
    weights = bootstrap_weights(len(table), draws, seed)
    if level == "interval":
        each = _moments(table)
        found = _interval_alpha(one @ each), _interval_alpha(weights @ each)
    elif level in ("nominal", "ordinal"):
        each = _coincidences(table)
        found = _category_alpha(one, each, level), _category_alpha(weights, each, level)
    else:
        raise DataError(f"alpha of level {level!r}", "use nominal, ordinal or interval")
    return percentiles(float(found[0][0]), found[1], len(table))


def percent_agreement(values: Floats) -> float:
    """The mean over items of the share of pairs of annotators who gave the same answer. DataError as in alpha."""
    counts = _counts(_answered_twice(values))[0]
    m = counts.sum(1)
    return float(((counts * (counts - 1)).sum(1) / (m * (m - 1))).mean())


def pairwise_agreement(values: Floats) -> tuple[Floats, Integers]:
    """Share of equal answers of every two annotators ``[K, K]`` (NaN where they share no item), and items shared."""
    _, codes = np.unique(values, return_inverse=True)
    said = ~np.isnan(values)
    shared = said.T.astype(np.int64) @ said
    same = np.zeros(shared.shape)
    codes = codes.reshape(values.shape)
    for code in np.unique(codes[said]):
        chose = (codes == code) & said
        same += chose.T.astype(np.float64) @ chose
    return np.divide(same, shared, out=np.full(shared.shape, np.nan), where=shared > 0), shared


def cohen_kappa(first: Floats, second: Floats, weights: Literal["none", "linear", "quadratic"] = "none") -> float:
    """Cohen's kappa (1960) of two annotators' answers ``[N]``; weighted (1968) by the distance between categories.

    Categories are the sorted values that occur. NaN where both always gave one and the same answer.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(f"answers of shapes {first.shape} and {second.shape}", "give two columns of one length [N]")
    if np.isnan(first).any() or np.isnan(second).any():
        raise DataError("a missing answer in Cohen's kappa", "give the items both have answered")
    names, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    c, n = len(names), len(first)
    joint = np.bincount(codes[:n] * c + codes[n:], minlength=c * c).reshape(c, c) / n
    apart = np.abs(np.subtract.outer(np.arange(c), np.arange(c))).astype(np.float64)
    cost = {"none": (apart > 0).astype(np.float64), "linear": apart, "quadratic": apart**2}[weights]
    expected = float((cost * np.outer(joint.sum(1), joint.sum(0))).sum())
    return 1 - float((cost * joint).sum()) / expected if expected > 0 else np.nan


def fleiss_kappa(values: Floats) -> float:
    """Fleiss' kappa (1971); every item needs the same number of answers, from whomever. NaN where all are alike.

    Errors: DataError for items with different numbers of answers.
    """
    counts = _counts(values)[0]
    m = counts.sum(1)
    if not len(counts) or m.min() != m.max() or m.min() < 2:
        raise DataError(
            f"items with {m.min() if len(m) else 0:.0f} to {m.max() if len(m) else 0:.0f} answers in Fleiss' kappa",
            "give items with one number of answers, two or more; or use Krippendorff's alpha",
        )
    same = float(((counts * (counts - 1)).sum(1) / (m * (m - 1))).mean())
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (same - chance) / (1 - chance) if chance < 1 else np.nan


def _answered_twice(values: Floats) -> Floats:
    if values.ndim != 2:
        raise DataError(f"a table of shape {values.shape}", "give [items, annotators]")
    kept = values[(~np.isnan(values)).sum(1) >= 2]
    if not len(kept):
        raise DataError("no item with two answers: agreement is unknown", "let two people judge some of the queries")
    return kept


def _counts(table: Floats) -> tuple[Floats, Floats]:
    """How often each value was given to each item ``[items, C]``, and the values in order ``[C]``."""
    names = np.unique(table[~np.isnan(table)])
    return np.stack([(table == name).sum(1) for name in names], 1).astype(np.float64), names


def _coincidences(table: Floats) -> Floats:
    """Each item's pairs of answers ``[items, C, C]``, each answer counting once: n_c (n_k − [c = k]) / (m − 1)."""
    counts = _counts(table)[0]
    m = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(counts.shape[1])
    pairs[:, diagonal, diagonal] -= counts
    return pairs / (m - 1)[:, None, None]


def _category_alpha(weights: Floats, each: Floats, level: Level) -> Floats:
    """Alpha of each weighting of the items ``[R]``."""
    c = each.shape[1]
    observed = (weights @ each.reshape(len(each), -1)).reshape(-1, c, c)
    margins = observed.sum(2)
    if level == "nominal":
        cost = np.broadcast_to(1 - np.eye(c), observed.shape)
    else:  # squared number of answers between the middles of two categories
        middle = np.cumsum(margins, 1) - margins / 2
        cost = (middle[:, :, None] - middle[:, None, :]) ** 2
    n = margins.sum(1)
    expected = (margins[:, :, None] * margins[:, None, :] * cost).sum((1, 2)) / (n - 1)
    return _one_minus((observed * cost).sum((1, 2)), expected)


def _moments(table: Floats) -> Floats:
    """Per item: answers, their sum, their squares' sum, and Σ (x − y)² over ordered pairs / (m − 1); ``[items, 4]``."""
    centred = table - np.nanmean(table)  # differences are what counts; small numbers keep their digits
    m = (~np.isnan(table)).sum(1).astype(np.float64)
    total, squares = np.nansum(centred, 1), np.nansum(centred**2, 1)
    return np.stack([m, total, squares, 2 * (m * squares - total**2) / (m - 1)], 1)


def _interval_alpha(sums: Floats) -> Floats:
    n, total, squares, observed = sums.T
    spread = n * squares - total**2
    spread[spread < 1e-12 * n * squares] = 0.0  # what rounding leaves of equal answers is no disagreement
    return _one_minus(observed, 2 * spread / (n - 1))


def _one_minus(observed: Floats, expected: Floats) -> Floats:
    ratio = np.divide(observed, expected, out=np.full(len(expected), np.nan), where=expected > 0)
    return 1 - ratio
