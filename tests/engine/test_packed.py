"""Packed sequences against the models' own padded forward: equal logits, equal gradients, and no way from one sequence
into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES, KINDS
from fixtures import VOCABULARY, some_prompts
from tropism.engine import attention
from tropism.engine.attention import PackedPlan, decoder_states
from tropism.engine.batch import Packed, TokenBatch
from tropism.engine.scoring import completion_scores, head_logits, hidden_states

family = pytest.mark.parametrize("name", FAMILIES)
full_or_lora = pytest.mark.parametrize("how", KINDS)
CAPPED = ("gemma2",)
"""Those that transformers computes rightly with its eager attention only."""
SENTINEL = VOCABULARY - 1


@pytest.fixture(params=["kernels", "torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiled attention and without it."""
    if request.param == "torch":
        monkeypatch.setattr(attention.compiled, "takes", lambda q: False)


def batch_of() -> TokenBatch:
    """Ten rows of 2 to 30 tokens, beyond every window, the sentinel's token in none."""
    prompts = [[t % SENTINEL for t in p] for p in some_prompts(10, longest=10, seed=4)]
    return TokenBatch.of(prompts, [[4 + (i * 7 + j * 3) % 50 for j in range(1 + 2 * i)] for i in range(10)])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def padded_loss(model: Any, batch: TokenBatch, weight: Tensor) -> Tensor:
    """Σ weight · log π(token) by the model's own forward of rows padded on the right, with an explicit mask."""
    places = torch.arange(batch.ids.shape[1])[None]
    mask = (places < batch.lengths[:, None]).long()
    positions = places.expand_as(batch.ids)
    logits = model(input_ids=batch.ids, attention_mask=mask, position_ids=positions, use_cache=False).logits.float()
    logprobs = logits.log_softmax(-1)[:, :-1].gather(2, batch.ids[:, 1:, None])[:, :, 0]
    chosen = (places[:, 1:] >= batch.prompt_lengths[:, None]) & (places[:, 1:] < batch.lengths[:, None])
    return (logprobs[chosen] * weight).sum()


@full_or_lora
@family
@pytest.mark.parametrize("own", ["eager", "sdpa"])
def test_gradients_of_all_parameters_are_those_of_the_padded_forward(name: str, how: str, own: str) -> None:
    if own == "sdpa" and name in CAPPED:
        pytest.skip("transformers drops the soft cap of attention under sdpa")
    batch = batch_of()
    torch.manual_seed(0)
    weight = torch.randn(int(batch.completion_lengths.sum()))
    packed, padded = KINDS[how](name), KINDS[how](name, attn_implementation=own)
    assert padded.config._attn_implementation == own
    ours = (completion_scores(packed, batch, hidden_states(packed, batch)).logprobs[batch.mask] * weight).sum()
    ours.backward()
    expected = padded_loss(padded, batch, weight)
    expected.backward()
    assert float((ours - expected).detach().abs()) < 1e-3
    mine, theirs = gradients(packed), gradients(padded)
    assert mine.keys() == theirs.keys()
    assert mine.keys() == {n for n, p in packed.named_parameters() if p.requires_grad}
    norm = torch.cat([g.flatten() for g in theirs.values()]).norm()
    gap = torch.cat([(mine[n] - theirs[n]).flatten() for n in theirs]).norm()
    assert float(gap / norm) < 1e-5
    for key in theirs:  # the small ones too
        assert float((mine[key] - theirs[key]).norm()) < 1e-4 * float(theirs[key].norm()) + 1e-6 * float(norm), key


def disturbed(name: str, how: str, lengths: Sequence[int], row: int, value: float | None) -> Any:
    """(logits of all rows but one, gradients of their sum) where every second token of that row is the sentinel, whose
    embedding holds ``value`` (None: what it is)."""
    model = KINDS[how](name, tie_word_embeddings=False)
    if value is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight[SENTINEL] = value
    model.get_input_embeddings().weight.requires_grad_(True)
    layout = Packed(torch.tensor(lengths))
    ids = torch.arange(sum(lengths)) * 7 % 50 + 4
    start, end = int(layout.starts[row]), int(layout.starts[row + 1])
    ids[start:end:2] = SENTINEL
    others = torch.ones(len(ids), dtype=torch.bool)
    others[start:end] = False
    ids[others] = ids[others] % 29 + 4  # words that the disturbed row has not
    ids[start + 1 : end : 2] = 40
    logits = head_logits(model, decoder_states(model, ids, layout.positions, PackedPlan(layout))[others])
    logits.float().log_softmax(-1)[:, 7].sum().backward()
    return logits.detach(), gradients(model), model.get_input_embeddings().weight.grad


@full_or_lora
@family
@pytest.mark.parametrize("row", [0, 2, 4])
def test_trap_22_a_sentinel_in_one_sequence_changes_no_other(name: str, how: str, row: int) -> None:
    """1e9: no bit of a logit and no bit of a gradient. NaN: no bit of a logit and none of the gradient that the other
    sequences' tokens get (what is summed over all tokens, the weights, takes in the row's own NaN)."""
    lengths = (9, 12, 10, 3, 20)
    embedding = "transformer.wte.weight" if name == "gpt2" else "model.embed_tokens.weight"
    logits, grads, embedded = disturbed(name, how, lengths, row, None)
    assert float(embedded[4:33].abs().max()) > 0
    # what no norm has scaled overflows in the row itself, and 0 · ∞ is in every sum over tokens
    huge = 1e4 if name == "olmo2" else 1e9
    for value in (huge, float("nan")):
        after, moved, rows = disturbed(name, how, lengths, row, value)
        assert torch.equal(after, logits)
        assert torch.equal(rows[4:33], embedded[4:33])
        if value == huge:
            assert moved.keys() == grads.keys()
            for key in grads.keys() - {embedding}:
                assert torch.equal(moved[key], grads[key]), key
            others = torch.arange(VOCABULARY) != SENTINEL  # its own embedding may get 0 · ∞
            assert torch.equal(rows[others], embedded[others])


@family
def test_the_company_of_a_sequence_does_not_matter(name: str) -> None:
    """Each row alone, all together, and in another order: the same log-probabilities in fp32."""
    model, batch = FAMILIES[name](), batch_of()
    with torch.no_grad():
        whole = completion_scores(model, batch, hidden_states(model, batch)).logprobs
        order = torch.tensor([7, 2, 9, 0, 5, 1, 8, 3, 6, 4])
        other = batch.select(order)
        shuffled = completion_scores(model, other, hidden_states(model, other)).logprobs
        torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)
        for i in range(len(batch)):
            alone = batch.select(torch.tensor([i]))
            scores = completion_scores(model, alone, hidden_states(model, alone)).logprobs
            torch.testing.assert_close(scores[0], whole[i, : alone.width], atol=1e-5, rtol=0)
