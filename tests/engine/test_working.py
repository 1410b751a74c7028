"""The bf16 copy a model runs as: its gradients are sums in the fp32 masters, and it follows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES, KINDS, adapted
from fixtures import AUTOCAST, BF16, FP32, gpt2, llama, some_prompts
from tropism.engine.batch import TokenBatch
from tropism.engine.scoring import completion_scores, hidden_states
from tropism.engine.working import Working


def batch_of(seed: int) -> TokenBatch:
    return TokenBatch.of(some_prompts(6, seed=seed), [[5 + (i * 7 + j) % 50 for j in range(3 + i)] for i in range(6)])


def backward(working: Working, batch: TokenBatch) -> Tensor:
    with working.running():
        scores = completion_scores(working.model, batch, hidden_states(working.model, batch)).logprobs
    scores.sum().backward()
    return scores.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", [FP32, AUTOCAST], ids=lambda p: p.name)
def test_in_fp32_and_under_autocast_the_model_is_its_own_master(precision: Any) -> None:
    model = llama()
    assert Working(model, precision).model is model


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_the_copy_arrive_in_the_masters(name: str, how: str) -> None:
    """In the direction of the fp32 gradient, within what bf16 keeps; the copy has none left."""
    exact, model = KINDS[how](name), KINDS[how](name)
    backward(Working(exact), batch_of(0))
    working = Working(model, BF16)
    assert {p.dtype for p in working.model.parameters()} == {torch.bfloat16}
    backward(working, batch_of(0))
    ours, expected = gradients(model), gradients(exact)
    assert ours.keys() == expected.keys()
    assert {g.dtype for g in ours.values()} == {torch.float32}
    assert all(p.grad is None for p in working.model.parameters())
    a, b = (torch.cat([g.flatten() for _, g in sorted(found.items())]) for found in (ours, expected))
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.99
    assert float(a.norm() / b.norm()) == pytest.approx(1.0, abs=0.05)


def test_micro_batches_are_summed_in_fp32() -> None:
    """The masters' gradient is the fp32 sum of the parts' gradients, bit for bit: a sum in bf16 would round it."""
    model = llama()
    working = Working(model, BF16)
    expected: dict[str, Tensor] = {}
    for seed in range(4):
        model.zero_grad()
        backward(working, batch_of(seed))
        for name, grad in gradients(model).items():
            expected[name] = expected[name] + grad if seed else grad
    model.zero_grad()
    for seed in range(4):
        backward(working, batch_of(seed))
    for name, grad in gradients(model).items():
        assert torch.equal(grad, expected[name])
    assert any((g != g.to(torch.bfloat16).float()).any() for g in expected.values())


@pytest.mark.parametrize("make", [llama, gpt2, lambda: adapted("qwen2")])
def test_after_a_step_and_refresh_the_copy_is_the_masters_rounded(make: Any) -> None:
    model = make()
    working = Working(model, BF16)
    before = backward(working, batch_of(0))
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05).step()
    stale = backward(working, batch_of(0))
    assert torch.equal(stale, before)  # until it is told
    working.refresh()
    assert not torch.equal(backward(working, batch_of(0)), before)
    for (name, mine), own in zip(working.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, own.to(torch.bfloat16)), name
        assert mine.requires_grad == own.requires_grad
    assert torch.equal(backward(working, batch_of(1)), backward(Working(model, BF16), batch_of(1)))


def test_tied_weights_stay_tied() -> None:
    model = FAMILIES["qwen2"]()
    working = Working(model, BF16)
    assert working.model.lm_head.weight is working.model.get_input_embeddings().weight
    assert working.model.lm_head.weight is not model.lm_head.weight
    backward(working, batch_of(0))  # the embedding's and the head's share arrive in the one master
    alone = gradients(model)["model.embed_tokens.weight"]
    model.zero_grad()
    exact = FAMILIES["qwen2"]()
    backward(Working(exact), batch_of(0))
    expected = gradients(exact)["model.embed_tokens.weight"]
    assert float((alone - expected).norm() / expected.norm()) < 0.1
    free = FAMILIES["qwen2"](tie_word_embeddings=False)
    free.load_state_dict(exact.state_dict())
    backward(Working(free), batch_of(0))
    for share in ("model.embed_tokens.weight", "lm_head.weight"):  # one of the two would not do
        assert float((gradients(free)[share] - expected).norm() / expected.norm()) > 0.2


def test_exact_parameters_are_the_masters_own() -> None:
    """A head kept in fp32 is one tensor for both: no copy, no rounding, its gradient exact and there once."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    torch.manual_seed(0)
    master = Headed()
    working = Working(master, BF16, exact=("head.weight", "head.bias"))
    assert working.model.head.weight is master.head.weight
    assert working.model.trunk.weight.dtype == torch.bfloat16
    x = torch.randn(5, 4)
    for _ in range(2):
        working.model.head(working.model.trunk(x.bfloat16()).float()).sum().backward()
    assert master.head.bias.grad is not None
    assert float(master.head.bias.grad) == 10.0
    assert master.trunk.weight.grad is not None
    before = master.head.weight.detach().clone()
    with torch.no_grad():
        master.head.weight.add_(1.0)
    working.refresh()
    torch.testing.assert_close(working.model.head.weight.detach(), before + 1.0)


def test_buffers_and_frozen_parameters() -> None:
    """Rotary frequencies keep fp32 (in bf16 late positions would turn wrongly); what is frozen gets no gradient."""
    model = llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    working = Working(model, BF16)
    assert working.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(working.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    backward(working, batch_of(0))
    assert model.model.embed_tokens.weight.grad is None
    assert not working.model.model.embed_tokens.weight.requires_grad


def test_making_a_copy_changes_nothing_of_the_master() -> None:
    model = gpt2().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    working = Working(model, BF16)
    assert working.model.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert tensor.dtype == before[key].dtype
