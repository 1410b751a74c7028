"""Passes written out against autograd, for one network and for several."""

from __future__ import annotations

import pytest
import torch

from tropism.control.perceptrons import Passes, Stack
from tropism.errors import ConfigError


def made(count: int, widths: tuple[int, ...], seed: int = 0) -> tuple[Stack, torch.Tensor]:
    stack = Stack(count, widths)
    params = torch.zeros(stack.size)
    stack.initialise(params, seed)
    return stack, params


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("widths", [(3, 2), (5, 7, 1), (17, 32, 20, 6)])
@pytest.mark.parametrize("rows", [1, 9])
def test_backward_is_autograds(count: int, widths: tuple[int, ...], rows: int) -> None:
    stack, params = made(count, widths)
    x = torch.randn(rows + 4, widths[0], generator=torch.Generator().manual_seed(1))
    leaf = params.clone().requires_grad_()
    wanted_out = stack(stack.layers(leaf), x)
    passes, grad = Passes(stack, rows + 4), torch.full((stack.size,), 7.0)
    with torch.no_grad():
        out = passes.forward(stack.layers(params), x)
        torch.testing.assert_close(out, wanted_out)
        d = torch.randn(count, rows, widths[-1], generator=torch.Generator().manual_seed(2))
        passes.backward(stack.layers(params), d, stack.layers(grad))
    (wanted,) = torch.autograd.grad((wanted_out[:, :rows] * d).sum(), leaf)
    for got, right in zip(stack.layers(grad), stack.layers(wanted), strict=True):
        torch.testing.assert_close(got.weight, right.weight)
        torch.testing.assert_close(got.bias, right.bias)


def test_input_gradient_is_autograds_for_the_rows_asked_for() -> None:
    stack, params = made(2, (6, 16, 8, 1))
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    passes, rows = Passes(stack, 10), torch.tensor([7, 0, 3])
    with torch.no_grad():
        passes.forward(stack.layers(params), x.detach())
        got = passes.input_gradient(stack.layers(params), 1, rows, torch.full((3, 1), -0.5), 4)
        none = passes.input_gradient(stack.layers(params), 0, rows[:0], torch.empty(0, 1), 4)
    (wanted,) = torch.autograd.grad(-0.5 * stack(stack.layers(params), x)[1].sum(), x)
    torch.testing.assert_close(got, wanted[rows][:, 4:])
    assert none.shape == (0, 2)


def test_networks_of_a_stack_differ_and_come_back_by_name() -> None:
    stack, params = made(2, (4, 8, 3))
    first, second = stack(stack.layers(params), torch.ones(1, 4))
    assert not torch.allclose(first, second)
    tensors, other = stack.tensors(params, "a", "b"), torch.zeros(stack.size)
    assert tensors["a.0.weight"].shape == (8, 4)
    linear = torch.nn.functional.linear(torch.ones(1, 4), tensors["b.0.weight"], tensors["b.0.bias"]).relu()
    torch.testing.assert_close(linear @ tensors["b.1.weight"].T + tensors["b.1.bias"], second)
    stack.load(other, tensors, "a", "b")
    assert torch.equal(other, params)


def test_first_weights_lie_within_torchs_bounds() -> None:
    stack, params = made(1, (100, 400, 1))
    weight = stack.layers(params)[0].weight
    assert 0.0995 < float(weight.abs().max()) <= 0.1
    assert abs(float(weight.mean())) < 0.001


@pytest.mark.parametrize("widths", [(3,), (3, 0, 1)])
def test_shapes_that_are_none(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="widths"):
        Stack(1, widths)
