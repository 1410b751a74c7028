"""Centred scores: a preference says nothing about a score's level, so a small penalty on their sum settles it.

Left out: centring on anything but the candidates of one comparison (a frozen scale does that for a whole model).
"""

from __future__ import annotations

from torch import Tensor

from tropism.objectives.masks import Count, divide, keep


def centering(scores: Tensor, mask: Tensor, weight: Tensor, count: Count = 1.0) -> Tensor:
    """Σ_n w_n · (Σ_k s_k)² / count; shape of the leading axes (Eisenstein et al. 2023, "Helping or herding?").

    ``scores`` ``[..., N, K]``, ``mask`` ``[N, K]`` of the candidates that count, ``weight`` ``[N]`` or ``[E, N]``.
    """
    return divide((keep(scores, mask).sum(-1).square() * weight).sum(-1), count)


def centering_grad(scores: Tensor, mask: Tensor, weight: Tensor, count: Count = 1.0) -> Tensor:
    """∂ centering / ∂ scores ``[..., N, K]``: 2 w (Σ_k s_k) / count at every candidate that counts."""
    clean = keep(scores.detach(), mask)
    grad = keep((2 * clean.sum(-1) * weight)[..., None].expand(clean.shape), mask)
    return divide(grad, count if not isinstance(count, Tensor) or not count.dim() else count[..., None, None])
