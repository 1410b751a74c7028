"""The model cards of jobs: what each result says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tropism.engine.cards import Card

_NOT_MEASURED_HERE = "What this model says was not judged by people here."


def sft_card(out: Path, base: str, settings: Mapping[str, Any], values: Mapping[str, Any]) -> Card:
    """The card of a fine-tuned policy."""
    evaluation = {
        "loss on held-out rows before, nats per token": values["loss_before"],
        "loss on held-out rows after, nats per token": values["loss_after"],
        "held-out rows": values["rows"]["held_out"],
    }
    return Card(
        title=out.name,
        kind="policy",
        base=base,
        method="Supervised fine-tuning: the loss counts the tokens of completions only.",
        data=[values["data"]],
        settings=_chosen(settings, "sft", "lora"),
        evaluation={name: value for name, value in evaluation.items() if value is not None},
        limits=[*_cut(values["sft"]), _NOT_MEASURED_HERE, "A low loss on like rows is no proof of good answers."],
    )


def ppo_card(out: Path, base: str, settings: Mapping[str, Any], values: Mapping[str, Any]) -> Card:
    """The card of a policy that was improved by PPO."""
    first, last = values["first"], values["last"]
    reward = {f"{name} (weight)": weight for name, weight in settings["rewards"]["models"].items()}
    reward = {Path(name).name if "/" in name else name: weight for name, weight in reward.items()}
    reward |= {Path(name).name: weight for name, weight in settings["rewards"]["functions"].items()}
    reward |= {"mean score of the first step": first["score"], "mean score of the last step": last["score"]}
    kl = {
        "sequence KL of the last rollout, nats": last["kl_sequence"],
        "weight": settings["ppo"]["kl_ref_coef"],
        "paid as": settings["ppo"]["kl_ref_in"],
    }
    return Card(
        title=out.name,
        kind="policy",
        base=base,
        method="Proximal policy optimisation (Schulman et al. 2017) with a KL penalty to the reference.",
        data=[values["prompts"]],
        settings=_chosen(settings, "ppo", "sampling", "lora"),
        reward=reward,
        kl=kl,
        limits=[
            "The score is told by the reward that was optimised: it says nothing of quality by itself. Compare with "
            "the reference on prompts it has not seen, by another judge (`tropism evaluate`).",
            _NOT_MEASURED_HERE,
        ],
    )


def _chosen(settings: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    return {name: settings[name] for name in sections if settings.get(name)}


def _cut(summary: Mapping[str, Any]) -> Sequence[str]:
    cut, skipped = int(summary["rows_cut"]), int(summary["rows_skipped"])
    made = [f"{cut} rows were longer than the limit and lost the left end of their prompt."] if cut else []
    return made + ([f"{skipped} rows did not fit and were left out."] if skipped else [])
