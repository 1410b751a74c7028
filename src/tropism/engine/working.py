"""A model as it runs: itself, or a copy of its weights in bf16 whose gradients go to the fp32 masters.

Micikevicius et al. 2018 ("Mixed precision training"): every product and activation is in the low precision, the
optimiser's weights, moments and sums of gradients are not. The copy is made once and refreshed after each optimiser
step, where autocast rounds the weights anew in every forward.

Left out: loss scaling, which bf16's range makes needless.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tropism.runtime.precision import FP32, Precision


class Working:
    """``model`` is what forwards go through; ``master`` is what is optimised and saved. They are one in fp32 and under
    autocast.

    Call :meth:`refresh` whenever the master's weights have changed. Gradients of ``model`` are added to those of
    ``master`` as they appear, in fp32.
    """

    def __init__(self, master: Any, precision: Precision = FP32, exact: Collection[str] = ()) -> None:
        """``exact``: names of parameters that keep their precision, and are the master's own."""
        self.master, self.precision = master, precision
        self.model: Any = master
        if precision.name == "bf16":
            self.model = _lowered(master, exact)
            for mine, own in self._pairs():
                if mine is not own and mine.requires_grad:
                    mine.register_post_accumulate_grad_hook(_handing_over(own))

    def running(self) -> AbstractContextManager[None]:
        """The context of every forward."""
        return self.precision.autocast()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the master's weights."""
        for mine, own in self._pairs():
            if mine is not own:
                mine.copy_(own)

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return list(zip(self.model.parameters(), self.master.parameters(), strict=True))


def _lowered(master: nn.Module, exact: Collection[str]) -> nn.Module:
    """A copy with its parameters in bf16; buffers (rotary frequencies) keep their precision."""
    # parameters are put into the memo, so that no second fp32 copy of them is made on the way
    low: dict[int, Any] = {
        id(p): p
        if name in exact
        else nn.Parameter(p.detach().to(torch.bfloat16, copy=True), requires_grad=p.requires_grad)
        for name, p in master.named_parameters()
    }
    made: nn.Module = copy.deepcopy(master, low)
    return made


def _handing_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that adds a working parameter's gradient to its master's."""

    def hand_over(working: Tensor) -> None:
        assert working.grad is not None  # called after it was accumulated
        if master.grad is None:
            master.grad = working.grad.float()
        else:
            master.grad.add_(working.grad)
        working.grad = None

    return hand_over
