"""The floor of a language model's work: its floating-point operations by arithmetic, over this machine's measured rate.

A weight of a matrix product costs 2 operations per token forward, 2 backward to the inputs, 2 backward to the weight if
it learns (Kaplan et al. 2020, sec. 2.1: 6 per weight and token in training). Attention costs 2 (D_k + D_v) per head and
visible pair of tokens forward (Chowdhery et al. 2022, appendix B, with the pairs that a causal mask or window hides
left out), and 2.5 times that backward, where the probabilities are computed again (Dao 2023, sec. 4.1).

Left out: everything that is no product (norms, activations, softmax, sampling, the optimiser), a value head's single
column, mixtures of experts (all experts are counted). A floor is what no engine can do without, not a prediction.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tropism.engine.attention import PackedPlan, Spec, decoder_states
from tropism.engine.batch import Packed
from tropism.runtime.memory import decode_threads
from tropism.runtime.precision import Precision

BACKWARD_OF_ATTENTION = 2.5
WIDE_ROWS = 2048
"""Rows of the product whose rate stands for training, scoring and prefill."""
PROBE_S = 0.1
"""CPU seconds that one rate may take to measure."""
_MOST_WEIGHTS = 1 << 24  # of a probe: more than a core's caches keep


@dataclass(frozen=True)
class Heads:
    """One layer's attention: ``width`` = heads · (D_k + D_v). ``window`` w: a token sees w tokens, itself included."""

    width: int
    window: int | None = None

    def pairs(self, first: Tensor, last: Tensor) -> int:
        """Pairs (token, token it sees) of tokens at places ``first`` ≤ p < ``last`` ``[B]`` of their sequences."""
        return int((self._below(last) - self._below(first)).sum())

    def _below(self, n: Tensor) -> Tensor:
        """Σ min(p + 1, window) over p < n."""
        if self.window is None:
            return n * (n + 1) // 2
        inside = n.clamp(max=self.window)
        return inside * (inside + 1) // 2 + (n - inside) * self.window


@dataclass(frozen=True)
class Arithmetic:
    """What one model's forward and backward cost in floating-point operations.

    Weights of matrix products that each token goes through: ``base``, ``adapters``, and of all these ``learned``.
    ``head`` is the output projection, at the positions that are asked for only.
    """

    base: int
    adapters: int
    learned: int
    head: int
    head_learned: bool
    layers: tuple[Heads, ...]

    @classmethod
    def of(cls, model: PreTrainedModel, *, causal: bool = True) -> Arithmetic:
        """Of a decoder as the engine runs it. ``causal=False``: of an encoder, where every token sees every other."""
        body: Any = model.get_decoder() if causal else model.base_model
        weights = [
            (f"{path}.{name}", p)
            for path, module in body.named_modules()
            if not isinstance(module, nn.Embedding)
            for name, p in module.named_parameters(recurse=False)
            if p.ndim >= 2
        ]
        out = model.get_output_embeddings()
        head = None if out is None else out.weight
        return cls(
            base=sum(p.numel() for name, p in weights if ".lora_" not in name),
            adapters=sum(p.numel() for name, p in weights if ".lora_" in name),
            learned=sum(p.numel() for _, p in weights if p.requires_grad),
            head=0 if head is None else head.numel(),
            head_learned=head is not None and head.requires_grad,
            layers=_heads(model) if causal else _encoder_heads(model),
        )

    def without_adapters(self) -> Arithmetic:
        """The same model with its adapters off, when nothing learns."""
        return Arithmetic(self.base, 0, 0, self.head, False, self.layers)

    def forward(self, first: Tensor, last: Tensor) -> float:
        """The trunk on tokens at places ``first`` ≤ p < ``last`` (int64 ``[B]``) of B sequences, whose earlier tokens
        are in a cache."""
        tokens = int((last - first).sum())
        return 2.0 * (self.base + self.adapters) * tokens + self._attention(first, last)

    def backward(self, lengths: Tensor) -> float:
        """The trunk's gradient on whole sequences of ``lengths`` ``[B]``; 0 where nothing learns."""
        if not self.learned:
            return 0.0
        first, tokens = torch.zeros_like(lengths), int(lengths.sum())
        products = 2.0 * (self.base + self.adapters + self.learned) * tokens
        return products + BACKWARD_OF_ATTENTION * self._attention(first, lengths)

    def head_forward(self, positions: int) -> float:
        """Logits at ``positions`` positions."""
        return 2.0 * self.head * positions

    def head_backward(self, positions: int) -> float:
        """Their gradient, to the states and, where it learns, to the head's weight."""
        return 2.0 * self.head * positions * (1 + self.head_learned)

    def scored(self, lengths: Tensor, positions: int) -> float:
        """A forward on whole sequences of ``lengths`` ``[B]``, with logits at ``positions`` positions."""
        return self.forward(torch.zeros_like(lengths), lengths) + self.head_forward(positions)

    def trained(self, lengths: Tensor, positions: int) -> float:
        """Forward and backward on whole sequences."""
        return self.scored(lengths, positions) + self.backward(lengths) + self.head_backward(positions)

    def _attention(self, first: Tensor, last: Tensor) -> float:
        found = {heads: heads.pairs(first, last) for heads in set(self.layers)}
        return float(sum(2 * heads.width * found[heads] for heads in self.layers))


@dataclass(frozen=True)
class _Seeing(PackedPlan):
    """A packed plan that notes what every layer attends with."""

    seen: dict[int, Heads] = field(default_factory=dict)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, spec: Spec, dropout: float) -> Tensor:
        self.seen[layer] = Heads(q.shape[1] * (q.shape[2] + v.shape[2]), spec.window)
        return super().attend(layer, q, k, v, spec, dropout)


@torch.no_grad()
def _heads(model: PreTrainedModel) -> tuple[Heads, ...]:
    """Asked of the layers themselves, with one token: families name these things differently in their configs."""
    plan, one = _Seeing(Packed(torch.tensor([1]))), torch.zeros(1, dtype=torch.int64)
    decoder_states(model, one, one, plan)
    return tuple(plan.seen[layer] for layer in sorted(plan.seen))


@dataclass(frozen=True)
class _All(Heads):
    """Attention without a mask."""

    def _below(self, n: Tensor) -> Tensor:
        return n * n


def _encoder_heads(model: PreTrainedModel) -> tuple[Heads, ...]:
    config = model.config.get_text_config()
    return tuple(_All(2 * config.hidden_size) for _ in range(config.num_hidden_layers))


@dataclass(frozen=True)
class Rates:
    """GFLOP per CPU second of matrix products: ``wide`` of many rows, ``decode`` of ``rows`` rows, as one new token per
    sequence makes them (0 rows: nothing is decoded, and ``decode`` is ``wide``)."""

    wide: float
    decode: float
    rows: int


def measured_rates(model: PreTrainedModel, precision: Precision, rows: int) -> Rates:
    """Measure products of the model's own width and number of weights, in the run's precision; 0.1 CPU s or so each.

    ``rows``: of decoding, 0 where there is none. The weights of its products take turns as layers do, so that they come
    from memory where the model's would.
    """
    width = int(model.config.get_text_config().hidden_size)
    weights = Arithmetic.of(model).base
    wide = gemm_rate(precision, WIDE_ROWS, width, 4 * 3 * width * width)
    if not rows:
        return Rates(wide, wide, 0)
    with decode_threads(width):
        decode = gemm_rate(precision, rows, width, weights)
    return Rates(wide, decode, rows)


@torch.no_grad()
def gemm_rate(precision: Precision, rows: int, width: int, weights: int, budget_s: float = PROBE_S) -> float:
    """GFLOP per CPU second of ``[rows, width] @ [width, 3 width]``, through about ``weights`` weights in turns: the
    fastest of several rounds."""
    count = max(1, min(weights, _MOST_WEIGHTS) // (3 * width * width))
    x = torch.full((rows, width), 0.5, dtype=precision.dtype)
    layers = [torch.full((3 * width, width), 0.5, dtype=precision.dtype) for _ in range(count)]
    again = max(1, math.ceil(1e8 / (6 * rows * width * width * count)))  # a round of at least 0.1 GFLOP can be timed
    out = torch.empty(rows, 3 * width, dtype=precision.dtype)
    best, spent, rounds = math.inf, 0.0, 0
    while rounds < 3 or spent < budget_s:
        began = time.process_time()
        for _ in range(again):
            for layer in layers:
                torch.mm(x, layer.T, out=out)
        took = time.process_time() - began
        spent, rounds = spent + took, rounds + 1
        if rounds > 1:  # the first one also wakes threads and compiles
            best = min(best, took)
    return 6.0 * rows * width * width * count * again / max(best, 1e-9) / 1e9
