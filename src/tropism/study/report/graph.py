"""The lineage as boxes and arrows: feedback → reward model → policy, round by round."""

from __future__ import annotations

from markupsafe import Markup

from tropism.study.report.data import Facts, PolicyRow
from tropism.study.report.diagrams import Edge, Node, lineage_graph
from tropism.study.report.tables import number
from tropism.study.report.words import words_of


def lineage(facts: Facts) -> Markup:
    """The drawing, or an empty string when no policy has been recorded."""
    if not facts.policies:
        return Markup("")
    nodes: list[Node] = []
    edges: list[Edge] = []
    ids, words = {policy.id for policy in facts.policies}, words_of(facts)
    start = words.reference[:1].upper() + words.reference[1:]
    for policy in facts.policies:
        title = start if policy.round == 0 else f"Policy {policy.round}"
        nodes.append(Node(policy.id, policy.round, 0, title, _note(facts, policy), policy.status))
        if policy.parent in ids:
            edges.append(Edge(str(policy.parent), policy.id))
        if policy.reward_model is not None:
            edges.append(Edge(policy.reward_model, policy.id))
    for reward in facts.rewards:
        nodes.append(
            Node(reward.id, reward.round, 1, f"Reward model {reward.round}", f"fitted on {reward.events} events")
        )
    per_round: dict[int, int] = {}
    for count in facts.feedback:
        if count.round is not None:
            per_round[count.round] = per_round.get(count.round, 0) + count.events
    fitted = {reward.round: reward.id for reward in facts.rewards}
    for round_, events in per_round.items():
        id_ = f"feedback of round {round_}"
        nodes.append(Node(id_, round_, 2, f"Feedback {round_}", f"{events} events"))
        edges += [Edge(id_, reward) for later, reward in fitted.items() if later >= round_]
    return lineage_graph(nodes, edges)


def _note(facts: Facts, policy: PolicyRow) -> str:
    if policy.round == 0:
        return "reference of every round"
    word = {"promoted": "promoted", "rejected": "rolled back", "candidate": "not decided yet"}.get(
        policy.status, policy.status
    )
    evaluation = facts.evaluation(policy.round)
    rate = None if evaluation is None else number(evaluation.metrics, "win_rate")
    return word if rate is None else f"{word}, win rate {rate:.3f}"
