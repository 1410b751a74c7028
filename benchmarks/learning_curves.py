"""Reading learning curves: the reward at a KL, the seconds to a reward. Numbers in, numbers out.

A curve is a list of points in the order of training, each with ``kl`` (nats) and what else is asked for. Left out:
drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Point = Mapping[str, float]
WINDOW = 0.4
"""Points within this share of a KL speak for it."""


def crossing(curve: Sequence[Point], name: str, level: float) -> dict[str, float] | None:
    """Every quantity of the curve where ``name`` first reaches ``level``, linear between two points; None: never."""
    for i, point in enumerate(curve):
        if point[name] < level:
            continue
        if i == 0:
            return dict(point)
        before = curve[i - 1]
        at = (level - before[name]) / (point[name] - before[name])
        return {key: before[key] + at * (point[key] - before[key]) for key in point}
    return None


def reach(curve: Sequence[Point], reward: float, kl_limit: float | None = None) -> dict[str, float] | None:
    """Where the curve first has ``reward``, if it has it at a KL of at most ``kl_limit``; None: it does not."""
    found = crossing(curve, "reward", reward)
    return None if found is None or (kl_limit is not None and found["kl"] > kl_limit) else found


def at_kl(curve: Sequence[Point], name: str, kl: float) -> float | None:
    """``name`` at a KL: a straight line through the points near it, which is less noisy than the two beside it.

    The points are those within ``WINDOW`` of the KL, up to the first that lies beyond it by as much, and the two on
    either side of the first crossing. None if the curve never reaches the KL.
    """
    first = next((i for i, point in enumerate(curve) if point["kl"] >= kl), None)
    if first is None:
        return None
    if first == 0:
        return curve[0][name]
    end = next((i for i, p in enumerate(curve) if p["kl"] > kl * (1 + WINDOW)), len(curve))
    near = [i for i in range(end) if abs(curve[i]["kl"] - kl) <= WINDOW * kl]
    return on_line([curve[i] for i in sorted({*near, first - 1, first})], name, kl)


def on_line(points: Sequence[Point], name: str, kl: float) -> float:
    """``name`` at a KL by a straight line through two points or more; their mean where all have one KL."""
    x = np.array([p["kl"] for p in points])
    y = np.array([p[name] for p in points])
    spread = x - x.mean()
    if not spread.any():
        return float(y.mean())
    return float(y.mean() + spread @ y / (spread @ spread) * (kl - x.mean()))


def highest(curve: Sequence[Point]) -> float:
    """The largest KL of a curve."""
    return max(p["kl"] for p in curve)
