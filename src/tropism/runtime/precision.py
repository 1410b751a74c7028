"""Precision as a named choice, and the proof that it is what runs.

``fp32`` computes in float32; ``bf16`` keeps float32 weights and optimiser state and runs matrix products under bfloat16
autocast; ``auto`` is bf16 where the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX), fp32 elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tropism.errors import ContractError

PrecisionName = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Precision:
    """A resolved precision: ``name`` is ``fp32`` or ``bf16``."""

    name: Literal["fp32", "bf16"]

    def autocast(self) -> AbstractContextManager:
        """The context in which forwards run."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.name == "bf16", cache_enabled=False)

    def check(self) -> int:
        """Bits that a matrix product really has under :meth:`autocast`; ContractError if not those asked for."""
        with self.autocast():
            bits = torch.finfo((torch.ones(2, 2) @ torch.ones(2, 2)).dtype).bits
        if bits != (16 if self.name == "bf16" else 32):
            raise ContractError(f"precision {self.name} was asked for, but products run in {bits} bits")
        return bits


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
