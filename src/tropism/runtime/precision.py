"""Precision as a named choice, and the proof that it is what runs.

``fp32`` computes in float32. ``bf16`` runs forwards and backwards through a bfloat16 copy of the weights; the weights
that are optimised and saved, their moments and the sums of their gradients are float32. ``autocast`` keeps one float32
model and lets torch round the operands of each matrix product. ``auto`` is bf16 where the CPU multiplies bfloat16 in
hardware (AVX512-BF16 or AMX), fp32 elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tropism.errors import ContractError

PrecisionName = Literal["auto", "fp32", "autocast", "bf16"]


@dataclass(frozen=True)
class Precision:
    """A resolved precision."""

    name: Literal["fp32", "autocast", "bf16"]

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return torch.float32 if self.name == "fp32" else torch.bfloat16

    @property
    def weights(self) -> torch.dtype:
        """Of the weights that forwards read (``engine.working.Working``)."""
        return torch.bfloat16 if self.name == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager:
        """The context in which forwards run."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.name == "autocast", cache_enabled=False)

    def check(self) -> int:
        """Bits that a matrix product really has; ContractError if not those asked for."""
        with self.autocast():
            ones = torch.ones(2, 2, dtype=self.weights)
            bits = torch.finfo((ones @ ones).dtype).bits
        if bits != torch.finfo(self.dtype).bits:
            raise ContractError(f"precision {self.name} was asked for, but products run in {bits} bits")
        return bits


FP32 = Precision("fp32")


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 2)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return False  # not Linux on x86: bf16 would be emulated, so fp32 is the faster choice
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(name: PrecisionName) -> Precision:
    """Turn a configured name into what this machine runs."""
    if name == "auto":
        return Precision("bf16" if cpu_has_bf16() else "fp32")
    return Precision(name)
