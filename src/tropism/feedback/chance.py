"""Random numbers that are a hash of what they are for, so that a replay, another order or a subset draws the same.

Left out: tensors and speed (see ``runtime/seeding.py``); these serve decisions about single queries.
"""

from __future__ import annotations

import math
from typing import Any

from tropism.digests import digest


def uniform(seed: int, *key: Any) -> float:
    """A number in (0, 1) that depends on the seed and a JSON key alone."""
    return (int(digest([seed, *key])[:13], 16) + 0.5) / 16**13


def gumbel(seed: int, *key: Any) -> float:
    """A standard Gumbel number: the argmax of ``x_i + gumbel_i`` is a softmax sample of x."""
    return -math.log(-math.log(uniform(seed, *key)))


def logistic(seed: int, *key: Any) -> float:
    """A standard logistic number: the difference of two Gumbel numbers."""
    u = uniform(seed, *key)
    return math.log(u / (1 - u))


def shuffled(k: int, seed: int, *key: Any) -> tuple[int, ...]:
    """A random order of 0 … k-1."""
    return tuple(sorted(range(k), key=lambda i: uniform(seed, *key, i)))
