"""Adaptive overlap: whether a query needs another vote, from the votes it has and, if given, the reward model's view.

The hidden difference δ of a comparison's two candidates has a Gaussian prior; each vote tilts it by its likelihood in
the joint model (skill, pull of position and length, ties). A query has enough when the chance that its better candidate
is the other one is small. One vote's expected gain is no rule to go by: where a single vote cannot turn the decision it
is 0, however unsure the decision is.

Left out: who of several annotators should be asked, and other kinds than comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from tropism.errors import DataError
from tropism.feedback.quality.joint_fit import Evidence, JointFit, fit_jointly
from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Integers, VotesRead

_NODES = 81
_WIDTH = 5.0  # of the grid, in prior deviations to each side
_POINTS, _MASSES = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)  # Gauss-Hermite of three points


@dataclass(frozen=True)
class OverlapRules:
    """When a query has enough votes.

    ``error``: when the wrong side's posterior is at most this; ``least`` and ``most`` votes hold whatever it is.
    ``spread``: prior deviation of δ, in logits of the median good annotator. ``tie``: log weight of a tie, −∞ where
    ties cannot be given.
    """

    error: float = 0.1
    least: int = 1
    most: int = 5
    spread: float = 1.5
    tie: float = -np.inf

    @classmethod
    def of(cls, fit: JointFit, *, error: float = 0.1, least: int = 1, most: int = 5) -> OverlapRules:
        """Rules with the spread and the ties of a joint fit; a pair of independent items differs √2 times as much."""
        tie = fit.common_tie[0]
        spread = float(np.sqrt(2)) * fit.utility_spread
        return cls(error, least, most, spread, -np.inf if np.isnan(tie) else tie)

    def __post_init__(self) -> None:
        if not 0 < self.error < 0.5:
            raise DataError(f"a posterior error of {self.error}", "give a share between 0 and one half")
        if not 0 <= self.least <= self.most:
            raise DataError(f"{self.least} to {self.most} votes a query", "give least <= most")
        if not (self.spread > 0 and np.isfinite(self.spread)):
            raise DataError(f"a prior deviation of {self.spread}", "give a positive number of logits")


@dataclass(frozen=True)
class Decided:
    """Per query ``[Q]``: ``a_better`` P(δ > 0), ``error`` min(P, 1 − P), ``mean`` of δ in logits, ``votes`` it has."""

    a_better: Floats
    error: Floats
    mean: Floats
    votes: Integers


def expected_difference(a_wins: Floats, trust: float = 1.0) -> Floats:
    """A prior mean of δ from a reward model's P(a over b) ``[Q]``; ``trust`` 0 … 1 scales its logit.

    Trust is the slope of people's votes on the model's logits on held-out data (its calibration); 0 ignores it.
    """
    if not 0 <= trust <= 1:
        raise DataError(f"trust {trust} in a reward model", "give a share of 0 … 1")
    return np.asarray(trust * logit(np.clip(a_wins, 1e-6, 1 - 1e-6)), np.float64)


def decide(
    queries: int,
    query: Integers,
    choice: Integers,
    evidence: Evidence,
    rules: OverlapRules,
    prior_mean: Floats | None = None,
) -> Decided:
    """The posterior of δ of ``queries`` queries, on a grid.

    Votes ``[V]``: ``query`` number, ``choice`` (0 a, 1 b, 2 tie), and ``JointFit.evidence`` of them. What is not known
    of an annotator is averaged over (three points of a Gaussian), vote by vote: a vote of somebody unknown must not
    settle a query. ``prior_mean [Q]``: see ``expected_difference``; 0 without.
    """  # fmt: skip
    if not query.shape == choice.shape == evidence.skill.shape:
        raise DataError("votes with columns of different lengths", "give one row for each vote")
    if len(query) and not (query.min() >= 0 and query.max() < queries):
        raise DataError(f"query {query.max()} of {queries}", "number the queries from 0")
    if (choice == TIE).any() and rules.tie == -np.inf:
        raise DataError("a tie where rules.tie says that none can be given", "set `tie` from the joint fit")
    mean = np.zeros(queries) if prior_mean is None else prior_mean
    offsets = np.linspace(-_WIDTH, _WIDTH, _NODES) * rules.spread
    grid = mean[:, None] + offsets  # [Q, G]
    log = np.repeat(-(offsets**2)[None] / (2 * rules.spread**2), queries, 0)
    np.add.at(log, query, _log_chance(choice, grid[query], evidence, rules.tie))
    mass = np.exp(log - log.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    # a node stands for its cell: of the cell that holds 0, the part on either side counts for that side
    step = float(offsets[1] - offsets[0])
    a_better = (mass * np.clip(grid / step + 0.5, 0, 1)).sum(1)
    counts = np.bincount(query, minlength=queries)
    return Decided(a_better, np.minimum(a_better, 1 - a_better), (mass * grid).sum(1), counts)


def _log_chance(choice: Integers, gap: Floats, evidence: Evidence, tie: float) -> Floats:
    """log P(choice) ``[V, G]`` at differences ``gap``, averaged over the annotator's terms."""
    middle = evidence.skill[:, None] * gap + evidence.pull[:, None]
    doubt = np.hypot(evidence.skill_error[:, None] * gap, evidence.pull_error[:, None])
    total = np.full(gap.shape, -np.inf)
    for point, mass in zip(_POINTS, _MASSES, strict=True):
        half = (middle + point * doubt) / 2
        said = np.select([(choice == A_WINS)[:, None], (choice == B_WINS)[:, None]], [half, -half], tie)
        total = np.logaddexp(total, np.log(mass) + said - np.logaddexp(np.logaddexp(half, -half), tie))
    return total


def wanted(state: Decided, rules: OverlapRules) -> Integers:
    """How many votes each query should have now ``[Q]``: one more than it has while it is unsure, within the rules."""
    unsure = (state.error > rules.error) & (state.votes < rules.most)
    return np.maximum(state.votes + unsure, rules.least)


def votes_wanted(
    read: VotesRead,
    *,
    a_wins: Mapping[str, float] | None = None,
    trust: float = 1.0,
    error: float = 0.1,
    least: int = 1,
    most: int = 5,
) -> dict[str, int]:
    """How many votes each comparison that has one should have now, by query id, for the queue's ``want``.

    Skills, pulls, spread and ties come from one joint fit of all votes. ``a_wins``: the reward model's P(slot a over
    slot b) by query id, where it has one; ``trust`` as in ``expected_difference``. An annotator of whose skill nothing
    is known yet counts as the prior has them. Errors: DataError without votes.
    """  # fmt: skip
    votes = read.votes
    fit = fit_jointly(votes)
    rules = OverlapRules.of(fit, error=error, least=least, most=most)
    ids = list(dict.fromkeys(read.query_ids))
    number = {id: i for i, id in enumerate(ids)}
    query = np.array([number[id] for id in read.query_ids], np.int64)
    said = expected_difference(np.array([(a_wins or {}).get(id, 0.5) for id in ids]), trust)
    state = decide(len(ids), query, votes.choice, fit.evidence(votes), rules, said)
    return dict(zip(ids, wanted(state, rules).tolist(), strict=True))
