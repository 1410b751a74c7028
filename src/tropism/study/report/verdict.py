"""What the report says in words: one paragraph on what was reached, and what these numbers cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tropism.study.report import episodes
from tropism.study.report.data import EvaluationRow, Facts
from tropism.study.report.samples import paired
from tropism.study.report.tables import change_of, number
from tropism.study.report.words import words_of


def verdict(facts: Facts) -> str:
    """One paragraph: how many rounds, which policy is kept, what it gained and what it cost."""
    if not facts.evaluated():
        done = [stage.name for stage in facts.stages if stage.status == "done"]
        where = f"; the last finished stage is {done[-1]}" if done else ""
        return f"No round has been evaluated yet{where}. What is there so far is shown below."
    kept, words = _kept(facts), words_of(facts)
    rounds = len(facts.rounds())
    if kept is None:
        return (
            f"After {rounds} round{'s' * (rounds != 1)} no policy was promoted: every one was rolled back by its "
            f"evaluation, and the {words.reference} stays. The reasons are listed with each round."
        )
    metrics = kept.metrics
    parts = [f"The policy of round {kept.round} of {rounds} is kept."]
    if words.episodes:
        parts += episodes.verdict(facts, kept)
    else:
        parts += [text for text in (_win(metrics), _correct(metrics), _cost(metrics)) if text]
    if worse := _worse(facts, kept):
        parts.append(f"Lower than SFT: {', '.join(worse)}.")
    parts += [line for round_ in facts.rounds() if (line := overoptimised(facts, round_))]
    rejected = [policy.round for policy in facts.policies if policy.status == "rejected"]
    if rejected:
        parts.append(f"Rolled back: round{'s' * (len(rejected) > 1)} {', '.join(map(str, rejected))}.")
    return " ".join(parts)


def _kept(facts: Facts) -> EvaluationRow | None:
    promoted = [policy for policy in facts.policies if policy.status == "promoted"]
    return facts.evaluation(promoted[-1].round) if promoted else None


def _interval(metrics: Mapping[str, Any], key: str) -> str:
    low, high = number(metrics, f"{key}_low"), number(metrics, f"{key}_high")
    return "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"


def _win(metrics: Mapping[str, Any]) -> str:
    rate = number(metrics, "win_rate")
    if rate is None:
        return ""
    text = (
        f"On held-out prompts it wins {rate:.3f} of its comparisons with the SFT model{_interval(metrics, 'win_rate')}"
    )
    controlled = number(metrics, "win_rate_length_controlled")
    text += f", {controlled:.3f} at equal length." if controlled is not None else "."
    low, high = number(metrics, "win_rate_low"), number(metrics, "win_rate_high")
    undecided = low is not None and high is not None and low <= 0.5 <= high
    return text + (" That is no difference that these prompts can tell." if undecided else "")


def _correct(metrics: Mapping[str, Any]) -> str:
    before, after = number(metrics, "reference_correct"), number(metrics, "correct")
    if before is None or after is None:
        return ""
    return f"It answers {100 * after:.1f} % correctly, where the SFT model answers {100 * before:.1f} %."


def _cost(metrics: Mapping[str, Any]) -> str:
    kl, length, before = (number(metrics, key) for key in ("kl_sequence", "length_mean", "reference_length_mean"))
    parts = [] if kl is None else [f"it moved {kl:.2f} nats per answer away from the SFT model"]
    if length is not None and before is not None:
        parts.append(f"answers went from {before:.1f} to {length:.1f} tokens")
    return f"The price: {' and '.join(parts)}." if parts else ""


def _worse(facts: Facts, kept: EvaluationRow) -> list[str]:
    metrics = kept.metrics
    names = {"correct": "correct answers", "refusal": "refusals", "harmless": "harmlessness", "polite": "politeness"}
    names |= {"brief": "brevity", "clean": "clean endings"}
    found = []
    for key, name in names.items():
        before, after = number(metrics, f"reference_{key}"), number(metrics, key)
        if before is not None and after is not None and after < before:
            own, reference = paired(facts, kept.round, key)
            sure = change_of(own, reference, +1) == "worse"
            noise = "" if sure or len(own) < 2 else ", within noise"
            found.append(f"{name} ({100 * before:.1f} → {100 * after:.1f} %{noise})")
    return found


def overoptimised(facts: Facts, round_: int) -> str:
    """A sentence if gold fell in a round while the learned score rose, else nothing."""
    found = _proxy_test(facts, round_)
    if not isinstance(found, Mapping) or not found.get("detected"):
        return ""
    return (
        f"Round {round_} over-optimised its reward model: gold fell by {-float(found['gold_change']):.3g} from its "
        f"best (around step {found['peak_step']}, KL {float(found['peak_kl']):.2f}) while the learned score rose by "
        f"{float(found['proxy_change']):.3g}."
    )


def proxy_tests(facts: Facts) -> list[str]:
    """One line for every round that was tested for over-optimisation, or could not be."""
    lines = []
    for round_ in facts.rounds():
        found = _proxy_test(facts, round_)
        if found is None:
            lines.append(f"Round {round_} was not tested for over-optimisation: that needs gold and at least 16 steps.")
        elif isinstance(found, Mapping):
            lines.append(
                overoptimised(facts, round_)
                or f"Round {round_}: no over-optimisation. From gold's best window to the last one gold changed by "
                f"{float(found['gold_change']):+.3g} and the learned score by {float(found['proxy_change']):+.3g}."
            )
    return lines


def _proxy_test(facts: Facts, round_: int) -> Any:
    """The improve stage's test as stored; None where it could not be made, "" where the domain makes none."""
    policy = facts.policy(round_)
    return "" if policy is None else policy.values.get("overoptimisation", "")


def limits(facts: Facts) -> list[str]:
    """What a reader must know before quoting a number of this page."""
    found = episodes.limits(facts, config_of(facts)) if words_of(facts).episodes else _limits_of_texts(facts)
    if any(stage.status != "done" for stage in facts.stages):
        found.append("The study is not finished: later rounds are missing.")
    return found


def _limits_of_texts(facts: Facts) -> list[str]:
    config = config_of(facts)
    found = ["One seed: no interval here says how much another seed would change. The intervals are over test prompts."]
    kinds = {count.teacher_kind for count in facts.feedback}
    if "oracle" in kinds:
        found.append(
            "The teacher was a program that sees the gold rubric, with the noise configured; no person judged anything."
        )
    if config.get("world", {}).get("name") == "tinytalk":
        found.append(
            "Gold is a rubric that reads the facts out of the prompt of an embedded toy world; it says nothing about "
            "natural language. Correctness counts most; refusals, politeness and brevity count less."
        )
    without_gold = [e for e in facts.evaluated() if number(e.metrics, "gold_mean") is None]
    if any(number(e.metrics, "win_rate") is not None for e in without_gold):
        found.append(
            "No gold rubric is known for these tasks: win rates come from a second reward model, fitted on the "
            "held-out feedback alone. It shares the features of the first, and may share its mistakes."
        )
    unjudged = [str(e.round) for e in facts.evaluated() if number(e.metrics, "win_rate") is None]
    if unjudged:
        found.append(
            f"No win rate is known for round {', '.join(unjudged)}: there is neither gold nor enough held-out feedback "
            "for a judge, so only the kept values and the KL decided about promotion."
        )
    return found


def config_of(facts: Facts) -> Mapping[str, Any]:
    """The resolved configuration's sections."""
    nested = facts.resolved.get("config")
    return nested if isinstance(nested, Mapping) else facts.resolved
