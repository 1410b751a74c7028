"""One test per mistake that is easy to make in the mathematics of RLHF; each fails when the mistake is put back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tropism.objectives import kl, policy
from tropism.objectives.advantages import deviation, gae, group_normalise, terminal_rewards, whiten
from tropism.objectives.masks import LengthNormalisation, length_weights
from tropism.objectives.preference import choice_grad, choice_nll, plackett_luce_nll
from tropism.objectives.ratings import label_nll, ordinal_nll, rating_regression
from tropism.reward.assessment import assess_pairs, prefers_longer
from tropism.reward.ensemble import FrozenScale, combine
from tropism.reward.pairs import Pairs, pair_accuracy

F64 = torch.float64


def rollout(seed: int = 0, rows: int = 6, length: int = 8) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    names = ("old", "new", "ref", "advantages", "values", "old_values", "returns", "entropies")
    made = {name: torch.randn(rows, length, generator=g, dtype=F64) for name in names}
    made["new"], made["ref"] = made["old"] + 0.3 * made["new"], made["old"] + 0.3 * made["ref"]
    lengths = torch.tensor([8, 1, 3, 0, 5, 2])[:rows]
    return made | {"mask": torch.arange(length) < lengths[:, None]}


def ppo_loss(r: dict[str, Tensor], count: float, weights: Tensor | None = None) -> Tensor:
    """Every term that PPO optimises, with weights that let none hide."""
    mask = r["mask"]
    total = policy.clipped_surrogate(r["new"], r["old"], r["advantages"], mask, 0.2, count, weights).loss
    value = policy.value_loss(r["values"], r["old_values"], r["returns"], mask, count, 0.2, 1.3, weights)
    total = total + 0.5 * value.loss
    total = total + 0.3 * kl.kl_old_penalty(r["new"], r["old"], mask, count, weights)
    total = total + 0.7 * kl.kl_ref_loss(r["new"], r["ref"], mask, count, weights=weights)
    total = total - 0.1 * policy.entropy_bonus(r["entropies"], mask, count, weights)
    return total + 0.2 * policy.sft_loss(r["new"], mask, count, weights)


def test_trap_05_terminal_score_on_the_last_token_and_value_after_the_end_is_zero():
    mask = torch.tensor([[True, True, True, False, False]])
    rewards = terminal_rewards(torch.tensor([2.0], dtype=F64), mask)
    assert rewards.tolist() == [[0, 0, 2, 0, 0]]
    values = torch.tensor([[0.5, 0.6, 0.7, 123.0, 456.0]], dtype=F64)  # a value head speaks on padding too
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    # γ = λ = 1: every return is the score itself, unless V after the end leaks in
    assert returns[0, :3].tolist() == pytest.approx([2.0, 2.0, 2.0], abs=1e-12)
    assert advantages[0, :3].tolist() == pytest.approx([1.5, 1.4, 1.3], abs=1e-12)
    # policy and value losses share the mask: what is left out of one is left out of the other
    r = {"x": torch.zeros(1, 5, dtype=F64, requires_grad=True), "v": torch.zeros(1, 5, dtype=F64, requires_grad=True)}
    loss = policy.clipped_surrogate(r["x"], r["x"].detach(), advantages + 1, mask, 0.2, 3).loss
    loss = loss + policy.value_loss(r["v"], values, returns, mask, 3).loss
    loss.backward()
    assert (r["x"].grad != 0).tolist() == mask.tolist()
    assert (r["v"].grad != 0).tolist() == mask.tolist()


def test_trap_08_the_kl_that_is_optimised_has_the_exact_gradient_and_k3_in_the_reward_has_not():
    g = torch.Generator().manual_seed(0)
    theta, ref = torch.randn(7, generator=g, dtype=F64), torch.randn(7, generator=g, dtype=F64)
    everything, p = torch.ones(1, 7, dtype=torch.bool), torch.softmax(theta, -1)
    own, other = torch.log_softmax(theta, -1)[None], torch.log_softmax(ref, -1)[None]

    def gradient(reward: Tensor) -> Tensor:
        leaf = theta.clone().requires_grad_()
        (p * reward * torch.log_softmax(leaf, -1)).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    leaf = theta.clone().requires_grad_()
    kl.exact_kl(leaf, ref).backward()
    assert leaf.grad is not None
    assert torch.allclose(gradient(kl.kl_ref_reward(own, other, everything, 1.0)[0]), -leaf.grad, atol=1e-14)
    assert not torch.allclose(gradient(-kl.k3(own, other, everything)[0]), -leaf.grad, atol=1e-2)
    loss_leaf = theta.clone().requires_grad_()
    kl.kl_ref_loss(torch.log_softmax(loss_leaf, -1)[None], other, everything, 1, weights=p[None]).backward()
    assert torch.allclose(loss_leaf.grad, leaf.grad, atol=1e-14)


def test_trap_09_whitening_over_valid_tokens_with_a_floor_and_value_clipping_in_deviations():
    r = rollout()
    r["advantages"] = torch.where(r["mask"], r["advantages"], 1e9)
    white = whiten(r["advantages"], r["mask"])
    assert float(white[r["mask"]].mean()) == pytest.approx(0, abs=1e-12)
    assert float(white[r["mask"]].std(correction=0)) == pytest.approx(1, abs=1e-12)
    assert white[~r["mask"]].abs().sum() == 0
    level = torch.full((2, 3), 5.0, dtype=F64)
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert whiten(level, everything).abs().max() == 0
    assert torch.equal(whiten(level, everything, shift_mean=False), level)
    # rewards in another unit clip the same tokens
    arguments = (r["values"], r["old_values"], r["returns"])
    spread = deviation(r["returns"], r["mask"])
    plain = policy.value_loss(*arguments, r["mask"], 1, 0.2, spread)
    scaled = [100 * x for x in arguments]
    hundred = policy.value_loss(*scaled, r["mask"], 1, 0.2, deviation(scaled[2], r["mask"]))
    assert 0 < int(plain.clip_fraction_sum) < int(r["mask"].sum())
    assert int(plain.clip_fraction_sum) == int(hundred.clip_fraction_sum)
    assert float(hundred.loss) == pytest.approx(1e4 * float(plain.loss), rel=1e-12)


def pairs(target: list[float]) -> Pairs:
    n = len(target)
    zeros = np.zeros(n, dtype=np.int64)
    first = np.arange(0, 2 * n, 2)
    return Pairs(first, first + 1, np.array(target), np.ones(n), np.arange(n), zeros)


def test_trap_15_a_tie_counts_half_in_accuracy():
    judged = pairs([1.0, 1.0, 0.0, 0.5])
    scores = np.array([2.0, 1.0, 3.0, 3.0, 5.0, 4.0, 0.0, 9.0])  # right, equal scores, wrong, a judged tie
    assert pair_accuracy(scores, judged) == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert pair_accuracy(np.zeros(8), judged) == 0.5


def test_trap_16_groups_without_spread_are_floored_and_counted():
    scores = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [3.0, 3.0, 3.0 + 1e-7]], dtype=F64)
    advantages, zero_spread = group_normalise(scores)
    assert zero_spread == 2
    assert advantages[0].abs().max() == 0
    assert advantages[2].abs().max() < 1e-2  # rounding noise is not blown up to a deviation of one
    assert float(advantages[1].std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_trap_17_micro_batches_ranks_and_padding_change_nothing(how: LengthNormalisation, size: int):
    r = rollout()
    weights, count = length_weights(r["mask"], how, constant=8)
    leaves = ("new", "values")

    def run(parts: list[dict[str, Tensor]]) -> tuple[float, list[Tensor]]:
        inputs = {name: r[name].clone().requires_grad_() for name in leaves}
        total = 0.0
        for part in parts:
            rows = part["rows"]
            batch = {k: (inputs[k] if k in inputs else r[k])[rows] for k in r}
            width = max(int(batch["mask"].sum(1).max()), 1)  # each micro-batch is cropped to its own longest row
            batch = {k: v[:, :width] for k, v in batch.items()}
            loss = ppo_loss(batch, float(count), weights[rows][:, :width])
            loss.backward()
            total += float(loss.detach())
        return total, [inputs[name].grad for name in leaves]

    rows = torch.arange(6)
    whole, whole_grads = run([{"rows": rows}])
    split, split_grads = run([{"rows": part} for part in rows.split(size)])
    assert split == pytest.approx(whole, abs=1e-12)
    for a, b in zip(whole_grads, split_grads, strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=0)
    assert abs(whole) > 1e-3


def test_trap_17_comparisons_too():
    g = torch.Generator().manual_seed(0)
    scores, mask = torch.randn(7, 3, generator=g, dtype=F64), torch.ones(7, 3, dtype=torch.bool)
    target = torch.softmax(torch.randn(7, 3, generator=g, dtype=F64), -1)
    weight = torch.rand(7, generator=g, dtype=F64)
    tiers = torch.randint(-1, 3, (7, 3), generator=g)
    count = float(weight.sum())
    for size in (1, 2, 3):
        rows = torch.arange(7).split(size)
        split = sum(float(choice_nll(scores[p], mask[p], target[p], None, weight[p], count)) for p in rows)
        assert split == pytest.approx(float(choice_nll(scores, mask, target, None, weight, count)), abs=1e-12)
        split = sum(float(plackett_luce_nll(scores[p], tiers[p], weight[p], count)) for p in rows)
        assert split == pytest.approx(float(plackett_luce_nll(scores, tiers, weight, count)), abs=1e-12)


@pytest.mark.parametrize("dirt", [math.nan, math.inf, -math.inf, 1e9])
def test_trap_18_masked_positions_may_hold_anything(dirt: float):
    clean = rollout()
    dirty = {k: v if k == "mask" else torch.where(clean["mask"], v, dirt) for k, v in clean.items()}
    results = []
    for r in (clean, dirty):
        r["new"].requires_grad_()
        r["values"].requires_grad_()
        loss = ppo_loss(r, 19.0)
        loss.backward()
        advantages, returns = gae(r["advantages"], r["values"], r["mask"], 0.9, 0.8)
        white, spread = whiten(r["advantages"], r["mask"]), deviation(r["returns"], r["mask"])
        results.append([loss.detach(), r["new"].grad, r["values"].grad, advantages, returns, white, spread])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    scores = torch.tensor([[0.3, -0.2, dirt]], dtype=F64, requires_grad=True)
    mask, target = torch.tensor([[True, True, False]]), torch.tensor([[1.0, 0.0, dirt]], dtype=F64)
    loss = choice_nll(scores, mask, target, torch.tensor([[0.1, 0.0, dirt]], dtype=F64))
    loss = loss + plackett_luce_nll(scores, torch.tensor([[1, 0, -1]]))
    one = torch.tensor([True, True, False])
    loss = loss + label_nll(scores[0], target[0], one) + rating_regression(scores[0], target[0], one)
    loss = loss + ordinal_nll(scores[0], torch.tensor([0, 2, 99]), torch.tensor([-1.0, 1.0], dtype=F64), one)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(scores.grad).all()
    assert float(scores.grad[0, 2]) == 0


def test_trap_23_empty_short_single_and_equal_give_no_nan():
    one = {k: v[:1, :1] for k, v in rollout().items()}
    for mask in (torch.tensor([[True]]), torch.tensor([[False]])):
        r = one | {"mask": mask}
        leaf = r["new"].clone().requires_grad_()
        loss = ppo_loss(r | {"new": leaf}, float(mask.sum()))
        loss.backward()
        assert math.isfinite(float(loss.detach()))
        assert torch.isfinite(leaf.grad).all()
        assert torch.isfinite(whiten(r["advantages"], mask)).all()
        assert torch.isfinite(deviation(r["returns"], mask))
    nothing = {k: v[:, :0] for k, v in rollout().items()}
    assert math.isfinite(float(ppo_loss(nothing, 0.0)))
    assert gae(nothing["old"], nothing["values"], nothing["mask"], 1, 1)[0].shape == (6, 0)
    equal = torch.ones(2, 4, dtype=F64)
    assert torch.isfinite(group_normalise(equal)[0]).all()
    assert torch.isfinite(group_normalise(torch.ones(3, 1, dtype=F64))[0]).all()
    empty = choice_nll(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, 2), count=0)
    assert float(empty) == 0


def test_trap_24_a_tie_has_no_gradient_at_equal_scores_and_pulls_unequal_ones_together():
    both, tie = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.5, 0.5]], dtype=F64)
    assert choice_grad(torch.tensor([[1.3, 1.3]], dtype=F64), both, tie).abs().max() == 0
    pull = choice_grad(torch.tensor([[2.0, 0.0]], dtype=F64), both, tie)[0]
    assert float(pull[0]) > 0.3  # descending lowers the higher one: the tie is evidence, not a dropped row
    assert float(pull.sum()) == pytest.approx(0, abs=1e-15)


def test_trap_25_members_are_normalised_before_they_are_averaged():
    g = torch.Generator().manual_seed(0)
    signal = torch.randn(200, generator=g)
    loud = torch.randn(200, generator=g) * 1000  # one member that knows nothing, in a unit a thousand times larger
    members = torch.stack([signal, signal + 0.1 * torch.randn(200, generator=g), loud])
    scale = FrozenScale.fit(members, "test")

    def agreement(x: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([x, signal]))[0, 1])

    assert agreement(combine(members)) < 0.2
    assert agreement(scale.combine(members)) > 0.85


def test_trap_26_one_scale_for_one_reward_version():
    g = torch.Generator().manual_seed(0)
    reference, later = torch.randn(2, 300, generator=g) * 3 + 5, torch.randn(2, 50, generator=g) * 9
    scale = FrozenScale.fit(reference, "test")
    reward = scale.combine(reference)
    assert float(reward.mean()) == pytest.approx(0, abs=1e-5)
    assert float(reward.std(correction=0)) == pytest.approx(1, abs=1e-5)
    alone = scale.combine(later[:, :1])
    scale.combine(later)  # seeing other states moves nothing
    assert torch.equal(scale.combine(later[:, :1]), alone)
    assert torch.allclose(scale.combine(later)[:1], alone)


def test_trap_31_length_only_stands_beside_every_accuracy():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 50, 400)
    longer_wins = (lengths[0::2] > lengths[1::2]).astype(float)
    judged = pairs(np.where(lengths[0::2] == lengths[1::2], 0.5, longer_wins).tolist())
    longer = prefers_longer(lengths, judged)
    assert longer is True
    found = assess_pairs(lengths + random.normal(0, 1, 400), judged, lengths, longer)
    assert found.accuracy.value > 0.9  # it looks excellent
    assert found.length_only is not None
    assert found.length_only.value > found.accuracy.value  # and is worth less than counting tokens
    assert found.over_length_only is not None
    assert found.over_length_only <= 0
