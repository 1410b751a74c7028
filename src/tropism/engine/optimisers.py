"""Muon for the matrices of a small model trained from nothing, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") orthogonalises the Nesterov
momentum of each hidden matrix by Newton-Schulz iterations: W ← W − η·sqrt(max(1, rows/columns))·NS(m). Embeddings,
heads, norms and biases take AdamW.

Left out: convolution kernels, distributed orthogonalisation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tropism.runtime.precision import cpu_has_bf16

_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration: fast growth of small singular values
_ITERATIONS = 5
_DTYPE = torch.bfloat16 if cpu_has_bf16() else torch.float32  # the iteration forgives rounding; emulated bf16 is slow


class MuonAdamW(torch.optim.Optimizer):
    """Muon on parameter groups with ``muon=True``, AdamW on the others.

    ``lr`` is AdamW's rate; Muon's is ``lr · muon_ratio``. Weight decay is decoupled (θ ← θ − rate·decay·θ).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        muon_ratio: float = 6.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {
            "lr": lr, "muon": False, "muon_ratio": muon_ratio, "momentum": momentum, "betas": betas, "eps": eps,
            "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(list(groups), defaults)

    @classmethod
    def of(cls, model: nn.Module, lr: float, **options: Any) -> MuonAdamW:
        """Hidden matrices to Muon; embeddings and output heads (tied or not) to AdamW; vectors to AdamW, undecayed."""
        outer = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()
        outer |= {id(p) for p in head.parameters()} if head is not None else set()
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim == 2 and id(p) not in outer], "muon": True},
            {"params": [p for p in trained if p.ndim >= 2 and (p.ndim > 2 or id(p) in outer)]},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        return cls([g for g in groups if g["params"]], lr, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # closures are for line searches
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate = self.state[parameter], group["lr"] * group["muon_ratio"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalised(gradient.lerp(momentum, group["momentum"]))
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.add_(update, alpha=-rate * max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5)

    def _adamw(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        count = float(state["step"])
        scale = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - beta1**count))


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of ``matrix`` = U S Vᵀ (singular values between 0.7 and 1.2), by quintic Newton-Schulz."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(_DTYPE)
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
