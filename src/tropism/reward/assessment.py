"""The assessment that every reward model comes with, measured on validation tasks.

Held-out accuracy with ties as half, log-likelihood, calibration before and after temperature, the length-only baseline
beside it, by stream, group, annotator and length, on rankings of K, and against gold utilities where they are known.
``assess`` is for a model that was fitted here, ``assess_scores`` for scores of any model on any judgements.

High accuracy is no proof that a policy trained on the reward gets better: that is for evaluation to show. Early
stopping looks at the same validation tasks, so these figures are a little flattering; the drift of the next round, on
feedback no fit has seen, is not.

Left out: accuracy out of distribution (monitoring's drift compares fresh feedback with this).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tropism.digests import digest
from tropism.errors import RewardError
from tropism.feedback.records import Judgement, Task
from tropism.reward import calibration
from tropism.reward.breakdown import ByLength, Majority, against_majority, by_length, by_teacher
from tropism.reward.dataset import RewardData
from tropism.reward.kway import KWay, assess_rows, rows_of
from tropism.reward.pairs import Floats, Ints, Pairs, clustered_share, credits
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
    by_teacher: dict[str, Share]
    """Accuracy on each annotator's own validation votes; empty where there is only one."""
    by_length: ByLength | None
    majority: Majority | None
    """None where no votes were split."""
    rankings: KWay | None
    """Rankings and choices among more than two; None where there are none."""
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
    *,
    judgements: Sequence[Judgement] = (),
    cluster_by: str | None = None,
    longer: bool | None = None,
    rows_cut: int = 0,
) -> Assessment:
    """Assess ``scores`` ``[n]`` of ``data.candidates`` on the validation rows of ``data``.

    ``lengths`` ``[n]`` (tokens) bring the length-only baseline, whose direction is that of the train pairs, or
    ``longer``. ``group_by`` and ``cluster_by`` are fields of the tasks' payload: the groups that accuracy is shown by,
    and what intervals count as independent (None: tasks). ``gold`` ``[n]`` are true utilities, ``judgements`` those
    that ``data`` was made from (for annotators), ``rows_cut`` how many candidates the model could not read whole.
    ``seed`` is that of the simulated ``ece_noise`` and of bootstraps. Raises RewardError for scores of the wrong shape
    or that are not finite.
    """
    clean = _checked(scores, data)
    size = None if lengths is None else np.asarray(lengths, dtype=np.float64)
    validation = data.fold(False)
    held_out, clusters = Pairs.of(validation), _clusters(data, cluster_by)
    if longer is None and size is not None:
        longer = prefers_longer(size, Pairs.of(data.fold(True)))
    fold = np.array([int(digest(name)[:8], 16) % 2 == 0 for name in _names(data, cluster_by)], dtype=np.bool_)
    pairs = replace(held_out, task=clusters[held_out.task])
    some, credit = bool(len(pairs)), credits(clean, pairs)
    groups = [str(data.tasks[t].payload.get(group_by, "")) for t in held_out.task] if group_by is not None else []
    votes = [j for j in judgements if j.task.split != "train"]

    def measured(on: Pairs) -> PairAssessment:
        return assess_pairs(clean, on, size, longer, fold[held_out.task], seed)

    return Assessment(
        validation=measured(pairs) if some else None,
        gold=measured(as_gold_judges(pairs, gold)) if some and gold is not None else None,
        by_stream=_by([data.streams[s] for s in held_out.stream], credit, pairs),
        by_group=_by(groups, credit, pairs),
        by_teacher=by_teacher(clean, data, votes, clusters),
        by_length=by_length(clean, pairs, size) if some and size is not None else None,
        majority=against_majority(clean, pairs) if some else None,
        rankings=assess_rows(clean, rows_of(validation), clusters, size, longer, seed),
        prefers_longer=longer,
        ratings=_rating_agreement(clean, data),
        labels=_label_agreement(clean, data),
        data=data.summary() | {"rows_cut": rows_cut},
    )


def assess_scores(
    scores: Mapping[str, float],
    judgements: Sequence[Judgement],
    lengths: Mapping[str, int] | None = None,
    group_by: str | None = None,
    *,
    cluster_by: str | None = None,
    longer: bool = True,
    rows_cut: int = 0,
    seed: int = 0,
) -> Assessment:
    """Assess any model's scores on any judgements, of whatever split: nothing is fitted here, so all are held out.

    ``scores`` and ``lengths`` are by candidate id; the length-only baseline prefers the ``longer`` side (or the
    shorter), as there are no train votes to choose by. The rest is as in :func:`assess`. RewardError naming a
    candidate without a score or length.
    """
    unseen = [replace(j, task=Task("validation", j.task.payload, j.task.id)) for j in judgements]
    data = RewardData.from_judgements(unseen)
    size = None if lengths is None else _column(lengths, data, "length")
    return assess(
        _column(scores, data, "score"), data, size, group_by, None, seed,
        judgements=unseen, cluster_by=cluster_by, longer=longer, rows_cut=rows_cut,
    )  # fmt: skip


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


def _column(values: Mapping[str, float], data: RewardData, what: str) -> Floats:
    absent = [c.id for c in data.candidates if c.id not in values]
    if absent:
        raise RewardError(f"candidate {absent[0]} has no {what} (and {len(absent) - 1} more)", "score all candidates")
    return np.array([values[c.id] for c in data.candidates], dtype=np.float64)


def _names(data: RewardData, cluster_by: str | None) -> list[str]:
    """What each task belongs to, by name: itself, or its value of the payload's field."""
    if cluster_by is None:
        return [task.id for task in data.tasks]
    return [str(task.payload.get(cluster_by, task.id)) for task in data.tasks]


def _clusters(data: RewardData, cluster_by: str | None) -> Ints:
    """The number of each task's cluster ``[tasks]``."""
    return np.unique(_names(data, cluster_by), return_inverse=True)[1].astype(np.int64).reshape(-1)


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
