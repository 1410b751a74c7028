"""The judge of the sentiment world: tf-idf logistic regression, a family apart from every reward model of this package.

It is fitted on whole reviews (``movie_reviews``), never on the sentences that people's feedback comes from, and shares
no weight, no tokenizer and no label with the reward model. It leans to negative on short text, so a threshold is set by
``centred_threshold`` on samples of the reference.

Left out: stemming, negation handling, calibration, and fitting on passages (whole reviews judge short text better).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from tropism.errors import DataError


@dataclass(frozen=True)
class SentimentJudge:
    """A fitted judge: ``score(text) > 0`` says positive before centring. One weight (log odds) per n-gram."""

    index: dict[str, int]
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        positive: Sequence[bool],
        *,
        min_documents: int = 4,
        l2: float = 1e-4,
    ) -> SentimentJudge:
        """Minimise mean logistic loss + l2/2 |w|² by L-BFGS over texts; n-grams need ``min_documents`` texts.

        DataError if the texts and labels differ in number or one class is missing.
        """
        if len(texts) != len(positive) or len(set(positive)) != 2:
            raise DataError(
                f"{len(texts)} texts with {len(positive)} labels of {len(set(positive))} class(es)",
                "give the judge one label per text, and texts of both classes",
            )
        documents = [Counter(ngrams(text)) for text in texts]
        labels = np.asarray(positive, dtype=np.float64)
        seen = Counter(gram for document in documents for gram in document)
        kept = sorted(gram for gram, count in seen.items() if count >= min_documents)
        index = {gram: i for i, gram in enumerate(kept)}
        idf = np.log((1 + len(documents)) / (1 + np.asarray([seen[g] for g in kept], dtype=np.float64))) + 1.0
        rows = _tf_idf(documents, index, idf)
        weights, bias = _logistic(rows, labels, l2)
        return cls(index, idf, weights, bias)

    def score(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """Log odds of positive, ``[N]``. A text without a known n-gram scores the bias."""
        rows = _tf_idf([Counter(ngrams(t)) for t in texts], self.index, self.idf)
        return np.asarray(rows @ self.weights + self.bias)


def centred_threshold(reference_scores: NDArray[np.float64]) -> float:
    """The threshold that judges exactly half of the reference's samples positive: their median score."""
    if len(reference_scores) == 0:
        raise DataError("no reference samples to centre the judge on", "sample the reference first")
    return float(np.median(reference_scores))


def ngrams(text: str) -> list[str]:
    """Words and pairs of neighbouring words, lower-cased."""
    words = text.lower().split()
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def _tf_idf(documents: Sequence[Counter[str]], index: dict[str, int], idf: NDArray[np.float64]) -> csr_matrix:
    """Rows (1 + log count) · idf, scaled to length 1; unknown n-grams are ignored."""
    columns: list[int] = []
    values: list[float] = []
    ends = [0]
    for document in documents:
        known = [(index[gram], count) for gram, count in document.items() if gram in index]
        row = np.asarray([(1 + np.log(count)) * idf[i] for i, count in known])
        columns.extend(i for i, _ in known)
        values.extend((row / max(float(np.linalg.norm(row)), 1e-12)).tolist())
        ends.append(len(columns))
    return csr_matrix((values, columns, ends), shape=(len(documents), len(idf)))


def _logistic(rows: csr_matrix, labels: NDArray[np.float64], l2: float) -> tuple[NDArray[np.float64], float]:
    """Weights and bias of the L2-regularised logistic regression (the bias is not regularised)."""

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = theta[:-1], theta[-1]
        odds = rows @ weights + bias
        loss = float(np.mean(np.logaddexp(0.0, odds) - labels * odds)) + 0.5 * l2 * float(weights @ weights)
        residual = (1.0 / (1.0 + np.exp(-odds)) - labels) / len(labels)
        return loss, np.append(rows.T @ residual + l2 * weights, residual.sum())

    found = minimize(objective, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return found.x[:-1], float(found.x[-1])
