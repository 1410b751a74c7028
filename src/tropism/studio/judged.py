"""Whether people's judgements can be trusted, as one report: read, fitted and estimated in a process of its own.

The mathematics is ``feedback.quality``'s; here are the rows it needs, and its results as JSON. A fit of thousands of
votes takes a second of a core, which no vote may wait for. Left out: texts, and judgements on test tasks (people's
tests of two policies, which are about policies).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.expecting import expected
from tropism.feedback.quality.agreement import krippendorff_alpha, pairwise_agreement
from tropism.feedback.quality.estimates import Estimate, share
from tropism.feedback.quality.joint_fit import JointFit, Term, fit_jointly
from tropism.feedback.quality.kinds import kinds_of
from tropism.feedback.quality.overlap import votes_wanted
from tropism.feedback.quality.planner import worth
from tropism.feedback.quality.reliability import cycles, retest, time_outliers
from tropism.feedback.quality.votes import NOMINAL, VotesRead, table_of, votes_of
from tropism.feedback.records import Judgement
from tropism.store import schema
from tropism.store.database import Database

PEOPLE = ("person", "import")
FEW = 20
"""Comparisons below which a joint fit would say little but its prior."""
OUTLIERS = 50
_given = schema.assignments
_CODES = {"a": 0, "b": 1, "tie": 2}


def report(place: Path | str, most_votes: int = 0) -> dict[str, Any]:
    """The report of the study whose database is at ``place``. Numbers that are not known are null.

    ``most_votes``: ``wanted`` then has how many votes each comparison should have, at most that many; where a reward
    model's expectation is noted, votes that say otherwise leave a comparison unsure.
    """
    database = Database.open(place)
    try:
        said = FeedbackLog(database).judgements(overruled=True)  # how far people agree, before somebody settled it
        judgements = [each for each in said if each.teacher_kind in PEOPLE]
        with database.read() as connection:
            rows = connection.execute(sa.select(_given).where(_given.c.status == "submitted")).all()
            values = _values(connection, [id_ for row in rows for id_ in row.event_ids])
            gold = connection.execute(sa.select(schema.gold.c.query_id, schema.gold.c.value)).all()
            known = {row.query_id: row.value for row in gold}
            a_wins = expected(connection)
    finally:
        database.close()
    read = votes_of(judgements, _shown_first(rows))
    found: dict[str, Any] = {"at": time.time(), "judgements": len(judgements), "left_out": dict(read.left_out)}
    if most_votes and len(read.votes) >= FEW:
        found["wanted"] = votes_wanted(read, a_wins=a_wins, most=most_votes)
    found |= (
        _agreement(judgements) | _fitted(read) | _repeated(rows, values) | _gold(rows, values, known) | _times(rows)
    )
    return _plain(found)


def _shown_first(rows: Sequence[sa.Row[Any]]) -> dict[str, str]:
    """Event -> the slot of a comparison that its person saw first."""
    return {id_: "ab"[row.shown_order[0]] for row in rows if len(row.shown_order) == 2 for id_ in row.event_ids}


def _values(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    table = schema.events
    found: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(ids), 500):
        part = list(ids[start : start + 500])
        rows = connection.execute(sa.select(table.c.id, table.c.value).where(table.c.id.in_(part))).all()
        found.update({row.id: row.value for row in rows})
    return found


def _agreement(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Krippendorff's alpha by kind, and who agrees with whom on the kind with the most answers."""
    counts: dict[str, int] = {}
    for each in judgements:
        counts[each.value["kind"]] = counts.get(each.value["kind"], 0) + 1
    alpha: dict[str, Any] = {}
    heat = None
    for kind in sorted((k for k in counts if k in (*NOMINAL, "rating")), key=lambda k: -counts[k]):
        table = table_of(judgements, kind)
        try:
            alpha[kind] = _estimate(krippendorff_alpha(table.values, "nominal" if kind in NOMINAL else "interval"))
        except DataError:  # nobody has judged the same thing as somebody else
            alpha[kind] = None
            continue
        if heat is None:
            shares, shared = pairwise_agreement(table.values)
            heat = {
                "kind": kind,
                "people": list(table.annotators),
                "values": shares.tolist(),
                "shared": shared.tolist(),
            }
    return {"alpha": alpha, "heat": heat}


def _fitted(read: VotesRead) -> dict[str, Any]:
    """The joint fit of comparisons, each person's terms and kind, and what their votes are worth."""
    votes = read.votes
    if len(votes) < FEW or len(votes.annotators) < 1:
        return {"fit": None, "cycles": None, "worth": None}
    fit = fit_jointly(votes)
    worths = worth(fit.skill, fit.counts, 1.0)
    people = [
        {
            "id": person, "kind": kind, "votes": int(fit.counts[k]), "skill": _term(fit.skill, k),
            "position": _term(fit.position, k), "length": _term(fit.length, k), "effective": worths.effective[k],
        }
        for k, (person, kind) in enumerate(zip(votes.annotators, kinds_of(fit), strict=True))
    ]  # fmt: skip
    turned = cycles(votes)
    around = _estimate(share(turned.cyclic, turned.triples)) | {
        "chance": turned.chance, "chance_low": turned.chance_low, "chance_high": turned.chance_high,
    }  # fmt: skip
    return {
        "fit": {"annotators": people, "scaled": fit.scaled, "log_likelihood": fit.log_likelihood} | _common(fit),
        "cycles": around if turned.triples else None,
        "worth": {"effective": worths.total, "votes": int(fit.counts.sum())},
    }


def _common(fit: JointFit) -> dict[str, Any]:
    """What all annotators share, with twice its standard error."""
    pairs = {"common_position": fit.common_position, "common_length": fit.common_length}
    return {
        name: {"value": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}
        for name, (mean, error) in pairs.items()
    }


def _repeated(rows: Sequence[sa.Row[Any]], values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How often a question that came again got the same answer, with the order kept and reversed."""
    by_id = {row.id: row for row in rows}
    people: dict[str, int] = {}
    found = []
    for row in rows:
        before = by_id.get(row.repeat_of)
        if before is None:
            continue
        first, second = (_choice(each, values) for each in (before, row))
        if first is not None and second is not None:
            who = people.setdefault(row.teacher_id, len(people))
            found.append((who, first, second, before.shown_order != row.shown_order))
    if not found:
        return {"retest": None, "swap": None}
    table = np.array(found, np.int64)
    again = retest(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(bool))
    names = list(people)
    each_one = [{"id": names[k], **_estimate(estimate)} for k, estimate in again.by_annotator.items()]
    return {
        "retest": _estimate(again.same),
        "swap": _estimate(again.swapped) if again.swapped.n else None,
        "retest_by_person": each_one,
    }


def _choice(row: sa.Row[Any], values: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The choice of a comparison that was answered with one of the two, or a tie."""
    for id_ in row.event_ids:
        value = values.get(id_, {})
        if value.get("kind") == "comparison":
            return _CODES.get(str(value.get("choice")))
    return None


def _gold(
    rows: Sequence[sa.Row[Any]], values: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """How often people were right where the answer is known, strength aside."""
    hits: dict[str, list[bool]] = {}
    for row in rows:
        if row.query_id in known and row.purpose not in ("repeat", "adjudication"):
            wanted = known[row.query_id]
            given = [v for v in (values.get(id_) for id_ in row.event_ids) if v and v.get("kind") == wanted.get("kind")]
            right = any(_said(value) == _said(wanted) for value in given)
            hits.setdefault(row.teacher_id, []).append(right)
    if not hits:
        return {"gold": None, "gold_by_person": []}
    every = [hit for each in hits.values() for hit in each]
    by_person = [{"id": person, **_estimate(share(sum(each), len(each)))} for person, each in sorted(hits.items())]
    return {"gold": _estimate(share(sum(every), len(every))), "gold_by_person": by_person}


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: what for name, what in value.items() if name != "strength"}


def _times(rows: Sequence[sa.Row[Any]]) -> dict[str, Any]:
    """Answers given in a time out of the ordinary for this person, the oddest first."""
    timed = [row for row in rows if row.duration_ms]
    if not timed:
        return {"outliers": []}
    people = sorted({row.teacher_id for row in timed})
    who = np.array([people.index(row.teacher_id) for row in timed])
    taken = np.array([row.duration_ms for row in timed], np.float64)
    times = time_outliers(who, [str(len(row.shown_order)) for row in timed], taken)
    odd = np.flatnonzero(times.hasty | times.slow)
    odd = odd[np.argsort(-np.abs(times.z[odd]), kind="stable")][:OUTLIERS]
    return {
        "outliers": [
            {
                "person": timed[i].teacher_id, "query": timed[i].query_id, "seconds": taken[i] / 1000,
                "z": times.z[i], "hasty": bool(times.hasty[i]),
            }
            for i in odd.tolist()
        ]
    }  # fmt: skip


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _term(term: Term, k: int) -> dict[str, Any] | None:
    """One person's term with its 95 % interval; None where the model lacks it."""
    low, high = term.interval()
    if not math.isfinite(term.value[k]):
        return None
    return {"value": term.value[k], "low": low[k], "high": high[k]}


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: no NaN, no infinity, no numpy."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
