"""Operations by arithmetic: against models counted by hand, and against torch's own counter on a forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fixtures import BF16, FP32, VOCABULARY, gemma2, gpt2, llama
from tropism.engine.adapters import LoraSettings, add_lora
from tropism.engine.floor import Arithmetic, Heads, gemm_rate, measured_rates

# one layer of the fixtures' Llama (width 32, MLP 64): q, k, v and o, then gate, up and down
LAYER = 4 * 32 * 32 + 3 * 32 * 64
HEAD = 32 * VOCABULARY


def lengths(*given: int) -> torch.Tensor:
    return torch.tensor(given)


def test_a_llama_counted_by_hand() -> None:
    found = Arithmetic.of(llama())
    assert (found.base, found.adapters, found.learned, found.head) == (2 * LAYER, 0, 2 * LAYER, HEAD)
    # two sequences of 3 and 5 tokens: 6 + 15 visible pairs, 4 · 32 operations each, in two layers
    attention = 2 * 4 * 32 * (6 + 15)
    forward = 2 * 2 * LAYER * 8 + attention + 2 * HEAD * 4
    assert found.scored(lengths(3, 5), 4) == forward
    assert found.trained(lengths(3, 5), 4) == 3 * (forward - attention) + 3.5 * attention


def test_a_token_behind_a_cache_sees_all_before() -> None:
    found = Arithmetic.of(llama())
    whole, zero = lengths(4, 9), lengths(0, 0)
    apart = found.forward(zero, whole) + found.forward(whole, whole + 3)
    assert apart == found.forward(zero, whole + 3)
    assert found.forward(lengths(9), lengths(10)) == 2 * 2 * LAYER + 2 * 4 * 32 * 10
    assert found.forward(whole, whole) == 0


def test_grouped_queries_have_smaller_products_and_the_same_attention() -> None:
    many, few = Arithmetic.of(llama()), Arithmetic.of(llama(num_key_value_heads=1))
    assert many.base - few.base == 2 * 2 * (32 - 8) * 32  # two layers, k and v
    assert many.layers == few.layers


def test_a_tied_head_is_a_product_and_an_embedding_is_none() -> None:
    tied, own = (Arithmetic.of(llama(tie_word_embeddings=tie)) for tie in (True, False))
    assert tied == own


def test_a_window_hides_what_is_behind_it() -> None:
    windowed, full = Arithmetic.of(gemma2()).layers
    assert (windowed.window, full.window) == (4, None)
    for first, last in ((0, 3), (0, 4), (0, 9), (2, 6), (6, 9)):
        counted = sum(min(p + 1, 4) for p in range(first, last))
        assert Heads(1, 4).pairs(lengths(first), lengths(last)) == counted


def test_frozen_weights_cost_no_gradient_of_their_own() -> None:
    model = llama()
    whole = Arithmetic.of(model)
    add_lora(model, LoraSettings(rank=4), seed=0)
    adapted = Arithmetic.of(model)
    small = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))  # A and B of seven products in two layers
    assert (adapted.base, adapted.adapters, adapted.learned) == (whole.base, small, small)
    assert not adapted.head_learned
    n = lengths(5)
    pairs = 2 * 4 * 32 * 15
    assert adapted.backward(n) == (2 * (whole.base + small) + 2 * small) * 5 + 2.5 * pairs
    assert adapted.head_backward(5) == 2 * HEAD * 5
    assert adapted.without_adapters().scored(n, 5) == whole.scored(n, 5)
    frozen = Arithmetic.of(llama().requires_grad_(False))
    assert frozen.backward(n) == 0


@pytest.mark.parametrize(
    "make", [llama, lambda: llama(num_key_value_heads=2), gpt2, gemma2], ids=["llama", "grouped", "gpt2", "gemma2"]
)
def test_torch_counts_the_same_products(make: Any) -> None:
    model = make()
    model.set_attn_implementation("eager")
    found, tokens = Arithmetic.of(model), 7
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.full((1, tokens), 5), use_cache=False)
    n = lengths(tokens)
    # the counter sees the hidden half of the square too
    attention = sum(2 * layer.width * tokens**2 for layer in found.layers)
    products = 2 * found.base * tokens + found.head_forward(tokens)
    assert counter.get_total_flops() == products + attention
    assert products < found.scored(n, tokens) < products + attention


def test_rates_are_of_this_machine_and_grow_with_the_rows() -> None:
    wide = gemm_rate(FP32, 512, 64, 0, budget_s=0.02)
    one = gemm_rate(FP32, 1, 64, 0, budget_s=0.02)
    assert 0.01 < one < wide < 1e5
    rates = measured_rates(llama(), BF16, 3)
    assert rates.rows == 3
    assert 0 < rates.decode < rates.wide
    none = measured_rates(llama(), BF16, 0)
    assert (none.rows, none.decode) == (0, none.wide)
