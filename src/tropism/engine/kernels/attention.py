"""The compiled attention on torch tensors: packed sequences forward and backward, and one new token against a cache.

Only to be called where ``library()`` is not None and :func:`takes` says so; ``engine.attention_torch`` is the other
path. Arithmetic is float32, whatever the tensors hold; results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from ctypes import c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tropism.engine.kernels.build import library

_ROWS = (c_void_p, c_int64, c_int64)  # a tensor with the strides of its first two dimensions
_PROBLEM = (c_int64, c_void_p, c_int64, c_int64, c_int64, c_float, c_int64, c_float, c_int64, *_ROWS, *_ROWS, *_ROWS)
_CACHE = (c_void_p, c_int64, c_int64, c_int64)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "attention_forward": (*_PROBLEM, c_void_p, c_void_p),
    "attention_backward": (*_PROBLEM, *_ROWS, *(c_void_p,) * 5),
    "decode_attention": (
        *(c_int64,) * 4, c_float, c_int64, c_float, c_int64, c_void_p, c_void_p,
        *_ROWS, *_CACHE, *_CACHE, *_ROWS, *_ROWS, c_void_p,
    ),
}  # fmt: skip
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(library(), f"tropism_{name}_{_SUFFIX[dtype]}")
    function.argtypes, function.restype = _ARGUMENTS[name], c_int
    return function


def takes(q: Tensor) -> bool:
    """Whether the kernels are there, and for such tensors."""
    return q.is_cpu and q.dtype in _SUFFIX and library() is not None


def packed(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """Causal attention inside each sequence: ``[N, H, D]``, from queries ``[N, H, D]``, keys and values ``[N, G, D]``
    (any strides but the last) and the sequences' offsets int64 ``[B + 1]``. Differentiable once."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        out: Tensor = _Packed.apply(q, k, v, starts, scale, window, cap)
        return out
    return _forward(q, k, v, starts, scale, window, cap)[0]


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    lengths: Tensor,
    scale: float,
    window: int | None,
    cap: float | None,
) -> Tensor:
    """One new token per row: its key and value ``[n, G, D]`` are put into the cache (two of ``[rows, G, capacity, D]``)
    as the last of the row's ``lengths`` ``[n]`` tokens, and its query ``[n, H, D]`` sees them all: ``[n, H, D]``."""
    (n, heads, width), (keys, values) = q.shape, cache
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty((n, heads, width), dtype=q.dtype)
    run = _function("decode_attention", q.dtype)
    sizes = (n, heads, keys.shape[1], width, scale, window or 0, cap or 0.0, torch.get_num_threads())
    caches = (keys.data_ptr(), *keys.stride()[:3], values.data_ptr(), *values.stride()[:3])
    _check(run(*sizes, lengths.data_ptr(), None, *_rows(q), *caches, *_rows(k), *_rows(v), out.data_ptr()))
    return out


def _rows(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


def _problem(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, window: int | None, cap: float | None
) -> Any:
    heads, width = q.shape[1:]
    sizes = (len(starts) - 1, starts.data_ptr(), heads, k.shape[1], width)
    return *sizes, scale, window or 0, cap or 0.0, torch.get_num_threads(), *_rows(q), *_rows(k), *_rows(v)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, window: int | None, cap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, log-sum-exp fp32 ``[H, N]``, and q, k, v as they were read."""
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[1], q.shape[0])
    given = _problem(q, k, v, starts, scale, window, cap)
    _check(_function("attention_forward", q.dtype)(*given, out.data_ptr(), lse.data_ptr()))
    return out, lse, q, k, v


class _Packed(torch.autograd.Function):
    """Dao 2023: the backward pass computes the probabilities again from the log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        out, lse, q, k, v = _forward(q, k, v, starts, scale, window, cap)
        ctx.save_for_backward(q, k, v, starts, out, lse)
        ctx.terms = scale, window, cap
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, starts, out, lse = ctx.saved_tensors
        grad = grad if grad.stride(2) == 1 else grad.contiguous()
        made = [torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v)]
        given = _problem(q, k, v, starts, *ctx.terms)
        pointers = (x.data_ptr() for x in (out, lse, *made))
        _check(_function("attention_backward", q.dtype)(*given, *_rows(grad), *pointers))
        return *made, None, None, None, None


def _check(status: int) -> None:
    if status:
        raise MemoryError("the compiled attention found no memory for its scratch space")
