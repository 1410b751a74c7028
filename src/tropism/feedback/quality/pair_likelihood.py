"""The joint model where candidates have few votes each: what a pair differs by is integrated out.

``joint_likelihood.py`` finds utilities and annotators at one common maximum. That is sound where items have many votes.
Where they have one to five, as the candidates of a study do, the maximum runs away: utilities shrink, skills grow, and
the product fits. Here the difference of each pair, N(0, σ²), is integrated out by Gauss-Hermite quadrature, and the
annotators' terms and σ are found at the maximum of what remains; the curvature is exact too (Louis 1982).

Left out: what pairs that share an item tell of each other; utilities are fitted afterwards, with the annotators known.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

from tropism.feedback.quality.joint_likelihood import Blocks, Prior, blocks_of, curve, prior_curvature, prior_penalty
from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Votes

NODES = 15


class PairLikelihood:
    """The negative log posterior of ``votes`` as a function of annotators' terms and log σ ``[P]``.

    Offers what ``JointLikelihood`` does, without utilities; ``blocks.pair`` holds log σ.
    """

    def __init__(self, votes: Votes, *, position: bool, length: bool) -> None:
        low, high = np.minimum(votes.a, votes.b), np.maximum(votes.a, votes.b)
        order = np.lexsort((high, low))  # votes of a pair side by side
        self.votes = votes.take(order)
        keys = low[order] * len(votes.items) + high[order]
        _, self._starts, self._pair = np.unique(keys, return_index=True, return_inverse=True)
        self._sign = np.where(self.votes.a < self.votes.b, 1.0, -1.0)
        self._toward = np.select([self.votes.choice == A_WINS, self.votes.choice == B_WINS], [0.5, -0.5], 0.0)
        self.blocks: Blocks = blocks_of(self.votes, utilities=0, position=position, length=length, pair=True)
        self._nodes, masses = np.polynomial.hermite_e.hermegauss(NODES)
        self._log_mass = np.log(masses / masses.sum())

    def start(self, spread: float) -> Floats:
        """Skills 1, and a pair's difference √2 times as wide as a utility."""
        vector = np.zeros(self.blocks.size)
        vector[self.blocks.skill] = 1.0
        vector[self.blocks.pair] = np.log(spread * np.sqrt(2))
        return vector

    def objective(self, vector: Floats, prior: Prior) -> tuple[float, Floats]:
        """Negative log posterior (up to a constant) and its gradient ``[P]``."""
        votes, blocks, who = self.votes, self.blocks, self.votes.annotator
        gaps, _, weights, slope, tie_slope, found = self._at(vector)
        moved = weights * slope
        per_vote, k = moved.sum(1), len(votes.annotators)
        gradient = np.zeros_like(vector)
        gradient[blocks.skill] = np.bincount(who, (moved * gaps).sum(1), k)
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                gradient[block][:-1] = np.bincount(who, per_vote * factor, k)
        if blocks.tie in blocks:
            gradient[blocks.tie][:-1] = np.bincount(who, (weights * tie_slope).sum(1), k)
        gradient[blocks.pair] = ((moved * gaps).sum(1) * vector[blocks.skill][who]).sum()
        penalty, pull = prior_penalty(blocks, vector, prior)
        return penalty - found, pull - gradient

    def hessian(self, vector: Floats, prior: Prior) -> sparse.csc_matrix:
        """Second derivatives ``[P, P]``: the complete data's curvature less the variance of its gradient."""
        gaps, p, weights, slope, tie_slope, _ = self._at(vector)
        across, along = self._jacobians(vector, gaps)
        flat, w = p.reshape(-1, 3), weights.ravel()
        cross = across.T @ sparse.diags(-w * (flat[:, 0] - flat[:, 1]) * flat[:, 2] / 2) @ along
        total = across.T @ sparse.diags(w * curve(flat)) @ across + cross + cross.T
        total = total + along.T @ sparse.diags(w * flat[:, 2] * (1 - flat[:, 2])) @ along
        # δ = s · exp(log σ) · z bends in log σ alone and in log σ and s together
        pulled = (weights * slope * gaps).sum(1)
        who, scale = self.votes.annotator + self.blocks.skill.start, np.full(len(pulled), self.blocks.pair.start)
        mixed = sparse.csr_matrix((pulled, (who, scale)), shape=total.shape)
        alone = pulled * vector[self.blocks.skill][self.votes.annotator]
        bent = mixed + mixed.T + sparse.csr_matrix((alone, (scale, scale)), shape=total.shape)
        missing = self._missing(weights, across, along, slope, tie_slope)
        return (total - bent - missing + prior_curvature(self.blocks, prior)).tocsc()

    def diagonal(self, vector: Floats, prior: Prior) -> Floats:
        """The diagonal ``[P]`` of the complete data's curvature: a scale to optimise in."""
        gaps, p, weights, _, _, _ = self._at(vector)
        across, along = self._jacobians(vector, gaps)
        flat, w = p.reshape(-1, 3), weights.ravel()
        found = across.power(2).T @ (w * curve(flat)) + along.power(2).T @ (w * flat[:, 2] * (1 - flat[:, 2]))
        return np.asarray(found + prior_curvature(self.blocks, prior).diagonal(), np.float64)

    def _at(self, vector: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats, float]:
        """At each vote and node: gaps, probabilities ``[V, Q, 3]``, posterior weights, slopes by δ and by τ ``[V, Q]``;
        and the log-likelihood."""
        votes, blocks, who = self.votes, self.blocks, self.votes.annotator
        gaps = np.exp(vector[blocks.pair]) * self._sign[:, None] * self._nodes
        pull = np.zeros(len(votes))
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                pull = pull + vector[block][who] * factor
        half = (vector[blocks.skill][who][:, None] * gaps + pull[:, None]) / 2
        tie = vector[blocks.tie][who][:, None] if blocks.tie in blocks else np.full((len(votes), 1), -np.inf)
        logits = np.stack([half, -half, np.broadcast_to(tie, half.shape)], axis=2)
        logits -= np.maximum(np.abs(half), tie)[:, :, None]
        logits -= np.log(np.exp(logits).sum(2))[:, :, None]
        chosen = np.take_along_axis(logits, votes.choice[:, None, None], 2)[:, :, 0]
        joint = np.add.reduceat(chosen, self._starts, axis=0) + self._log_mass
        total = logsumexp(joint, axis=1)
        p = np.exp(logits)
        slope = self._toward[:, None] - (p[:, :, 0] - p[:, :, 1]) / 2
        tie_slope = (votes.choice == TIE)[:, None] - p[:, :, 2]
        return gaps, p, np.exp(joint - total[:, None])[self._pair], slope, tie_slope, float(total.sum())

    def _jacobians(self, vector: Floats, gaps: Floats) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Derivatives of δ and of τ by the parameters, one row per vote and node ``[V·Q, P]``."""
        votes, blocks = self.votes, self.blocks
        rows, who = np.arange(gaps.size), np.repeat(votes.annotator, NODES)
        skill = np.repeat(vector[blocks.skill][votes.annotator], NODES)
        entries = [(who + blocks.skill.start, gaps.ravel())]
        entries.append((np.full(gaps.size, blocks.pair.start), skill * gaps.ravel()))
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                entries.append((who + block.start, np.repeat(factor, NODES)))
        columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
        shape = (len(rows), blocks.size)
        across = sparse.csr_matrix((values, (np.tile(rows, len(entries)), columns)), shape=shape)
        if blocks.tie not in blocks:
            return across, sparse.csr_matrix(shape)
        return across, sparse.csr_matrix((np.ones(len(rows)), (rows, who + blocks.tie.start)), shape=shape)

    def _missing(
        self, weights: Floats, across: sparse.csr_matrix, along: sparse.csr_matrix, slope: Floats, tie_slope: Floats
    ) -> sparse.csr_matrix:
        """Σ over pairs of the variance, over its nodes, of the gradient of its votes' log-likelihood ``[P, P]``."""
        pairs, rows = len(self._starts), np.arange(slope.size)
        each = sparse.diags(slope.ravel()) @ across + sparse.diags(tie_slope.ravel()) @ along
        cells = (self._pair[:, None] * NODES + np.arange(NODES)).ravel()
        by_node = sparse.csr_matrix((np.ones(len(rows)), (cells, rows)), shape=(pairs * NODES, len(rows))) @ each
        weighted = sparse.diags(weights[self._starts].ravel()) @ by_node
        cell = np.arange(pairs * NODES)
        mean = sparse.csr_matrix((np.ones(len(cell)), (cell // NODES, cell))) @ weighted
        return by_node.T @ weighted - mean.T @ mean
