"""The elementwise kernels on torch tensors: RMSNorm, gated activations, rotary positions, softmax statistics, sampling.

Only to be called where ``library()`` is not None; every caller has a torch path besides. Tensors are on the CPU,
float32 or bfloat16, one type per call; arithmetic is float32. Results do not depend on the number of threads, which is
torch's.

Left out: second derivatives; float16 and float64; LayerNorm.
"""

from __future__ import annotations

import functools
from ctypes import c_float, c_int, c_int64, c_void_p
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tropism.engine.kernels.build import library, why_not
from tropism.errors import DataError, ModelError

Activation = Literal["silu", "gelu_tanh", "gelu"]
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
_MAX_HEAD = 1024  # MAX_HEAD of elementwise.c

_SIZE, _POINTER = c_int64, c_void_p
_MATRIX = (_POINTER, _SIZE)  # with the stride of its rows
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rms_norm": (*_MATRIX, _POINTER, c_float, c_float, c_int, _SIZE, _SIZE, _POINTER, _POINTER, c_int),
    "rms_norm_backward": (
        *_MATRIX, *_MATRIX, _POINTER, c_float, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, c_int
    ),
    "gated": (c_int, *_MATRIX, *_MATRIX, _SIZE, _SIZE, _POINTER, c_int),
    "gated_backward": (c_int, *_MATRIX, *_MATRIX, *_MATRIX, _SIZE, _SIZE, _POINTER, _POINTER, c_int),
    "rotary": (
        *_MATRIX, _SIZE, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _SIZE, c_int, *_MATRIX, _SIZE, c_int
    ),
    "softmax_stats": (*_MATRIX, _POINTER, c_float, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER, c_int),
    "softmax_stats_backward": (
        *_MATRIX, _POINTER, c_float, _POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, c_int
    ),
    "sample": (*_MATRIX, _POINTER, c_float, c_int, _SIZE, _SIZE, _POINTER, _POINTER, c_int),
}  # fmt: skip
_STATUS = {"rms_norm_backward", "softmax_stats", "softmax_stats_backward"}


class _Functions(dict[tuple[str, torch.dtype], Any]):
    def __missing__(self, key: tuple[str, torch.dtype]) -> Any:
        raise ModelError(f"the compiled kernels have no {key[0]} for {key[1]}", "use float32 or bfloat16")


@functools.cache
def _functions() -> _Functions:
    """The library's functions with their argument types, by name and element type."""
    loaded = library()
    if loaded is None:
        raise ModelError(f"there are no compiled kernels: {why_not()}", "call the torch path, or mend the reason")
    found = _Functions()
    for name, arguments in _ARGUMENTS.items():
        for dtype, suffix in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
            function = getattr(loaded, f"tropism_{name}_{suffix}")
            function.argtypes, function.restype = arguments, c_int if name in _STATUS else None
            found[name, dtype] = function
    return found


def _check(status: int) -> None:
    if status == 1:
        raise MemoryError("a compiled kernel found no memory for its partial sums")
    if status == 2:
        raise DataError("a target lies outside the vocabulary", "targets must be in 0 .. vocabulary - 1")


def _refuse(what: str, *tensors: Tensor) -> ModelError:
    shapes = ", ".join(f"{t.dtype} {list(t.shape)} on {t.device}" for t in tensors)
    return ModelError(f"{what} cannot take {shapes}", "give tensors on the CPU, of one type, whose sizes agree")


def _laid(x: Tensor) -> tuple[Tensor, int]:
    """``x`` with contiguous rows (itself, or a view, wherever it has them) and the distance between rows."""
    if x.is_contiguous():
        return x, x.shape[-1]
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    return rows, rows.stride(0)


def _like(x: Tensor) -> Tensor:
    """An empty contiguous tensor of the shape and type of ``x``."""
    return torch.empty_like(x) if x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, wide: bool = False) -> Tensor:
    """``x / sqrt(mean(x²) + eps) · (weight + offset)`` over the last dimension; x ``[..., H]``, weight ``[H]``.

    ``wide`` multiplies in float32 and rounds once (Gemma, with offset 1; OLMo 2); else the normalised row is rounded to
    the type of ``x`` before the product (Llama). Raises ModelError for tensors it cannot take.
    """
    if (x.requires_grad or weight.requires_grad) and torch.is_grad_enabled():
        return _RmsNorm.apply(x, weight, eps, offset, wide)
    return _normed(x, weight, eps, offset, wide, None)


def _normed(x: Tensor, weight: Tensor, eps: float, offset: float, wide: bool, rstd: Tensor | None) -> Tensor:
    h = x.shape[-1]
    if weight.dtype != x.dtype or weight.shape != (h,) or not weight.is_contiguous() or not x.is_cpu:
        raise _refuse("rms_norm", x, weight)
    rows, stride = _laid(x)
    y = _like(x)
    _functions()["rms_norm", x.dtype](
        rows.data_ptr(), stride, weight.data_ptr(), offset, eps, wide, x.numel() // h, h, y.data_ptr(),
        None if rstd is None else rstd.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float, wide: bool) -> Tensor:
        rstd = torch.empty(x.numel() // x.shape[-1])
        ctx.save_for_backward(x, weight, rstd)
        ctx.offset = offset
        return _normed(x, weight, eps, offset, wide, rstd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rstd = ctx.saved_tensors
        (rows, stride), (up, up_stride), h = _laid(x), _laid(dy), x.shape[-1]
        dx, dweight = _like(x), torch.empty(h)
        status = _functions()["rms_norm_backward", x.dtype](
            up.data_ptr(), up_stride, rows.data_ptr(), stride, weight.data_ptr(), ctx.offset, rstd.data_ptr(),
            x.numel() // h, h, dx.data_ptr(), dweight.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        _check(status)
        return dx, dweight.to(weight.dtype), None, None, None


def gated(gate: Tensor, up: Tensor, act: Activation) -> Tensor:
    """``act(gate) · up``, both ``[..., F]``; ``gelu_tanh`` is the tanh form of GELU, ``gelu`` the exact one."""
    if (gate.requires_grad or up.requires_grad) and torch.is_grad_enabled():
        return _Gated.apply(gate, up, act)
    return _gated(gate, up, act)


def _gated(gate: Tensor, up: Tensor, act: Activation) -> Tensor:
    if up.dtype != gate.dtype or up.shape != gate.shape or not gate.is_cpu:
        raise _refuse("gated", gate, up)
    (g, g_stride), (u, u_stride), f = _laid(gate), _laid(up), gate.shape[-1]
    y = _like(gate)
    _functions()["gated", gate.dtype](
        _ACTIVATIONS[act], g.data_ptr(), g_stride, u.data_ptr(), u_stride, gate.numel() // f, f, y.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return y


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return _gated(gate, up, act)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        (d, d_stride), (g, g_stride), (u, u_stride), f = _laid(dy), _laid(gate), _laid(up), gate.shape[-1]
        dgate, dup = _like(gate), _like(up)
        _functions()["gated_backward", gate.dtype](
            _ACTIVATIONS[ctx.act], d.data_ptr(), d_stride, g.data_ptr(), g_stride, u.data_ptr(), u_stride,
            gate.numel() // f, f, dgate.data_ptr(), dup.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return dgate, dup, None


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, in_place: bool = False) -> Tensor:
    """Rotary positions with half rotation, as Llama's ``apply_rotary_pos_emb``: x ``[N, H, D]`` with any strides of the
    first two, cos and sin ``[N, R]`` (R ≤ D, even; elements beyond R pass unchanged). A new contiguous tensor, or, with
    ``in_place`` and without gradients, ``x`` itself.
    """
    if x.requires_grad and torch.is_grad_enabled():
        if in_place:
            raise ModelError("rotary in place has no gradient", "leave in_place off where gradients are wanted")
        return _Rotary.apply(x, cos, sin)
    cos, sin = _angles(cos), _angles(sin)
    return _turned(x, cos, sin, x if in_place and x.stride(2) == 1 else None, back=False)


def _angles(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 and x.is_contiguous() else x.float().contiguous()


def _turned(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None, back: bool) -> Tensor:
    (n, heads, d), r = x.shape, cos.shape[-1]
    if cos.shape != (n, r) or sin.shape != cos.shape or r > d or r % 2 or d > _MAX_HEAD or not x.is_cpu:
        raise _refuse("rotary", x, cos, sin)
    x = x if x.stride(2) == 1 else x.contiguous()
    if out is None:
        out = torch.empty((n, heads, d), dtype=x.dtype)
    _functions()["rotary", x.dtype](
        x.data_ptr(), x.stride(0), x.stride(1), cos.data_ptr(), sin.data_ptr(), n, heads, d, r, back,
        out.data_ptr(), out.stride(0), out.stride(1), torch.get_num_threads(),
    )  # fmt: skip
    return out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = _angles(cos), _angles(sin)
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, None, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(dy, cos, sin, None, back=True), None, None


class SoftmaxStats(NamedTuple):
    """Of ``softmax(logits / temperature)``, float32 ``[n]`` each, in nats: log-probability of the target, entropy,
    largest log-probability, log-sum-exp."""

    logprobs: Tensor
    entropy: Tensor
    max_logprobs: Tensor
    lse: Tensor


def softmax_stats(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> SoftmaxStats:
    """Statistics of each row of logits ``[n, V]`` in one pass; targets int64 ``[n]``. Logits of −∞ have probability 0.
    Raises DataError for a target outside the vocabulary. No gradient: ``softmax_stats_backward_`` is one."""
    n, v = logits.shape
    if targets.shape != (n,) or targets.dtype != torch.int64 or logits.stride(1) != 1 or not logits.is_cpu:
        raise _refuse("softmax_stats", logits, targets)
    targets = targets.contiguous()
    stats = SoftmaxStats(*torch.empty((4, n)).unbind(0))
    status = _functions()["softmax_stats", logits.dtype](
        logits.data_ptr(), logits.stride(0), targets.data_ptr(), 1.0 / temperature, n, v,
        *(s.data_ptr() for s in stats), torch.get_num_threads(),
    )  # fmt: skip
    _check(status)
    return stats


def softmax_stats_backward_(
    logits: Tensor,
    targets: Tensor,
    stats: SoftmaxStats,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The gradient over the logits, written into ``logits`` (which autograd is not told) and returned.

    With p the distribution, H its entropy, g the gradients ``[n]`` float32 of logprobs and entropy, T the temperature:
    ``(g_logprob · (onehot − p) − g_entropy · p · (log p + H)) / T``.
    """
    n, v = logits.shape
    if targets.shape != (n,) or targets.dtype != torch.int64 or logits.stride(1) != 1 or not logits.is_cpu:
        raise _refuse("softmax_stats_backward_", logits, targets)
    g_logprobs = grad_logprobs.float().contiguous()
    g_entropy = torch.zeros(n) if grad_entropy is None else grad_entropy.float().contiguous()
    if g_logprobs.shape != (n,) or g_entropy.shape != (n,) or stats.lse.shape != (n,):
        raise _refuse("softmax_stats_backward_", logits, grad_logprobs, g_entropy, stats.lse)
    targets, lse, entropy = targets.contiguous(), stats.lse.contiguous(), stats.entropy.contiguous()
    status = _functions()["softmax_stats_backward", logits.dtype](
        logits.data_ptr(), logits.stride(0), targets.data_ptr(), 1.0 / temperature, lse.data_ptr(),
        entropy.data_ptr(), g_logprobs.data_ptr(), g_entropy.data_ptr(), n, v, torch.get_num_threads(),
    )  # fmt: skip
    _check(status)
    return logits


def sample_rows(logits: Tensor, temperature: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """``engine.sampling.sample``, compiled: tokens int64 ``[B]`` and logprobs float32 ``[B]`` from logits ``[B, V]``
    and uniforms float64 ``[B]``."""
    n, v = logits.shape
    if draws.shape != (n,) or draws.dtype != torch.float64 or not v or not logits.is_cpu:
        raise _refuse("sample_rows", logits, draws)
    (rows, stride), draws, greedy = _laid(logits), draws.contiguous(), temperature == 0.0
    tokens, logprobs = torch.empty(n, dtype=torch.int64), torch.empty(n)
    _functions()["sample", rows.dtype](
        rows.data_ptr(), stride, draws.data_ptr(), 1.0 if greedy else 1.0 / temperature, greedy, n, v,
        tokens.data_ptr(), logprobs.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return tokens, logprobs
