"""Masked sums and global denominators, the two habits every objective shares.

Masked positions are replaced *before* any arithmetic, so that NaN or 1e9 in padding changes neither a loss nor a
gradient (0 · NaN is NaN: multiplying by the mask afterwards is not enough).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tropism.errors import ContractError

Count = float | Tensor
"""A global denominator: valid tokens, sequences or comparisons over the whole batch, not over a micro-batch or rank."""

LengthNormalisation = Literal["token", "sequence", "constant"]


def keep(x: Tensor, mask: Tensor, fill: float = 0.0) -> Tensor:
    """``x`` where ``mask`` is True, ``fill`` elsewhere, with zero gradient there. Shapes broadcast.

    Raises ContractError for a mask that is not bool: a 0/1 float mask selects nothing safely.
    """
    if mask.dtype != torch.bool:
        raise ContractError(f"mask has dtype {mask.dtype}", "pass a bool mask, True where the position counts")
    return torch.where(mask, x, torch.full((), fill, dtype=x.dtype, device=x.device))


def divide(total: Tensor, count: Count) -> Tensor:
    """``total / count``; zero where ``count`` is 0 (nothing to learn from, and no NaN). Raises on a negative count."""
    if isinstance(count, Tensor):
        return torch.where(count > 0, total / count.clamp(min=torch.finfo(total.dtype).tiny), total * 0)
    if not count >= 0:
        raise ContractError(f"the loss's global count is {count}", "pass the number of valid items, zero or more")
    return total / count if count > 0 else total * 0


def length_weights(mask: Tensor, how: LengthNormalisation, constant: float = 1.0) -> tuple[Tensor, Tensor]:
    """Token weights ``[B, C]`` and this batch's own denominator for a named length normalisation.

    ``token``: every token counts the same (denominator: valid tokens). ``sequence``: every non-empty sequence counts
    the same, its tokens 1/length each (denominator: non-empty sequences). ``constant``: tokens count the same and every
    sequence divides by ``constant`` tokens whatever its length (denominator: B · constant; Liu et al. 2025, Dr. GRPO).
    Sum the denominators of all micro-batches and ranks into ``count``.
    """
    valid = mask.to(torch.get_default_dtype())
    lengths = valid.sum(-1, keepdim=True)
    if how == "token":
        return valid, lengths.sum()
    if how == "sequence":
        return valid / lengths.clamp(min=1), (lengths > 0).to(valid.dtype).sum()
    if how == "constant":
        return valid, valid.new_tensor(mask.shape[0] * constant)
    raise ContractError(f"length normalisation {how!r}", "choose 'token', 'sequence' or 'constant'")


def weighted(x: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of ``x · weights`` over valid positions, a scalar; ``x`` must be clean already."""
    if weights is None:
        return keep(x, mask).sum()
    return (keep(x, mask) * keep(weights.to(x.dtype), mask)).sum()
