"""Ratings and labels: by hand, closed-form gradients, ordered thresholds, extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tropism.objectives.ratings import (
    label_grad,
    label_nll,
    ordered_thresholds,
    ordinal_grad,
    ordinal_nll,
    rating_regression,
    rating_regression_grad,
)

F64 = torch.float64


def autograd(loss, scores: Tensor) -> Tensor:
    leaf = scores.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_ordinal_by_hand():
    thresholds = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    scores = torch.full((4,), 0.3, dtype=F64)
    edges = [0, *(sigmoid(float(t) - 0.3) for t in thresholds), 1]
    for category in range(4):
        here = torch.arange(4) == category
        nll = ordinal_nll(scores, torch.arange(4), thresholds, here)
        assert float(nll) == pytest.approx(-math.log(edges[category + 1] - edges[category]), abs=1e-13)


def test_ordinal_probabilities_sum_to_one_and_order_with_the_score():
    thresholds = ordered_thresholds(torch.tensor([-1.0, 0.2, -3.0, 1.0], dtype=F64))
    assert (thresholds.diff() > 0).all()
    means = []
    for score in (-3.0, 0.0, 3.0):
        scores, every = torch.full((5,), score, dtype=F64), torch.arange(5)
        p = [math.exp(-float(ordinal_nll(scores, every, thresholds, every == c))) for c in range(5)]
        assert sum(p) == pytest.approx(1, abs=1e-12)
        means.append(sum(c * x for c, x in enumerate(p)))
    assert means == sorted(means)


def cases():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 6, generator=g, dtype=F64)
    categories = torch.tensor([0, 1, 2, 3, 3, 0])
    thresholds = ordered_thresholds(torch.randn(2, 3, generator=g, dtype=F64))
    ratings, labels = torch.randn(6, generator=g, dtype=F64), torch.rand(6, generator=g, dtype=F64)
    mask = torch.tensor([True, True, True, True, False, True])
    weight = torch.rand(2, 6, generator=g, dtype=F64)
    return {
        "ordinal": (
            lambda s: ordinal_nll(s, categories, thresholds, mask, weight, 5.0),
            lambda s: ordinal_grad(s, categories, thresholds, mask, weight, 5.0),
            scores,
        ),
        "regression": (
            lambda s: rating_regression(s, ratings, mask, 0.7, weight, 5.0),
            lambda s: rating_regression_grad(s, ratings, mask, 0.7, weight, 5.0),
            scores,
        ),
        "label": (
            lambda s: label_nll(s, labels, mask, weight, 5.0),
            lambda s: label_grad(s, labels, mask, weight, 5.0),
            scores,
        ),
    }


@pytest.mark.parametrize("name", ["ordinal", "regression", "label"])
def test_closed_form_gradients(name):
    loss, grad, scores = cases()[name]
    closed = grad(scores)
    assert loss(scores).shape == (2,)
    assert torch.allclose(closed, autograd(loss, scores), atol=1e-14)
    step, numeric = 1e-6, torch.zeros_like(scores)
    for i in range(scores.numel()):
        up, down = scores.clone(), scores.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        numeric.view(-1)[i] = (loss(up) - loss(down)).sum() / (2 * step)
    assert torch.allclose(closed, numeric, atol=1e-8)
    assert closed[:, 4].abs().sum() == 0  # masked


@pytest.mark.parametrize("name", ["ordinal", "regression", "label"])
def test_nan_under_the_mask_changes_nothing(name):
    loss, _, scores = cases()[name]
    dirty = scores.clone()
    dirty[:, 4] = math.nan
    assert torch.equal(loss(dirty), loss(scores))
    assert torch.equal(autograd(loss, dirty), autograd(loss, scores))


def test_threshold_gradients_flow_and_are_finite():
    raw = torch.tensor([0.0, -4.0, 2.0], dtype=F64, requires_grad=True)
    scores = torch.tensor([-60.0, 0.0, 60.0, 0.1], dtype=F64, requires_grad=True)
    everything = torch.ones(4, dtype=torch.bool)
    loss = ordinal_nll(scores, torch.tensor([3, 1, 0, 2]), ordered_thresholds(raw), everything)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert float(loss.detach()) > 100  # two certain mistakes, each about 60 nats
    assert torch.isfinite(raw.grad).all()
    assert raw.grad.abs().min() > 0
    assert torch.isfinite(scores.grad).all()


def test_label_by_hand_and_soft():
    scores, yes = torch.tensor([0.8], dtype=F64), torch.ones(1, dtype=torch.bool)
    assert float(label_nll(scores, torch.tensor([1.0], dtype=F64), yes)) == pytest.approx(-math.log(sigmoid(0.8)))
    split = label_nll(scores, torch.tensor([0.25], dtype=F64), yes, torch.tensor([4.0], dtype=F64))
    assert float(split) == pytest.approx(-math.log(sigmoid(0.8)) - 3 * math.log(sigmoid(-0.8)))


def test_regression_has_no_unit():
    scores, ratings = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([2.0, 4.0], dtype=F64)
    both = torch.ones(2, dtype=torch.bool)
    assert float(rating_regression(scores, ratings, both, 2.0)) == pytest.approx(0.25 + 1)
    assert float(rating_regression(scores * 20, ratings * 20, both, 40.0)) == pytest.approx(0.25 + 1)
