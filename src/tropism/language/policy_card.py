"""The model cards of a study's policies: what they were made from, what paid them, how far they went, what is unknown.

Left out: the evaluation on held-out prompts. It comes after the policy's folder is sealed, so it stands in the study's
report, and the card says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.digests import digest_file, digest_folder
from tropism.engine.adapters import LoraSettings
from tropism.engine.cards import Card
from tropism.language.config import LanguageConfig, WorldSection

_LATER = "Evaluation on held-out prompts is a later stage of the study: see its report."


def base_card(config: LanguageConfig, stage: str, base: str, values: Mapping[str, Any]) -> Card:
    """The card of the starting policy. ``values`` are its stage's (``sft``, the phases of pretraining, a commit)."""
    trained = {name: phase for name, phase in values.items() if isinstance(phase, Mapping) and "tokens" in phase}
    if not trained:
        method = "Loaded as it is: nothing was trained."
    elif "sft" in trained:
        method = f"Supervised fine-tuning on completions{_how(config.lora)}."
    else:
        method = "Trained from nothing on the world's texts."
    commit = values.get("model_commit")
    return Card(
        title=_title(config, stage),
        kind="policy",
        base=f"{base}@{commit}" if commit else base,
        method=method,
        data=_sources(config.world, {f"{name}, rows": int(phase["rows"]) for name, phase in trained.items()}),
        settings={"model": _set(config.model), **_training(config, "sft" in trained)},
        kl={"this policy": "the reference of the rounds that follow"},
        evaluation={
            f"{name}, training loss at the end (nats per token)": phase["loss"] for name, phase in trained.items()
        }
        | {f"{name}, rows cut from the left": int(phase["rows_cut"]) for name, phase in trained.items()}
        | {f"{name}, rows left out as too long": int(phase["rows_skipped"]) for name, phase in trained.items()},
        limits=[_LATER, "A loss on training rows says nothing of new ones.", *_needs(config.lora)],
        plain=not _needs(config.lora),
    )


def improved_card(config: LanguageConfig, stage: str, base: str, values: Mapping[str, Any], prompts: int) -> Card:
    """The card of a policy after PPO on so many ``prompts``. ``values``: its stage's (``steps``, ``last`` metrics,
    ``overoptimisation``)."""
    last, reward = values["last"], config.reward
    paid = {f"{Path(f).name} (Python), weight": w for f, w in reward.functions.items()}
    if reward.learned:
        paid |= {f"reward model ({reward.network}) fitted on feedback, weight": reward.weight}
    wanted = {
        "kl/ref_k1": "sequence KL, mean of k1 (nats)",
        "kl/ref_k3": "sequence KL, mean of k3 (nats)",
        "ppo/kl_coef": "coefficient at the end",
    }
    shown = {
        "ppo/score_mean": "score, mean of the last rollout",
        "ppo/gold_mean": "true utility, mean of the last rollout",
        "length/completion_tokens": "completion length, mean of the last rollout (tokens)",
        "length/missing_end": "share of the last rollout cut at the length limit",
    }
    verdict = values.get("overoptimisation")
    return Card(
        title=_title(config, stage),
        kind="policy",
        base=base,
        method=f"Proximal policy optimisation for {values['steps']} steps{_how(config.lora)}, with a KL to the"
        " reference policy.",
        data=_sources(config.world, {"train prompts": prompts}),
        settings={
            "ppo": config.ppo.model_dump(mode="json"),
            "sampling": config.sampling.model_dump(mode="json"),
            **_training(config, False),
        },
        reward=paid | {"penalty for a missing end": reward.missing_end_penalty, "clip": reward.clip or "none"},
        kl={name: last[key] for key, name in wanted.items() if key in last} | {"paid as": config.ppo.kl_ref_in},
        evaluation={name: last[key] for key, name in shown.items() if key in last}
        | ({"over-optimisation": verdict} if verdict else {})
        | {"steps rolled back": values["rollbacks"]},
        limits=[_LATER, "Figures here are of training prompts, on the last rollout alone.", *_needs(config.lora)],
        plain=not _needs(config.lora),
    )


def _title(config: LanguageConfig, stage: str) -> str:
    return f"{config.world.name}: policy of stage {stage}"


def _how(lora: LoraSettings) -> str:
    return f" with LoRA of rank {lora.rank} (saved {lora.save})" if lora.rank else ""


def _needs(lora: LoraSettings) -> list[str]:
    alone = lora.rank > 0 and lora.save == "adapter"
    return ["Adapters alone: they need peft, and the base model that adapter_config.json names."] if alone else []


def _set(section: Any) -> dict[str, Any]:
    """What was set in a section, paths by their last part alone: equal studies stand in different folders."""
    chosen = section.model_dump(mode="json", exclude_defaults=True)
    return {name: Path(v).name if name in ("path", "chat_template") else v for name, v in chosen.items()}


def _training(config: LanguageConfig, sft: bool) -> dict[str, Any]:
    lora = {"lora": config.lora.model_dump(mode="json")} if config.lora.rank else {}
    return ({"sft": config.sft.model_dump(mode="json")} if sft else {}) | lora


def _sources(world: WorldSection, rows: Mapping[str, int]) -> list[dict[str, Any]]:
    """The world, with the user's files that it reads, and how much of it was used."""
    places = {name: getattr(world, name) for name in ("data", "prompts", "demonstrations")}
    there = {name: Path(place) for name, place in places.items() if place is not None and Path(place).exists()}
    files = [
        {"name": f"{name}: {path.name}", "sha256": digest_folder(path) if path.is_dir() else digest_file(path)}
        for name, path in there.items()
    ]
    return [{"name": world.name, **rows, "files": files, **({"licence": "not stated"} if files else {})}]
