"""Two policies compared by people, blind: questions from their answers to the same tasks, and when one may stop.

People look at the numbers whenever they like, so the interval must hold at every moment at once: it is the confidence
sequence of the beta-binomial mixture (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021, section 4): all win
rates p with B(a + w, b + l) / B(a, b) < p^w (1 - p)^l / alpha, of w wins and l losses, a = b = 1/2. Ties are
counted apart. Left out: several votes on one pair, each of which counts as a trial; ask one person a pair.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.feedback.chance import shuffled
from tropism.feedback.projection import current_view
from tropism.feedback.records import Candidate, Provenance, Query, Task
from tropism.store import schema
from tropism.studio.accounts import judging
from tropism.studio.blinding import looked_at, mark_looked
from tropism.studio.problems import ApiError
from tropism.studio.run_facts import read_stages
from tropism.studio.sampled import answers_of, folders
from tropism.studio.state import Studio

ALPHA = 0.05


@dataclass(frozen=True)
class Result:
    """Votes so far from policy a's side. ``low`` and ``high`` hold the win rate without ties at all times with 95 %."""

    wins: int
    losses: int
    ties: int
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether one half lies outside the interval."""
        return self.low > 0.5 or self.high < 0.5


def confidence_sequence(wins: int, losses: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of the win rate that holds at every number of votes at once with probability 1 - alpha."""
    bound = _log_beta(0.5 + wins, 0.5 + losses) - _log_beta(0.5, 0.5) + math.log(alpha)

    def inside(p: float) -> bool:
        return _log_likelihood(p, wins, losses) > bound

    best = wins / (wins + losses) if wins + losses else 0.5
    return _edge(inside, best, 0.0), _edge(inside, best, 1.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_likelihood(p: float, wins: int, losses: int) -> float:
    terms = ((wins, p), (losses, 1 - p))
    return sum(count * (math.log(share) if share > 0 else -math.inf) for count, share in terms if count)


def _edge(inside: Any, within: float, end: float) -> float:
    """The border of a convex set between a point in it and an end, by bisection."""
    if inside(end):
        return end
    for _ in range(60):
        middle = (within + end) / 2
        within, end = (middle, end) if inside(middle) else (within, middle)
    return end


def answers_by_policy(studio: Studio) -> dict[str, tuple[str, str]]:
    """policy id -> (evaluation stage, its name there): where a policy's answers to test tasks are found."""
    stages = read_stages(studio.database)
    there = folders(stages, studio.artifacts, studio.facts.folder / "scratch", "samples")
    found: dict[str, tuple[str, str]] = {}
    table, policies = schema.evaluations, schema.policies
    statement = sa.select(table.c.policy_id, table.c.round, policies.c.reference_policy_id).join_from(
        table, policies, policies.c.id == table.c.policy_id
    )
    with studio.database.read() as connection:
        for row in connection.execute(statement.order_by(table.c.round)):
            stage = f"evaluate-{row.round}"
            if stage in there:
                found[row.policy_id] = (stage, "policy")
                if row.reference_policy_id is not None:
                    found.setdefault(row.reference_policy_id, (stage, "reference"))
    return found


def create(studio: Studio, policy_a: str, policy_b: str, name: str, wanted: int, account_id: str) -> str:
    """Ask people about ``wanted`` tasks on which the policies' answers differ; returns the test's id.

    Errors: ApiError where a policy has no stored answers, or the two have none to the same task.
    """
    known = answers_by_policy(studio)
    for policy in (policy_a, policy_b):
        if policy not in known:
            shown = ", ".join(known) or "none yet: run an evaluation"
            raise ApiError(404, "not_found", f"no answers of policy {policy!r:.80}", f"there are those of {shown}")
    if policy_a == policy_b:
        raise ApiError(400, "bad_value", "a policy against itself", "name two policies")
    stages = read_stages(studio.database)
    there = folders(stages, studio.artifacts, studio.facts.folder / "scratch", "samples")
    texts_a, texts_b = (answers_of(there[known[p][0]], known[p][1]) for p in (policy_a, policy_b))
    both = [t for t in texts_a if t in texts_b and texts_a[t]["text"] != texts_b[t]["text"]]
    if not both:
        raise ApiError(
            409, "conflict", "these policies' stored answers are the same, or to other tasks", "choose others"
        )
    chosen = _unseen(studio, [both[i] for i in shuffled(len(both), 0, "ab", policy_a, policy_b)])[:wanted]
    made = f"ab-{secrets.token_hex(8)}"
    row = {"id": made, "policy_a": policy_a, "policy_b": policy_b, "name": name, "wanted": len(chosen)}
    tasks, candidates, queries = [], [], []
    for id_ in chosen:
        # the test's id keeps one test's questions apart from another's on the same answers
        task = Task("test", {"prompt": texts_a[id_]["prompt"], "of": id_, "ab_test": made})
        pair = [
            Candidate(task.id, "text", {"text": texts[id_]["text"]}, Provenance(policy))
            for policy, texts in ((policy_a, texts_a), (policy_b, texts_b))
        ]
        ids = tuple(candidate.id for candidate in pair)
        tasks.append(task)
        candidates += pair
        queries.append(Query(task.id, "comparison", ids, shuffled(2, 0, "shown", *ids), 0))
    with studio.database.write() as connection:
        stamps = {"created_by": account_id, "created_at": time.time()}
        connection.execute(sa.insert(schema.ab_tests).values(row | stamps))
        studio.log.put_in(connection, tasks, candidates, queries)
        mark_looked(connection, {query.id: id_ for query, id_ in zip(queries, chosen, strict=True)})
    studio.queue.want([query.id for query in queries], 1, ab_test=made, priority=-1)
    return made


def _unseen(studio: Studio, tasks: Sequence[str]) -> list[str]:
    """Those on which somebody may still be asked, since they have not seen the answers under a policy's name; first
    those that the fewest have. Errors: ApiError where everybody has seen them all."""
    if studio.settings.solo:
        return list(tasks)
    with studio.database.read() as connection:
        judges = judging(connection)
        known_by = looked_at(connection, tasks)
    left = {task: len(judges - known_by.get(task, set())) for task in tasks}
    found = sorted((task for task in tasks if left[task]), key=lambda task: -left[task])
    if not found:
        problem = "nobody is left to ask: whoever may judge has seen which of these policies wrote what"
        raise ApiError(409, "conflict", problem, "invite somebody who has not, or choose other policies")
    return found


def result(connection: Connection, test: str) -> Result:
    """The votes on a test so far. Slot a is always policy a; what was shown first was drawn for each person."""
    state, events = schema.query_state, schema.events
    asked = sa.select(state.c.query_id).where(state.c.ab_test == test)
    statement = sa.select(events.c.value).where(
        *current_view(), events.c.kind == "comparison", events.c.query_id.in_(asked)
    )
    choices = [value["choice"] for value in connection.execute(statement).scalars()]
    wins, losses = choices.count("a"), choices.count("b")
    ties = choices.count("tie") + choices.count("both_bad")
    return Result(wins, losses, ties, *confidence_sequence(wins, losses))


def shown(row: sa.Row[Any], found: Result) -> Mapping[str, Any]:
    """A test as the interface gives it. ``stop``: it is decided, or everything has been asked, or it was closed."""
    votes = found.wins + found.losses + found.ties
    over = row.closed_at is not None or found.decided or votes >= row.wanted
    return {
        "id": row.id, "name": row.name, "policy_a": row.policy_a, "policy_b": row.policy_b, "wanted": row.wanted,
        "created_at": row.created_at, "closed_at": row.closed_at, "votes": votes, "wins": found.wins,
        "losses": found.losses, "ties": found.ties, "low": found.low, "high": found.high, "decided": found.decided,
        "stop": over,
    }  # fmt: skip
