"""GAE against a plain loop, whitening and group normalisation against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tropism.errors import ContractError
from tropism.objectives.advantages import deviation, gae, group_normalise, terminal_rewards, whiten

F64 = torch.float64


def loop_gae(rewards, values, gamma, lam, end):
    """The definition: A_t = Σ_l (γλ)^l δ_{t+l}, one row, no padding."""
    values = [*values, end]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    truncated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gae_against_a_plain_loop(lengths, gamma, lam, truncated, seed):
    g = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 6)
    rewards, values = torch.randn(shape, generator=g, dtype=F64), torch.randn(shape, generator=g, dtype=F64)
    bootstrap = torch.randn(shape[0], generator=g, dtype=F64) if truncated else None
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, gamma, lam, bootstrap)
    for row, n in enumerate(lengths):
        end = float(bootstrap[row]) if bootstrap is not None else 0.0
        expected = loop_gae(rewards[row, :n].tolist(), values[row, :n].tolist(), gamma, lam, end)
        assert advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-12)
        assert advantages[row, n:].abs().sum() == 0
        assert returns[row, :n].tolist() == pytest.approx((advantages + values)[row, :n].tolist(), abs=1e-12)
        assert returns[row, n:].abs().sum() == 0


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]], dtype=F64), torch.tensor([[0.5, 0.6, 0.7]], dtype=F64)
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, 0.5)
    # deltas 0.1, 0.1, 0.3
    assert advantages[0].tolist() == pytest.approx([0.1 + 0.5 * 0.1 + 0.25 * 0.3, 0.1 + 0.5 * 0.3, 0.3], abs=1e-12)
    assert returns[0].tolist() == pytest.approx([0.725, 0.85, 1.0], abs=1e-12)


def test_gae_skips_masked_positions_inside_a_row():
    rewards, values = torch.tensor([[1.0, 99.0, 2.0]], dtype=F64), torch.tensor([[0.3, 99.0, 0.4]], dtype=F64)
    mask = torch.tensor([[True, False, True]])
    short, _ = gae(rewards[:, [0, 2]], values[:, [0, 2]], torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8)
    long, _ = gae(rewards, values, mask, 0.9, 0.8)
    assert long[0, [0, 2]].tolist() == pytest.approx(short[0].tolist(), abs=1e-12)
    assert float(long[0, 1]) == 0


def test_gae_refuses_unequal_shapes():
    with pytest.raises(ContractError, match="shapes"):
        gae(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool), 1, 1)


def test_terminal_rewards_sit_on_the_last_valid_token():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    rewards = terminal_rewards(torch.tensor([1.0, 2.0, float("nan")]), mask)
    assert rewards.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]
    assert terminal_rewards(torch.ones(2), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)


def test_whitening_is_over_valid_tokens_of_the_whole_batch():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, generator=g, dtype=F64) * 4 + 2
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    valid = x[mask].numpy()
    white = whiten(x, mask)
    assert white[mask].numpy() == pytest.approx((valid - valid.mean()) / valid.std(), abs=1e-12)
    assert white[~mask].abs().sum() == 0
    kept = whiten(x, mask, shift_mean=False)
    assert float(kept[mask].mean()) == pytest.approx(valid.mean(), abs=1e-12)
    assert float(deviation(x, mask)) == pytest.approx(valid.std(), abs=1e-12)


def test_group_normalisation_against_numpy():
    scores = torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]], dtype=F64)
    advantages, zero_spread = group_normalise(scores)
    group = np.array([1.0, 2.0, 6.0])
    assert advantages[0].numpy() == pytest.approx((group - group.mean()) / group.std(), abs=1e-12)
    assert advantages[1].tolist() == [0, 0, 0]
    assert zero_spread == 1
    masked, _ = group_normalise(
        torch.tensor([[1.0, 2.0, float("nan")]], dtype=F64), mask=torch.tensor([[True, True, False]])
    )
    assert masked[0].tolist() == pytest.approx([-1, 1, 0])
