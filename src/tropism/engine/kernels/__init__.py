"""Optional compiled kernels: plain C beside this file, compiled once, checked against torch, never required.

Everything but ``library`` and ``why_not`` may only be called where ``library()`` is not None.
"""

from __future__ import annotations

from tropism.engine.kernels.build import library, why_not
from tropism.engine.kernels.elementwise import (
    Activation,
    SoftmaxStats,
    gated,
    rms_norm,
    rotary,
    sample_rows,
    softmax_stats,
    softmax_stats_backward_,
)

__all__ = [
    "Activation",
    "SoftmaxStats",
    "gated",
    "library",
    "rms_norm",
    "rotary",
    "sample_rows",
    "softmax_stats",
    "softmax_stats_backward_",
    "why_not",
]
