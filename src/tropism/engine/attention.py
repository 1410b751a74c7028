"""Our own attention under unmodified Hugging Face decoders: packed sequences, and one new token against a cache.

A decoder is called with all tokens of all sequences in one row ``[1, N]`` and explicit positions, so that no linear
layer sees padding; a *plan* says which tokens may see one another. Transformers passes a registered function no mask:
scale, sliding window and soft cap come as arguments and are honoured here, and a model that asks for anything else is
refused by name. The function is in force inside :func:`attending` only; outside, the model is as it was.

Left out: bidirectional and cross attention, attention sinks, ALiBi and other position biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from tropism.engine import attention_torch
from tropism.engine.batch import Packed
from tropism.engine.fused import fusing
from tropism.engine.kernels import attention as compiled
from tropism.errors import ModelError

NAME = "tropism"
_HARMLESS = frozenset({"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions", "return_dict"})
_FIX = "take a decoder with ordinary attention (Llama, Qwen, Gemma, Mistral, Phi, OLMo 2, GPT-2, StableLM, …)"


@dataclass(frozen=True)
class Spec:
    """What a layer asks of its attention. ``window`` w: i sees i − w < j ≤ i. ``softcap`` c: s ← c·tanh(s/c)."""

    scale: float
    window: int | None = None
    softcap: float | None = None

    @property
    def terms(self) -> tuple[float, int | None, float | None]:
        """Scale, window and soft cap."""
        return self.scale, self.window, self.softcap


class Plan(Protocol):
    """Which tokens may see one another."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        """Queries ``[N, H, D]``, keys and values ``[N, G, D]`` of one layer (H a multiple of G) to ``[N, H, D]``."""
        ...


_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def attending(model: PreTrainedModel, plan: Plan, rows: Tensor | None = None) -> Iterator[None]:
    """Attention of ``model`` by ``plan`` inside the block; only the last states of ``rows`` are read (None: all)."""
    config = model.get_decoder().config
    own, token = config._attn_implementation, _PLAN.set(plan)
    config._attn_implementation = NAME
    try:
        with fusing(model, rows):
            yield
    finally:
        config._attn_implementation = own
        _PLAN.reset(token)


def decoder_states(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, plan: Plan, rows: Tensor | None = None
) -> Tensor:
    """Last hidden states ``[N, H]`` (after the final norm) of tokens ``[N]`` at ``positions`` ``[N]`` within their
    sequences; with ``rows``, distinct, int64 ``[n]``, of these tokens alone, ``[n, H]``. ModelError naming the model if
    its attention is not the registered one."""
    with attending(model, plan, rows):
        try:
            out = model.get_decoder()(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        except TypeError as error:
            raise ModelError(f"{type(model).__name__} takes no explicit positions: {error}", _FIX) from error
    hidden: Tensor = out.last_hidden_state.squeeze(0)  # [0] would copy the gradient
    return hidden if rows is None else hidden.index_select(0, rows)


@dataclass(frozen=True)
class PackedPlan:
    """Causal attention inside each sequence of a packed row."""

    packed: Packed

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        if dropout:
            return attention_torch.packed_with_dropout(q, k, v, self.packed, *spec.terms, dropout)
        return _packed(q, k, v, self.packed, spec)


def _packed(q: Tensor, k: Tensor, v: Tensor, layout: Packed, spec: Spec) -> Tensor:
    if compiled.takes(q):
        return compiled.packed(q, k, v, layout.starts, *spec.terms)
    return attention_torch.packed(q, k, v, layout, *spec.terms)


class KVCache:
    """Keys and values of up to ``rows`` sequences of up to ``capacity`` tokens, allocated once, layer by layer."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def layer(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[rows, G, capacity, D]`` of a layer; ``like`` ``[N, G, D]`` says what they hold."""
        if number not in self.keys:
            shape = (self.rows, like.shape[1], self.capacity, like.shape[2])
            # zeros: what stands behind a sequence's end is multiplied by a probability of 0, and may not be NaN
            self.keys[number], self.values[number] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[number], self.values[number]

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first ``length`` tokens of rows ``source`` over those of rows ``target``."""
        for store in (*self.keys.values(), *self.values.values()):
            store[target, :, :length] = store[source, :, :length]


@dataclass(frozen=True)
class PrefillPlan:
    """Attention inside packed prompts, whose keys and values are put into rows ``slots`` of a cache on the way."""

    packed: Packed
    cache: KVCache
    slots: Tensor
    """int64 ``[R]``: the cache rows to fill."""
    which: Tensor
    """int64 ``[R]``: for each of them the prompt it holds; one prompt may fill several rows."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        keys, values = self.cache.layer(layer, k)
        rows, places, tokens = self.destinations()
        keys[rows, :, places], values[rows, :, places] = k[tokens], v[tokens]
        return _packed(q, k, v, self.packed, spec)

    def destinations(self) -> tuple[Tensor, Tensor, Tensor]:
        """(cache row, place in it, packed token) of everything that is to be stored."""
        lengths = self.packed.lengths[self.which]
        rows = self.slots.repeat_interleave(lengths)
        places = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return rows, places, self.packed.starts[self.which].repeat_interleave(lengths) + places


@dataclass(frozen=True)
class DecodePlan:
    """One new token per sequence, row i of the cache for token i: stored at ``lengths[i]``, it sees all before."""

    cache: KVCache
    lengths: Tensor
    """int64 ``[n]``: tokens in the rows before this one."""
    rows: Tensor
    """0 … n−1."""
    seen: Tensor
    """``lengths`` + 1: tokens in the rows with this one."""
    longest: int
    """The most of these."""

    @classmethod
    def of(cls, cache: KVCache, lengths: Tensor) -> DecodePlan:
        return cls(cache, lengths, torch.arange(len(lengths)), lengths + 1, int(lengths.max()) + 1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        keys, values = self.cache.layer(layer, k)
        if compiled.takes(q):
            return compiled.decode(q, k, v, (keys, values), self.seen, *spec.terms)
        keys[self.rows, :, self.lengths], values[self.rows, :, self.lengths] = k, v
        return attention_torch.decode(q, keys, values, self.lengths, self.longest, *spec.terms)


@torch.no_grad()
def check_attention(model: PreTrainedModel) -> None:
    """Refuse a model whose layers do not all attend through the registered function, or whose windows it never hears
    of: these would come out silently wrong.

    Raises ModelError naming the model. Run once when a model is loaded.
    """
    name, config = type(model).__name__, model.get_decoder().config
    seen = _Witness(Packed(torch.tensor([3])))
    ids = torch.arange(3) % model.get_input_embeddings().weight.shape[0]
    try:
        decoder_states(model, ids, torch.arange(3), seen)
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        raise ModelError(f"{name} cannot run on packed tokens: {_first_line(error)}", _FIX) from error
    layers = int(config.num_hidden_layers)
    if set(seen.windows) != set(range(layers)):
        raise ModelError(f"{name}: {len(seen.windows)} of {layers} layers attend through this engine", _FIX)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    for layer, kind in enumerate(kinds):
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(f"layer {layer} of {name} is of kind {kind}, which this engine does not know", _FIX)
        if (kind == "sliding_attention") and seen.windows[layer] is None:
            raise ModelError(
                f"layer {layer} of {name} has a window of which its attention function hears nothing", _FIX
            )
    if getattr(config, "attention_chunk_size", None):
        raise ModelError(f"{name} attends in chunks, which this engine does not know", _FIX)


@dataclass(frozen=True)
class _Witness(PackedPlan):
    """A packed plan that notes the window of every layer that it served."""

    windows: dict[int, int | None] = field(default_factory=dict)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        self.windows[layer] = spec.window
        return super().attend(layer, q, k, v, spec, dropout)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _registered(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: queries ``[1, H, N, D]``, keys and values ``[1, G, N, D]`` to
    ``[1, N, H, D]``."""
    plan = _PLAN.get()
    name = type(module).__name__
    if plan is None:
        raise ModelError(f"{name} was called without a plan of its attention", "call it through decoder_states")
    odd = [k for k, v in more.items() if v is not None and v is not False and k not in _HARMLESS]
    if odd or attention_mask is not None or more.get("is_causal") is False or query.shape[0] != 1:
        asked = ", ".join(odd) or "a mask of its own"
        raise ModelError(f"the attention of {name} asks for {asked}, which this engine does not know", _FIX)
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    elif not q.dtype == k.dtype == v.dtype:
        q, k = q.to(v.dtype), k.to(v.dtype)
    spec = Spec(q.shape[-1] ** -0.5 if scaling is None else float(scaling), sliding_window, softcap)
    return plan.attend(int(module.layer_idx), q, k, v, spec, dropout).unsqueeze(0), None


AttentionInterface.register(NAME, _registered)
AttentionMaskInterface.register(NAME, lambda *args, **options: None)
