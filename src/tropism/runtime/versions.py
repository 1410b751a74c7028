"""Versions of what results depend on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "tropism",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "numpy",
    "scipy",
    "sqlalchemy",
    "pydantic",
)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Python's version and that of every package named (``not installed`` where it is absent)."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
