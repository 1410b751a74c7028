"""Full forwards of a causal language model on packed tokens: hidden states, log-probabilities, entropies.

Only completion tokens go through the head, and the softmax of a large block is never in memory in fp32 as a whole.
Sampling temperature T means T in every log-probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tropism.engine import kernels
from tropism.engine.attention import PackedPlan, check_attention, decoder_states
from tropism.engine.batch import TokenBatch
from tropism.errors import ModelError

KEPT_LOGITS = 1 << 26
"""Logits that are kept from the forward to the backward pass; a larger block is computed again, piece by piece."""
BLOCK = 1 << 21
"""Logits whose fp32 softmax is in memory at once."""


@dataclass(frozen=True)
class CompletionScores:
    """Per completion token ``[B, C]``; padded entries are 0. ``below_top`` is log p(token) − max log p, detached."""

    logprobs: Tensor
    entropy: Tensor
    below_top: Tensor


def hidden_states(model: PreTrainedModel, batch: TokenBatch, rows: Tensor | None = None) -> Tensor:
    """Last hidden states ``[N, H]`` (after the final norm) of the batch's tokens, packed, or of ``rows`` of them alone,
    ``[n, H]``, which costs less."""
    layout = batch.packed
    return decoder_states(model, batch.packed_ids(), layout.positions, PackedPlan(layout), rows)


def predicting_states(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The states that predict each of the n completion tokens, ``[n, H]``, row by row."""
    return hidden_states(model, batch, batch.completion_places - 1)


def states_before(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """The states that predict each of the n completion tokens, ``[n, H]``: position (token's own − 1)."""
    return hidden.index_select(0, batch.completion_places - 1)


def states_at(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """The states at each completion token itself, ``[n, H]``."""
    return hidden.index_select(0, batch.completion_places)


def head_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Logits ``[n, V]`` of states ``[n, H]`` in the dtype of the head's product; in fp32 where the model caps them."""
    logits: Tensor = model.get_output_embeddings()(states)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits.float() / cap) if cap else logits


def token_scores(
    model: PreTrainedModel, states: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """log π(target), entropy and log π(target) − max log π (detached), each fp32 ``[n]``, of states ``[n, H]``.
    Differentiable."""
    rows = max(1, KEPT_LOGITS // model.get_output_embeddings().weight.shape[0])

    def piece(part: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made: tuple[Tensor, Tensor, Tensor] = _LogitScores.apply(head_logits(model, part), chosen, temperature)
        return made

    if len(states) <= rows:
        return piece(states, targets)
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    again = torch.is_grad_enabled()
    made = [checkpoint(piece, *p, use_reentrant=False) if again else piece(*p) for p in pieces]
    logprobs, entropy, below = (torch.cat(column) for column in zip(*made, strict=True))
    return logprobs, entropy, below


def completion_scores(
    model: PreTrainedModel, batch: TokenBatch, hidden: Tensor, *, temperature: float = 1.0
) -> CompletionScores:
    """log π(token) and entropy of every completion token, from the batch's packed hidden states. Differentiable."""
    return scores_from(model, batch, states_before(hidden, batch), temperature=temperature)


def scores_from(
    model: PreTrainedModel, batch: TokenBatch, states: Tensor, *, temperature: float = 1.0
) -> CompletionScores:
    """:func:`completion_scores` from :func:`predicting_states` ``[n, H]``."""
    targets = batch.packed_ids()[batch.completion_places]
    found = token_scores(model, states, targets, temperature)
    return CompletionScores(*(by_row(x, batch) for x in found))


def by_row(values: Tensor, batch: TokenBatch) -> Tensor:
    """Values of the n completion tokens laid out ``[B, C]``, 0 where padded."""
    zeros = torch.zeros(batch.mask.shape, dtype=values.dtype)
    return zeros.masked_scatter(batch.mask, values)


class _LogitScores(torch.autograd.Function):
    """Log-probability of the target, entropy H, and log-probability below the top, from logits ``[n, V]``.

    ∂ log p_t/∂z = (onehot − p)/T and ∂H/∂z = −p (log p + H)/T, written over the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.temperature, ctx.stats, ctx.spent = temperature, None, False
        if kernels.library() is not None:
            ctx.stats = kernels.softmax_stats(logits, targets, temperature)
            ctx.save_for_backward(logits, targets)
            below = ctx.stats.logprobs - ctx.stats.max_logprobs
            ctx.mark_non_differentiable(below)
            return ctx.stats.logprobs.clone(), ctx.stats.entropy.clone(), below
        logprobs, entropy, below = (torch.empty(len(logits)) for _ in range(3))
        for rows in _rows(logits):
            distribution = torch.log_softmax(_scaled(logits[rows], temperature), -1)
            logprobs[rows] = distribution.gather(1, targets[rows, None])[:, 0]
            below[rows] = logprobs[rows] - distribution.amax(-1)
            p = distribution.exp()
            # an excluded token has p = 0 and log p = −inf; their product is 0
            entropy[rows] = -(p * distribution.clamp(min=-1e30)).sum(-1)
        ctx.save_for_backward(logits, targets, entropy)
        ctx.mark_non_differentiable(below)
        return logprobs, entropy, below

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        if ctx.stats is not None:
            if ctx.spent:
                raise RuntimeError(
                    "these log-probabilities were differentiated before: the gradient is over the logits"
                )
            ctx.spent = True
            logits, targets = ctx.saved_tensors
            ups = (grad_logprobs, grad_entropy)  # over the logits, which nothing else reads any more
            return kernels.softmax_stats_backward_(logits, targets, ctx.stats, *ups, ctx.temperature), None, None
        logits, targets, entropy = ctx.saved_tensors
        made = torch.empty_like(logits)
        bonus = bool(grad_entropy.any())
        for rows in _rows(logits):
            distribution = torch.log_softmax(_scaled(logits[rows], ctx.temperature), -1)
            p, up = distribution.exp(), grad_logprobs[rows, None] / ctx.temperature
            grad = p * -up
            grad.scatter_add_(1, targets[rows, None], up)
            if bonus:
                spread = distribution.clamp_(min=-1e30).add_(entropy[rows, None]).mul_(p)
                grad -= spread * (grad_entropy[rows, None] / ctx.temperature)
            made[rows] = grad.to(logits.dtype)
        return made, None, None


def _rows(logits: Tensor) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, logits.shape[1]))
    return (slice(i, i + step) for i in range(0, len(logits), step))


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose own logits differ from decoder + output embeddings (+ soft cap), as this engine computes
    them: packed, through its own attention.

    Raises ModelError naming the model. Run once when a policy is loaded.
    """
    was_training = model.training
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = [[(i * 7 + 3) % vocabulary for i in range(first, 9)] for first in (0, 4)]
    batch = TokenBatch.of([r[:1] for r in rows], [r[1:] for r in rows])
    own = torch.cat([model(input_ids=torch.tensor([r]), use_cache=False).logits[0].float() for r in rows])
    check_attention(model)
    ours = head_logits(model, hidden_states(model, batch)).float()
    model.train(was_training)
    worst = float((own - ours).abs().max())
    limit = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
    if not worst <= limit * max(1.0, float(own.abs().max())):
        raise ModelError(
            f"{type(model).__name__}: its logits differ by {worst:.3g} from hidden states times output embeddings",
            "this model transforms its logits or its attention in a way the engine does not know; use another model",
        )
