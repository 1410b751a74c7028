"""Baselines beside a reward model: the length, a linear Bradley-Terry model on tf-idf, and one on surface features.

Each is a logistic regression on differences of features with soft targets. What it has to choose (penalty, kind of
n-gram) it chooses by accuracy on a quarter of the train groups, then it is fitted again on all of them. Left out:
anything that is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tropism.reward.pairs import Pairs, pair_accuracy
from tropism.runtime.seeding import permutation

Floats = NDArray[np.float64]
PENALTIES = (0.003, 0.03, 0.3, 3.0)
"""C of scikit-learn: the inverse of the penalty, per vote."""
TFIDF: Mapping[str, Mapping[str, Any]] = {
    "words": {"ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 4), "min_df": 3, "sublinear_tf": True},
}


@dataclass(frozen=True)
class Fold:
    """N candidates with their surface features ``[N, S]``, which of them may be learned from, and the train pairs with
    the group of each."""

    texts: Sequence[str]
    surface: Floats
    train: NDArray[np.bool_]
    pairs: Pairs
    group: NDArray[np.int64]
    seed: int

    def halves(self) -> tuple[Pairs, Pairs]:
        """Train pairs to fit on and, of a quarter of the groups, to choose by."""
        groups = np.unique(self.group)
        held = groups[permutation(len(groups), self.seed, 1)[: max(1, len(groups) // 4)]]
        mine = np.isin(self.group, held)
        return self.pairs.take(~mine), self.pairs.take(mine)


def length(fold: Fold) -> tuple[Floats, Any]:
    """Characters: which way is better, and how sure one may be, from the train pairs."""
    raw = np.log1p([[len(t)] for t in fold.texts])
    scores = bradley_terry(raw - raw[fold.train].mean(), fold.pairs, 1e6)
    return scores, "longer" if np.corrcoef(scores, raw[:, 0])[0, 1] > 0 else "shorter"


def surface_features(fold: Fold) -> tuple[Floats, Any]:
    """The surface features of the reward model, linear and without its n-grams."""
    raw = fold.surface
    mean, std = raw[fold.train].mean(0), raw[fold.train].std(0)
    table = np.clip((raw - mean) / np.where(std > 1e-9, std, np.inf), -4, 4) / np.sqrt(raw.shape[1])
    return _choose(fold, {"surface": table})


def tfidf(fold: Fold) -> tuple[Floats, Any]:
    """Words and pairs of words, or parts of words, whichever does better."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    learn = [t for t, mine in zip(fold.texts, fold.train, strict=True) if mine]
    return _choose(
        fold, {name: TfidfVectorizer(**kind).fit(learn).transform(fold.texts) for name, kind in TFIDF.items()}
    )


def _choose(fold: Fold, tables: Mapping[str, Any]) -> tuple[Floats, Any]:
    first, second = fold.halves()
    tried = {
        (name, penalty): pair_accuracy(bradley_terry(table, first, penalty), second)
        for name, table in tables.items()
        for penalty in PENALTIES
    }
    best = max(tried, key=lambda choice: tried[choice])
    return bradley_terry(tables[best[0]], fold.pairs, best[1]), list(best)


def bradley_terry(table: Any, pairs: Pairs, penalty: float) -> Floats:
    """Scores ``[N]`` of all rows of ``table`` ``[N, F]`` (dense or sparse), in logits."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    # every second pair is turned round, so that both outcomes occur however the pairs were written down
    turned = np.arange(len(pairs)) % 2 == 1
    first, second = np.where(turned, pairs.second, pairs.first), np.where(turned, pairs.first, pairs.second)
    target, gap = np.where(turned, 1 - pairs.target, pairs.target), table[first] - table[second]
    stack: Callable[..., Any] = sparse.vstack if sparse.issparse(gap) else np.concatenate
    weight = np.concatenate([target * pairs.weight, (1 - target) * pairs.weight])
    outcome = np.repeat([1, 0], len(pairs))
    model = LogisticRegression(C=penalty, fit_intercept=False, max_iter=1000)
    model.fit(stack([gap, gap])[weight > 0], outcome[weight > 0], sample_weight=weight[weight > 0])
    return np.asarray(table @ model.coef_[0]).ravel()
