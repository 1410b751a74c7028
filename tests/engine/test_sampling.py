"""The sampler: the exact distribution on both paths, the same tokens from the same draws, and the extremes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from tropism.engine import kernels
from tropism.engine.kernels import build
from tropism.engine.sampling import sample, sample_two_level

Sampler = Callable[[Tensor, float, Tensor], tuple[Tensor, Tensor]]
compiled = pytest.param(
    kernels.sample_rows,
    id="compiled",
    marks=pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler"),
)
both = pytest.mark.parametrize("sampler", [pytest.param(sample_two_level, id="torch"), compiled])
TOP = 1.0 - 2.0**-53  # the largest uniform number below 1


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


def logits_of(kind: str, vocabulary: int) -> Tensor:
    if kind == "flat":
        return torch.zeros(vocabulary)
    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(3))
    return -1.1 * torch.log1p(order.float())  # Zipf, in no order


def p_value(tokens: Tensor, probabilities: Tensor) -> float:
    """Chi-square over bins of the vocabulary that expect at least ten draws each; rare tokens share bins."""
    expected = probabilities.numpy() * len(tokens)
    seen = np.bincount(tokens.numpy(), minlength=len(expected)).astype(float)
    order = np.argsort(-expected, kind="stable")
    bins = np.minimum(np.floor(np.cumsum(expected[order]) / 10), np.floor(len(tokens) / 10) - 1).astype(int)
    kept, places = np.unique(bins, return_inverse=True)
    wanted = np.bincount(places, weights=expected[order], minlength=len(kept))
    return float(chisquare(np.bincount(places, weights=seen[order], minlength=len(kept)), wanted).pvalue)


@both
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["flat", "zipf"])
@pytest.mark.parametrize(("vocabulary", "draws"), [(11, 20_000), (150, 20_000), (4096, 40_000), (32_768, 10_000)])
def test_the_distribution_is_exact(
    sampler: Sampler, vocabulary: int, draws: int, kind: str, temperature: float
) -> None:
    logits = logits_of(kind, vocabulary)
    exact = torch.softmax(logits.double() / temperature, -1)
    rows = max(16, 2**19 // vocabulary)
    many = logits.expand(rows, -1).contiguous()
    drawn = [sampler(many[: len(part)], temperature, part) for part in uniforms(draws, seed=vocabulary).split(rows)]
    tokens, logprobs = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert p_value(tokens, exact) > 1e-3
    assert torch.allclose(logprobs.double(), exact[tokens].log(), rtol=1e-6, atol=2e-6)
    # the test sees a distribution that is a little off
    assert p_value(tokens, torch.softmax(logits.double() / temperature + torch.linspace(0, 1, vocabulary), -1)) < 1e-3


@both
@pytest.mark.parametrize("vocabulary", [1, 2, 63, 64, 65, 1000, 4096, 70_001])
def test_tokens_are_those_of_the_inverse_cdf(sampler: Sampler, vocabulary: int) -> None:
    logits = torch.randn(300, vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    draws = uniforms(300)
    tokens, logprobs = sampler(logits, 0.9, draws)
    cdf = torch.softmax(logits.double() / 0.9, -1).cumsum(-1)
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    above = cdf.gather(1, tokens[:, None]).squeeze(1)
    below = torch.where(tokens > 0, cdf.gather(1, (tokens - 1).clamp(min=0)[:, None]).squeeze(1), 0.0)
    # a draw lies in its token's interval, but for the float32 sums of the blocks
    assert (draws < above + 1e-6).all()
    assert (draws > below - 1e-6).all()
    exact = torch.log_softmax(logits.double() / 0.9, -1).gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(logprobs.double(), exact, rtol=1e-6, atol=2e-6)


@pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [97, 4096, 32_768])
def test_both_paths_draw_the_same_tokens(vocabulary: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(1000, vocabulary, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    draws = uniforms(1000, seed=5)
    for temperature in (0.0, 0.7, 1.0):
        mine, mine_logp = kernels.sample_rows(logits, temperature, draws)
        theirs, theirs_logp = sample_two_level(logits, temperature, draws)
        same = mine == theirs
        assert int((~same).sum()) <= (0 if temperature == 0.0 else 2)
        assert torch.allclose(mine_logp[same], theirs_logp[same], rtol=1e-6, atol=3e-6)


@both
def test_the_draw_decides_alone_whatever_the_other_rows(sampler: Sampler) -> None:
    logits = torch.randn(40, 500, generator=torch.Generator().manual_seed(4))
    draws = uniforms(40)
    tokens, logprobs = sampler(logits, 1.0, draws)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    again, again_logprobs = sampler(logits[order], 1.0, draws[order])
    assert torch.equal(again, tokens[order])
    assert torch.equal(again_logprobs, logprobs[order])
    alone = sampler(logits[7:8], 1.0, draws[7:8])
    assert alone[0].item() == tokens[7].item()
    assert alone[1].item() == logprobs[7].item()


@both
@pytest.mark.parametrize("vocabulary", [1, 2, 64, 65, 200, 4096, 70_001])
def test_extreme_draws_stay_inside(sampler: Sampler, vocabulary: int) -> None:
    draws = torch.tensor([0.0, TOP, 0.5], dtype=torch.float64)
    tokens, logprobs = sampler(torch.zeros(3, vocabulary), 1.0, draws)
    assert tokens.tolist() == [0, vocabulary - 1, vocabulary // 2]
    assert torch.allclose(logprobs, torch.tensor(-math.log(vocabulary)), atol=1e-6)


@both
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_of_no_probability_are_never_chosen(sampler: Sampler, temperature: float) -> None:
    vocabulary = 300
    allowed = torch.zeros(vocabulary, dtype=torch.bool)
    allowed[[70, 71, 131, 258]] = True  # neither the first nor the last token or block
    row = torch.where(allowed, torch.linspace(-1, 1, vocabulary), -math.inf)
    draws = torch.cat([torch.tensor([0.0, TOP], dtype=torch.float64), uniforms(500)])
    tokens, logprobs = sampler(row.expand(len(draws), -1).contiguous(), temperature, draws)
    assert allowed[tokens].all()
    assert tokens[:2].tolist() == [70, 258]
    exact = torch.log_softmax(row.double() / temperature, -1)[tokens]
    assert torch.allclose(logprobs.double(), exact, rtol=1e-6, atol=1e-6)
    # probabilities that underflow are as good as none
    low = torch.full((vocabulary,), -1000.0)
    low[131] = 0.0
    tokens, logprobs = sampler(low.expand(len(draws), -1).contiguous(), temperature, draws)
    assert (tokens == 131).all()
    assert (logprobs == 0).all()


@both
def test_greedy_takes_the_first_of_the_likeliest_at_temperature_one(sampler: Sampler) -> None:
    logits = torch.randn(50, 333, generator=torch.Generator().manual_seed(6))
    logits[0, [100, 200]] = 9.0
    logits[1] = 0.0
    logits[2, :] = -math.inf
    logits[2, 332] = -5.0
    tokens, logprobs = sampler(logits, 0.0, uniforms(50))
    assert torch.equal(tokens[2:], logits[2:].argmax(-1))
    assert tokens[:2].tolist() == [100, 0]
    exact = torch.log_softmax(logits.double(), -1).gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(logprobs.double(), exact, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.0, 2.0])
def test_rows_that_are_no_distribution_are_told_by_nan(sampler: Sampler, temperature: float) -> None:
    logits = torch.zeros(5, 100)
    logits[0, 50] = math.nan
    logits[1] = -math.inf
    logits[2] = math.nan
    logits[3, 70] = math.inf
    tokens, logprobs = sampler(logits, temperature, uniforms(5))
    assert ((tokens >= 0) & (tokens < 100)).all()
    assert logprobs.isnan().tolist() == [True, True, True, True, False]


@both
def test_large_logits_do_not_overflow(sampler: Sampler) -> None:
    logits = torch.tensor([[3e38, 0.0, -3e38], [88.0, 89.0, 90.0], [-3e4, -3e4, -3e4]])
    tokens, logprobs = sampler(logits, 1.0, torch.tensor([0.9, 0.0, 0.5], dtype=torch.float64))
    assert tokens.tolist() == [0, 0, 1]
    exact = torch.log_softmax(logits.double(), -1).gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(logprobs.double(), exact, atol=1e-6)


def test_the_public_sampler_takes_the_compiled_path_where_there_is_one() -> None:
    logits, draws = torch.randn(20, 700, generator=torch.Generator().manual_seed(8)), uniforms(20)
    expected = sample_two_level if kernels.library() is None else kernels.sample_rows
    tokens, logprobs = sample(logits, 1.0, draws)
    wanted_tokens, wanted_logprobs = expected(logits, 1.0, draws)
    assert torch.equal(tokens, wanted_tokens)
    assert torch.equal(logprobs, wanted_logprobs)
    # another type goes through torch whatever was compiled
    assert torch.equal(sample(logits.half(), 1.0, draws)[0], sample_two_level(logits.half(), 1.0, draws)[0])


@both
def test_rows_of_a_wider_tensor(sampler: Sampler) -> None:
    wide = torch.randn(6, 3, 130, generator=torch.Generator().manual_seed(9))
    draws = uniforms(6)
    got = sampler(wide[:, 1], 1.0, draws)
    assert torch.equal(got[0], sampler(wide[:, 1].contiguous(), 1.0, draws)[0])
    turned = wide[:, 1].t().contiguous().t()
    assert torch.equal(got[1], sampler(turned, 1.0, draws)[1])
    assert sampler(wide[:0, 1], 1.0, draws[:0])[0].shape == (0,)
