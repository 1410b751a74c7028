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
) -> Simulated:
    """Votes on random pairs by random people. Utilities have deviation 1.2 logits, skills lie in 0.7 … 1.3 (inverted:
    negative), everybody but the random ones likes the first place a little (0.1 ± 0.15 logits) and length (0.2 ± 0.15
    per deviation); the biased like one of them by ``position`` (either way) or ``length`` more. ``tie``: log weight of
    a tie, None for none. Errors: DataError for a kind that nobody can be simulated as.
    """  # fmt: skip
    if "unclear" in kinds or not kinds or items < 2:
        raise DataError(f"{len(kinds)} annotators, {items} items", "give kinds other than unclear, and two items")
    random = np.random.Generator(np.random.Philox(derive(seed, "annotators", votes)))
    n, kind = len(kinds), np.array(kinds)
    utility, lengths = random.normal(0, 1.2, items), random.normal(0, 1, items)
    skill = random.uniform(0.7, 1.3, n) * np.select([kind == "random", kind == "inverted"], [0.0, -1.0], 1.0)
    first = random.normal(0.1, 0.15, n) + (kind == "position-biased") * position * random.choice([-1, 1], n)
    longer = random.normal(0.2, 0.15, n) + (kind == "length-biased") * length
    first[kind == "random"] = longer[kind == "random"] = 0.0
    a = random.integers(0, items, votes)
    b = (a + random.integers(1, items, votes)) % items
    who, order = random.integers(0, n, votes), random.choice([-1.0, 1.0], votes)
    gap = lengths[a] - lengths[b]
    delta = skill[who] * (utility[a] - utility[b]) + first[who] * order + longer[who] * gap
    weights = np.exp(np.stack([delta / 2, -delta / 2, np.full(votes, -np.inf if tie is None else tie)], 1))
    edges = np.cumsum(weights, 1) / weights.sum(1, keepdims=True)
    drawn = random.random(votes)
    choice = np.select([drawn < edges[:, 0], drawn < edges[:, 1]], [A_WINS, B_WINS], TIE)
    names = tuple(f"item {i}" for i in range(items)), tuple(f"annotator {k}" for k in range(n))
    cast = Votes(names[0], names[1], a, b, who, choice, order, gap)
    return Simulated(cast, utility, lengths, skill, first, longer, tuple(kinds))
