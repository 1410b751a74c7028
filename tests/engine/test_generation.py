"""Sampling: greedy agrees with Hugging Face, the distribution is the model's, and nothing depends on the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from transformers import GenerationConfig

from fixtures import EOS, PAD, gemma2, gpt2, llama, some_prompts
from tropism.engine.generation import Generation, Sampling, generate, sample
from tropism.engine.scoring import completion_scores, hidden_states
from tropism.errors import DataError

ENDS = frozenset({EOS})


def run(model: nn.Module, prompts: list[list[int]], sampling: Sampling, seed: int = 1, ids: Any = None) -> Generation:
    ids = range(len(prompts)) if ids is None else ids
    return generate(model, prompts, sampling, seed=seed, sequence_ids=ids, policy_version="v1")


def forward_logprobs(model: nn.Module, out: Generation, temperature: float) -> torch.Tensor:
    batch = out.batch()
    with torch.no_grad():
        return completion_scores(model, batch, hidden_states(model, batch), temperature=temperature).logprobs


@pytest.mark.parametrize("make", [llama, gpt2, gemma2])
@pytest.mark.parametrize("ends", [frozenset({EOS}), frozenset({EOS, 9, 21, 40})])
def test_greedy_agrees_with_hugging_face_on_a_left_padded_batch(make: Any, ends: frozenset[int]) -> None:
    model, prompts = make(), some_prompts(12)
    ours = run(model, prompts, Sampling(12, ends, temperature=0.0))
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=sorted(ends), pad_token_id=PAD)
    theirs = model.generate(input_ids=ids, attention_mask=attention, generation_config=config)[:, width:].tolist()
    for mine, row in zip(ours.completions, theirs, strict=True):
        assert mine == row[: len(mine)]
        assert all(t == PAD for t in row[len(mine) :])


@pytest.mark.parametrize("make", [llama, gpt2, gemma2])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_rollout_logprobs_equal_a_full_forward(make: Any, temperature: float) -> None:
    model = make()
    out = run(model, some_prompts(24), Sampling(14, ENDS, temperature))
    torch.testing.assert_close(out.logprob_rows(), forward_logprobs(model, out, temperature), atol=1e-5, rtol=1e-5)
    assert out.policy_version == "v1"


def test_temperature_changes_what_is_drawn_and_its_logprobs() -> None:
    """Logprobs are those of the tempered distribution, not those at temperature 1."""
    model = llama()
    out = run(model, some_prompts(24), Sampling(14, ENDS, 0.5))
    assert (out.logprob_rows() - forward_logprobs(model, out, 1.0)).abs().max() > 0.1
    assert out.completions != run(model, some_prompts(24), Sampling(14, ENDS, 1.0)).completions


def test_same_seed_same_tokens_whatever_the_order_the_chunks_and_the_neighbours() -> None:
    model, prompts = llama(), some_prompts(30)
    ends = frozenset({EOS, 7, 8, 9, 10, 11, 12, 13})  # rows end early, so that finished rows leave the batch
    whole = run(model, prompts, Sampling(16, ends))
    assert 0 < sum(s == "eos" for s in whole.stops) < 30
    for rows in (1, 4, 7, 29):
        assert run(model, prompts, Sampling(16, ends, max_rows=rows)).completions == whole.completions
    order = np.random.default_rng(0).permutation(30).tolist()
    shuffled = run(model, [prompts[i] for i in order], Sampling(16, ends), ids=order)
    assert shuffled.completions == [whole.completions[i] for i in order]
    assert shuffled.stops == [whole.stops[i] for i in order]
    assert shuffled.prompts == [prompts[i] for i in order]
    some = run(model, prompts[10:13], Sampling(16, ends), ids=[10, 11, 12])
    assert some.completions == whole.completions[10:13]


def test_another_seed_or_another_sequence_id_gives_other_tokens() -> None:
    model, prompts = llama(), [[1, 5, 6]] * 8
    first = run(model, prompts, Sampling(12, ENDS))
    assert len({tuple(c) for c in first.completions}) > 4
    assert first.completions != run(model, prompts, Sampling(12, ENDS), seed=2).completions


def test_sampled_tokens_follow_the_models_distribution() -> None:
    """Chi-square of 4,000 first tokens against the exact distribution, at two temperatures."""
    model = llama(vocab_size=12, scale=0.5)
    prompt = [1, 5, 6]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    for temperature, seed in ((1.0, 3), (2.0, 4)):
        exact = torch.softmax(logits / temperature, -1).double().numpy()
        out = run(model, [prompt] * 4000, Sampling(1, ENDS, temperature, max_rows=4000), seed)
        counts = np.bincount([c[0] for c in out.completions], minlength=12)
        assert chisquare(counts, exact / exact.sum() * 4000).pvalue > 0.01
        wrong = torch.softmax(logits / (temperature * 1.5), -1).double().numpy()
        assert chisquare(counts, wrong / wrong.sum() * 4000).pvalue < 1e-6


def test_inverse_cdf_hits_every_interval_and_never_leaves_the_vocabulary() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log().repeat(5, 1)
    draws = torch.tensor([1e-12, 0.0999, 0.1001, 0.3001, 1 - 1e-16], dtype=torch.float64)
    tokens, logprobs = sample(logits, 1.0, draws)
    assert tokens.tolist() == [0, 0, 1, 2, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.1, 0.1, 0.2, 0.7, 0.7]))


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(1001, 1)
    tokens, logprobs = sample(logits, 1.0, torch.linspace(1e-12, 1 - 1e-12, 1001, dtype=torch.float64))
    assert set(tokens.tolist()) == {1, 3}
    assert torch.isfinite(logprobs).all()


def test_greedy_takes_the_mode_and_reports_its_logprob_at_temperature_one() -> None:
    tokens, logprobs = sample(torch.tensor([[0.2, 0.7, 0.1]]).log(), 0.0, torch.tensor([0.99], dtype=torch.float64))
    assert tokens.tolist() == [1]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.7]))


def test_stop_reasons_tell_a_finished_answer_from_a_cut_one() -> None:
    out = run(llama(), some_prompts(60), Sampling(8, frozenset({EOS, 9, 20, 33})))
    assert {"eos", "length"} == set(out.stops)
    for tokens, stop in zip(out.completions, out.stops, strict=True):
        ended = tokens[-1] in (EOS, 9, 20, 33)
        assert (stop == "eos") == ended
        assert stop == "eos" or len(tokens) == 8
        assert not set(tokens[:-1]) & {EOS, 9, 20, 33}


def test_eos_as_the_very_last_allowed_token_is_a_finished_answer() -> None:
    out = run(llama(), some_prompts(200), Sampling(3, frozenset(range(2, 20))))
    full = [(c, s) for c, s in zip(out.completions, out.stops, strict=True) if len(c) == 3]
    assert {s for c, s in full if 2 <= c[-1] < 20} == {"eos"}
    assert {s for c, s in full if not 2 <= c[-1] < 20} == {"length"}


def test_a_sampled_pad_id_does_not_cut_a_completion() -> None:
    """Greedy on a model that loves the pad id: it is a token like any other."""
    model = loves(PAD)
    out = run(model, some_prompts(5), Sampling(6, ENDS, temperature=0.0))
    assert out.completions == [[PAD] * 6] * 5
    assert out.stops == ["length"] * 5
    assert out.batch().mask.all()


def test_pad_equal_to_eos_ends_once_and_counts() -> None:
    """A model whose pad id is its EOS: the EOS it samples ends the completion, belongs to it and is scored."""
    model = llama(pad_token_id=EOS)
    out = run(model, some_prompts(60), Sampling(12, frozenset({EOS, 9})))
    ended = [c for c, s in zip(out.completions, out.stops, strict=True) if s == "eos"]
    assert any(c[-1] == EOS for c in ended)
    assert all(c.count(EOS) <= 1 for c in out.completions)
    torch.testing.assert_close(out.logprob_rows(), forward_logprobs(model, out, 1.0), atol=1e-5, rtol=1e-5)


def test_dropout_is_off_while_sampling_and_the_mode_comes_back() -> None:
    model, prompts = gpt2(dropout=0.5), some_prompts(16)
    quiet = run(model.eval(), prompts, Sampling(8, ENDS))
    assert not model.training
    noisy = run(model.train(), prompts, Sampling(8, ENDS))
    assert model.training
    assert noisy.completions == quiet.completions
    assert noisy.logprobs == quiet.logprobs


def test_the_mode_comes_back_after_an_error() -> None:
    model = gpt2().train()
    with pytest.raises(DataError):
        run(model, [[1], []], Sampling(4, ENDS))
    assert model.training


def test_a_prompt_longer_than_the_context_is_named() -> None:
    with pytest.raises(DataError, match=r"prompt 1 has 60 tokens; with 5 new ones .* context of 64") as caught:
        run(llama(), [[1, 5], [1] * 60], Sampling(5, ENDS))
    assert "max_new_tokens" in caught.value.fix
    assert len(run(llama(), [[1] * 59], Sampling(5, frozenset({EOS}))).completions[0]) <= 5


def test_an_empty_prompt_is_named() -> None:
    with pytest.raises(DataError, match="prompt 1 is empty"):
        run(llama(), [[1], []], Sampling(4, ENDS))


def loves(token: int) -> nn.Module:
    """A model whose most likely next token is always ``token``."""
    model = llama(scale=0.02)
    with torch.no_grad():
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, 0] = 50.0  # the first coordinate of every state is large and positive
        model.lm_head.weight[token, 0] = 5.0
    return model
