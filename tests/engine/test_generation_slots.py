"""Sampling where rows end unevenly, waiting prompts take freed rows, and completions share a prompt: nothing of it
shows in the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from families import FAMILIES, KINDS
from fixtures import AUTOCAST, BF16, EOS, FP32, PAD, VOCABULARY, llama, some_prompts
from tropism.engine import attention, generation
from tropism.engine.generation import Generation, LocalGenerator, Sampling, generate
from tropism.engine.working import Working
from tropism.errors import DataError, ModelError
from tropism.runtime.precision import Precision

ENDS = frozenset({EOS, 9, 21, 40})
LIMITS = tuple(1 + (i * 11) % 24 for i in range(24))
UNEVEN = Sampling(24, ENDS, max_rows=5, limits=LIMITS)
PROMPTS = some_prompts(24, longest=14)
family = pytest.mark.parametrize("name", FAMILIES)
full_or_lora = pytest.mark.parametrize("how", KINDS)


@pytest.fixture(params=["kernels", "torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiled attention and without it."""
    if request.param == "torch":
        monkeypatch.setattr(attention.compiled, "takes", lambda q: False)


def drawn(
    model: nn.Module, sampling: Sampling, prompts: Any = PROMPTS, ids: Any = None, precision: Precision = FP32
) -> Generation:
    ids = range(len(prompts)) if ids is None else ids
    return generate(model, prompts, sampling, seed=3, sequence_ids=ids, policy_version="v", precision=precision)


def own_logprobs(model: Any, out: Generation) -> Tensor:
    """log π of every sampled token by the model's own forward, row by row, without this engine."""
    rows = torch.zeros(out.logprob_rows().shape)
    for i, (prompt, made) in enumerate(zip(out.prompts, out.completions, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + made])).logits[0].float().log_softmax(-1)
        rows[i, : len(made)] = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(made)[:, None])[:, 0]
    return rows


@full_or_lora
@family
def test_refilled_rows_of_uneven_lengths_are_the_models_own(name: str, how: str) -> None:
    model = KINDS[how](name)
    out = drawn(model, UNEVEN)
    assert all(1 <= len(c) <= limit for c, limit in zip(out.completions, LIMITS, strict=True))
    assert max(len(p) + len(c) for p, c in zip(PROMPTS, out.completions, strict=True)) > 20
    assert {"eos", "length"} == set(out.stops)
    for made, limit, stop in zip(out.completions, LIMITS, out.stops, strict=True):
        assert (stop == "eos") == (made[-1] in ENDS)
        assert stop == "eos" or len(made) == limit
    assert float((out.logprob_rows() - own_logprobs(model, out)).abs().max()) < 1e-4


@family
def test_several_completions_of_one_prompt_are_the_models_own(name: str) -> None:
    """Six of each of four prompts, whose prompts run once, in rows that are refilled; each as if it were alone."""
    model = FAMILIES[name]()
    prompts = [p for p in PROMPTS[8:12] for _ in range(6)]
    sampling = Sampling(20, ENDS, max_rows=7)
    out = drawn(model, sampling, prompts)
    assert float((out.logprob_rows() - own_logprobs(model, out)).abs().max()) < 1e-4
    assert all(len({tuple(c) for c in out.completions[i : i + 6]}) > 1 for i in (0, 6, 12, 18))
    alone = [drawn(model, sampling, [p], [i]).completions[0] for i, p in enumerate(prompts)]
    assert out.completions == alone


@family
def test_the_same_sequence_ids_give_the_same_tokens(name: str) -> None:
    """Whatever the order, the company, the number of rows and the limits; a lower limit only cuts."""
    model = FAMILIES[name]()
    free = replace(UNEVEN, limits=None, max_rows=24)
    whole = drawn(model, free)
    for rows in (1, 3, 8, 23, 100):
        other = drawn(model, replace(free, max_rows=rows))
        assert (other.completions, other.stops) == (whole.completions, whole.stops)
    order = np.random.default_rng(1).permutation(24).tolist()
    shuffled = drawn(model, replace(free, max_rows=5), [PROMPTS[i] for i in order], order)
    assert shuffled.completions == [whole.completions[i] for i in order]
    cut = drawn(model, UNEVEN)
    assert cut.completions == [c[:limit] for c, limit in zip(whole.completions, LIMITS, strict=True)]
    assert any(len(c) < len(w) for c, w in zip(cut.completions, whole.completions, strict=True))


@full_or_lora
@family
def test_greedy_from_refilled_rows_equals_generate_of_transformers(name: str, how: str) -> None:
    model = KINDS[how](name)
    out = drawn(model, replace(UNEVEN, temperature=0.0))
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    config = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=sorted(ENDS), pad_token_id=PAD)
    theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    for made, row, limit in zip(out.completions, theirs, LIMITS, strict=True):
        assert made == row[: len(made)]
        assert len(made) == limit or made[-1] in ENDS


@pytest.mark.parametrize("precision", [AUTOCAST, BF16], ids=lambda p: p.name)
def test_in_low_precision_a_run_is_made_again_bit_for_bit(precision: Precision) -> None:
    model = llama()
    first, again = (drawn(model, UNEVEN, precision=precision) for _ in range(2))
    assert first == again
    gap = (first.logprob_rows() - own_logprobs(model, first)).abs()
    assert 0 < float(gap.mean()) < 0.05


def test_a_prompt_of_huge_states_leaves_no_trace_in_the_row_it_frees() -> None:
    """Its keys and values stand behind those of the next sequence in that row, and are not seen."""
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[VOCABULARY - 1] = 1e9
    clean = [[t % (VOCABULARY - 1) for t in p] for p in PROMPTS]
    long = [VOCABULARY - 1] * 13
    sampling = Sampling(9, ENDS, max_rows=2, limits=(*[2] * 6, *[9] * 24))
    mixed = drawn(model, sampling, [long[:1]] * 3 + [long] * 3 + clean, [*range(100, 106), *range(24)])
    assert mixed.completions[6:] == drawn(model, replace(sampling, limits=None), clean).completions


def test_limits_of_nothing_and_beyond_the_most() -> None:
    out = drawn(llama(), Sampling(4, frozenset(), limits=(0, 99, 2)), PROMPTS[:3])
    assert [len(c) for c in out.completions] == [0, 4, 2]
    assert out.stops == ["length"] * 3
    free = drawn(llama(), Sampling(4, frozenset()), PROMPTS[:3]).completions
    assert out.completions == [[], free[1], free[2][:2]]
    assert drawn(llama(), Sampling(4, ENDS), []).completions == []


def test_a_wrong_number_of_limits_is_named() -> None:
    with pytest.raises(DataError, match="2 limits for 3 prompts") as caught:
        drawn(llama(), Sampling(4, ENDS, limits=(1, 2)), PROMPTS[:3])
    assert "one limit per prompt" in caught.value.fix


@pytest.mark.parametrize("precision", [FP32, BF16], ids=lambda p: p.name)
def test_no_version_no_generation(precision: Precision) -> None:
    """A generator that was never told which weights it has refuses; told, it samples from the weights as they are."""
    model = llama()
    generator = LocalGenerator(Working(model, precision))
    with pytest.raises(ModelError, match="no version") as caught:
        generator.generate(PROMPTS, UNEVEN, seed=3, sequence_ids=range(24))
    assert "update_weights" in caught.value.fix
    generator.update_weights("one")
    first = generator.generate(PROMPTS, UNEVEN, seed=3, sequence_ids=range(24))
    assert first.policy_version == "one"
    with torch.no_grad():
        for parameter, other in zip(model.parameters(), llama(1).parameters(), strict=True):
            parameter.copy_(other)
    generator.update_weights("two")
    second = generator.generate(PROMPTS, UNEVEN, seed=3, sequence_ids=range(24))
    assert second == replace(drawn(llama(1), UNEVEN, precision=precision), policy_version="two")
    assert second.completions != first.completions


def test_the_cache_has_room_for_so_many_tokens_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = llama(), []

    class Noted(attention.KVCache):
        def __init__(self, rows: int, capacity: int) -> None:
            made.append((rows, capacity))
            super().__init__(rows, capacity)

    sampling = replace(UNEVEN, max_rows=24)
    monkeypatch.setattr(generation, "KVCache", Noted)
    whole = drawn(model, sampling)
    monkeypatch.setattr(generation, "CACHE_TOKENS", 3 * made[0][1])
    assert drawn(model, sampling).completions == whole.completions
    assert [rows for rows, _ in made] == [24, 3]
