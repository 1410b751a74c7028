"""PPO's terms: three tokens by hand, finite differences of what is optimised, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tropism.errors import ContractError
from tropism.objectives import kl, policy
from tropism.objectives.masks import length_weights

F64 = torch.float64


def finite_difference(f: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-6) -> Tensor:
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        grad.view(-1)[i] = (f(up) - f(down)) / (2 * step)
    return grad


def autograd(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    f(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def rollout(seed: int = 0, rows: int = 4, length: int = 5) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(rows, length, generator=g, dtype=F64)

    lengths = torch.randint(0, length + 1, (rows,), generator=g)
    lengths[0] = length
    old = -draw().abs() - 0.1
    return {
        "old": old,
        "new": old + 0.4 * draw(),
        "ref": old + 0.4 * draw(),
        "advantages": draw(),
        "values": draw(),
        "old_values": draw(),
        "returns": draw(),
        "mask": torch.arange(length) < lengths[:, None],
    }


# three tokens by hand: ratios 1.1, 1.5, 0.5 at advantages 2, 1, -1, clip range 0.2
OLD = torch.log(torch.tensor([[0.5, 0.4, 0.8]], dtype=F64))
NEW = torch.log(torch.tensor([[0.55, 0.6, 0.4]], dtype=F64))
ADVANTAGES = torch.tensor([[2.0, 1.0, -1.0]], dtype=F64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_clipped_surrogate_by_hand():
    terms = policy.clipped_surrogate(NEW, OLD, ADVANTAGES, ALL, 0.2, 3)
    # token 1 inside the range: 1.1 · 2; token 2 clipped at 1.2 · 1; token 3: min(0.5 · -1, 0.8 · -1) = -0.8
    assert float(terms.loss) == pytest.approx(-(2.2 + 1.2 - 0.8) / 3, abs=1e-12)
    assert terms.clipped.tolist() == [[False, True, True]]
    assert int(terms.clip_fraction_sum) == 2
    assert float(terms.ratio_sum) == pytest.approx(3.1, abs=1e-12)
    grad = policy.clipped_surrogate_grad(NEW, OLD, ADVANTAGES, ALL, 0.2, 3)
    assert grad[0].tolist() == pytest.approx([-2.2 / 3, 0.0, 0.0], abs=1e-12)


def test_the_clip_binds_only_where_it_lowers_the_objective():
    # far above the range with a negative advantage must still be pushed down, far below with a positive one up
    terms = policy.clipped_surrogate(NEW[:, 1:], OLD[:, 1:], -ADVANTAGES[:, 1:], ALL[:, 1:], 0.2, 2)
    assert terms.clipped.tolist() == [[False, False]]
    assert float(terms.loss) == pytest.approx(-(1.5 * -1 + 0.5 * 1) / 2, abs=1e-12)


def test_value_loss_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0]], dtype=F64)
    old = torch.tensor([[1.0, 1.0, 3.5]], dtype=F64)
    returns = torch.tensor([[2.0, 3.0, 1.0]], dtype=F64)
    plain = policy.value_loss(values, old, returns, ALL, 3)
    assert float(plain.loss) == pytest.approx((1 + 1 + 4) / 3, abs=1e-12)
    # range 0.25 in units of a deviation of 2: token 2 moved by 1 > 0.5, V_clip = 1.5, (1.5 - 3)² = 2.25 > 1: it binds
    # token 3 moved by -0.5, which is within the range
    clipped = policy.value_loss(values, old, returns, ALL, 3, clip_range=0.25, return_deviation=2.0)
    assert float(clipped.loss) == pytest.approx((1 + 2.25 + 4) / 3, abs=1e-12)
    assert int(clipped.clip_fraction_sum) == 1
    grad = policy.value_loss_grad(values, old, returns, ALL, 3, clip_range=0.25, return_deviation=2.0)
    assert grad[0].tolist() == pytest.approx([-2 / 3, 0.0, 4 / 3], abs=1e-12)


def test_value_clipping_needs_the_deviation():
    r = rollout()
    with pytest.raises(ContractError, match="return_deviation"):
        policy.value_loss(r["values"], r["old_values"], r["returns"], r["mask"], 3, clip_range=0.2)


def test_kl_penalties_entropy_and_sft_by_hand():
    ratio = torch.tensor([1.1, 1.5, 0.5], dtype=F64)
    expected = float((ratio - 1 - ratio.log()).sum()) / 3
    assert float(kl.kl_old_penalty(NEW, OLD, ALL, 3)) == pytest.approx(expected, abs=1e-12)
    assert float(kl.kl_ref_loss(NEW, OLD, ALL, 3)) == pytest.approx(float((ratio.log() ** 2).sum()) / 6, abs=1e-12)
    assert kl.kl_ref_reward(NEW, OLD, ALL, 0.5)[0].tolist() == pytest.approx((-0.5 * ratio.log()).tolist(), abs=1e-12)
    assert float(policy.sft_loss(NEW, ALL, 3)) == pytest.approx(-math.log(0.55 * 0.6 * 0.4) / 3, abs=1e-12)
    entropies = torch.tensor([[0.5, 1.0, 1.5]], dtype=F64)
    assert float(policy.entropy_bonus(entropies, ALL, 3)) == pytest.approx(1.0, abs=1e-12)
    logits = torch.tensor([0.0, 0.0, -math.inf], dtype=F64, requires_grad=True)
    entropy = policy.categorical_entropy(logits)
    assert float(entropy.detach()) == pytest.approx(math.log(2), abs=1e-12)
    entropy.backward()
    assert torch.isfinite(logits.grad).all()


Objective = tuple[str, Callable[[dict[str, Tensor], Tensor], Tensor], Callable[[dict[str, Tensor]], Tensor]]
COUNT = 11.0
OBJECTIVES: list[Objective] = [
    (
        "new",
        lambda r, x: policy.clipped_surrogate(x, r["old"], r["advantages"], r["mask"], 0.2, COUNT).loss,
        lambda r: policy.clipped_surrogate_grad(r["new"], r["old"], r["advantages"], r["mask"], 0.2, COUNT),
    ),
    (
        "values",
        lambda r, x: policy.value_loss(x, r["old_values"], r["returns"], r["mask"], COUNT).loss,
        lambda r: policy.value_loss_grad(r["values"], r["old_values"], r["returns"], r["mask"], COUNT),
    ),
    (
        "values",
        lambda r, x: policy.value_loss(x, r["old_values"], r["returns"], r["mask"], COUNT, 0.3, 1.7).loss,
        lambda r: policy.value_loss_grad(r["values"], r["old_values"], r["returns"], r["mask"], COUNT, 0.3, 1.7),
    ),
    (
        "new",
        lambda r, x: kl.kl_old_penalty(x, r["old"], r["mask"], COUNT),
        lambda r: kl.kl_old_penalty_grad(r["new"], r["old"], r["mask"], COUNT),
    ),
    (
        "new",
        lambda r, x: kl.kl_ref_loss(x, r["ref"], r["mask"], COUNT),
        lambda r: kl.kl_ref_loss_grad(r["new"], r["ref"], r["mask"], COUNT),
    ),
    ("new", lambda r, x: policy.sft_loss(x, r["mask"], COUNT), lambda r: policy.sft_loss_grad(r["mask"], COUNT)),
]
NAMES = ["surrogate", "value", "value-clipped", "kl-old", "kl-ref", "sft"]


@pytest.mark.parametrize(("over", "loss", "grad"), OBJECTIVES, ids=NAMES)
def test_closed_form_gradient_is_autograds_and_finite_differences(over, loss, grad):
    torch.set_default_dtype(F64)  # sft's gradient has no float input to take its precision from
    try:
        for seed in range(5):
            r = rollout(seed)
            closed = grad(r)
            assert torch.allclose(closed, autograd(lambda x, r=r: loss(r, x), r[over]), atol=1e-14)
            assert torch.allclose(closed, finite_difference(lambda x, r=r: loss(r, x), r[over]), atol=1e-8)
            assert closed.abs().max() > 1e-3
    finally:
        torch.set_default_dtype(torch.float32)


def test_kl_ref_loss_weighted_by_the_ratio():
    r = rollout(3)
    closed = kl.kl_ref_loss_grad(r["new"], r["ref"], r["mask"], COUNT, old_logprobs=r["old"])
    auto = autograd(lambda x: kl.kl_ref_loss(x, r["ref"], r["mask"], COUNT, old_logprobs=r["old"]), r["new"])
    assert torch.allclose(closed, auto, atol=1e-14)


@pytest.mark.parametrize(("over", "loss", "grad"), OBJECTIVES, ids=NAMES)
def test_batch_order_and_padding_change_nothing(over, loss, grad):
    r = rollout(1)
    whole = loss(r, r[over])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: x[order] for name, x in r.items()}
    assert float(loss(shuffled, shuffled[over])) == pytest.approx(float(whole), abs=1e-14)
    padded = {name: torch.nn.functional.pad(x, (0, 3), value=False if name == "mask" else 7.0) for name, x in r.items()}
    assert float(loss(padded, padded[over])) == pytest.approx(float(whole), abs=1e-14)


def test_gradients_do_not_reach_what_is_given():
    r = rollout(2)
    for name in ("old", "ref", "advantages", "returns", "old_values", "new", "values"):
        r[name].requires_grad_()
    total = policy.clipped_surrogate(r["new"], r["old"], r["advantages"], r["mask"], 0.2, 1).loss
    total = total + policy.value_loss(r["values"], r["old_values"], r["returns"], r["mask"], 1, 0.2, 1.0).loss
    total = (
        total + kl.kl_old_penalty(r["new"], r["old"], r["mask"], 1) + kl.kl_ref_loss(r["new"], r["ref"], r["mask"], 1)
    )
    total.backward()
    assert r["new"].grad is not None
    assert r["values"].grad is not None
    assert all(r[name].grad is None for name in ("old", "ref", "advantages", "returns", "old_values"))


def test_length_weights_name_three_normalisations():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    logprobs = torch.tensor([[-1.0, -1, -1, -1], [-3.0, 0, 0, 0], [0.0, 0, 0, 0]])

    def loss(how: str) -> float:
        weights, count = length_weights(mask, how, constant=4)
        return float(policy.sft_loss(logprobs, mask, count, weights))

    assert loss("token") == pytest.approx(7 / 5)
    assert loss("sequence") == pytest.approx((1 + 3) / 2)
    assert loss("constant") == pytest.approx(7 / 12)
    with pytest.raises(ContractError, match="'mean'"):
        loss("mean")


def test_a_mask_that_is_not_bool_is_refused():
    r = rollout()
    with pytest.raises(ContractError, match=r"torch\.float64"):
        policy.sft_loss(r["new"], r["mask"].to(F64), 3)


def test_a_negative_or_nan_count_is_refused():
    r = rollout()
    for count in (-1.0, math.nan):
        with pytest.raises(ContractError, match="count"):
            policy.sft_loss(r["new"], r["mask"], count)
