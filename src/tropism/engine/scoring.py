"""Full forwards of a causal language model: hidden states, completion log-probabilities, entropies.

The head is applied on completion positions only. Sampling temperature T means T in every log-probability. Left out
here: packing and fused heads, which belong to the fast engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engine.batch import TokenBatch
from tropism.errors import ModelError


@dataclass(frozen=True)
class CompletionScores:
    """Per completion token ``[B, C]``; padded entries are 0. ``below_top`` is log p(token) − max log p, detached."""

    logprobs: Tensor
    entropy: Tensor
    below_top: Tensor


def hidden_states(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Last hidden states ``[B, T, H]`` (after the final norm). Right-padded causal rows need no attention mask."""
    return model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state


def states_before(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """The states that predict each completion token, ``[B, C, H]``: position (token's own − 1)."""
    index = (batch.completion_positions() - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)


def states_at(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """The states at each completion token itself, ``[B, C, H]``."""
    index = batch.completion_positions().unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)


def head_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """fp32 logits ``[n, V]`` of states ``[n, H]``, with the model's final soft cap where it has one."""
    logits = model.get_output_embeddings()(states).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def completion_scores(
    model: PreTrainedModel, batch: TokenBatch, hidden: Tensor, *, temperature: float = 1.0, entropy: bool = True
) -> CompletionScores:
    """log π(token) and entropy of every completion token, from hidden states ``[B, T, H]`` of the same batch.

    Differentiable. Only the valid tokens go through the head.
    """
    mask = batch.mask
    states = states_before(hidden, batch)[mask]
    targets = batch.completion_ids()[mask]
    logits = head_logits(model, states)
    distribution = torch.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=-1)
    taken = distribution.gather(1, targets[:, None]).squeeze(1)
    zeros = torch.zeros(mask.shape, dtype=torch.float32)
    logprobs = zeros.masked_scatter(mask, taken)
    if not entropy:
        return CompletionScores(logprobs, zeros, zeros)
    entropies = zeros.masked_scatter(mask, -(distribution.exp() * distribution).sum(-1))
    below = zeros.masked_scatter(mask, (taken - distribution.amax(-1)).detach())
    return CompletionScores(logprobs, entropies, below)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose own logits differ from decoder + output embeddings (+ soft cap), as this engine computes
    them.

    Raises ModelError naming the model. Run once when a policy is loaded.
    """
    was_training = model.training
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(8)[None, :] * 7 + 3) % vocabulary
    lengths = torch.tensor([8])
    batch = TokenBatch(ids, lengths, torch.zeros_like(lengths))
    own = model(input_ids=ids, use_cache=False).logits.float()
    ours = head_logits(model, hidden_states(model, batch)[0])
    model.train(was_training)
    worst = float((own[0] - ours).abs().max())
    limit = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
    if not worst <= limit * max(1.0, float(own.abs().max())):
        raise ModelError(
            f"{type(model).__name__}: its logits differ by {worst:.3g} from hidden states times output embeddings",
            "this model transforms its logits in a way the engine does not know; use another model",
        )
