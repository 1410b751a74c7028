"""The centring penalty: by hand, against autograd and finite differences, and with rubbish under the mask."""

from __future__ import annotations

import math

import pytest
import torch

from tropism.objectives.centering import centering, centering_grad


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 3, generator=random, dtype=torch.float64)
    mask = torch.rand(5, 3, generator=random) < 0.7
    return scores, mask, torch.rand(2, 5, generator=random, dtype=torch.float64)


def test_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, -3.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert float(centering(scores, mask, torch.tensor([2.0, 5.0]), 4.0)) == pytest.approx(2 * 9 / 4)


def test_gradient_against_autograd_and_finite_differences() -> None:
    scores, mask, weight = case()
    live = scores.clone().requires_grad_(True)
    centering(live, mask, weight, 7.0).sum().backward()
    grad = centering_grad(scores, mask, weight, 7.0)
    torch.testing.assert_close(grad, live.grad)
    step = torch.zeros_like(scores)
    step[1, 2, 0] = 1e-6
    ends = [float(centering(scores + sign * step, mask, weight, 7.0).sum()) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(grad[1, 2, 0]), rel=1e-6, abs=1e-9)


def test_masked_scores_and_the_split_into_micro_batches_change_nothing() -> None:
    scores, mask, weight = case()
    wild = torch.where(mask, scores, math.nan)
    assert torch.equal(centering(wild, mask, weight, 7.0), centering(scores, mask, weight, 7.0))
    assert torch.equal(centering_grad(wild, mask, weight, 7.0), centering_grad(scores, mask, weight, 7.0))
    parts = [centering(scores[:, rows], mask[rows], weight[:, rows], 7.0) for rows in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), centering(scores, mask, weight, 7.0))


def test_a_preference_leaves_the_level_open_and_the_penalty_settles_it() -> None:
    """Both sides of a pair move by the same amount: the penalty's gradient is along the level alone."""
    grad = centering_grad(torch.tensor([[4.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
    assert grad.tolist() == [[10.0, 10.0]]
