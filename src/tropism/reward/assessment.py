"""The assessment that every reward model comes with, measured on validation tasks.

Held-out accuracy with ties as half, log-likelihood, calibration before and after temperature, the length-only baseline
beside it, by stream and by group, and against gold utilities where they are known. High accuracy is no proof that a
policy trained on the reward gets better: that is for evaluation to show. Early stopping looks at the same validation
tasks, so these figures are a little flattering; the drift of the next round, on feedback no fit has seen, is not.

Left out: accuracy out of distribution (monitoring's drift compares fresh feedback with this).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tropism.digests import digest
from tropism.errors import RewardError
from tropism.reward import calibration
from tropism.reward.dataset import RewardData
from tropism.reward.pairs import Floats, Pairs, clustered_share, credits
from tropism.reward.share import Share


@dataclass(frozen=True)
class PairAssessment:
    """What is measured on a set of pairs. ``None`` where there were too few."""

    accuracy: Share
    accuracy_decided: Share | None
    """Accuracy on the pairs that are not (closer to) ties: with many ties, ``accuracy`` can hardly leave ½."""
    ties: float
    """Share of votes that are (closer to) ties: neither side has more than ½."""
    log_likelihood: float
    """Nats per vote, of the scores as they are; −0.693 is a coin."""
    log_likelihood_calibrated: float | None
    """After a temperature fitted on the other half of the tasks."""
    temperature: float
    """Fitted on all the pairs: what to divide scores by before they are read as logits."""
    ece: float
    ece_calibrated: float | None
    """After a temperature fitted on the other half of the tasks."""
    ece_noise: float
    """The ECE that a perfectly calibrated model would show on as many pairs."""
    reliability: list[calibration.ReliabilityPoint]
    reliability_calibrated: list[calibration.ReliabilityPoint]
    length_only: Share | None
    """Accuracy of preferring the longer (or shorter) side, the direction taken from the train pairs."""
    over_length_only: float | None
    """Accuracy minus that of the length-only baseline."""


@dataclass(frozen=True)
class Assessment:
    """The whole assessment; ``as_json`` for reports and lineage."""

    validation: PairAssessment | None
    """On validation pairs as the teachers judged them; None if there are none."""
    gold: PairAssessment | None
    """On the same pairs as the true utilities judge them; None where nobody knows them."""
    by_stream: dict[str, Share]
    by_group: dict[str, Share]
    prefers_longer: bool | None
    """Which side the train pairs favour; None without lengths or train pairs, or when it is even."""
    ratings: dict[str, float] | None
    """``spearman`` of scores and validation ratings, and how many (``n``)."""
    labels: dict[str, float] | None
    """``auc`` of scores for validation labels, and how many (``n``)."""
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def assess(
    scores: NDArray[np.floating],
    data: RewardData,
    lengths: NDArray[Any] | None = None,
    group_by: str | None = None,
    gold: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> Assessment:
    """Assess ``scores`` ``[n]`` of ``data.candidates`` on the validation rows of ``data``.

    ``lengths`` ``[n]`` (tokens) bring the length-only baseline, ``group_by`` a field of the tasks' payload (its values
    are the groups), ``gold`` ``[n]`` true utilities. ``seed`` is that of the simulated ``ece_noise``. Raises
    RewardError for scores of the wrong shape or that are not finite.
    """
    clean = _checked(scores, data)
    train, held_out = Pairs.of(data.fold(True)), Pairs.of(data.fold(False))
    longer = None if lengths is None else prefers_longer(lengths, train)
    validation = true = None
    by_stream: dict[str, Share] = {}
    by_group: dict[str, Share] = {}
    if len(held_out):
        folds = np.array([int(digest(task.id)[:8], 16) % 2 == 0 for task in data.tasks])[held_out.task]
        validation = assess_pairs(clean, held_out, lengths, longer, folds, seed)
        credit = credits(clean, held_out)
        by_stream = _by([data.streams[s] for s in held_out.stream], credit, held_out)
        if group_by is not None:
            by_group = _by([str(data.tasks[t].payload.get(group_by, "")) for t in held_out.task], credit, held_out)
        if gold is not None:
            true = assess_pairs(clean, as_gold_judges(held_out, gold), lengths, longer, folds, seed)
    ratings, labels = _rating_agreement(clean, data), _label_agreement(clean, data)
    return Assessment(validation, true, by_stream, by_group, longer, ratings, labels, data.summary())


def assess_pairs(
    scores: NDArray[np.floating],
    pairs: Pairs,
    lengths: NDArray[Any] | None = None,
    longer: bool | None = None,
    fold: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> PairAssessment:
    """Assess ``scores`` ``[n]`` on any non-empty pairs, for example all pairs within rows of gold utilities.

    ``fold`` (bool ``[P]``, constant within a task) splits the pairs for the cross-fitted temperature; by default tasks
    of even and odd number. ``longer`` is the direction of the length-only baseline.
    """
    real = np.asarray(scores, dtype=np.float64)
    credit, gap = credits(real, pairs), real[pairs.first] - real[pairs.second]
    temperature = calibration.fit_temperature(gap, pairs)
    calibrated = calibration.cross_fitted(gap, pairs, pairs.task % 2 == 0 if fold is None else fold)
    before = calibration.reliability(gap, pairs)
    after = [] if calibrated is None else calibration.reliability(calibrated, pairs)
    accuracy = clustered_share(credit, pairs)
    decided = pairs.target != 0.5
    baseline = None
    if lengths is not None and longer is not None:
        sign = 1.0 if longer else -1.0
        baseline = clustered_share(credits(sign * np.asarray(lengths, dtype=np.float64), pairs), pairs)
    return PairAssessment(
        accuracy=accuracy,
        accuracy_decided=clustered_share(credit[decided], pairs.take(decided)) if decided.any() else None,
        ties=float(np.average(pairs.target == 0.5, weights=pairs.weight)),
        log_likelihood=calibration.log_likelihood(gap, pairs),
        log_likelihood_calibrated=None if calibrated is None else calibration.log_likelihood(calibrated, pairs),
        temperature=temperature,
        ece=calibration.expected_calibration_error(before),
        ece_calibrated=None if calibrated is None else calibration.expected_calibration_error(after),
        ece_noise=calibration.calibration_noise(gap / temperature, pairs, seed),
        reliability=before,
        reliability_calibrated=after,
        length_only=baseline,
        over_length_only=None if baseline is None else accuracy.value - baseline.value,
    )


def prefers_longer(lengths: NDArray[Any], train: Pairs) -> bool | None:
    """The length-only model: do train votes favour the longer side? None without votes, or when they are even."""
    if not len(train):
        return None
    votes = credits(np.asarray(lengths, dtype=np.float64), train) - 0.5
    balance = float((votes * train.weight).sum())
    return None if balance == 0 else balance > 0


def as_gold_judges(pairs: Pairs, gold: NDArray[np.floating]) -> Pairs:
    """The same pairs and weights with the noise-free judgement of true utilities ``[n]``; equal ones are ties."""
    gap = gold[pairs.first] - gold[pairs.second]
    target = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))
    return Pairs(pairs.first, pairs.second, target, pairs.weight, pairs.task, pairs.stream)


def _checked(scores: NDArray[np.floating], data: RewardData) -> Floats:
    real = np.asarray(scores, dtype=np.float64)
    if real.shape != (len(data.candidates),):
        raise RewardError(
            f"scores of shape {real.shape} for {len(data.candidates)} candidates", "give one score for each"
        )
    if not np.isfinite(real).all():
        worst = int(np.flatnonzero(~np.isfinite(real))[0])
        raise RewardError(
            f"score {real[worst]} for candidate {data.candidates[worst].id}", "fit the reward model again"
        )
    return real


def _by(names: Sequence[str], credit: Floats, pairs: Pairs) -> dict[str, Share]:
    each = np.array(names)
    return {str(name): clustered_share(credit[each == name], pairs.take(each == name)) for name in np.unique(each)}


def _rating_agreement(scores: Floats, data: RewardData) -> dict[str, float] | None:
    ratings = data.fold(False).ratings
    given = ratings.score.double().numpy()
    predicted = scores[ratings.index.numpy()]
    if len(ratings) < 3 or np.ptp(given) == 0 or np.ptp(predicted) == 0:
        return None
    return {"spearman": float(np.corrcoef(rankdata(given), rankdata(predicted))[0, 1]), "n": float(len(ratings))}


def _label_agreement(scores: Floats, data: RewardData) -> dict[str, float] | None:
    labels = data.fold(False).labels
    target = labels.target.double().numpy()
    good, bad = target > 0.5, target < 0.5
    if not good.any() or not bad.any():
        return None
    decided = good | bad
    ranks = rankdata(scores[labels.index.numpy()][decided])
    n_good, n_bad = int(good.sum()), int(bad.sum())
    wins = float(ranks[good[decided]].sum()) - n_good * (n_good + 1) / 2
    return {"auc": wins / (n_good * n_bad), "n": float(n_good + n_bad)}
