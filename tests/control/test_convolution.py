"""Convolutional networks against torch's own modules, numbers by hand, and one another."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tropism.control.convolution import (
    POLICY_PLANS,
    REWARD_PLANS,
    Conv,
    Convolutions,
    PictureMembers,
    PicturePasses,
    PictureStack,
    plan_for,
)
from tropism.control.networks import ActorCritic
from tropism.control.reward_network import SegmentEnsemble, Shape
from tropism.errors import ConfigError


def bytes_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8))


def modules(plan: tuple[Conv, ...], channels: int, act: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for conv in plan:
        layers += [nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride), copy.deepcopy(act)]
        channels = conv.channels
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize(
    ("picture", "policy", "reward", "left"),
    [
        ((84, 84, 4), 0, 0, 3136),  # Mnih et al. 2015: 64 · 7 · 7
        ((36, 50, 1), 0, 1, 64 * 1 * 2),
        ((35, 35, 1), 1, 1, 64 * 7 * 7),
        ((16, 16, 3), 1, 1, 64 * 3 * 3),
        ((12, 12, 1), 1, 1, 64 * 2 * 2),
        ((11, 20, 1), 2, 2, 64 * 4 * 8),
        ((8, 8, 1), 2, 2, 64 * 2 * 2),
    ],
)
def test_layers_follow_from_the_pictures_size(
    picture: tuple[int, int, int], policy: int, reward: int, left: int
) -> None:
    assert plan_for(picture, POLICY_PLANS) is POLICY_PLANS[policy]
    assert plan_for(picture, REWARD_PLANS) is REWARD_PLANS[reward]
    net = Convolutions.of(picture)
    rows = bytes_of(2, math.prod(picture))
    assert net(net.layers(torch.zeros(net.size)), rows).shape == (2, net.features) == (2, left)
    members = PictureMembers(picture, 3, torch.Generator())
    assert members(rows).shape == (3, 2, members.features)


def test_a_picture_too_small() -> None:
    with pytest.raises(ConfigError, match="4 x 30"):
        plan_for((4, 30, 1), POLICY_PLANS)


@pytest.mark.parametrize("picture", [(40, 37, 3), (15, 14, 2), (9, 10, 1)])
def test_convolutions_are_torchs(picture: tuple[int, int, int]) -> None:
    """The same weights in torch's modules, on channels moved to the front and divided by 255, give the same features:
    height, width and channels are not mixed up."""
    net = Convolutions.of(picture)
    vector, theirs = torch.zeros(net.size), modules(net.plan, picture[2], nn.ReLU())
    net.initialise(vector, 3)
    weighted = [m for m in theirs if isinstance(m, nn.Conv2d)]
    for (weight, bias), module in zip(net.layers(vector), weighted, strict=True):
        flat = weight.flatten(1)
        wide = min(flat.shape)
        gram = flat @ flat.T if wide == len(flat) else flat.T @ flat
        assert torch.allclose(gram, 2 * torch.eye(wide), atol=1e-4)  # orthogonal, gain √2
        bias.copy_(torch.linspace(-0.1, 0.1, len(bias)))
        module.weight.data, module.bias.data = weight, bias  # type: ignore[union-attr]
    rows = bytes_of(5, math.prod(picture))
    x = rows.view(5, *picture).numpy().astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    wanted = theirs(torch.from_numpy(x))
    assert torch.allclose(net(net.layers(vector), rows), wanted, atol=1e-5)
    assert torch.equal(net(net.layers(vector), rows.float()), net(net.layers(vector), rows))
    again = torch.zeros(net.size)
    net.load(again, net.tensors(vector, "t"), "t")
    assert torch.equal(vector, again)


def test_action_values_and_their_gradients() -> None:
    """Those of the last pass, whatever was passed through other layers before."""
    stack = PictureStack((9, 10, 2), (7, 3))
    vector, other = torch.zeros(stack.size), torch.zeros(stack.size)
    stack.initialise(vector, 0)
    stack.initialise(other, 1)
    rows, d = bytes_of(4, 180), torch.from_numpy(np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32))
    passes, grad = PicturePasses(stack), torch.full_like(vector, 9.0)
    passes.forward(stack.layers(other), bytes_of(4, 180, seed=1))
    out = passes.forward(stack.layers(vector), rows)
    assert not out.requires_grad
    passes.backward(stack.layers(vector), d, stack.layers(grad))
    params = vector.clone().requires_grad_()
    again = stack(stack.layers(params), rows)
    (wanted,) = torch.autograd.grad(again, params, d)
    assert torch.equal(out, again)
    for own, theirs in zip(stack.layers(grad), stack.layers(wanted), strict=True):
        assert torch.allclose(own.weight, theirs.weight, atol=1e-6)
        assert torch.allclose(own.bias, theirs.bias, atol=1e-6)
        assert (own.weight != 0).any()
    back = torch.zeros(stack.size)
    stack.load(back, stack.tensors(vector, "q"), "q")
    assert torch.equal(back, vector)


def test_members_see_the_same_picture_each_with_its_own_weights() -> None:
    members = PictureMembers((12, 11, 2), 3, torch.Generator().manual_seed(0))
    rows = bytes_of(5, 12 * 11 * 2)
    x = rows.view(5, 12, 11, 2).permute(0, 3, 1, 2).float() / 255
    together = members(rows)
    for number in range(3):
        alone = modules(members.plan, 2, nn.LeakyReLU(0.01))
        for module, weight, bias in zip(
            [m for m in alone if isinstance(m, nn.Conv2d)], members.weights, members.biases, strict=True
        ):
            part = slice(number * len(module.weight), (number + 1) * len(module.weight))
            module.weight.data, module.bias.data = weight.data[part], bias.data[part]  # type: ignore[union-attr]
        assert torch.allclose(together[number], alone(x), atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_actor_and_critic_share_what_they_see() -> None:
    """Acting and evaluating agree, the gradient of either head reaches the convolutions, weights come back."""
    one = ActorCritic(12 * 12 * 2, 2, False, (8,), seed=4, picture=(12, 12, 2))
    rows = bytes_of(6, 288)
    actions, logprobs, values = one.act(rows.numpy(), one.noise(0, (6,)))
    params = one.params.clone().requires_grad_()
    found = one.evaluate(params, rows, torch.from_numpy(actions))
    assert torch.allclose(found.logprobs, torch.from_numpy(logprobs), atol=1e-5)
    assert torch.allclose(found.values, torch.from_numpy(values), atol=1e-5)
    assert one.trunk is not None
    for part in (found.logprobs, found.values):
        (grad,) = torch.autograd.grad(part.sum(), params, retain_graph=True)
        assert (grad[: one.trunk.size] != 0).any()
    assert one.compiled is None
    other = ActorCritic(288, 2, False, (8,), seed=5, picture=(12, 12, 2))
    assert not torch.equal(other.params, one.params)
    other.load(one.tensors())
    assert torch.equal(other.params, one.params)
    many = np.tile(rows.numpy(), (90, 1))  # more than are valued at once
    assert np.allclose(one.values(many), np.tile(values, 90), atol=1e-5)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize(
    ("successors", "form"), [(True, "partial_return"), (False, "partial_return"), (True, "regret")]
)
def test_a_segments_score_is_the_sum_over_its_pictures(discrete: bool, successors: bool, form: str) -> None:
    picture = (8, 9, 2)
    bounds = ((), ()) if discrete else ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    shape = Shape(144, 3, discrete, *bounds, successors, picture)
    random = np.random.default_rng(0)
    seen, after = (random.integers(256, size=(4, 5, 144), dtype=np.uint8) for _ in range(2))
    acted = (
        random.integers(3, size=(4, 5)).astype(np.float32)
        if discrete
        else random.normal(size=(4, 5, 3)).astype(np.float32)
    )
    features = shape.features(seen, acted, after)
    assert features.dtype == torch.uint8
    assert features.shape == (4, 5, shape.width)
    pixels, actions = shape.opened(features.reshape(20, -1))
    wide = 2 * (1 + successors)
    layered = pixels.view(20, 8, 9, wide).numpy()
    assert np.array_equal(layered[..., :2], seen.reshape(20, 8, 9, 2))
    assert not successors or np.array_equal(layered[..., 2:], after.reshape(20, 8, 9, 2))
    wanted = np.eye(3)[acted.reshape(-1).astype(int)] if discrete else np.clip(acted, -1, 1).reshape(20, 3)
    assert np.array_equal(actions.numpy(), wanted.astype(np.float32))
    assert np.array_equal(shape.features(seen.astype(np.float32), acted, after.astype(np.float32)), features)

    ensemble = SegmentEnsemble(shape, 3, (8,), form, 0)  # type: ignore[arg-type]
    ensemble.standardise(features.reshape(20, -1))
    with torch.no_grad():
        each = torch.stack([ensemble.steps(features[:, t]) for t in range(5)]).sum(0)  # one row at a time, too
        alone = torch.cat([ensemble.steps(features[i, :1]) for i in range(4)], 1)
        whole = ensemble.segments(features)
        if ensemble.value is not None and ensemble.value_trunk is not None:
            first, last = (
                ensemble.value(ensemble.value_trunk(x)) for x in (features[:, 0, :144], features[:, -1, -144:])
            )
            each = each + last - first
            assert (first != last).any()
    assert torch.allclose(alone, ensemble.steps(features[:, 0]), atol=1e-6)
    assert torch.allclose(whole, each, atol=1e-5)
    (total,) = torch.autograd.grad(ensemble.segments(features).sum(), ensemble.trunk.weights[0])  # type: ignore[union-attr]
    assert (total != 0).any()
    looks = shape.looks(features)
    assert looks.shape == (4, 5, 8 * 8 * wide + 3)
