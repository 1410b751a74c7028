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
    if max(int(np.bincount(group).max()), rest) > largest:
        return None
    inverse = _by_group(inside, group)
    within = inverse.diagonal()
    if not (within > 0).all():
        raise _saddle()
    if not rest:
        return np.sqrt(within)
    across = curvature[eliminated][:, ~eliminated].tocsr()
    reached = inverse @ across
    schur = (curvature[~eliminated][:, ~eliminated] - across.T @ reached).toarray()
    try:
        root = np.linalg.cholesky((schur + schur.T) / 2)
    except np.linalg.LinAlgError as error:
        raise _saddle() from error
    turned = np.linalg.inv(root)
    found = np.empty(len(eliminated))
    found[~eliminated] = (turned**2).sum(0)
    found[eliminated] = within + ((reached @ turned.T) ** 2).sum(1)
    return np.sqrt(found)


def _by_group(matrix: sparse.csc_matrix, group: NDArray[np.int32]) -> sparse.csr_matrix:
    """The inverse of a matrix that links members of one group only; it links no others either."""
    place = _within(group)
    n = len(group)
    # one right-hand side asks for one member of every group at once: groups do not reach one another
    asked = np.zeros((n, int(place.max()) + 1))
    asked[np.arange(n), place] = 1.0
    solved = splu(matrix).solve(asked)
    member = sparse.csr_matrix((np.ones(n), (np.arange(n), group)))
    rows, columns = (member @ member.T).nonzero()
    return sparse.csr_matrix((solved[rows, place[columns]], (rows, columns)), shape=(n, n))


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
