"""Drawing a token per row from logits: a two-level inverse CDF that yields the log-probability too.

A sum per block of the vocabulary says in which block the draw falls, and only that block is looked at token by token:
no running sum over the whole vocabulary. The compiled kernel and torch give the same tokens for the same draws, except
where a draw falls within rounding of the border between two tokens.

Left out on purpose: top-p, top-k, min-p and penalties. They bias the PPO ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tropism.engine import kernels

_BLOCK = 64  # tokens; V / 64 sums and then 64 tokens are looked at


@torch.no_grad()
def sample(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens int64 ``[B]`` and their log-probabilities float32 ``[B]`` (nats) from logits ``[B, V]``, float32 or
    bfloat16, and uniforms float64 ``[B]`` in [0, 1).

    Token t is taken where the draw lies between the summed probabilities up to t without and with it; a token of
    probability 0 (a logit of −∞) never is. Temperature 0 takes the most likely token, with its log-probability at
    temperature 1. Rows without one finite logit, or with NaN, have NaN for log-probability and a token that means
    nothing.
    """
    if logits.is_cpu and logits.dtype in (torch.float32, torch.bfloat16) and kernels.library() is not None:
        return kernels.sample_rows(logits, temperature, draws)
    return sample_two_level(logits, temperature, draws)


@torch.no_grad()
def sample_two_level(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """``sample`` in torch alone, on any device."""
    divisor = 1.0 if temperature == 0.0 else temperature
    rows, vocabulary = logits.shape
    blocks = -(-vocabulary // _BLOCK)
    # e^(z - max), the only tensor of this size
    weights = torch.empty(rows, blocks * _BLOCK, dtype=torch.float32, device=logits.device)
    scaled = weights[:, :vocabulary].copy_(logits)
    if divisor != 1.0:
        scaled.div_(divisor)
    top = scaled.amax(-1, keepdim=True)
    scaled.sub_(top).exp_()
    weights[:, vocabulary:] = 0.0  # what fills the last block weighs nothing
    by_block = weights.view(rows, blocks, _BLOCK)
    sums = by_block.sum(-1).double()
    total = sums.sum(-1, keepdim=True)
    if temperature == 0.0:
        tokens = logits.argmax(-1)
    else:
        target = draws.to(logits.device)[:, None] * total
        block, ahead = _passing(sums, target)
        inside = by_block.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1).double()
        place, _ = _passing(inside, target - ahead)
        tokens = (block * _BLOCK + place).squeeze(1).clamp_(max=vocabulary - 1)
    chosen = logits.gather(1, tokens[:, None]).float() / divisor
    return tokens, (chosen - top - total.log()).squeeze(1).float()


def _passing(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first place of each row ``[B, n]`` where the running sum passes ``target`` ``[B, 1]``, the last of positive
    weight where rounding keeps it below, and the sum ahead of that place; ``[B, 1]`` both."""
    sums = weights.cumsum(-1)
    numbers = torch.arange(weights.shape[-1], device=weights.device)
    last = torch.where(weights > 0, numbers, 0).amax(-1, keepdim=True)
    place = torch.minimum(torch.searchsorted(sums, target, right=True), last)
    return place, sums.gather(1, place) - weights.gather(1, place)
