"""The joint model of comparison votes: its likelihood, gradient and curvature.

Annotator k sees items a and b and answers a, b or tie with probabilities in proportion to exp(δ/2), exp(−δ/2), exp(τ_k)
(Davidson 1970; without ties this is Bradley and Terry 1952), where

    δ = s_k (u_a − u_b) + π_k·first + λ_k·length

u: utilities of items; s: skills, about 1, 0 for who answers at random, negative for who answers inverted; π: the pull
of the position shown first; λ: the pull of length; τ: how readily a tie is given. All are Gaussian around a common
mean (skills: around 1), so that few votes do not swing them; how narrowly, is learned (``joint_fit.learned``).

Left out: an effect of each pair beside its utilities (on 13,030 real pairs of three votes each its deviation was found
to be a twentieth of a logit), correlations between an annotator's terms, and drift over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Votes

COMMON_SPREAD = 3.0
"""Prior deviation of the common position, length and tie terms, in logits: as good as none."""
PAIR_SPREAD = 1.0
"""Prior deviation of log σ, the logarithm of how much pairs differ: a factor of 2.7 either way."""


@dataclass(frozen=True)
class Spreads:
    """Prior scales: of utilities (logits), skills, position, length and tie terms around their common means."""

    utility: float = 1.5
    skill: float = 0.5
    position: float = 0.5
    length: float = 0.5
    tie: float = 1.0


@dataclass(frozen=True)
class Prior:
    """Prior deviations as the likelihood wants them: one of utilities, one ``[K]`` of each annotator's own terms.

    Those of annotators differ because most are alike and a few are far off: see ``joint_fit.learned``.
    """

    utility: float
    skill: Floats
    position: Floats
    length: Floats
    tie: Floats

    @classmethod
    def alike(cls, spreads: Spreads, annotators: int) -> Prior:
        """The same deviations for everybody."""
        own = (spreads.skill, spreads.position, spreads.length, spreads.tie)
        return cls(spreads.utility, *(np.full(annotators, spread) for spread in own))


@dataclass(frozen=True)
class Blocks:
    """Where each kind of parameter lies in the vector of all P; a block that the model lacks is empty.

    The common mean of the position, length and tie terms is the last element of its block.
    """

    utility: slice
    skill: slice
    position: slice
    length: slice
    tie: slice
    pair: slice
    """log σ of ``pair_likelihood.py``; empty in the model of this file."""
    size: int

    def __contains__(self, block: slice) -> bool:
        return block.stop > block.start


class JointLikelihood:
    """The negative log posterior of ``votes`` as a function of one vector ``[P]``, with gradient and Hessian."""

    def __init__(self, votes: Votes, *, position: bool, length: bool) -> None:
        self.votes = votes
        self.blocks = blocks_of(votes, utilities=len(votes.items), position=position, length=length, pair=False)
        self._toward = np.select([votes.choice == A_WINS, votes.choice == B_WINS], [0.5, -0.5], 0.0)

    def start(self, spread: float) -> Floats:
        """Where a fit begins ``[P]``: skills 1, utilities by the share of votes won (all equal would be a saddle)."""
        votes, n = self.votes, len(self.votes.items)
        won = np.bincount(votes.a, self._toward, n) - np.bincount(votes.b, self._toward, n)
        seen = np.bincount(votes.a, minlength=n) + np.bincount(votes.b, minlength=n)
        vector = np.zeros(self.blocks.size)
        vector[self.blocks.utility] = 2 * spread * won / (seen + 2)
        vector[self.blocks.skill] = 1.0
        return vector

    def log_probabilities(self, vector: Floats, votes: Votes) -> Floats:
        """log P(a, b, tie) ``[N, 3]`` of any questions to the model's annotators; −inf for ties it does not know."""
        blocks, who = self.blocks, votes.annotator
        utility = vector[blocks.utility]
        delta = vector[blocks.skill][who] * (utility[votes.a] - utility[votes.b])
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                delta = delta + vector[block][who] * factor
        tie = vector[blocks.tie][who] if blocks.tie in blocks else np.full(len(votes), -np.inf)
        logits = np.stack([delta / 2, -delta / 2, tie], axis=1)
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return logits

    def log_likelihood(self, vector: Floats) -> float:
        """Of all votes, in nats."""
        every = self.log_probabilities(vector, self.votes)
        return float(np.take_along_axis(every, self.votes.choice[:, None], 1).sum())

    def objective(self, vector: Floats, prior: Prior) -> tuple[float, Floats]:
        """Negative log posterior (up to a constant) and its gradient ``[P]``."""
        votes, blocks, who = self.votes, self.blocks, self.votes.annotator
        every = self.log_probabilities(vector, votes)
        p = np.exp(every)
        slope = self._toward - (p[:, 0] - p[:, 1]) / 2  # d log-likelihood / dδ
        utility, n, k = vector[blocks.utility], len(votes.items), len(votes.annotators)
        pushed = slope * vector[blocks.skill][who]
        gradient = np.zeros_like(vector)
        gradient[blocks.utility] = np.bincount(votes.a, pushed, n) - np.bincount(votes.b, pushed, n)
        gradient[blocks.skill] = np.bincount(who, slope * (utility[votes.a] - utility[votes.b]), k)
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                gradient[block][:-1] = np.bincount(who, slope * factor, k)
        if blocks.tie in blocks:
            gradient[blocks.tie][:-1] = np.bincount(who, (votes.choice == TIE) - p[:, 2], k)
        penalty, pull = prior_penalty(blocks, vector, prior)
        found = np.take_along_axis(every, votes.choice[:, None], 1).sum()
        return float(penalty - found), pull - gradient

    def hessian(self, vector: Floats, prior: Prior) -> sparse.csc_matrix:
        """Second derivatives ``[P, P]`` of the objective, sparse."""
        votes, blocks = self.votes, self.blocks
        p = np.exp(self.log_probabilities(vector, votes))
        across, along = self._jacobians(vector)
        cross = across.T @ sparse.diags(-(p[:, 0] - p[:, 1]) * p[:, 2] / 2) @ along
        total = across.T @ sparse.diags(curve(p)) @ across + cross + cross.T
        total = total + along.T @ sparse.diags(p[:, 2] * (1 - p[:, 2])) @ along
        slope = self._toward - (p[:, 0] - p[:, 1]) / 2
        who = np.tile(votes.annotator + blocks.skill.start, 2)  # δ bends in a skill and a utility together only
        where = who, np.concatenate([votes.a, votes.b])
        bent = sparse.csr_matrix((np.concatenate([slope, -slope]), where), shape=total.shape)
        return (total - bent - bent.T + prior_curvature(blocks, prior)).tocsc()

    def diagonal(self, vector: Floats, prior: Prior) -> Floats:
        """The Hessian's diagonal ``[P]`` alone, for models too large for the whole of it."""
        p = np.exp(self.log_probabilities(vector, self.votes))
        across, along = self._jacobians(vector)
        found = across.power(2).T @ curve(p) + along.power(2).T @ (p[:, 2] * (1 - p[:, 2]))
        return np.asarray(found, np.float64) + prior_curvature(self.blocks, prior).diagonal()

    def _jacobians(self, vector: Floats) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Derivatives of δ and of τ by the parameters, one row per vote ``[V, P]``."""
        votes, blocks, who = self.votes, self.blocks, self.votes.annotator
        rows, utility, skill = np.arange(len(votes)), vector[blocks.utility], vector[blocks.skill][who]
        entries = [(votes.a, skill), (votes.b, -skill)]
        entries.append((who + blocks.skill.start, utility[votes.a] - utility[votes.b]))
        for block, factor in ((blocks.position, votes.first), (blocks.length, votes.length)):
            if block in blocks:
                entries.append((who + block.start, factor))
        columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
        shape = (len(rows), blocks.size)
        across = sparse.csr_matrix((values, (np.tile(rows, len(entries)), columns)), shape=shape)
        if blocks.tie not in blocks:
            return across, sparse.csr_matrix(shape)
        return across, sparse.csr_matrix((np.ones(len(rows)), (rows, who + blocks.tie.start)), shape=shape)


def own_terms(blocks: Blocks) -> NDArray[np.bool_]:
    """Which parameters ``[P]`` are an annotator's own: neither a utility nor a common mean."""
    found = np.ones(blocks.size, np.bool_)
    found[blocks.utility] = found[blocks.pair] = False
    for block in (blocks.position, blocks.length, blocks.tie):
        if block in blocks:
            found[block.stop - 1] = False
    return found


def blocks_of(votes: Votes, *, utilities: int, position: bool, length: bool, pair: bool) -> Blocks:
    """The blocks of a model of these votes; ties are in it if one was given."""
    n = len(votes.annotators)
    shrunk = (position, length, bool((votes.choice == TIE).any()))
    ends = np.cumsum([0, utilities, n, *(n + 1 if there else 0 for there in shrunk), int(pair)]).tolist()
    parts = [slice(i, j) for i, j in pairwise(ends)]
    return Blocks(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], ends[-1])


def prior_penalty(blocks: Blocks, vector: Floats, prior: Prior) -> tuple[float, Floats]:
    """−log prior (up to a constant) and its gradient ``[P]``."""
    pull = np.zeros_like(vector)
    pull[blocks.utility] = vector[blocks.utility] / prior.utility**2
    pull[blocks.skill] = (vector[blocks.skill] - 1) / prior.skill**2
    penalty = vector[blocks.utility] @ pull[blocks.utility] + (vector[blocks.skill] - 1) @ pull[blocks.skill]
    for block, spread in _shrunk(blocks, prior):
        own, common = vector[block][:-1], vector[block][-1]
        away = (own - common) / spread**2
        pull[block] = np.append(away, common / COMMON_SPREAD**2 - away.sum())
        penalty += (own - common) @ away + common**2 / COMMON_SPREAD**2
    if blocks.pair in blocks:
        pull[blocks.pair] = (vector[blocks.pair] - np.log(prior.utility * np.sqrt(2))) / PAIR_SPREAD**2
        penalty += float(pull[blocks.pair][0]) ** 2 * PAIR_SPREAD**2
    return float(penalty) / 2, pull


def prior_curvature(blocks: Blocks, prior: Prior) -> sparse.csr_matrix:
    """−d² log prior ``[P, P]``."""
    diagonal = np.empty(blocks.size)
    diagonal[blocks.utility] = prior.utility**-2
    diagonal[blocks.skill] = prior.skill**-2
    diagonal[blocks.pair] = PAIR_SPREAD**-2
    rows, columns, values = [], [], []
    for block, spread in _shrunk(blocks, prior):
        diagonal[block][:-1] = spread**-2
        diagonal[block.stop - 1] = COMMON_SPREAD**-2 + (spread**-2).sum()
        own, common = np.arange(block.start, block.stop - 1), np.full(len(spread), block.stop - 1)
        rows += [own, common]
        columns += [common, own]
        values += [-(spread**-2)] * 2
    found = sparse.diags(diagonal).tocsr()
    if rows:
        links = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        found = found + sparse.csr_matrix(links, shape=found.shape)
    return found


def curve(p: Floats) -> Floats:
    """−d² log-likelihood / dδ² ``[N]`` at probabilities ``[N, 3]``: the variance of ½ for a, −½ for b."""
    return (p[:, 0] + p[:, 1] - (p[:, 0] - p[:, 1]) ** 2) / 4


def _shrunk(blocks: Blocks, prior: Prior) -> list[tuple[slice, Floats]]:
    """The blocks there are that have a common mean, each with the spreads ``[K]`` of its own terms."""
    named = [(blocks.position, prior.position), (blocks.length, prior.length), (blocks.tie, prior.tie)]
    return [(block, spread) for block, spread in named if block in blocks]
