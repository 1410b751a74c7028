"""Compiled small networks against torch: an epoch of PPO gives the same weights, acting the same actions."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from tropism.control.networks import ActorCritic, Mlp
from tropism.control.ppo import Adam, Ppo, PpoSettings
from tropism.engine.kernels import build
from tropism.engine.kernels.small_networks import STATS
from tropism.runtime.seeding import permutation

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")


def agent(discrete: bool, seen: int, acts: int, **settings: object) -> Ppo:
    """A PPO that is given a batch instead of environments: those it only asks for their spaces."""
    space = gymnasium.spaces.Discrete(acts) if discrete else gymnasium.spaces.Box(-1, 1, (acts,))
    shape = {"observation_size": seen, "actions": acts, "discrete": discrete}
    spaces = SimpleNamespace(**shape, picture=None, action_space=space, count=1)
    return Ppo(spaces, PpoSettings(**settings), 3)  # type: ignore[arg-type]


def batch_of(ppo: Ppo, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows that an earlier policy might have left: ratios around 1, on both sides of the clip range."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, ppo.actor.observations), dtype=np.float32)
    actions, logprobs, values = ppo.actor.act(x, ppo.actor.noise(seed, (rows,)))
    return {
        "observations": x,
        "actions": actions,
        "logprobs": logprobs + 0.3 * draw.standard_normal(rows, dtype=np.float32),
        "advantages": draw.standard_normal(rows, dtype=np.float32),
        "returns": values + draw.standard_normal(rows, dtype=np.float32),
    }


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(
    ("seen", "acts", "hidden", "rows", "batch"),
    [(4, 2, (64, 64), 96, 32), (17, 6, (33, 20), 101, 13), (1, 1, (5,), 1, 1), (3, 17, (16, 8, 40), 50, 64)],
    ids=["usual", "odd", "one_row", "one_batch"],
)
def test_epoch_is_torchs(
    discrete: bool, activation: str, seen: int, acts: int, hidden: tuple[int, ...], rows: int, batch: int
) -> None:
    settings = {"hidden": hidden, "activation": activation, "batch_size": batch, "kl_old_coef": 0.3}
    settings |= {"entropy_coef": 0.02, "learning_rate": 1e-3, "log_std": -0.4}
    ppo, other = (agent(discrete, seen, acts, **settings) for _ in range(2))
    before = ppo.actor.params.clone()
    data = batch_of(ppo, rows)
    # Adam's first steps divide a gradient by itself: where it is 0 but for rounding, moments decide which way it goes
    for each in (ppo, other):
        each.adam.second.copy_(before.abs() * 0.01)
        each.adam.step = 5
    order = permutation(rows, 1, 0)
    got, wanted = ppo._compiled_epoch(data, order, 1e-3), other._epoch(data, order, 1e-3)
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)
    assert got[:, STATS.index("clipped")].sum() > 0 or rows == 1
    moved = (other.actor.params - before).norm()
    assert float((ppo.actor.params - other.actor.params).norm() / moved) < 1e-4
    assert float((ppo.actor.params - other.actor.params).norm() / other.actor.params.norm()) < 1e-5
    assert ppo.adam.step == other.adam.step == 5 + -(-rows // batch)


def critic_of_tanh() -> Ppo:
    """A PPO whose values are tanh of what it sees."""
    ppo = agent(False, 1, 1, hidden=(1,), batch_size=64, value_coef=1.0, max_grad_norm=0.0)
    (first, bias), (last, end) = ppo.actor.critic.layers(ppo.actor.parts(ppo.actor.params)[2])
    for weight, value in ((first, 1.0), (bias, 0.0), (last, 1.0), (end, 0.0)):
        weight.fill_(value)
    return ppo


def test_tanh_to_the_last_bits() -> None:
    """Near 0 as far out, and never beyond 1: the slope that is told from it, 1 - y², would have the wrong sign."""
    size = np.concatenate([np.geomspace(1e-30, 1, 20_001), np.linspace(1, 30, 50_001)])
    x = np.concatenate([-size, size]).astype(np.float32)[:, None]
    found, exact = critic_of_tanh().actor.values(x), np.tanh(x[:, 0].astype(np.float64))
    assert np.abs(found).max() == 1
    assert np.abs(found / exact - 1).max() < 4e-7
    far = np.abs(x[:, 0]) > 4
    slope = 1 - found[far].astype(np.float64) ** 2
    assert np.abs(slope - (1 - exact[far] ** 2)).max() < 7e-8


@pytest.mark.parametrize("sign", [-1, 1])
def test_saturated_units_do_not_learn_backwards(sign: int) -> None:
    """A critic may saturate in front of large returns: what is left of its gradient decides whether it comes back."""
    seen = (sign * np.linspace(4, 30, 64, dtype=np.float32))[:, None]
    ppo, other = critic_of_tanh(), critic_of_tanh()
    data = batch_of(ppo, 64) | {"observations": seen, "returns": np.full(64, sign * -500, np.float32)}
    for far in (seen[:, 0] * sign > 10, seen[:, 0] * sign < 10):
        for each, run in ((ppo, ppo._compiled_epoch), (other, other._epoch)):
            each.adam.first.zero_()
            run(data, np.flatnonzero(far), 0.0)
        found, wanted = (
            float(each.actor.critic.layers(each.actor.parts(each.adam.first)[2])[0][0]) for each in (ppo, other)
        )
        if far[-1]:
            assert found == wanted == 0
        else:
            assert found == pytest.approx(wanted, rel=1e-3)
            assert found > 0  # a smaller weight, and with it a value nearer to the returns


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
def test_mini_batches_are_whitened_as_by_torch(discrete: bool) -> None:
    """Advantages far from mean 0 and deviation 1, other ones in every mini-batch; the last one has a single row,
    which has no deviation, and so nothing to say to the policy."""
    ppo, plain, other = (
        agent(discrete, 5, 3, hidden=(24, 16), batch_size=20, whiten=whiten, max_grad_norm=0.0)
        for whiten in ("mini_batch", "none", "mini_batch")
    )
    before, data, order = ppo.actor.params.clone(), batch_of(ppo, 101), permutation(101, 1, 0)
    data["advantages"] = (3 + 40 * data["advantages"]).astype(np.float32)
    for each in (ppo, plain, other):
        each.adam.second.copy_(before.abs() * 0.01)
        each.adam.step = 5
    got, raw = (each._compiled_epoch(data, order, 1e-3) for each in (ppo, plain))
    np.testing.assert_allclose(got, other._epoch(data, order, 1e-3), rtol=2e-4, atol=2e-4)
    moved = (other.actor.params - before).norm()
    assert float((ppo.actor.params - other.actor.params).norm() / moved) < 1e-4
    assert float((ppo.actor.params - plain.actor.params).norm() / moved) > 0.1
    assert got[-1, STATS.index("policy_loss")] == 0 != raw[-1, STATS.index("policy_loss")]


def test_whitening_of_equal_advantages_leaves_nothing() -> None:
    """However large they are: they say of no action that it was better than another."""
    ppo = agent(False, 5, 2, hidden=(8,), batch_size=16, whiten="mini_batch", value_coef=0.0)
    data, before = batch_of(ppo, 16), ppo.actor.params.clone()
    data["advantages"] = np.full(16, 12345.678, np.float32)
    stats = ppo._compiled_epoch(data, np.arange(16), 1e-3)
    assert stats[0, STATS.index("grad_norm")] == 0
    assert torch.equal(ppo.actor.params, before)


def test_whitened_mini_batches_are_compiled() -> None:
    """The epochs of PPO with them are the compiled ones, bit for bit."""
    ppo, same, other = (agent(False, 5, 2, hidden=(8,), batch_size=16, epochs=2, whiten="mini_batch") for _ in range(3))
    data = batch_of(ppo, 40)
    data["logprobs"] = ppo.actor.evaluate(
        ppo.actor.params, *(torch.from_numpy(data[name]) for name in ("observations", "actions"))
    ).logprobs.numpy()  # fmt: skip
    ppo._epochs(data, 1e-3)
    for epoch in range(2):
        order = permutation(40, ppo.seed, epoch)
        same._compiled_epoch(data, order, 1e-3)
        other._epoch(data, order, 1e-3)
    assert torch.equal(ppo.actor.params, same.actor.params)
    assert not torch.equal(ppo.actor.params, other.actor.params)


def test_gradient_norm_is_clipped_in_both() -> None:
    limit = 0.01
    for run in ("_compiled_epoch", "_epoch"):
        ppo = agent(False, 5, 2, hidden=(8,), batch_size=16, max_grad_norm=limit)
        ppo.adam = Adam.of(ppo.actor.params)
        stats = getattr(ppo, run)(batch_of(ppo, 16), np.arange(16), 1e-3)
        assert stats[0, STATS.index("grad_norm")] > limit
        # Adam's first moment is a tenth of the gradient that was used
        assert float(ppo.adam.first.norm()) == pytest.approx(limit / 10, rel=1e-3)


def test_padding_stays_zero() -> None:
    ppo = agent(False, 5, 3, hidden=(9,), batch_size=8, learning_rate=1e-2)
    ppo._compiled_epoch(batch_of(ppo, 40), np.arange(40), 1e-2)
    used = ActorCritic(5, 3, False, (9,))
    used.load(ppo.actor.tensors())  # takes what counts, leaves padding at zero
    assert torch.equal(used.params[: used.actor.size], ppo.actor.params[: used.actor.size])
    assert torch.equal(used.params, ppo.actor.params)


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("rows", [1, 8, 300])
@pytest.mark.parametrize("sampled", [False, True])
def test_acting_is_torchs(discrete: bool, rows: int, sampled: bool) -> None:
    actor = ActorCritic(11, 5, discrete, (40, 24), log_std=-0.5, seed=2)
    actor.actor.initialise(actor.parts(actor.params)[0], 4, 1.0, 1.0)  # logits that differ
    x = np.random.default_rng(0).standard_normal((rows, 11), dtype=np.float32)
    noise = actor.noise(5, (rows,)) if sampled else None
    compiled = actor.act(x, noise)
    actor.compiled = None
    for got, wanted in zip(compiled, actor.act(x, noise), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-6)
    if discrete and sampled and rows == 300:
        assert len(np.unique(compiled[0])) == 5


def test_sampled_categories_have_their_probabilities() -> None:
    actor = ActorCritic(2, 3, True, (4,), seed=1)
    actor.actor.initialise(actor.parts(actor.params)[0], 9, 2.0, 2.0)
    x = np.tile(np.array([[0.7, -1.2]], np.float32), (20000, 1))
    actions, logprobs, _ = actor.act(x, actor.noise(0, (20000,)))
    for action in range(3):
        taken = actions == action
        assert taken.mean() == pytest.approx(float(np.exp(logprobs[taken][0])), abs=0.015)


def test_values_agree_with_the_module_of_torch() -> None:
    actor = ActorCritic(6, 2, False, (10,), "relu", seed=5)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    t = actor.tensors()
    hidden = torch.nn.functional.linear(x, t["critic.0.weight"], t["critic.0.bias"]).relu()
    wanted = torch.nn.functional.linear(hidden, t["critic.1.weight"], t["critic.1.bias"])[:, 0]
    np.testing.assert_allclose(actor.values(x.numpy()), wanted.numpy(), rtol=1e-4, atol=1e-6)
    assert Mlp((6, 10, 1), "relu").size == actor.critic.size
