"""Full forwards: padding changes nothing, the head is the model's own, temperature and soft caps count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from fixtures import VOCABULARY, gemma2, gpt2, llama, some_prompts
from tropism.engine import kernels
from tropism.engine.batch import TokenBatch
from tropism.engine.scoring import by_row, check_head, completion_scores, hidden_states, states_at, states_before
from tropism.errors import ModelError


def scored(model: nn.Module, batch: TokenBatch, temperature: float = 1.0) -> Any:
    with torch.no_grad():
        return completion_scores(model, batch, hidden_states(model, batch), temperature=temperature)


def lengths_and_completions(count: int) -> tuple[list[list[int]], list[list[int]]]:
    return some_prompts(count), [p[::-1] for p in some_prompts(count, longest=5, seed=1)]


@pytest.mark.parametrize("make", [llama, gpt2, gemma2])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_and_entropy_equal_the_models_own_forward_row_by_row(make: Any, temperature: float) -> None:
    model = make()
    prompts, completions = lengths_and_completions(7)
    batch = TokenBatch.of(prompts, completions)
    out = scored(model, batch, temperature)
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([p + c])).logits[0] / temperature
        own = logits.log_softmax(-1)[len(p) - 1 : -1]
        torch.testing.assert_close(
            out.logprobs[i, : len(c)], own.gather(1, torch.tensor(c)[:, None])[:, 0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(out.entropy[i, : len(c)], -(own.exp() * own).sum(-1), atol=1e-5, rtol=1e-5)
        assert (out.logprobs[i, len(c) :] == 0).all()
        assert (out.entropy[i, len(c) :] == 0).all()


@pytest.mark.parametrize("make", [llama, gpt2, gemma2])
def test_what_lies_in_the_padding_changes_nothing(make: Any) -> None:
    """Other pad ids (EOS, an ordinary word) leave every number as it is, to the last bit, and no NaN appears."""
    model = make()
    prompts, completions = lengths_and_completions(6)
    outs = [scored(model, TokenBatch.of(prompts, completions, pad)) for pad in (0, 2, VOCABULARY - 1)]
    assert torch.isfinite(outs[0].logprobs).all()
    for other in outs[1:]:
        assert torch.equal(outs[0].logprobs, other.logprobs)
        assert torch.equal(outs[0].entropy, other.entropy)


def test_more_padding_changes_nothing_in_fp32() -> None:
    model = llama()
    prompts, completions = lengths_and_completions(6)
    alone = scored(model, TokenBatch.of(prompts, completions))
    wide = scored(model, TokenBatch.of([*prompts, prompts[0]], [*completions, [5] * 30]))
    width = alone.logprobs.shape[1]
    torch.testing.assert_close(wide.logprobs[:-1, :width], alone.logprobs, atol=5e-6, rtol=0)


def test_gradients_do_not_leak_from_padding() -> None:
    """The gradient of a row's logprobs is the same with and without a longer neighbour."""
    grads = []
    for extra in ([], [[7] * 20]):
        model = llama()
        batch = TokenBatch.of([[1, 5], *([[1]] if extra else [])], [[6, 7, 2], *extra])
        out = completion_scores(model, batch, hidden_states(model, batch))
        out.logprobs[0].sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-5)


def test_states_before_and_at() -> None:
    batch = TokenBatch.of([[1, 5], [1]], [[6, 7], [8]])
    hidden = torch.arange(6 * 3).reshape(6, 3).float()  # 1 5 6 7, then 1 8
    assert torch.equal(states_before(hidden, batch), hidden[[1, 2, 4]])
    assert torch.equal(states_at(hidden, batch), hidden[[2, 3, 5]])
    assert by_row(hidden[[2, 3, 5], 0], batch).tolist() == [[6.0, 9.0], [15.0, 0.0]]


class ScalesItsLogits(LlamaForCausalLM):
    """As Cohere and Granite do: logits are multiplied after the head."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out


@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_check_head_refuses_a_model_that_scales_its_logits(scale: float) -> None:
    with pytest.raises(ModelError, match="ScalesItsLogits") as caught:
        check_head(llama(scale=scale, kind=ScalesItsLogits))
    assert "logits" in caught.value.fix


@pytest.mark.parametrize("make", [llama, gpt2, gemma2])
def test_check_head_passes_plain_tied_and_softcapped_models_and_keeps_their_mode(make: Any) -> None:
    model = make().train()
    check_head(model)
    assert model.training


def test_check_head_notices_a_missing_soft_cap() -> None:
    """The cap of the tiny Gemma-2 really bends its logits: a head without it would be refused."""
    model = gemma2()
    check_head(model)
    full = type(model).forward

    def uncapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = full(self, *args, **kwargs)
        cap = 2.0
        out.logits = cap * torch.atanh((out.logits / cap).clamp(-0.999999, 0.999999))
        return out

    model.forward = uncapped.__get__(model)
    with pytest.raises(ModelError, match="Gemma2ForCausalLM"):
        check_head(model)


def test_a_second_gradient_of_the_same_scores_is_refused_or_the_same() -> None:
    """The compiled kernel writes the gradient over the logits: a second pass must never read it as logits."""
    model = llama()
    batch = TokenBatch.of([[1, 5]], [[6, 7, 2]])
    states = hidden_states(model, batch).detach().requires_grad_(True)
    out = completion_scores(model, batch, states).logprobs.sum()
    (first,) = torch.autograd.grad(out, states, retain_graph=True)
    if kernels.library() is None:
        assert torch.equal(torch.autograd.grad(out, states)[0], first)
    else:
        with pytest.raises(RuntimeError, match="differentiated before"):
            torch.autograd.grad(out, states)
