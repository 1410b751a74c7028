"""Compiled elementwise kernels against torch: values, gradients, awkward shapes, and the same for any threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.engine import kernels
from tropism.engine.kernels import build
from tropism.errors import DataError, ModelError

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")

TYPES = [torch.float32, torch.bfloat16]
# half a unit in the last place of bfloat16, twice: one rounding each in kernel and reference
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 9e-3}


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert got.isfinite().all()
    gap = (got.detach().double() - wanted.detach().double()).abs()
    assert float((gap / wanted.detach().abs().clamp(min=1.0)).max()) <= tolerance


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def llama_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    normed = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def gemma_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    normed = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    return (normed * (1.0 + weight.float())).to(x.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 256), (7, 2, 3, 20), (130, 515)])
@pytest.mark.parametrize("gemma", [False, True])
def test_rms_norm_and_its_gradient(dtype: torch.dtype, shape: tuple[int, ...], gemma: bool) -> None:
    x = draw(*shape, dtype=dtype, scale=3.0).requires_grad_()
    weight = (draw(shape[-1], seed=1) * 0.3 + (0.0 if gemma else 1.0)).to(dtype).requires_grad_()
    dy = draw(*shape, dtype=dtype, seed=2)
    options = {"offset": 1.0, "wide": True} if gemma else {}
    y = kernels.rms_norm(x, weight, 1e-5, **options)
    assert y.dtype == dtype
    got = torch.autograd.grad(y, (x, weight), dy)
    x32, weight32 = x.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    wanted = (gemma_norm if gemma else llama_norm)(x32, weight32, 1e-5)
    close(y, wanted, TOLERANCE[dtype] * (1 if gemma else 2))
    for mine, exact in zip(got, torch.autograd.grad(wanted, (x32, weight32), dy.float()), strict=True):
        assert mine.dtype == dtype
        close(mine, exact, TOLERANCE[dtype] * 4)  # sums over rows whose terms cancel
    with torch.no_grad():
        assert torch.equal(kernels.rms_norm(x, weight, 1e-5, **options), y)


def test_rms_norm_rounds_as_hugging_face_does() -> None:
    x, weight = draw(200, 256, dtype=torch.bfloat16), draw(256, dtype=torch.bfloat16, seed=1)
    for mine, theirs in (
        (kernels.rms_norm(x, weight, 1e-6), llama_norm(x, weight, 1e-6)),
        (kernels.rms_norm(x, weight, 1e-6, offset=1.0, wide=True), gemma_norm(x, weight, 1e-6)),
    ):
        # a last bit of the float32 mean may tip one rounding in a thousand
        assert float((mine != theirs).float().mean()) < 2e-3
    wide = kernels.rms_norm(x, weight, 1e-6, wide=True)
    assert float((wide != llama_norm(x, weight, 1e-6)).float().mean()) > 0.05  # so that the test can tell them apart


def test_strided_rows_are_read_in_place() -> None:
    fused = draw(40, 96)
    a, b = fused[:, :32], fused[:, 32:64]
    weight = draw(32, seed=1)
    assert torch.equal(kernels.rms_norm(a, weight, 1e-6), kernels.rms_norm(a.contiguous(), weight, 1e-6))
    assert torch.equal(kernels.gated(a, b, "silu"), kernels.gated(a.contiguous(), b.contiguous(), "silu"))
    turned = fused.t()[:64]  # no row is contiguous
    assert torch.equal(kernels.gated(turned, turned, "gelu"), kernels.gated(turned.clone(), turned.clone(), "gelu"))
    x = a.clone().requires_grad_()
    kernels.rms_norm(x, weight, 1e-6).sum().backward()  # the gradient from above is one number, expanded
    y = a.clone().requires_grad_()
    llama_norm(y, weight, 1e-6).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    close(x.grad, y.grad, 2e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("act", ["silu", "gelu_tanh", "gelu"])
def test_gated_activations_and_their_gradients(dtype: torch.dtype, act: kernels.Activation) -> None:
    reference = {"silu": F.silu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu}[act]
    spread = torch.cat([torch.linspace(-12, 12, 2000), torch.tensor([-1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4])])
    gate = spread.expand(3, -1).to(dtype).contiguous().requires_grad_()
    up = draw(*gate.shape, dtype=dtype, seed=1).requires_grad_()
    dy = draw(*gate.shape, dtype=dtype, seed=2)
    y = kernels.gated(gate, up, act)
    got = torch.autograd.grad(y, (gate, up), dy)
    gate64, up64 = gate.detach().double().requires_grad_(), up.detach().double().requires_grad_()
    wanted = reference(gate64) * up64
    close(y, wanted, TOLERANCE[dtype])
    for mine, exact in zip(got, torch.autograd.grad(wanted, (gate64, up64), dy.double()), strict=True):
        close(mine, exact, TOLERANCE[dtype] * 2)


def hf_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    half = torch.cat((-second, first), dim=-1)
    return torch.cat([turned * cos[:, None] + half * sin[:, None], rest], dim=-1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("d", "r"), [(8, 8), (20, 20), (32, 32), (80, 20), (128, 128), (6, 2)])
def test_rotary_and_its_gradient(dtype: torch.dtype, d: int, r: int) -> None:
    n, heads = 19, 3
    # as a projection gives them: [heads, n, d] in memory order n, heads, d and back
    x = draw(heads, n, d, dtype=dtype).transpose(0, 1).requires_grad_()
    angles = draw(n, r, seed=1, scale=3.0)  # the halves differ: the gradient must keep them apart
    cos, sin = angles.cos(), angles.sin()
    dy = draw(n, heads, d, dtype=dtype, seed=2)
    y = kernels.rotary(x, cos, sin)
    assert y.is_contiguous()
    (got,) = torch.autograd.grad(y, x, dy)
    x32 = x.detach().float().requires_grad_()
    wanted = hf_rotary(x32, cos, sin)
    close(y, wanted, TOLERANCE[dtype])
    close(got, torch.autograd.grad(wanted, x32, dy.float())[0], TOLERANCE[dtype])
    mine = x.detach().clone(memory_format=torch.preserve_format)
    assert kernels.rotary(mine, cos, sin, in_place=True) is mine
    assert torch.equal(mine, y)
    rounded = kernels.rotary(x.detach(), cos.to(dtype), sin.to(dtype))
    close(rounded, hf_rotary(x.detach(), cos.to(dtype), sin.to(dtype)), TOLERANCE[dtype] * 3)


def exact_stats(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scaled = logits.double() / temperature
    lse = scaled.logsumexp(-1)
    logp = scaled - lse[:, None]
    p = logp.exp()
    entropy = -(p * logp.masked_fill(p == 0, 0.0)).sum(-1)
    return logp.gather(1, targets[:, None]).squeeze(1), entropy, logp.amax(-1), lse


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocabulary", [1, 2, 63, 511, 513, 4096, 50257])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_softmax_stats_and_their_gradient(dtype: torch.dtype, vocabulary: int, temperature: float) -> None:
    n = 9
    logits = draw(n, vocabulary, dtype=dtype, scale=3.0)
    logits[1] = 0.0  # flat
    logits[2, vocabulary // 2] = 60.0  # all but certain
    logits[3] += 3e4  # far from zero
    targets = torch.arange(n) * 7919 % vocabulary
    targets[2] = vocabulary // 2
    stats = kernels.softmax_stats(logits, targets, temperature)
    for mine, exact in zip(stats, exact_stats(logits, targets, temperature), strict=True):
        assert float(((mine - exact).abs() / exact.abs().clamp(min=1.0))[torch.arange(n) != 3].max()) < 3e-6
        assert float((mine - exact).abs()[3]) < 3e-2  # float32 logits of 43,000 have steps of 4e-3
    leaf = logits.double().requires_grad_()
    logp, entropy, _, _ = exact_stats(leaf, targets, temperature)
    g_logp, g_entropy = draw(n, seed=3), draw(n, seed=4)
    (wanted,) = torch.autograd.grad(logp @ g_logp.double() + entropy @ g_entropy.double(), leaf)
    mine = kernels.softmax_stats_backward_(logits.clone(), targets, stats, g_logp, g_entropy, temperature)
    close(mine[torch.arange(n) != 3], wanted[torch.arange(n) != 3], TOLERANCE[dtype] * 2)
    alone = kernels.softmax_stats_backward_(logits.clone(), targets, stats, g_logp, None, temperature)
    (wanted,) = torch.autograd.grad(
        exact_stats(leaf, targets, temperature)[0] @ g_logp.double(), leaf, retain_graph=False
    )
    close(alone[torch.arange(n) != 3], wanted[torch.arange(n) != 3], TOLERANCE[dtype] * 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logits_of_minus_infinity_have_no_probability(temperature: float) -> None:
    logits = draw(4, 1200)
    logits[0, :1100] = -math.inf  # the first chunks have nothing
    logits[1, 1:] = -math.inf  # one token is certain
    logits[2, 100:] = -math.inf
    logits[3] = -math.inf  # no distribution at all
    targets = torch.tensor([1150, 0, 1199, 5])
    stats = kernels.softmax_stats(logits, targets, temperature)
    exact = exact_stats(logits, targets, temperature)
    for mine, wanted in zip(stats, exact, strict=True):
        assert torch.allclose(mine[:2].double(), wanted[:2], rtol=1e-5, atol=1e-6)
        assert mine[3].isnan()
    assert stats.logprobs[2] == -math.inf
    assert torch.allclose(stats.entropy[2].double(), exact[1][2], rtol=1e-5)
    g = torch.ones(3)
    grad = kernels.softmax_stats_backward_(logits[:3].clone(), targets[:3], kernels.SoftmaxStats(
        *(s[:3] for s in stats)), g, g, temperature)  # fmt: skip
    assert grad.isfinite().all()
    assert (grad[0, :1100] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_logit_is_told_by_nan(bad: float, dtype: torch.dtype) -> None:
    logits = draw(3, 1000, dtype=dtype)
    logits[0, 3], logits[2, 999] = bad, bad
    targets, ones = torch.tensor([0, 1, 2]), torch.ones(3)
    stats = kernels.softmax_stats(logits, targets)
    for values in stats:
        assert values.isnan().tolist() == [True, False, True]
    grad = kernels.softmax_stats_backward_(logits.clone(), targets, stats, ones)
    assert grad.isnan().any(-1).tolist() == [True, False, True]
    x = draw(4, 8, dtype=dtype)
    x[1, 2] = math.nan
    broken = [False, True, False, False]
    assert kernels.rms_norm(x, torch.ones(8, dtype=dtype), 1e-6).isnan().any(-1).tolist() == broken
    assert kernels.rotary(x[:, None], torch.ones(4, 8), torch.ones(4, 8)).isnan().any(-1).any(-1).tolist() == broken
    for act in ("silu", "gelu_tanh", "gelu"):
        assert kernels.gated(x, torch.ones_like(x), act).isnan().any(-1).tolist() == broken


def test_a_target_outside_the_vocabulary_is_an_error() -> None:
    for bad in (-1, 8):
        with pytest.raises(DataError, match="outside the vocabulary"):
            kernels.softmax_stats(draw(2, 8), torch.tensor([0, bad]))


def test_what_the_kernels_cannot_take_is_refused() -> None:
    x = draw(4, 8)
    for call in (
        lambda: kernels.rms_norm(x.double(), torch.ones(8, dtype=torch.float64), 1e-6),
        lambda: kernels.rms_norm(x, torch.ones(8, dtype=torch.bfloat16), 1e-6),
        lambda: kernels.rms_norm(x, torch.ones(9), 1e-6),
        lambda: kernels.gated(x, x[:, :4], "silu"),
        lambda: kernels.rotary(x.view(4, 1, 8), torch.ones(4, 7), torch.ones(4, 7)),
        lambda: kernels.rotary(x.view(4, 1, 8), torch.ones(3, 8), torch.ones(3, 8)),
        lambda: kernels.rotary(x.view(4, 1, 8).requires_grad_(), torch.ones(4, 8), torch.ones(4, 8), in_place=True),
        lambda: kernels.softmax_stats(x, torch.zeros(3, dtype=torch.int64)),
        lambda: kernels.softmax_stats(x, torch.zeros(4, dtype=torch.int32)),
        lambda: kernels.sample_rows(x, 1.0, torch.zeros(4)),
    ):
        with pytest.raises(ModelError):
            call()


def test_nothing_to_do_is_done() -> None:
    none = torch.empty(0, 8)
    assert kernels.rms_norm(none, torch.ones(8), 1e-6).shape == (0, 8)
    assert kernels.gated(none, none, "silu").shape == (0, 8)
    assert kernels.softmax_stats(none, torch.empty(0, dtype=torch.int64)).logprobs.shape == (0,)
    x, weight = none.clone().requires_grad_(), torch.ones(8, requires_grad=True)
    kernels.rms_norm(x, weight, 1e-6).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    def everything() -> list[Tensor]:
        x, weight = draw(700, 256, dtype=dtype).requires_grad_(), draw(256, dtype=dtype, seed=1).requires_grad_()
        y = kernels.rms_norm(x, weight, 1e-6)
        grads = torch.autograd.grad(y, (x, weight), draw(700, 256, dtype=dtype, seed=2))
        logits, targets = draw(64, 4096, dtype=dtype), torch.arange(64)
        stats = kernels.softmax_stats(logits, targets)
        back = kernels.softmax_stats_backward_(logits.clone(), targets, stats, torch.ones(64), torch.ones(64))
        tokens, logprobs = kernels.sample_rows(logits, 1.0, torch.linspace(0, 0.999, 64, dtype=torch.float64))
        turned = kernels.rotary(draw(700, 4, 64, dtype=dtype), draw(700, 64), draw(700, 64, seed=1))
        gated = kernels.gated(x.detach(), x.detach(), "gelu")
        return [y.detach(), *grads, *stats, back, tokens, logprobs, turned, gated]

    threads(1)
    one = everything()
    threads(3)
    for first, second in zip(one, everything(), strict=True):
        assert torch.equal(first, second)
