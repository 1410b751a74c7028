"""What trains, and what its KL is measured to, before a round begins: all weights or adapters, and the reference.

With adapters on the start that the reference is, the reference costs nothing: it is the same model with its adapters
off. Otherwise it is a frozen model of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from tropism.engine.adapters import (
    LoraSettings,
    add_lora,
    adds_nothing,
    base_parameters,
    copy_sharing_frozen,
    has_adapters,
    merged_copy,
    settings_of,
)
from tropism.errors import ConfigError
from tropism.language.policy import LanguagePolicy, copy_of, same_weights


def trainable(policy: LanguagePolicy, lora: LoraSettings, seed: int, base: str | None = None) -> LanguagePolicy:
    """The policy made ready to learn: all of its weights, or adapters alone (added in place, or those it has).

    ``base`` is what saved adapters will name as their base model (None: where the model was loaded from). ConfigError
    for adapters of another rank or alpha than ``lora`` asks for.
    """
    model = policy.model
    if lora.rank == 0:
        whole = merged_copy(model) if has_adapters(model) else model.requires_grad_(True)
        return replace(policy, model=whole)
    if not has_adapters(model):
        add_lora(model, lora, seed, base=base)
    elif settings_of(model) != (lora.rank, lora.alpha):
        rank, alpha = settings_of(model)
        raise ConfigError(
            f"lora.rank = {lora.rank} and lora.alpha = {lora.alpha:g}, but the model comes with adapters of rank {rank}"
            f" and alpha {alpha:g}",
            f"set lora.rank = {rank} and lora.alpha = {alpha:g} to go on with them, or merge them first",
        )
    return policy


def leashed(
    start: LanguagePolicy,
    reference: LanguagePolicy | None,
    lora: LoraSettings,
    seed: int,
    base: str | None = None,
) -> tuple[LanguagePolicy, LanguagePolicy]:
    """(policy ready to learn, its reference). Without a ``reference`` that is the start itself, as it is now.

    The reference is the policy's own model where that, with its adapters off, says the same (``PpoTrainer`` switches
    them off); else a frozen model: a copy of what would move, or the one given, which is frozen in place.
    """
    if reference is not None and reference.model is start.model:
        reference = None
    itself = reference is None or same_weights(start.model, reference.model)
    policy = trainable(start, lora, seed, base)
    if lora.rank and _is_base_of(policy.model, None if itself else reference):
        return policy, replace(policy if reference is None else reference, model=policy.model)
    if reference is None or (itself and lora.rank):
        copied = copy_sharing_frozen(policy.model) if lora.rank else copy_of(policy.model)
        return policy, replace(policy if reference is None else reference, model=copied.eval().requires_grad_(False))
    reference.model.eval().requires_grad_(False)
    return policy, reference


@torch.no_grad()
def _is_base_of(model: PreTrainedModel, reference: LanguagePolicy | None) -> bool:
    """Whether ``model`` with its adapters off says what the reference does (None: what ``model`` says now)."""
    if reference is None:
        return adds_nothing(model)
    mine, theirs = base_parameters(model, off=True), base_parameters(reference.model)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
