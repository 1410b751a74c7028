"""The model card of a reward model: what it was fitted on, how well it agrees with votes that it has not seen.

Left out: where the data came from, which whoever read them knows (``tropism reward fit`` writes a card with it).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.engine.cards import Card
from tropism.language.config import RewardModelSection

_SHOWN = {
    "accuracy": "accuracy (a tie counts half)",
    "accuracy_decided": "accuracy without ties",
    "length_only": "accuracy of length alone",
    "log_likelihood": "log-likelihood (nats per vote)",
    "ece": "expected calibration error",
    "temperature": "temperature",
}


def reward_card(
    stage: str, base: str | Path, settings: RewardModelSection, values: Mapping[str, Any], *, judge: bool = False
) -> Card:
    """The card of a fitted reward model, or of the ``judge`` beside it. ``values`` are those of the fit."""
    data, assessment = values["data"], values["assessment"]
    found = {} if judge else assessment["validation"] or {}
    evaluation = {f"held-out {name}": found[key] for key, name in _SHOWN.items() if found.get(key) is not None}
    if "gold" in assessment and assessment["gold"] and not judge:
        evaluation["accuracy on the same pairs as the true utilities judge them"] = assessment["gold"]["accuracy"]
    fitted = "validation" if judge else "train"
    limits = [
        "Scores compare answers to one prompt; across prompts they mean little.",
        "It follows those whose judgements it was fitted on, their errors and their taste included.",
        "Agreement with held-out judgements is no proof that a policy trained on it gets better.",
    ]
    if judge:
        limits.append("It was fitted on held-out judgements, to judge policies that the reward model paid.")
    elif not evaluation:
        limits.append("It was not assessed: there were no held-out comparisons.")
    if values["rows_cut"]:
        limits.append(f"{values['rows_cut']} answers did not fit its context and lost the left end of their prompt.")
    return Card(
        title=f"{'Judge' if judge else 'Reward model'} of stage {stage}",
        kind="reward model",
        base=str(base) if not Path(base).exists() else Path(base).name,
        method=f"A reward model of kind {settings.network}, fitted on judgements: comparisons, ties, soft targets, "
        "rankings, ratings and labels in one likelihood. Its scale (mean 0, deviation 1) is frozen in scale.json.",
        data=[{"name": "judgements", "rows fitted on": data[f"rows_{fitted}"], **_counts(data)}],
        settings={"reward": settings.model_dump(mode="json", include=set(RewardModelSection.model_fields))},
        evaluation=evaluation,
        limits=limits,
        plain=settings.network == "classifier",
    )


def _counts(data: Mapping[str, Any]) -> dict[str, Any]:
    used = {f"{kind}s": count for kind, count in sorted(data["used"].items())}
    return {"candidates": data["candidates"], "prompts": data["tasks"], **used, "left out": data["dropped"]}
