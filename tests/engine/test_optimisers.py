"""Muon with AdamW beside it: the update by hand, AdamW against torch's, and exact resume through SFT."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tropism.engine.optimisers import MuonAdamW, orthogonalised


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_orthogonalised_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix)
    values = torch.linalg.svdvals(made)
    assert made.shape == shape
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.35
    aligned = torch.diagonal(left.T @ made @ right.T)
    assert float(aligned.min()) > 0.4  # U Vᵀ of the same singular vectors, not some other rotation


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden, self.norm = nn.Embedding(7, 4), nn.Linear(4, 8), nn.LayerNorm(8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.hidden(self.embed(ids)))


def _gradients(net: Net, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def test_everything_but_hidden_matrices_takes_adamw() -> None:
    net, twin = Net(), Net()
    ours = MuonAdamW.of(net, 0.01, betas=(0.9, 0.95), weight_decay=0.1)
    outer = [{"params": [twin.embed.weight], "weight_decay": 0.1}]
    flat = [{"params": [twin.hidden.bias, twin.norm.weight, twin.norm.bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(outer + flat, lr=0.01, betas=(0.9, 0.95))
    for step in range(5):
        _gradients(net, step)
        _gradients(twin, step)
        ours.step()
        theirs.step()
    for name in ("embed.weight", "hidden.bias", "norm.weight", "norm.bias"):
        assert torch.allclose(net.get_parameter(name), twin.get_parameter(name), atol=1e-6), name
    assert not torch.allclose(net.hidden.weight, Net().hidden.weight)


def test_first_muon_step_is_the_orthogonalised_gradient() -> None:
    net = Net()
    before = net.hidden.weight.detach().clone()
    _gradients(net, 0)
    gradient = net.hidden.weight.grad
    assert gradient is not None
    MuonAdamW.of(net, 0.01, muon_ratio=2.0, weight_decay=0.0).step()
    moved, expected = net.hidden.weight - before, -0.01 * 2.0 * (8 / 4) ** 0.5 * orthogonalised(gradient)
    # the momentum is the gradient on another scale, so bf16 rounds it otherwise
    assert float((moved - expected).norm() / expected.norm()) < 0.12


def test_parameters_without_gradient_stay() -> None:
    net = Net()
    _gradients(net, 0)
    net.hidden.weight.grad = None
    before = net.hidden.weight.detach().clone()
    MuonAdamW.of(net, 0.01).step()
    assert torch.equal(net.hidden.weight, before)
