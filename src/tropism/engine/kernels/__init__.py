"""Optional compiled kernels: plain C beside this file, compiled once, checked against torch, never required."""

from __future__ import annotations

from tropism.engine.kernels.build import library, why_not

__all__ = ["library", "why_not"]
