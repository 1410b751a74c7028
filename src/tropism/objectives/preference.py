"""The one likelihood of preferences: cross-entropy of softmax(scores − margin) with a target over K candidates.

K = 2 with target (1, 0) is Bradley-Terry, (½, ½) a tie, anything between a soft label or split votes; K-way one-hot is
the choice among candidates (Ziegler et al. 2019, eq. 1); rankings are successive choices (Plackett-Luce).

Scores are ``[..., N, K]``: N comparisons of K candidates, with leading axes for ensemble members. A loss keeps the
leading axes (``[E]`` for ``[E, N, K]``, a scalar for ``[N, K]``), so that members never mix; sum it to train. ``mask``,
``target``, ``margin`` and ``tiers`` are ``[N, K]``; ``weight`` is ``[N]``, or ``[E, N]`` for bootstrap weights.

Left out: Rao-Kupper and Davidson tie parameters (a soft target keeps one likelihood for every case).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tropism.objectives.masks import Count, divide, keep


def _log_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    # a finite floor: a row without candidates stays finite, and exp(floor − max) is exactly 0 beside any valid score
    floor = torch.finfo(scores.dtype).min / 2
    return keep(torch.log_softmax(keep(scores, mask, floor), -1), mask)


def choice_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """softmax over the valid candidates, ``[..., N, K]``; exactly 0 at masked ones, and in rows without candidates."""
    return keep(_log_probabilities(scores, mask).exp(), mask)


def choice_nll(
    scores: Tensor,
    mask: Tensor,
    target: Tensor,
    margin: Tensor | None = None,
    weight: Tensor | None = None,
    count: Count = 1.0,
    lapse: float = 0.0,
) -> Tensor:
    """Σ_n w_n · −Σ_k target_k log p_k / count, in nats, p = softmax(scores − margin); shape of the leading axes.

    ``target`` sums to 1 over a row's valid candidates. ``margin`` is subtracted from a candidate's score: a positive
    margin on the chosen one asks for a wider gap (Touvron et al. 2023, eq. 2). ``lapse``, in [0, 1): the share of
    answers that are random, p becomes (1 − lapse)·p + lapse/K (Christiano et al. 2017, section 2.2.3); unlike a
    softened target it asks no gap to be small.
    """
    logits = scores if margin is None else scores - keep(margin, mask)
    logs = _log_probabilities(logits, mask)
    rows = -(keep(target, mask) * (_lapsing(logs, mask, lapse) if lapse else logs)).sum(-1)
    return divide(_weigh(rows, weight).sum(-1), count)


def choice_grad(
    scores: Tensor,
    mask: Tensor,
    target: Tensor,
    margin: Tensor | None = None,
    weight: Tensor | None = None,
    count: Count = 1.0,
    lapse: float = 0.0,
) -> Tensor:
    """∂ choice_nll / ∂ scores ``[..., N, K]``: w(P − target)/count, that is −[∇R(y_b) − Σ P_i ∇R(y_i)] for one-hot.

    With a ``lapse`` the target counts as far as the answer was not random: target_k · (1 − lapse)·P_k / p_k."""
    logits = scores.detach() if margin is None else scores.detach() - keep(margin, mask)
    clean, logs = keep(target, mask), _log_probabilities(logits, mask)
    if lapse:
        clean = clean * ((1 - lapse) * (logs - _lapsing(logs, mask, lapse)).exp())
    grad = keep(logs.exp(), mask) * clean.sum(-1, keepdim=True) - clean
    return _spread(grad, weight, count)


def plackett_luce_nll(scores: Tensor, tiers: Tensor, weight: Tensor | None = None, count: Count = 1.0) -> Tensor:
    """Negative log-likelihood of rankings by successive softmax (Plackett 1975), in nats; shape of the leading axes.

    ``tiers`` ``[N, K]`` (integers): 0 is best, equal numbers are ties, numbers may be skipped; −1 leaves a candidate
    out. At each tier one choice is made among that tier and all below, with a target uniform over the tier: a
    strict ranking is plain Plackett-Luce, a tie of two is the (½, ½) comparison, and a large tie weighs as one choice.
    A candidate that a person left unranked is left out: nothing was said about it, and to call it worst would invent
    evidence ("best of K" is the kind of feedback that says "better than all the rest").
    """
    total = scores.new_zeros(scores.shape[:-2])
    for remaining, target in _stages(tiers, scores.dtype):
        total = total + choice_nll(scores, remaining, target, weight=weight)
    return divide(total, count)


def plackett_luce_grad(scores: Tensor, tiers: Tensor, weight: Tensor | None = None, count: Count = 1.0) -> Tensor:
    """∂ plackett_luce_nll / ∂ scores ``[..., N, K]``: the sum of its choices' gradients."""
    grad = torch.zeros_like(scores)
    for remaining, target in _stages(tiers, scores.dtype):
        grad = grad + choice_grad(scores, remaining, target, weight=weight)
    return divide(grad, count if not isinstance(count, Tensor) or not count.dim() else count[..., None, None])


def _stages(tiers: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    last = int(tiers.max()) if tiers.numel() else -1
    stages = []
    for tier in range(last + 1):
        chosen = (tiers == tier).to(dtype)
        size = chosen.sum(-1, keepdim=True)
        stages.append((tiers >= tier, chosen / size.clamp(min=1)))
    return stages


def _lapsing(logs: Tensor, mask: Tensor, lapse: float) -> Tensor:
    """Logarithms of (1 − lapse)·p + lapse/K."""
    random = math.log(lapse) - mask.sum(-1, keepdim=True).clamp(min=1).to(logs.dtype).log()
    return torch.logaddexp(logs + math.log1p(-lapse), random)


def _weigh(rows: Tensor, weight: Tensor | None) -> Tensor:
    return rows if weight is None else keep(rows, (weight != 0).expand(rows.shape)) * weight


def _spread(grad: Tensor, weight: Tensor | None, count: Count) -> Tensor:
    if weight is not None:
        grad = keep(grad, (weight != 0)[..., None].expand(grad.shape)) * weight[..., None]
    return divide(grad, count if not isinstance(count, Tensor) or not count.dim() else count[..., None, None])
