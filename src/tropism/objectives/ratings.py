"""Losses for judgements of a single candidate: ratings as regression or as ordered categories, labels as classes.

Scores are ``[..., N]`` (leading axes: ensemble members); targets and ``mask`` are ``[N]``; ``weight`` is ``[N]`` or
``[E, N]``. Losses keep the leading axes and divide by the global ``count``.

Left out: a rater's own thresholds or bias (they belong to the quality of teachers, not to the reward).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.objectives.masks import Count, divide, keep


def rating_regression(
    scores: Tensor,
    ratings: Tensor,
    mask: Tensor,
    deviation: Count = 1.0,
    weight: Tensor | None = None,
    count: Count = 1.0,
) -> Tensor:
    """Σ w ((score − rating)/deviation)² / count. ``deviation`` is the frozen spread of the ratings that are fitted, so
    that the loss has no unit and ratings of 1-5 and 1-100 weigh the same."""
    error = (keep(scores, mask) - keep(ratings, mask)) / deviation
    return _total(error.square(), mask, weight, count)


def rating_regression_grad(
    scores: Tensor,
    ratings: Tensor,
    mask: Tensor,
    deviation: Count = 1.0,
    weight: Tensor | None = None,
    count: Count = 1.0,
) -> Tensor:
    """∂ rating_regression / ∂ scores ``[..., N]``: 2w(score − rating)/(deviation² count)."""
    error = (keep(scores.detach(), mask) - keep(ratings, mask)) / deviation
    return _spread(2 * error / deviation, mask, weight, count)


def ordered_thresholds(raw: Tensor) -> Tensor:
    """Strictly increasing thresholds ``[..., T]`` from free numbers: the first as it is, then softplus steps."""
    return torch.cumsum(torch.cat([raw[..., :1], F.softplus(raw[..., 1:])], -1), -1)


def ordinal_nll(
    scores: Tensor,
    categories: Tensor,
    thresholds: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    count: Count = 1.0,
) -> Tensor:
    """Proportional odds (McCullagh 1980): P(y ≤ k) = σ(θ_k − score); Σ −w log P(y = category) / count, in nats.

    ``categories`` ``[N]`` are integers 0 … T for ``thresholds`` ``[T]`` or ``[E, T]`` in increasing order.
    """
    upper, lower, top, bottom = _edges(scores, categories, thresholds, mask)
    # log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^(b−a)), each part stable in the tails
    inner = ~top & ~bottom
    gap = keep(upper - lower, inner, 1.0)
    logp = keep(F.logsigmoid(upper), ~top) + keep(F.logsigmoid(-lower), ~bottom)
    logp = logp + keep(torch.log(-torch.expm1(-gap)), inner)
    return _total(-logp, mask, weight, count)


def ordinal_grad(
    scores: Tensor,
    categories: Tensor,
    thresholds: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    count: Count = 1.0,
) -> Tensor:
    """∂ ordinal_nll / ∂ scores ``[..., N]``: P(y > k) − P(y ≤ k−1) = σ(score − θ_k) − σ(θ_{k−1} − score)."""
    upper, lower, top, bottom = _edges(scores.detach(), categories, thresholds.detach(), mask)
    grad = keep(torch.sigmoid(-upper), ~top) - keep(torch.sigmoid(lower), ~bottom)
    return _spread(grad, mask, weight, count)


def _edges(
    scores: Tensor, categories: Tensor, thresholds: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last = thresholds.shape[-1]
    clean, category = keep(scores, mask), torch.where(mask, categories, torch.zeros_like(categories))
    upper = thresholds[..., category.clamp(max=last - 1)] - clean
    lower = thresholds[..., (category - 1).clamp(min=0)] - clean
    return upper, lower, (category >= last).expand(upper.shape), (category <= 0).expand(upper.shape)


def label_nll(scores: Tensor, labels: Tensor, mask: Tensor, weight: Tensor | None = None, count: Count = 1.0) -> Tensor:
    """Σ −w [y log σ(s) + (1 − y) log σ(−s)] / count, in nats, for labels y in [0, 1] (soft labels are split votes)."""
    clean, y = keep(scores, mask), keep(labels, mask)
    return _total(-(y * F.logsigmoid(clean) + (1 - y) * F.logsigmoid(-clean)), mask, weight, count)


def label_grad(
    scores: Tensor, labels: Tensor, mask: Tensor, weight: Tensor | None = None, count: Count = 1.0
) -> Tensor:
    """∂ label_nll / ∂ scores ``[..., N]``: w(σ(s) − y)/count."""
    return _spread(torch.sigmoid(keep(scores.detach(), mask)) - keep(labels, mask), mask, weight, count)


def _total(terms: Tensor, mask: Tensor, weight: Tensor | None, count: Count) -> Tensor:
    counted = mask if weight is None else mask & (weight != 0)
    clean = keep(terms, counted.expand(terms.shape))
    return divide((clean if weight is None else clean * keep(weight, counted)).sum(-1), count)


def _spread(grad: Tensor, mask: Tensor, weight: Tensor | None, count: Count) -> Tensor:
    clean = keep(grad, mask.expand(grad.shape))
    if weight is not None:
        clean = clean * keep(weight, mask & (weight != 0))
    return divide(clean, count if not isinstance(count, Tensor) or not count.dim() else count[..., None])
