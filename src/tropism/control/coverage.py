"""Where the labels lie: states of judged segments against states visited.

Both are looked at in the plane of the two directions in which the visited states vary most, in a grid of equal cells.
A policy that has moved on to states that nobody has judged is paid by extrapolation.

Left out: densities in the full space, which a few thousand states do not fill.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS = 12


def coverage(visited: NDArray[np.floating], labelled: NDArray[np.floating]) -> dict[str, float]:
    """``visited`` ``[N, D]``, ``labelled`` ``[M, D]``. Values: ``visited_covered`` (share of visited states in cells
    with a labelled one), ``cells_visited``, ``cells_labelled`` (of those visited), ``variance_shown`` (share of the
    visited states' variance that the plane holds)."""
    if len(visited) < 3:
        return {"visited_covered": 0.0, "cells_visited": 0.0, "cells_labelled": 0.0, "variance_shown": 0.0}
    x, y = (np.asarray(rows, np.float64) for rows in (visited, labelled))
    mean, deviation = x.mean(0), x.std(0)
    moves = deviation > 1e-9
    x, y = ((rows - mean)[:, moves] / deviation[moves] for rows in (x, y))
    _, spread, directions = np.linalg.svd(x, full_matrices=False)
    plane = directions[:2].T
    edges = [np.quantile(column, [0.005, 0.995]) for column in (x @ plane).T]

    def cells(rows: NDArray[np.float64]) -> NDArray[np.int64]:
        at = np.zeros(len(rows), np.int64)
        for column, (low, high) in zip((rows @ plane).T, edges, strict=True):
            place = np.clip((column - low) / max(high - low, 1e-12) * CELLS, 0, CELLS - 1)
            at = at * CELLS + place.astype(np.int64)
        return at

    seen, judged = cells(x), set(cells(y).tolist())
    distinct = set(seen.tolist())
    return {
        "visited_covered": float(np.isin(seen, list(judged)).mean()),
        "cells_visited": float(len(distinct)),
        "cells_labelled": float(len(distinct & judged)),
        "variance_shown": float((spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-12)),
    }
