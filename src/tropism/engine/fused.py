"""RMSNorm, gated MLPs and rotary positions of unmodified Hugging Face models through the compiled kernels.

Transformers writes them as many small operations, each a pass over the activations. Inside :func:`fusing` a module or
function that a kernel can stand in for is replaced; which ones is found out once per model, by running both on random
numbers: what does not agree is left alone. Without kernels nothing changes.

The last layer's MLP, whose output for one token nothing but that token's own state depends on, is run for the tokens
that are asked for.

Left out: LayerNorm (torch's is fused already), MLPs whose gate and up projections are one matrix.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tropism.engine import kernels

ROTARY = "apply_rotary_pos_emb"
_ROWS: ContextVar[Tensor | None] = ContextVar("rows", default=None)
"""Tokens whose last state is asked for; None: all."""


@dataclass(frozen=True)
class _Swaps:
    """What stands in for what."""

    modules: list[tuple[nn.Module, Callable[..., Tensor]]]
    functions: list[tuple[ModuleType, Callable[..., Any]]]


_KNOWN: WeakKeyDictionary[nn.Module, _Swaps] = WeakKeyDictionary()


@contextmanager
def fusing(model: nn.Module, rows: Tensor | None = None) -> Iterator[None]:
    """The kernels in the place of what they reproduce, inside the block. ``rows``, distinct, int64 ``[n]``: the only
    tokens of a forward whose last state is read; what comes out for the others means nothing."""
    if kernels.library() is None:
        yield
        return
    if model not in _KNOWN:
        # one answer whoever asks first: a policy and the copy that is its reference must compute the same
        with torch.autocast("cpu", enabled=False):
            _KNOWN[model] = _swaps(model)
    swaps = _KNOWN[model]
    own = [(home, getattr(home, ROTARY)) for home, _ in swaps.functions]
    for module, forward in swaps.modules:
        module.__dict__["forward"] = forward
    for home, function in swaps.functions:
        setattr(home, ROTARY, function)
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)
        for module, _ in swaps.modules:
            del module.__dict__["forward"]
        for home, function in own:
            setattr(home, ROTARY, function)


@torch.no_grad()
def _swaps(model: nn.Module) -> _Swaps:
    modules: list[tuple[nn.Module, Callable[..., Tensor]]] = []
    homes: dict[str, Callable[..., Any]] = {}
    layers = getattr(getattr(model, "get_decoder", lambda: model)(), "layers", None)
    last = set(layers[-1].modules()) if isinstance(layers, nn.ModuleList) and len(layers) else set()
    for module in model.modules():
        if "forward" in module.__dict__:
            continue
        forward = _fused_norm(module) or _fused_mlp(module, module in last)
        if forward is not None:
            modules.append((module, forward))
        name = type(module).__module__
        if name not in homes and callable(original := getattr(sys.modules[name], ROTARY, None)):
            homes[name] = original
    fused = [(sys.modules[name], f) for name, original in homes.items() if (f := _fused_rotary(original)) is not None]
    return _Swaps(modules, fused)


def _fused_norm(module: Any) -> Callable[..., Tensor] | None:
    """A forward for a module that is RMSNorm in one of its spellings."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, nn.Parameter) or weight.ndim != 1:
        return None
    if not isinstance(eps, float) or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    original = type(module).forward
    x = torch.randn(64, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    expected = original(module, x)
    if expected.dtype != x.dtype:
        return None
    found: list[tuple[float, float, bool]] = []
    for offset in (0.0, 1.0):
        for wide in (False, True):
            made = kernels.rms_norm(x, weight, eps, offset=offset, wide=wide)
            found.append((float((made - expected).float().abs().mean()), offset, wide))
    gap, offset, wide = min(found)
    if not gap <= _tolerance(expected):
        return None

    def forward(x: Tensor) -> Tensor:
        if x.dtype != module.weight.dtype:
            return original(module, x)
        return kernels.rms_norm(x, module.weight, eps, offset=offset, wide=wide)

    return forward


def _fused_mlp(module: Any, last: bool) -> Callable[..., Tensor] | None:
    """A forward for a module that is down(act(gate(x)) · up(x)); the ``last`` layer's runs what is asked for."""
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names):
        return None
    if any(isinstance(m, nn.Dropout) and m.p for m in module.modules()) or not hasattr(module.gate_proj, "in_features"):
        return None
    original = type(module).forward
    dtype = next(module.gate_proj.parameters()).dtype
    x = torch.randn(16, int(module.gate_proj.in_features), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected, gate, up = original(module, x), module.gate_proj(x), module.up_proj(x)
    if dtype not in (torch.float32, torch.bfloat16) or gate.dtype != dtype:
        return None
    for act in get_args(kernels.Activation):
        made = module.down_proj(kernels.gated(gate, up, act))
        if float((made - expected).float().abs().mean()) <= _tolerance(expected):
            break
    else:
        return None

    def forward(x: Tensor) -> Tensor:
        rows = _ROWS.get() if last else None
        asked = x if rows is None else x.index_select(-2, rows)
        made: Tensor = module.down_proj(kernels.gated(module.gate_proj(asked), module.up_proj(asked), act))
        return made if rows is None else made.new_zeros(x.shape).index_copy(-2, rows, made)

    return forward


def _fused_rotary(original: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function for one that turns halves of queries and keys ``[1, H, N, D]`` by angles ``[1, N, D]``."""

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        plain = not more and not named and q.ndim == 4 and cos.ndim == 3 and len(q) == len(cos) == 1
        if not plain or q.dtype not in (torch.float32, torch.bfloat16) or cos.shape[-1] != q.shape[-1]:
            return original(q, k, cos, sin, *more, **named)
        cos, sin = cos.squeeze(0).float(), sin.squeeze(0).float()
        rows = (kernels.rotary(x.squeeze(0).transpose(0, 1), cos, sin) for x in (q, k))
        return tuple(x.transpose(0, 1).unsqueeze(0) for x in rows)

    chance = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 5, 8, generator=chance) for heads in (4, 2))
    angles = torch.randn(1, 5, 4, generator=chance)
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    try:
        expected = original(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):  # another rotation, of other arguments
        return None
    same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(turned(q, k, cos, sin), expected, strict=True))
    return turned if same else None


def _tolerance(like: Tensor) -> float:
    """How far two spellings of one function may lie apart on average: rounding, and nothing a wrong weight would do."""
    return (1e-6 if like.dtype == torch.float32 else 4e-3) * max(1e-3, float(like.float().abs().mean()))
