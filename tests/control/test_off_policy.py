"""What off-policy methods share: an optimiser in one pass, which must be the plain one."""

from __future__ import annotations

import pytest
import torch

from tropism.control.off_policy import FusedAdam, Trained
from tropism.control.ppo import Adam


def test_fused_adam_is_adam() -> None:
    draw = torch.Generator().manual_seed(0)
    params = torch.randn(1003, generator=draw)
    fused, plain, theirs = params.clone(), params.clone(), params.clone().requires_grad_()
    one = FusedAdam(torch.zeros(1003), torch.zeros(1003), eps=1e-8)
    other = Adam(torch.zeros(1003), torch.zeros(1003), eps=1e-8)
    torchs = torch.optim.Adam([theirs], lr=1e-2)
    for _ in range(7):
        grad = torch.randn(1003, generator=draw)
        one.apply(fused, grad, 1e-2)
        other.apply(plain, grad, 1e-2)
        theirs.grad = grad
        torchs.step()
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(fused, theirs.detach())
    assert one.step == other.step == 7
    assert not torch.allclose(fused, params)


@pytest.mark.parametrize(("limit", "wanted"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_shortened_to_the_limit(limit: float, wanted: float) -> None:
    part = Trained.zeros(2)
    part.grad.copy_(torch.tensor([3.0, 4.0]))
    part.step(0.1, limit)
    assert float(part.grad.norm()) == pytest.approx(wanted, rel=1e-5)
    assert part.params.tolist() == pytest.approx([-0.1, -0.1], rel=1e-5)
