"""Simulated annotators of known kinds, who vote on items of known utility: to see what the analysis finds of them.

Left out: fatigue, learning and answers that depend on earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tropism.errors import DataError
from tropism.feedback.quality.kinds import Kind
from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Votes
from tropism.runtime.seeding import derive

_OF_EACH: dict[Kind, int] = {"good": 9, "random": 3, "inverted": 2, "position-biased": 3, "length-biased": 3}
TWENTY: tuple[Kind, ...] = tuple(kind for kind, count in _OF_EACH.items() for _ in range(count))
"""Twenty people, all five kinds among them."""


@dataclass(frozen=True)
class Simulated:
    """``votes`` and the truth behind them: of items ``utility`` and ``lengths``, of annotators the rest."""

    votes: Votes
    utility: Floats
    lengths: Floats
    skill: Floats
    position: Floats
    length: Floats
    kinds: tuple[Kind, ...]


def simulate(
    seed: int,
    votes: int = 4000,
    items: int = 40,
    kinds: Sequence[Kind] = TWENTY,
    *,
    tie: float | None = None,
    position: float = 1.5,
    length: float = 1.2,
    per_pair: int = 0,
) -> Simulated:
    """Votes on random pairs by random people. Utilities have deviation 1.2 logits, skills lie in 0.7 … 1.3 (inverted:
    negative), everybody but the random ones likes the first place a little (0.1 ± 0.15 logits) and length (0.2 ± 0.15
    per deviation); the biased like one of them by ``position`` (either way) or ``length`` more. ``tie``: log weight of
    a tie, None for none. ``per_pair``: instead of random pairs of ``items``, that many different people judge each of
    votes / per_pair pairs of items of their own. Errors: DataError for a kind that nobody can be simulated as, or fewer
    people than ``per_pair``.
    """  # fmt: skip
    if "unclear" in kinds or len(kinds) < max(1, per_pair) or items < 2:
        raise DataError(
            f"{len(kinds)} annotators, {items} items, {per_pair} votes a pair",
            "give two items, and kinds other than unclear, one for each vote of a pair",
        )
    pairs = votes // per_pair if per_pair else 0
    votes, items = (pairs * per_pair, 2 * pairs) if per_pair else (votes, items)
    random = np.random.Generator(np.random.Philox(derive(seed, "annotators", votes)))
    n, kind = len(kinds), np.array(kinds)
    utility, lengths = random.normal(0, 1.2, items), random.normal(0, 1, items)
    skill = random.uniform(0.7, 1.3, n) * np.select([kind == "random", kind == "inverted"], [0.0, -1.0], 1.0)
    first = random.normal(0.1, 0.15, n) + (kind == "position-biased") * position * random.choice([-1, 1], n)
    longer = random.normal(0.2, 0.15, n) + (kind == "length-biased") * length
    first[kind == "random"] = longer[kind == "random"] = 0.0
    if per_pair:
        a = 2 * np.repeat(np.arange(pairs), per_pair)
        b = a + 1
        who = random.random((pairs, n)).argsort(1)[:, :per_pair].ravel()
    else:
        a = random.integers(0, items, votes)
        b = (a + random.integers(1, items, votes)) % items
        who = random.integers(0, n, votes)
    order = random.choice([-1.0, 1.0], votes)
    gap = lengths[a] - lengths[b]
    delta = skill[who] * (utility[a] - utility[b]) + first[who] * order + longer[who] * gap
    weights = np.exp(np.stack([delta / 2, -delta / 2, np.full(votes, -np.inf if tie is None else tie)], 1))
    edges = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
    drawn = random.random(votes)
    choice = np.select([drawn < edges[:, 0], drawn < edges[:, 1]], [A_WINS, B_WINS], TIE)
    names = tuple(f"item {i}" for i in range(items)), tuple(f"annotator {k}" for k in range(n))
    cast = Votes(names[0], names[1], a, b, who, choice, order, gap)
    return Simulated(cast, utility, lengths, skill, first, longer, tuple(kinds))
