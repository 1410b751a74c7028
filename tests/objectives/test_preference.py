"""The one likelihood: by hand, against its closed-form gradient and finite differences; ties, soft targets, ranks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tropism.objectives.preference import (
    choice_grad,
    choice_nll,
    choice_probabilities,
    plackett_luce_grad,
    plackett_luce_nll,
)

F64 = torch.float64
TWO = torch.ones(1, 2, dtype=torch.bool)


def autograd(loss, scores: Tensor) -> Tensor:
    leaf = scores.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def finite_difference(loss, x: Tensor, step: float = 1e-6) -> Tensor:
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        up, down = x.clone(), x.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        grad.view(-1)[i] = (loss(up).sum() - loss(down).sum()) / (2 * step)
    return grad


def case(seed: int = 0, n: int = 6, k: int = 4):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, k, generator=g, dtype=F64) * 2
    mask = torch.arange(k) < torch.randint(2, k + 1, (n,), generator=g)[:, None]
    target = torch.where(mask, torch.rand(n, k, generator=g, dtype=F64), 0.0)
    target = target / target.sum(-1, keepdim=True)
    margin = torch.rand(n, k, generator=g, dtype=F64)
    weight = torch.rand(n, generator=g, dtype=F64) * 3
    return scores, mask, target, margin, weight


def test_two_candidates_are_bradley_terry():
    scores = torch.tensor([[1.5, -0.5]], dtype=F64)
    nll = choice_nll(scores, TWO, torch.tensor([[1.0, 0.0]], dtype=F64))
    assert float(nll) == pytest.approx(-math.log(1 / (1 + math.exp(-2))), abs=1e-14)
    assert float(choice_probabilities(scores, TWO)[0, 0]) == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-14)
    # a margin on the chosen one asks for a wider gap
    wide = choice_nll(scores, TWO, torch.tensor([[1.0, 0.0]], dtype=F64), margin=torch.tensor([[0.7, 0.0]], dtype=F64))
    assert float(wide) == pytest.approx(math.log(1 + math.exp(-(2 - 0.7))), abs=1e-14)


def test_soft_target_is_the_mean_of_the_votes():
    scores = torch.tensor([[0.3, 1.1]], dtype=F64)
    votes = [
        choice_nll(scores, TWO, torch.tensor([t]).double()) for t in ([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
    ]
    soft = choice_nll(scores, TWO, torch.tensor([[2.5, 1.5]]).double() / 4, weight=torch.tensor([4.0]).double())
    assert float(soft) == pytest.approx(float(sum(votes)), abs=1e-14)


def test_a_lapse_bounds_what_one_answer_may_cost():
    right = torch.tensor([[1.0, 0.0]], dtype=F64)
    nll = choice_nll(torch.tensor([[1.5, -0.5]], dtype=F64), TWO, right, lapse=0.1)
    assert float(nll) == pytest.approx(-math.log(0.9 / (1 + math.exp(-2)) + 0.05), abs=1e-14)
    # an answer against any gap costs no more than one that was drawn
    worst = choice_nll(torch.tensor([[-500.0, 500.0]], dtype=F64), TWO, right, lapse=0.1)
    assert float(worst) == pytest.approx(-math.log(0.05), abs=1e-12)
    three = torch.tensor([[True, True, True]])
    drawn = choice_nll(torch.tensor([[-500.0, 500.0, 0.0]], dtype=F64), three, torch.eye(3, dtype=F64)[:1], lapse=0.3)
    assert float(drawn) == pytest.approx(-math.log(0.1), abs=1e-12)
    # and, unlike a softened target, it never asks a gap to shrink
    wide, wider = (choice_nll(torch.tensor([[gap, 0.0]], dtype=F64), TWO, right, lapse=0.1) for gap in (5.0, 9.0))
    assert wider < wide


@pytest.mark.parametrize("lapse", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_choice_gradient_is_closed_form(seed, lapse):
    scores, mask, target, margin, weight = case(seed)
    arguments = {"margin": margin, "weight": weight, "count": 7.0, "lapse": lapse}
    closed = choice_grad(scores, mask, target, **arguments)
    assert torch.allclose(closed, autograd(lambda s: choice_nll(s, mask, target, **arguments), scores), atol=1e-14)
    assert torch.allclose(
        closed, finite_difference(lambda s: choice_nll(s, mask, target, **arguments), scores), atol=1e-8
    )


def test_choice_gradient_through_a_reward_is_the_papers_formula():
    """−[∇R(y_b) − Σ P_i ∇R(y_i)] for a linear reward R(y) = w·φ(y)."""
    g = torch.Generator().manual_seed(1)
    features, w = torch.randn(5, 3, generator=g, dtype=F64), torch.randn(3, generator=g, dtype=F64).requires_grad_()
    best = 2
    mask, target = torch.ones(1, 5, dtype=torch.bool), torch.eye(5, dtype=F64)[best][None]
    choice_nll((features @ w)[None], mask, target).backward()
    p = torch.softmax(features @ w.detach(), 0)
    assert torch.allclose(w.grad, -(features[best] - (p[:, None] * features).sum(0)), atol=1e-14)


def test_ensemble_members_do_not_mix():
    scores, mask, target, margin, weight = case(2)
    members = torch.stack([scores, scores * 0.5, -scores]).requires_grad_()
    votes = torch.stack([weight, weight * 2, weight * 0])
    nll = choice_nll(members, mask, target, margin, votes, 5.0)
    assert nll.shape == (3,)
    for e in range(3):
        alone = choice_nll(members[e].detach(), mask, target, margin, votes[e], 5.0)
        assert float(nll[e].detach()) == pytest.approx(float(alone), abs=1e-14)
    nll[1].backward()
    assert members.grad[0].abs().sum() == 0
    assert members.grad[2].abs().sum() == 0
    assert torch.allclose(
        members.grad, choice_grad(members, mask, target, margin, votes, 5.0)[1] * torch.eye(3)[1][:, None, None]
    )


def test_per_member_counts():
    scores, mask, target, _, _ = case(3)
    members, count = torch.stack([scores, scores]), torch.tensor([2.0, 0.0], dtype=F64)
    nll = choice_nll(members, mask, target, count=count)
    assert float(nll[0]) == pytest.approx(float(choice_nll(scores, mask, target, count=2.0)))
    assert float(nll[1]) == 0  # a member that drew nothing learns nothing, and is no NaN


def test_masked_candidates_have_probability_zero():
    scores, mask, _, _, _ = case(4)
    p = choice_probabilities(scores, mask)
    assert p[~mask].abs().sum() == 0
    assert torch.allclose(p.sum(-1), torch.ones(len(p), dtype=F64))
    assert choice_probabilities(scores, torch.zeros_like(mask)).abs().sum() == 0


def by_definition(scores, tiers):
    """Successive choices of one row, written out."""
    total = 0.0
    for tier in sorted({t for t in tiers if t >= 0}):
        below = [i for i, t in enumerate(tiers) if t >= tier]
        chosen = [i for i, t in enumerate(tiers) if t == tier]
        norm = math.log(sum(math.exp(scores[i]) for i in below))
        total -= sum(scores[i] - norm for i in chosen) / len(chosen)
    return total


@pytest.mark.parametrize(
    "tiers", [[0, 1, 2, 3], [2, 0, 1, 0], [1, 0, -1, 1], [0, 0, 0, 0], [3, 1, -1, -1], [-1, -1, -1, -1]]
)
def test_ranking_is_successive_choice(tiers):
    scores = torch.tensor([[0.4, -1.0, 2.0, 0.1]], dtype=F64)
    ranked = torch.tensor([tiers])
    assert float(plackett_luce_nll(scores, ranked)) == pytest.approx(
        by_definition(scores[0].tolist(), tiers), abs=1e-13
    )
    closed = plackett_luce_grad(scores, ranked, count=3.0)
    assert torch.allclose(
        closed, finite_difference(lambda s: plackett_luce_nll(s, ranked, count=3.0), scores), atol=1e-8
    )
    if max(tiers) >= 0:
        assert torch.allclose(closed, autograd(lambda s: plackett_luce_nll(s, ranked, count=3.0), scores), atol=1e-14)


def test_strict_rankings_are_a_distribution():
    scores = torch.tensor([[0.4, -1.0, 2.0]], dtype=F64)
    ranked = [torch.tensor([list(p)]) for p in itertools.permutations(range(3))]
    assert sum(math.exp(-float(plackett_luce_nll(scores, r))) for r in ranked) == pytest.approx(1, abs=1e-13)


def test_ranking_of_two_is_the_comparison():
    scores = torch.tensor([[0.4, -1.0]], dtype=F64)
    for tiers, target in (([0, 1], [1.0, 0.0]), ([0, 0], [0.5, 0.5]), ([5, 2], [0.0, 1.0])):
        ranking = plackett_luce_nll(scores, torch.tensor([tiers]))
        comparison = choice_nll(scores, TWO, torch.tensor([target], dtype=F64))
        assert float(ranking) == pytest.approx(float(comparison), abs=1e-14)


def test_rankings_with_members_and_weights():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, generator=g, dtype=F64)
    tiers = torch.tensor([[0, 1, 1, -1], [1, 0, 2, 3], [0, 0, 1, 1]])
    weight = torch.rand(2, 3, generator=g, dtype=F64)
    nll = plackett_luce_nll(scores, tiers, weight, 4.0)
    for e in range(2):
        rows = [float(weight[e, n]) * by_definition(scores[e, n].tolist(), tiers[n].tolist()) for n in range(3)]
        assert float(nll[e]) == pytest.approx(sum(rows) / 4, abs=1e-13)
    closed = plackett_luce_grad(scores, tiers, weight, 4.0)
    assert torch.allclose(closed, autograd(lambda s: plackett_luce_nll(s, tiers, weight, 4.0), scores), atol=1e-14)


def test_order_padding_and_nan_change_nothing():
    scores, mask, target, margin, weight = case(5)
    whole = choice_nll(scores, mask, target, margin, weight, 6.0)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    shuffled = choice_nll(scores[order], mask[order], target[order], margin[order], weight[order], 6.0)
    assert float(shuffled) == pytest.approx(float(whole), abs=1e-14)
    wide = [
        torch.nn.functional.pad(x, (0, 2), value=v) for x, v in ((scores, math.nan), (target, math.nan), (margin, 1e9))
    ]
    padded = choice_nll(wide[0], torch.nn.functional.pad(mask, (0, 2)), wide[1], wide[2], weight, 6.0)
    assert float(padded) == pytest.approx(float(whole), abs=1e-14)
    swapped = choice_nll(scores.flip(-1), mask.flip(-1), target.flip(-1), margin.flip(-1), weight, 6.0)
    assert float(swapped) == pytest.approx(float(whole), abs=1e-14)
