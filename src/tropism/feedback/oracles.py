"""Oracle teachers: programs that know the gold utility and answer as imperfectly as people do.

The six of B-Pref (Lee et al. 2021, section 4.1), freely combined: exact, Boltzmann-noisy, myopic, mistaken, skipping,
equal. Every number they draw is a hash of (seed, query id, purpose), so an oracle answers one query always alike, in
whatever order and company it is asked. Noise and thresholds are in units of the utilities' spread, never of the raw
reward: between candidates of one query that of the context, for ratings, labels and skips that of its standard, so
that a round of better policies gets better ratings. Left out: demonstrations and other free text, which a utility does
not give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tropism.errors import ConfigError, DataError
from tropism.feedback.chance import gumbel, logistic, uniform
from tropism.feedback.records import Answer, Query
from tropism.feedback.teachers import QueryContext
from tropism.feedback.values import slot_names

NAMES: Mapping[str, Mapping[str, float]] = {
    "exact": {},
    "boltzmann": {"rationality": 1.0},
    "myopic": {"discount": 0.9},
    "mistaken": {"mistake": 0.1},
    "skipping": {"skip_below": -1.0},
    "equal": {"equal_within": 0.5},
}
"""B-Pref's six by name, each with the one imperfection that makes it."""


@dataclass(frozen=True)
class Oracle:
    """A teacher with access to gold utilities.

    ``rationality`` β: P(a over b) = sigmoid(β (u_a − u_b) / spread); infinite answers exactly. ``mistake`` ε: the
    probability of the opposite answer. ``skip_below``: skips where even the best candidate's utility is below the
    standard's center + skip_below · spread. ``equal_within`` δ: utilities closer than δ · spread are equal.
    ``discount`` γ: sees Σ_t γ^(T−1−t) u_t, so what comes last counts most. ``scale``: of ratings, whose scores are
    whole numbers. ``anchors``: the utilities that the scale's ends stand for; absent: utilities as far apart as the
    standard's use all scores evenly, so what is far better than the first candidates is rated like the best of them.

    Skipping and equality look once at the utilities the oracle sees, before noise, and a tie is not flipped.
    """

    id: str = "oracle"
    seed: int = 0
    rationality: float = math.inf
    mistake: float = 0.0
    skip_below: float = -math.inf
    equal_within: float = 0.0
    discount: float = 1.0
    scale: tuple[int, int] = (1, 5)
    anchors: tuple[float, float] | None = None
    aspect: str = "overall"
    kind: str = "oracle"

    def __post_init__(self) -> None:
        checks = {
            "rationality": self.rationality > 0,
            "mistake": 0 <= self.mistake <= 1,
            "skip_below": not math.isnan(self.skip_below),
            "equal_within": self.equal_within >= 0,
            "discount": 0 < self.discount <= 1,
            "scale": self.scale[0] < self.scale[1],
            "anchors": self.anchors is None or -math.inf < self.anchors[0] < self.anchors[1] < math.inf,
        }
        for name, fine in checks.items():
            if not fine:
                raise ConfigError(f"oracle {name} = {getattr(self, name)}", "see the ranges in Oracle's description")

    def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
        """One answer per query (comparison, ranking, best_of, rating or label); a skip has value None.

        Errors: DataError if a query has no gold utilities or is of another kind.
        """
        return [Answer(self._value(query, context)) for query in queries]

    def _value(self, query: Query, context: QueryContext) -> dict[str, Any] | None:
        seen = self._seen(query, context)
        if max(seen) < context.measure.center + self.skip_below * context.measure.spread:
            return None
        answers = {
            "comparison": self._compare,
            "ranking": self._rank,
            "best_of": self._best,
            "rating": self._rate,
            "label": self._label,
        }
        if query.kind not in answers:
            raise DataError(f"an oracle cannot answer a {query.kind} (query {query.id})", f"ask {', '.join(answers)}")
        return answers[query.kind](query, seen, context)

    def _seen(self, query: Query, context: QueryContext) -> list[float]:
        """Utilities ``[K]`` as this oracle sees them."""
        if self.discount < 1:
            if query.id not in context.step_utilities:
                raise DataError(f"a myopic oracle needs utilities by step (query {query.id})", "give step_utilities")
            slots = context.step_utilities[query.id]
            seen = [math.fsum(self.discount ** (len(u) - 1 - t) * u[t] for t in range(len(u))) for u in slots]
        elif query.id in context.utilities:
            seen = [float(u) for u in context.utilities[query.id]]
        else:
            raise DataError(
                f"no gold utilities for query {query.id}", "oracles need a domain that knows the gold reward"
            )
        if len(seen) != len(query.candidate_ids) or not all(math.isfinite(u) for u in seen):
            raise DataError(
                f"gold utilities {seen} for the {len(query.candidate_ids)} slots of {query.id}", "give one each"
            )
        return seen

    def _noisy(self, query: Query, seen: list[float], context: QueryContext) -> list[float]:
        """Utilities whose argmax is a Boltzmann sample, and whose order is a Plackett-Luce sample (Gumbel trick)."""
        if math.isinf(self.rationality):
            return seen
        beta = self.rationality / context.spread
        return [beta * u + gumbel(self.seed, query.id, "choice", slot) for slot, u in enumerate(seen)]

    def _errs(self, query: Query) -> bool:
        return uniform(self.seed, query.id, "mistake") < self.mistake

    def _same(self, high: float, low: float, context: QueryContext) -> bool:
        return high == low or high - low < self.equal_within * context.spread

    def _compare(self, query: Query, seen: list[float], context: QueryContext) -> dict[str, Any]:
        slot_names(query.kind, len(seen))
        if self._same(max(seen), min(seen), context):
            return {"kind": "comparison", "choice": "tie", "strength": 0}
        noisy = self._noisy(query, seen, context)
        first = (noisy[0] > noisy[1]) != self._errs(query)
        return {"kind": "comparison", "choice": "a" if first else "b", "strength": 0}

    def _rank(self, query: Query, seen: list[float], context: QueryContext) -> dict[str, Any]:
        names = slot_names(query.kind, len(seen))
        groups: list[list[int]] = []
        for slot in sorted(range(len(seen)), key=lambda slot: -seen[slot]):
            if groups and self._same(seen[groups[-1][0]], seen[slot], context):
                groups[-1].append(slot)
            else:
                groups.append([slot])
        noisy = self._noisy(query, seen, context)
        if noisy is not seen:  # a group of equals moves as one, by its best member's draw
            groups.sort(key=lambda group: -noisy[group[0]])
        if self._errs(query):
            groups.reverse()
        rank = [[names[slot] for slot in sorted(group)] for group in groups]
        return {"kind": "ranking", "rank": rank, "unranked": []}

    def _best(self, query: Query, seen: list[float], context: QueryContext) -> dict[str, Any]:
        names = slot_names(query.kind, len(seen))
        top = sorted(seen, reverse=True)
        if len(top) > 1 and self._same(top[0], top[1], context):
            return {"kind": "best_of", "best": "tie"}
        noisy = self._noisy(query, seen, context)
        best = max(range(len(seen)), key=lambda slot: noisy[slot])
        if self._errs(query) and len(seen) > 1:
            others = [slot for slot in range(len(seen)) if slot != best]
            best = others[int(uniform(self.seed, query.id, "which") * len(others))]
        return {"kind": "best_of", "best": names[best]}

    def _standing(self, query: Query, seen: list[float], context: QueryContext) -> float:
        """How a single candidate stands, in the standard's spreads from its center, with noise and mistakes."""
        if len(seen) != 1:
            raise DataError(
                f"a {query.kind} of {len(seen)} candidates (query {query.id})", "ask about one candidate each"
            )
        standing = (seen[0] - context.measure.center) / context.measure.spread
        if not math.isinf(self.rationality):
            standing += logistic(self.seed, query.id, "choice") / self.rationality
        return -standing if self._errs(query) else standing

    def _rate(self, query: Query, seen: list[float], context: QueryContext) -> dict[str, Any]:
        standing = self._standing(query, seen, context)
        low, high = self.scale
        if self.anchors is None:
            share = 0.5 * (1 + math.erf(standing / math.sqrt(2)))  # a normal utility uses the whole scale evenly
            score = min(low + int(share * (high - low + 1)), high)
        else:
            worst, best = self.anchors
            share = (context.measure.center + standing * context.measure.spread - worst) / (best - worst)
            score = round(low + min(1.0, max(0.0, share)) * (high - low))
        return {"kind": "rating", "slot": "c1", "score": score, "scale": [low, high], "aspect": self.aspect}

    def _label(self, query: Query, seen: list[float], context: QueryContext) -> dict[str, Any]:
        return {"kind": "label", "slot": "c1", "name": "good", "good": self._standing(query, seen, context) > 0}


def oracle(name: str, id: str = "", seed: int = 0, **settings: float) -> Oracle:
    """One of B-Pref's six by name (see NAMES); ``settings`` override or combine imperfections.

    Errors: ConfigError if there is no such oracle or setting.
    """
    if name not in NAMES:
        raise ConfigError(f"no oracle {name!r}", f"use one of {', '.join(NAMES)}")
    known = {setting for settings_ in NAMES.values() for setting in settings_}
    for setting in settings:
        if setting not in known:
            raise ConfigError(f"no oracle setting {setting!r}", f"use {', '.join(sorted(known))}")
    return replace(Oracle(id=id or f"oracle-{name}", seed=seed), **{**NAMES[name], **settings})  # type: ignore[arg-type]
