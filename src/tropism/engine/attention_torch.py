"""Attention on packed sequences and on a cache, by torch's own operations: what runs where no compiled kernel does,
and what the kernels are tested against.

Sequences of like length are laid side by side, and products go through batched GEMM with a softmax in fp32: torch's own
attention is slower on a CPU in bf16, backwards above all. The backward pass computes the scores again, block of queries
by block, so that memory does not grow with the square of the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tropism.engine.batch import Packed

BLOCK = 1 << 22
"""Most scores (of all heads and rows together) that are in memory at once."""


def packed(
    q: Tensor, k: Tensor, v: Tensor, layout: Packed, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """Causal attention inside each sequence: ``[N, H, D]``, from queries ``[N, H, D]``, keys and values ``[N, G, D]``.
    Differentiable."""
    out: Tensor = _PackedAttention.apply(q, k, v, layout, scale, window, cap)
    return out


def packed_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, layout: Packed, scale: float, window: int | None, cap: float | None, dropout: float
) -> Tensor:
    """:func:`packed` with dropout on the probabilities, for supervised training of models that have it."""
    out = torch.empty_like(q)
    for index, valid in layout.groups:
        a, b, c = (_side_by_side(x, index, k.shape[1]) for x in (q, k, v))
        p = _probabilities(_scores(a, b, scale, cap), 0, 0, window)
        y = torch.nn.functional.dropout(p.to(c.dtype), dropout) @ c
        out = out.index_put((index[valid],), _apart(y, q.shape[1])[valid])
    return out


def decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    longest: int,
    scale: float,
    window: int | None,
    cap: float | None,
) -> Tensor:
    """One query per row, at position ``lengths`` ``[n]`` of it: ``[n, H, D]`` from ``[n, H, D]`` and the first n rows
    of a cache ``[rows, G, capacity, D]``."""
    n, heads, width = q.shape
    k, v = keys[:n, :, :longest], values[:n, :, :longest]
    groups = k.shape[1]
    places = torch.arange(longest)
    seen = places[None] <= lengths[:, None]
    if window is not None:
        seen &= places[None] > lengths[:, None] - window
    s = (q.view(n, groups, heads // groups, width) @ k.transpose(2, 3)).float() * scale
    s = s if cap is None else cap * torch.tanh(s / cap)
    p = s.masked_fill_(~seen[:, None, None], float("-inf")).softmax(-1)
    return (p.to(v.dtype) @ v).view(n, heads, width)


class _PackedAttention(torch.autograd.Function):
    """O = softmax(mask(cap(scale · Q Kᵀ))) V with the scores computed again in the backward pass (Rabe & Staats 2021;
    Dao et al. 2022)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layout: Packed,
        scale: float,
        window: int | None,
        cap: float | None,
    ) -> Tensor:
        out = q.new_empty(q.shape)
        for index, valid in layout.groups:
            a, b, c = (_side_by_side(x, index, k.shape[1]) for x in (q, k, v))
            y = torch.empty(a.shape[:-1] + c.shape[-1:], dtype=q.dtype)
            for rows, first, last, low in _blocks(a, window):
                s = _scores(a[rows, :, :, first:last], b[rows, :, :, low:last], scale, cap)
                y[rows, :, :, first:last] = _probabilities(s, first, low, window).to(c.dtype) @ c[rows, :, :, low:last]
            out[index[valid]] = _apart(y, q.shape[1])[valid]
        ctx.save_for_backward(q, k, v)
        ctx.plan = (layout, scale, window, cap)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        layout, scale, window, cap = ctx.plan
        made = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        for index, valid in layout.groups:
            a, b, c, g = (_side_by_side(x, index, k.shape[1]) for x in (q, k, v, grad))
            # a padded query has no gradient, though it is another token that stands there
            g = g.masked_fill(~valid[:, None, None, :, None], 0.0)
            da, db, dc = torch.zeros_like(a), b.new_zeros(b.shape, dtype=torch.float32), torch.zeros_like(c).float()
            for rows, first, last, low in _blocks(a, window):
                qs, ks, vs = a[rows, :, :, first:last], b[rows, :, :, low:last], c[rows, :, :, low:last]
                s = _scores(qs, ks, scale, cap)
                p, gs = _probabilities(s, first, low, window), g[rows, :, :, first:last].to(q.dtype)
                dc[rows, :, :, low:last] += (p.to(q.dtype).transpose(-1, -2) @ gs).float().sum(2, keepdim=True)
                dp = (gs @ vs.transpose(-1, -2)).float()
                ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
                if cap is not None:
                    ds *= 1 - (s / cap) ** 2
                ds = ds.to(q.dtype)
                da[rows, :, :, first:last] = ds @ ks
                db[rows, :, :, low:last] += (ds.transpose(-1, -2) @ qs).float().sum(2, keepdim=True)
            for store, x in zip(made, (da, db, dc), strict=True):
                store[index[valid]] = _apart(x, store.shape[1])[valid].to(store.dtype)
        return made[0], made[1], made[2], None, None, None, None


def _side_by_side(x: Tensor, index: Tensor, groups: int) -> Tensor:
    """Rows ``[N, H, D]`` of sequences ``[b, T]`` as ``[b, G, H/G, T, D]``."""
    return x[index].transpose(1, 2).unflatten(1, (groups, -1))


def _apart(x: Tensor, heads: int) -> Tensor:
    """``[b, G, H/G, T, D]`` as ``[b, T, H, D]``."""
    return x.reshape(x.shape[0], heads, *x.shape[-2:]).transpose(1, 2)


def _scores(q: Tensor, k: Tensor, scale: float, cap: float | None) -> Tensor:
    """fp32 scores before the mask; queries share the keys of their group."""
    s = (q @ k.transpose(-1, -2)).float() * scale
    return s if cap is None else cap * torch.tanh(s / cap)


def _probabilities(s: Tensor, first: int, low: int, window: int | None) -> Tensor:
    """Softmax over what a query may see; ``first`` and ``low`` are the positions of the first query and key."""
    i = first + torch.arange(s.shape[-2])[:, None]
    j = low + torch.arange(s.shape[-1])[None]
    hidden = j > i
    if window is not None:
        hidden |= j <= i - window
    return s.masked_fill(hidden, float("-inf")).softmax(-1)


def _blocks(q: Tensor, window: int | None) -> Iterator[tuple[slice, int, int, int]]:
    """(rows, first query, end of queries and keys, first key) of every block of at most ``BLOCK`` scores."""
    b, groups, each, length = q.shape[:4]
    per_query = groups * each * length
    rows = max(1, BLOCK // (per_query * length))
    queries = length if rows > 1 else max(1, min(length, BLOCK // per_query))
    for r in range(0, b, rows):
        for first in range(0, length, queries):
            low = 0 if window is None else max(0, first - window + 1)
            yield slice(r, r + rows), first, min(first + queries, length), low
