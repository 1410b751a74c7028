"""KL on a vocabulary of seven, enumerated: an expectation is an exact sum, and so are values and gradients.

A "sample" is every token once; its weight in the sum is the probability of drawing it.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tropism.errors import ContractError
from tropism.objectives import kl

V = 7
ALL = torch.ones(1, V, dtype=torch.bool)


def logits(seed: int) -> Tensor:
    return torch.randn(V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss_of_logits, theta: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    loss_of_logits(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def logp(theta: Tensor) -> Tensor:
    return torch.log_softmax(theta, -1)[None]


THETA, OLD, REF = logits(0), logits(1), logits(2)


def test_exact_kl_is_the_sum():
    p, q = torch.softmax(THETA, -1), torch.softmax(REF, -1)
    assert float(kl.exact_kl(THETA, REF)) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-14)
    assert float(kl.exact_kl(THETA, THETA)) == 0
    part = torch.tensor([0.3, -math.inf, 0.1], dtype=torch.float64, requires_grad=True)
    whole = torch.tensor([0.0, 0.5, 0.2], dtype=torch.float64)
    value = kl.exact_kl(part, whole)
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert torch.isfinite(part.grad).all()
    assert float(kl.exact_kl(whole, part.detach())) == math.inf


def test_k1_and_k3_estimate_the_exact_kl():
    p = torch.softmax(THETA, -1)
    exact = float(kl.exact_kl(THETA, REF))
    assert exact > 0.1
    assert float((p * kl.k1(logp(THETA), logp(REF), ALL)).sum()) == pytest.approx(exact, abs=1e-14)
    assert float((p * kl.k3(logp(THETA), logp(REF), ALL)).sum()) == pytest.approx(exact, abs=1e-14)
    assert (kl.k3(logp(THETA), logp(REF), ALL) >= 0).all()
    # k2 is biased: it is near only when the two are near
    near = REF + 0.05 * (THETA - REF)
    biased = float((torch.softmax(near, -1) * kl.k2(logp(near), logp(REF), ALL)).sum())
    assert biased == pytest.approx(float(kl.exact_kl(near, REF)), rel=0.05)


def test_kl_of_equal_policies_is_exactly_zero():
    for estimate in (kl.k1, kl.k2, kl.k3):
        assert float(estimate(logp(THETA), logp(THETA), ALL).abs().max()) == 0
    assert float(kl.kl_old_penalty(logp(THETA), logp(THETA), ALL, 1)) == 0
    assert float(kl.kl_ref_loss(logp(THETA), logp(THETA), ALL, 1)) == 0


def test_kl_old_penalty_has_the_value_and_gradient_of_the_exact_kl():
    old = torch.softmax(OLD, -1)[None]
    value = kl.kl_old_penalty(logp(THETA), logp(OLD), ALL, 1, weights=old)
    assert float(value) == pytest.approx(float(kl.exact_kl(OLD, THETA)), abs=1e-14)
    ours = gradient(lambda x: kl.kl_old_penalty(logp(x), logp(OLD), ALL, 1, weights=old), THETA)
    exact = gradient(lambda x: kl.exact_kl(OLD, x), THETA)
    assert torch.allclose(ours, exact, atol=1e-14)
    assert exact.abs().max() > 0.01


def test_kl_ref_loss_has_the_gradient_of_the_exact_kl():
    exact = gradient(lambda x: kl.exact_kl(x, REF), THETA)
    on_policy = torch.softmax(THETA, -1)[None]
    ours = gradient(lambda x: kl.kl_ref_loss(logp(x), logp(REF), ALL, 1, weights=on_policy), THETA)
    assert torch.allclose(ours, exact, atol=1e-14)
    # samples of an older policy: exact again with the ratio, wrong without
    old = torch.softmax(OLD, -1)[None]
    corrected = gradient(lambda x: kl.kl_ref_loss(logp(x), logp(REF), ALL, 1, logp(OLD), weights=old), THETA)
    assert torch.allclose(corrected, exact, atol=1e-14)
    plain = gradient(lambda x: kl.kl_ref_loss(logp(x), logp(REF), ALL, 1, weights=old), THETA)
    assert not torch.allclose(plain, exact, atol=1e-2)


def test_what_not_to_optimise():
    """k3 as a loss has the gradient of the other direction, and k1 as a loss has none: why ``kl_ref_loss`` is k2."""
    p = torch.softmax(THETA, -1)[None]
    exact = gradient(lambda x: kl.exact_kl(x, REF), THETA)
    k3_loss = gradient(lambda x: (p * kl.k3(logp(x), logp(REF), ALL)).sum(), THETA)
    reverse = gradient(lambda x: kl.exact_kl(REF, x), THETA)
    assert torch.allclose(k3_loss, reverse, atol=1e-14)
    assert not torch.allclose(k3_loss, exact, atol=1e-2)
    k1_loss = gradient(lambda x: (p * kl.k1(logp(x), logp(REF), ALL)).sum(), THETA)
    assert k1_loss.abs().max() < 1e-14


def policy_gradient(reward: Tensor) -> Tensor:
    """E_θ[reward ∇log π], exactly."""
    p = torch.softmax(THETA, -1)
    return gradient(lambda x: (p * reward * torch.log_softmax(x, -1)).sum(), THETA)


def test_kl_ref_reward_has_the_policy_gradient_of_the_exact_kl():
    exact = gradient(lambda x: kl.exact_kl(x, REF), THETA)
    penalty = kl.kl_ref_reward(logp(THETA).requires_grad_(), logp(REF), ALL, 1.0)
    assert not penalty.requires_grad
    assert torch.allclose(policy_gradient(penalty[0]), -exact, atol=1e-14)


def test_sequence_kl_is_the_sum_of_token_kls_over_two_steps():
    """Two tokens whose second depends on the first, all V² sequences: per-token k1 sums to the sequence's KL."""
    g = torch.Generator().manual_seed(5)
    second = torch.randn(V, V, generator=g, dtype=torch.float64), torch.randn(V, V, generator=g, dtype=torch.float64)
    own = torch.log_softmax(THETA, -1)[:, None], torch.log_softmax(second[0], -1)
    ref = torch.log_softmax(REF, -1)[:, None], torch.log_softmax(second[1], -1)
    tokens = [torch.stack([a.expand(V, V).reshape(-1), b.reshape(-1)], 1) for a, b in (own, ref)]
    probability = tokens[0].sum(1).exp()
    estimate = (probability * kl.k1(tokens[0], tokens[1], torch.ones_like(tokens[0], dtype=torch.bool)).sum(1)).sum()
    exact = kl.exact_kl(THETA, REF) + (torch.softmax(THETA, -1) * kl.exact_kl(second[0], second[1])).sum()
    assert float(estimate) == pytest.approx(float(exact), abs=1e-13)


def test_adaptive_kl_controller():
    controller = kl.AdaptiveKL(target=6.0, coef=0.2)
    assert controller.update(6.0) == pytest.approx(0.2)
    assert controller.update(6.6) == pytest.approx(0.2 * (1 + 0.1 * 0.1))  # error 0.1, within the clip
    assert controller.update(60.0) == pytest.approx(0.2 * 1.01 * 1.02)  # error clipped to 0.2
    assert controller.update(0.0) == pytest.approx(0.2 * 1.01 * 1.02 * 0.98)
    other = kl.AdaptiveKL(target=1.0, coef=1.0)
    other.load_state_dict(controller.state_dict())
    assert other.update(3.0) == controller.update(3.0)
    with pytest.raises(ContractError, match="nan"):
        controller.update(math.nan)
    with pytest.raises(ContractError, match="target -1"):
        kl.AdaptiveKL(target=-1, coef=0.1)
