"""How many votes a question takes, and what a vote is worth.

Left out: sequential designs (the people's A/B stops by a rule of its own) and prices that depend on the person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binom, norm

from tropism.errors import DataError
from tropism.feedback.quality.joint_fit import Term
from tropism.feedback.quality.votes import Floats, Integers


@dataclass(frozen=True)
class Plan:
    """``queries`` to be judged by ``overlap`` people each, ``votes`` in all. ``rate``: the win rate these annotators
    will show; ``power``: the chance that the test finds it."""

    queries: int
    overlap: int
    votes: int
    rate: float
    power: float


def plan(
    difference: float,
    *,
    power: float = 0.8,
    level: float = 0.05,
    skill: float = 1.0,
    overlap: int = 1,
    alike: float = 0.5,
) -> Plan:
    """Votes needed to tell a win rate of ½ + ``difference`` from one half by the exact two-sided binomial test.

    ``difference``: as annotators of skill 1 would show it, in (0, ½); an annotator of another skill shows
    σ(skill · logit(½ + difference)), as the joint fit has it (exact where all queries are alike, an approximation
    otherwise). ``overlap`` votes on one query are worth overlap / (1 + (overlap − 1) · ``alike``) votes on different
    ones (Kish's design effect); ``alike`` is their correlation within queries, for which Krippendorff's alpha is an
    estimate. Ties count as half a vote each way and need no votes of their own. Errors: DataError outside the ranges.
    """  # fmt: skip
    for name, value, low, high in (
        ("difference", difference, 0, 0.5), ("power", power, 0, 1), ("level", level, 0, 1), ("skill", skill, 0, np.inf)
    ):  # fmt: skip
        if not low < value < high:
            raise DataError(f"{name} {value}", f"give a {name} between {low} and {high}")
    if overlap < 1 or not 0 <= alike <= 1:
        raise DataError(f"overlap {overlap} with correlation {alike}", "give overlap >= 1 and a correlation of 0 … 1")
    rate = float(expit(skill * logit(0.5 + difference)))
    single = _sample(rate, power, level)
    queries = math.ceil(single * (1 + (overlap - 1) * alike) / overlap)
    return Plan(queries, overlap, queries * overlap, rate, exact_power(single, rate, level))


def exact_power(n: int, rate: float, level: float = 0.05) -> float:
    """The chance that the exact two-sided binomial test of one half rejects at ``level`` with ``n`` votes."""
    return float(_powers(np.array([n]), rate, level)[0])


def _powers(n: Integers, rate: float, level: float) -> Floats:
    # edge: the largest k with P(X <= k) <= level / 2 under one half; ppf gives the first beyond it, or it itself
    edge = binom.ppf(level / 2, n, 0.5)
    edge = np.where(binom.cdf(edge, n, 0.5) <= level / 2, edge, edge - 1)
    return np.asarray(binom.cdf(edge, n, rate) + binom.sf(n - edge - 1, n, rate), np.float64)


def _sample(rate: float, power: float, level: float) -> int:
    """The smallest n from which on the exact power does not fall below ``power`` again (it is a saw over n)."""
    reach = float(norm.ppf(1 - level / 2) / 2 + norm.ppf(power) * math.sqrt(rate * (1 - rate)))
    gap = (rate - 0.5) ** 2
    about = max(reach, 0.1) ** 2 / gap if gap else math.inf
    if about > 1_000_000:
        raise DataError(f"a win rate of {rate:.5f} to be told from one half", "look for a larger difference, or skill")
    n = np.arange(max(1, math.floor(0.9 * about)), math.ceil(1.1 * about) + 60)
    weak = _powers(n, rate, level) < power
    return int(n[np.flatnonzero(weak)[-1]] + 1) if weak.any() else int(n[0])


@dataclass(frozen=True)
class Worth:
    """``effective [K]``: each annotator's votes in votes of the median good annotator; ``total`` of them;
    ``cost_per_effective``: what one costs overall, infinite where nothing was learned."""

    effective: Floats
    total: float
    cost_per_effective: float


def worth(skill: Term, counts: Integers, cost_per_vote: float) -> Worth:
    """What ``counts [K]`` votes were worth: a vote's Fisher information on a utility difference goes with skill².

    The estimate s² of a skill is too large by its variance, which is taken off (not below 0). Inverted annotators count
    as much as good ones: the joint fit turns their votes round. Errors: DataError for a negative cost.
    """
    if not cost_per_vote >= 0:
        raise DataError(f"cost {cost_per_vote} a vote", "give what a vote costs, 0 or more")
    effective = counts.astype(np.float64) * np.maximum(skill.value**2 - skill.error**2, 0.0)
    total = float(effective.sum())
    spent = cost_per_vote * float(counts.sum())
    return Worth(effective, total, spent / total if total > 0 else math.inf)
