"""Standard errors of a fit with many parameters of which most hang together in small groups only.

Items that share no vote, or annotators given the items, are independent of one another: that part of the curvature is
block-diagonal, and is eliminated first (the Schur complement). What remains is small and dense. The errors are those of
the whole inverse, exactly, without its ever being formed.

Left out: covariances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from tropism.errors import ContractError
from tropism.feedback.quality.votes import Floats


def marginal_errors(curvature: sparse.csc_matrix, eliminated: NDArray[np.bool_], largest: int) -> Floats | None:
    """Square roots ``[P]`` of the diagonal of the inverse of ``curvature [P, P]``, symmetric and positive definite.

    ``eliminated [P]``: the parameters to be eliminated first. None if a connected group of them, or the rest, has more
    than ``largest`` members. Errors: ContractError if the curvature is not positive definite.
    """
    inside = curvature[eliminated][:, eliminated].tocsc()
    rest = int((~eliminated).sum())
    _, group = connected_components(inside, directed=False)
    place = _within(group)
    width = int(place.max()) + 1
    if width > largest or rest > largest:
        return None
    across = curvature[eliminated][:, ~eliminated].toarray()
    solver = splu(inside)
    reached = solver.solve(across) if rest else across
    schur = curvature[~eliminated][:, ~eliminated].toarray() - across.T @ reached
    # one right-hand side asks for one member of every group at once: groups do not reach one another
    rows = np.arange(len(place))
    asked = np.zeros((len(place), width))
    asked[rows, place] = 1.0
    within = solver.solve(asked)[rows, place]
    try:
        root = np.linalg.cholesky((schur + schur.T) / 2)
    except np.linalg.LinAlgError as error:
        raise _saddle() from error
    if not (within > 0).all():
        raise _saddle()
    inverse = np.linalg.inv(root)
    found = np.empty(len(eliminated))
    found[~eliminated] = (inverse**2).sum(0)
    found[eliminated] = within + ((reached @ inverse.T) ** 2).sum(1)
    return np.sqrt(found)


def _within(group: NDArray[np.int32]) -> NDArray[np.int64]:
    """The number of each element within its group."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def _saddle() -> ContractError:
    return ContractError(
        "the joint fit ended on a saddle: its curvature is not positive", "give more votes, or narrower spreads"
    )
