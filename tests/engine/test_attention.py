"""Attention in torch against a plain masked softmax, the plans around it, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES
from fixtures import llama
from tropism.engine import attention_torch
from tropism.engine.attention import KVCache, PackedPlan, PrefillPlan, Spec, attending, check_attention, decoder_states
from tropism.engine.batch import Packed
from tropism.errors import ModelError

LENGTHS = [7, 1, 12, 3, 11, 5]
KINDS = pytest.mark.parametrize(("window", "cap"), [(None, None), (4, None), (None, 2.0), (3, 1.5), (1, None)])
HEADS = pytest.mark.parametrize("groups", [1, 2, 4])


def tensors(groups: int) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(sum(LENGTHS), heads, 8, requires_grad=True) for heads in (4, groups, groups)]


def plain(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, cap: float | None) -> Tensor:
    """Sequence by sequence and head by head, by the definition, in float64."""
    rows, share = [], q.shape[1] // k.shape[1]
    for a, b, c in zip(*(x.double().split(LENGTHS) for x in (q, k, v)), strict=True):
        heads = []
        for head in range(q.shape[1]):
            s = a[:, head] @ b[:, head // share].T * scale
            s = s if cap is None else cap * torch.tanh(s / cap)
            i, j = torch.meshgrid(torch.arange(len(a)), torch.arange(len(a)), indexing="ij")
            seen = (j <= i) if window is None else (j <= i) & (j > i - window)
            heads.append(s.masked_fill(~seen, -torch.inf).softmax(-1) @ c[:, head // share])
        rows.append(torch.stack(heads, 1))
    return torch.cat(rows)


@HEADS
@KINDS
@pytest.mark.parametrize("block", [1 << 22, 200, 60, 1])
def test_packed_attention_and_its_gradient_are_those_of_a_plain_softmax(
    monkeypatch: pytest.MonkeyPatch, groups: int, window: int | None, cap: float | None, block: int
) -> None:
    """Whole, and in blocks of a few queries or of one."""
    monkeypatch.setattr(attention_torch, "BLOCK", block)
    given, weight = tensors(groups), torch.randn(sum(LENGTHS), 4, 8)
    ours = attention_torch.packed(*given, Packed(torch.tensor(LENGTHS)), 0.3, window, cap)
    grads = torch.autograd.grad((ours * weight).sum(), given)
    expected = plain(*given, 0.3, window, cap)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad((expected * weight).sum(), given)
    for mine, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@HEADS
@KINDS
def test_decoding_against_a_cache_is_the_last_row_of_the_packed_one(
    groups: int, window: int | None, cap: float | None
) -> None:
    """Rows of uneven lengths; behind a row's end the cache holds what an earlier row left there."""
    q, k, v = (x.detach() for x in tensors(groups))
    layout, lengths = Packed(torch.tensor(LENGTHS)), torch.tensor(LENGTHS) - 1
    keys, values = (torch.full((8, groups, 16, 8), 1e4) for _ in range(2))
    for row, (a, b) in enumerate(zip(k.split(LENGTHS), v.split(LENGTHS), strict=True)):
        keys[row, :, : len(a)], values[row, :, : len(b)] = a.transpose(0, 1), b.transpose(0, 1)
    last = layout.starts[1:] - 1
    ours = attention_torch.decode(q[last], keys, values, lengths, max(LENGTHS), 0.3, window, cap)
    torch.testing.assert_close(ours.double(), plain(q, k, v, 0.3, window, cap)[last], atol=1e-5, rtol=1e-5)


def test_dropout_is_right_on_average_and_a_function_of_the_seed() -> None:
    q, k, v = (x.detach() for x in tensors(2))
    layout = Packed(torch.tensor(LENGTHS))

    def drawn(seed: int, rate: float = 0.3) -> Tensor:
        torch.manual_seed(seed)
        return attention_torch.packed_with_dropout(q, k, v, layout, 0.3, 4, None, rate)

    exact = plain(q, k, v, 0.3, 4, None)
    torch.testing.assert_close(drawn(0, 0.0).double(), exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.allclose(drawn(1), drawn(2))
    draws = torch.stack([drawn(seed) for seed in range(600)]).double()
    error = (draws.mean(0) - exact) / (draws.std(0) / 600**0.5)
    assert float(error.pow(2).mean()) == pytest.approx(1.0, abs=0.25)  # standard errors, and no bias beyond them
    first = layout.starts[:-1]  # a first token sees itself alone: it is dropped or raised by 1/(1 − rate)
    kept = draws[:, first, 0] / v[first, 0].double()
    assert set(kept.round(decimals=3).unique().tolist()) == {0.0, round(1 / 0.7, 3)}


def test_one_prompt_fills_several_rows_of_a_cache() -> None:
    cache = KVCache(5, 12)
    plan = PrefillPlan(Packed(torch.tensor([3, 2])), cache, torch.tensor([4, 0, 2]), torch.tensor([0, 1, 0]))
    x = torch.arange(5.0)[:, None, None].expand(5, 2, 4) + 1
    plan.attend(0, x, x, x, Spec(1.0), 0.0)
    assert cache.keys[0][:, 1, :4, 0].tolist() == [[4, 5, 0, 0], [0] * 4, [1, 2, 3, 0], [0] * 4, [1, 2, 3, 0]]
    assert torch.equal(cache.keys[0], cache.values[0])
    cache.move(torch.tensor([4]), torch.tensor([1]), 3)
    assert torch.equal(cache.keys[0][1], cache.keys[0][4])


def test_outside_the_block_the_model_is_as_it_was() -> None:
    """Also after an error inside it."""
    model, ids = llama(), torch.arange(5)
    own = model.config._attn_implementation
    before = model(input_ids=ids[None]).logits
    plan = PackedPlan(Packed(torch.tensor([5])))
    with attending(model, plan):
        assert model.config._attn_implementation != own
    with pytest.raises(RuntimeError, match="inside"), attending(model, plan):
        raise RuntimeError("inside")
    decoder_states(model, ids, ids, plan)
    assert model.config._attn_implementation == own
    assert torch.equal(model(input_ids=ids[None]).logits, before)


def test_without_a_plan_the_registered_function_refuses() -> None:
    model = llama()
    model.config._attn_implementation = "tropism"
    with pytest.raises(ModelError, match="without a plan") as caught:
        model(input_ids=torch.arange(5)[None])
    assert "decoder_states" in caught.value.fix


class SelfMade(nn.Module):
    """An attention that never asks the registry."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.o = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, **more: Any) -> tuple[Tensor, None]:
        return self.o(hidden_states.cumsum(1)), None


def test_a_layer_that_attends_by_itself_is_refused() -> None:
    model = llama()
    check_attention(model)
    model.model.layers[1].self_attn = SelfMade(32)
    with pytest.raises(ModelError, match="LlamaForCausalLM: 1 of 2 layers attend through this engine") as caught:
        check_attention(model)
    assert "Llama" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "set_to", "said"),
    [
        ("layer_types", ["full_attention", "chunked_attention"], "layer 1 of LlamaForCausalLM is of kind chunked"),
        ("layer_types", ["sliding_attention", "full_attention"], "layer 0 of LlamaForCausalLM has a window of which"),
        ("attention_chunk_size", 8, "LlamaForCausalLM attends in chunks"),
    ],
)
def test_layers_of_another_kind_are_refused(name: str, set_to: Any, said: str) -> None:
    model = llama()
    setattr(model.config, name, set_to)
    with pytest.raises(ModelError, match=said) as caught:
        check_attention(model)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("extra", "said"),
    [({"s_aux": torch.zeros(4)}, "s_aux"), ({"position_bias": 0.5}, "position_bias"), ({"is_causal": False}, "mask")],
)
def test_what_a_model_asks_of_its_attention_beyond_this_engine_is_refused(extra: dict[str, Any], said: str) -> None:
    """Attention sinks, biases, seeing the future: named, and not left out in silence."""
    model = llama()
    attention = model.model.layers[0].self_attn
    forward = type(attention).forward
    attention.forward = lambda **given: forward(attention, **given, **extra)
    with pytest.raises(ModelError, match=rf"LlamaAttention.*{said}") as caught:
        check_attention(model)
    assert caught.value.fix


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_attends_through_this_engine(name: str) -> None:
    check_attention(FAMILIES[name]())
