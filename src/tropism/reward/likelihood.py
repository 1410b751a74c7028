"""The likelihood of all evidence about a set of candidates under an ensemble's scores.

Comparisons, choices and rankings are softmax likelihoods of the scores themselves. Ratings and labels live on scales of
their own, so each scale and label name has a link with a few parameters per member (gain, bias, thresholds), fitted
along with the scores. Left out: links per rater.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tropism.errors import RewardError
from tropism.objectives.centering import centering
from tropism.objectives.masks import Count
from tropism.objectives.preference import choice_nll, plackett_luce_nll
from tropism.objectives.ratings import label_nll, ordered_thresholds, ordinal_nll, rating_regression
from tropism.reward.dataset import RewardData
from tropism.reward.evidence import Evidence, Ratings

RatingLoss = Literal["regression", "ordinal"]
_UNIT_STEP = 0.5413248546129181  # softplus of it is 1


class Scores(Protocol):
    """Anything that scores candidates of a ``RewardData`` by their number."""

    def score(self, index: Tensor) -> Tensor:
        """Raw scores ``[members, n]`` of candidates ``index`` (long ``[n]``), on the logit scale of comparisons."""
        ...


@runtime_checkable
class ScoresWhere(Scores, Protocol):
    """Scores that cost less where not every member is asked about every candidate."""

    def score_where(self, index: Tensor, needed: Tensor) -> Tensor:
        """``score``, where ``needed`` (bool ``[members, n]``) is; elsewhere any finite number without meaning."""
        ...


@dataclass(frozen=True)
class ScoreTable:
    """Scores that are computed already, by candidate number: ``[members, candidates]``."""

    scores: Tensor

    @classmethod
    def of(cls, model: Scores, wanted: Tensor, candidates: int, chunk: int, needed: Tensor | None = None) -> ScoreTable:
        """Score candidates ``wanted`` in chunks, so that a large network's memory does not grow with the data; where
        only some members ``[members, len(wanted)]`` are needed, as ``scores_of``."""
        cut = [None] * -(-len(wanted) // chunk) if needed is None else needed.split(chunk, 1)
        found = torch.cat([scores_of(model, part, n) for part, n in zip(wanted.split(chunk), cut, strict=True)], 1)
        table = found.new_zeros(found.shape[0], candidates)
        table[:, wanted] = found
        return cls(table)

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[members, n]`` of candidates ``index``."""
        return self.scores[:, index]


class Links(nn.Module):
    """From scores to ratings and labels, per member: gains and biases ``[E, scales]``, thresholds, label biases."""

    rating_deviation: Tensor

    def __init__(self, members: int, train: RewardData) -> None:
        super().__init__()
        scales, names = len(train.scales), len(train.label_names)
        self.log_gain = nn.Parameter(torch.zeros(members, scales))
        self.rating_bias = nn.Parameter(torch.zeros(members, scales))
        self.label_bias = nn.Parameter(torch.zeros(members, names))
        self.thresholds = nn.ParameterList(_even_thresholds(members, scale.levels) for scale in train.scales)
        spread = [_spread(train.ratings.score[train.ratings.scale == s]) for s in range(scales)]
        self.register_buffer("rating_deviation", torch.tensor(spread, dtype=torch.float32))


def _even_thresholds(members: int, levels: int) -> nn.Parameter:
    steps = max(levels - 1, 1)
    raw = torch.full((members, steps), _UNIT_STEP)
    raw[:, 0] = -(steps - 1) / 2
    return nn.Parameter(raw)


def _spread(ratings: Tensor) -> float:
    # a scale on which all ratings are equal has no spread to measure errors in: half the scale's own length stands in
    spread = float(ratings.std(correction=0)) if len(ratings) else 0.0
    return spread if spread > 1e-3 else 1.0


def parts(data: RewardData) -> tuple[Evidence, ...]:
    """The kinds of evidence in the order in which rows are numbered."""
    return (data.choices, data.rankings, data.ratings, data.labels)


def take_rows(data: RewardData, rows: Tensor) -> RewardData:
    """The evidence of some rows, numbered through choices, rankings, ratings, labels."""
    ends = [0]
    for part in parts(data):
        ends.append(ends[-1] + len(part))
    mine = [rows[(rows >= a) & (rows < b)] - a for a, b in pairwise(ends)]
    return replace(
        data,
        choices=data.choices.take(mine[0]),
        rankings=data.rankings.take(mine[1]),
        ratings=data.ratings.take(mine[2]),
        labels=data.labels.take(mine[3]),
    )


def candidates_of(data: RewardData) -> Tensor:
    """Sorted numbers of the candidates that the evidence speaks of, long ``[n]``."""
    return torch.cat([part.index.flatten() for part in parts(data)]).unique()


def scores_of(model: Scores, index: Tensor, needed: Tensor | None) -> Tensor:
    """Scores ``[members, n]``, at least where ``needed``; all, where that is None or the model cannot do less."""
    if needed is None or not isinstance(model, ScoresWhere):
        return model.score(index)
    return model.score_where(index, needed)


def needed_by(data: RewardData, wanted: Tensor, task_weights: Tensor | None) -> Tensor | None:
    """Which member weighs anything that is said of which candidate, bool ``[members, len(wanted)]``; None: they all
    do."""
    if task_weights is None:
        return None
    position = _positions(data, wanted)
    needed = torch.zeros(len(task_weights), len(wanted), dtype=torch.bool)
    for part in parts(data):
        member, row = (task_weights[:, part.task] > 0).nonzero(as_tuple=True)
        if len(row):
            needed[member[:, None], position[part.index.reshape(len(part), -1)[row]]] = True
    return needed


def _positions(data: RewardData, wanted: Tensor) -> Tensor:
    """Where each candidate stands in ``wanted``."""
    position = torch.zeros(len(data.candidates), dtype=torch.long)
    position[wanted] = torch.arange(len(wanted))
    return position


def total_weight(data: RewardData) -> float:
    """Votes in the evidence: the global denominator of its likelihood."""
    return float(sum(part.weight.double().sum() for part in parts(data)))


def evidence_nll(
    model: Scores,
    links: Links,
    data: RewardData,
    count: Count,
    *,
    task_weights: Tensor | None = None,
    rating_loss: RatingLoss = "regression",
    rating_weight: float = 1.0,
    label_weight: float = 1.0,
    center_coef: float = 0.0,
    lapse: float = 0.0,
) -> Tensor:
    """Σ over all evidence of weight · negative log-likelihood / count, per member ``[E]``.

    ``task_weights`` ``[E, tasks]`` are each member's bootstrap weights. Ratings (in squared deviations, or nats if
    ordinal) and labels weigh ``rating_weight`` and ``label_weight`` beside a comparison. ``center_coef`` adds that much
    of the squared sum of each comparison's, choice's or ranking's scores. ``lapse``: the share of choices that are
    random (``objectives.preference.choice_nll``). Raises RewardError for a NaN or infinite score, naming the candidate.
    """
    wanted = candidates_of(data)
    needed = needed_by(data, wanted, task_weights) if isinstance(model, ScoresWhere) else None
    scores, position = scores_of(model, wanted, needed), _positions(data, wanted)
    _check_finite(scores, wanted, data)

    def of(part: Evidence) -> Tensor:
        return scores[:, position[part.index]]

    def votes(part: Evidence) -> Tensor:
        return part.weight if task_weights is None else part.weight * task_weights[:, part.task]

    total = scores.sum(1) * 0  # [E], so that a batch of one kind of evidence still has a gradient
    choices, rankings, labels = data.choices, data.rankings, data.labels
    if len(choices):
        target, margin = choices.target.to(scores.dtype), choices.margin.to(scores.dtype)
        total = total + choice_nll(of(choices), choices.mask, target, margin, votes(choices), count, lapse)
        if center_coef:
            total = total + center_coef * centering(of(choices), choices.mask, votes(choices), count)
    if len(rankings):
        total = total + plackett_luce_nll(of(rankings), rankings.tiers, votes(rankings), count)
        if center_coef:
            total = total + center_coef * centering(of(rankings), rankings.tiers >= 0, votes(rankings), count)
    if len(data.ratings):
        nll = _ratings_nll(of(data.ratings), links, data, votes(data.ratings), count, rating_loss)
        total = total + rating_weight * nll
    if len(labels):
        logits = of(labels) - links.label_bias[:, labels.name]
        everything = torch.ones_like(labels.name, dtype=torch.bool)
        total = total + label_weight * label_nll(logits, labels.target, everything, votes(labels), count)
    return total


def _ratings_nll(
    scores: Tensor, links: Links, data: RewardData, votes: Tensor, count: Count, rating_loss: RatingLoss
) -> Tensor:
    ratings: Ratings = data.ratings
    total = scores.sum(-1) * 0
    for number, scale in enumerate(data.scales):
        mine = ratings.scale == number
        if not mine.any():
            continue
        gain, bias = links.log_gain[:, number, None].exp(), links.rating_bias[:, number, None]
        linked = gain * scores + bias
        if rating_loss == "ordinal" and scale.levels > 1:
            thresholds = ordered_thresholds(links.thresholds[number])
            total = total + ordinal_nll(linked, ratings.category, thresholds, mine, votes, count)
        else:
            deviation = links.rating_deviation[number]
            total = total + rating_regression(linked, ratings.score, mine, deviation, votes, count)
    return total


def _check_finite(scores: Tensor, index: Tensor, data: RewardData) -> None:
    finite = torch.isfinite(scores)
    if finite.all():
        return
    member, column = (int(i) for i in (~finite).nonzero()[0])
    candidate = data.candidates[int(index[column])]
    raise RewardError(
        f"reward model member {member} gave {float(scores[member, column].detach())} for candidate {candidate.id}"
        f" of task {candidate.task_id}",
        "lower the learning rate, or look at the candidate's features",
    )
