"""From judgements to a fitted, scaled and assessed reward folder, with a judge beside it that training never sees.

The judge is a second model of the same kind, its weights fitted on the validation split alone (the train split only
tells it when to stop): where nobody knows the truth, win rates are told by it and not by the model that was optimised
against.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from tropism.engine.models import context_length
from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement, Task
from tropism.language.config import RewardSection
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import (
    OPINIONS,
    Encoded,
    FineTunedReward,
    FrozenScores,
    LearnedReward,
    TokenEnsemble,
)
from tropism.reward.assessment import assess
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import FrozenScale
from tropism.reward.fitting import FitResult, FitSettings, fit
from tropism.runtime.precision import Precision
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun

MIN_JUDGE_ROWS = 20
"""Fewer validation rows than this make no judge."""

Gold = Callable[[Sequence[tuple[Task, Candidate]]], list[float] | None]
ScaleSet = tuple[Sequence[Task], Sequence[Sequence[Candidate]]]


def fit_learned_reward(
    trunk: LanguagePolicy,
    judgements: Sequence[Judgement],
    settings: RewardSection,
    precision: Precision,
    run: StageRun,
    scale_set: ScaleSet,
    gold: Gold,
) -> Made:
    """Fit on train tasks, stop early and assess on validation tasks, freeze the scale on the reference's samples.

    Returns folder ``reward`` (with ``judge/`` inside where there is enough held-out feedback) and values
    ``assessment``, ``fit``, ``rows_cut``.
    """
    data = RewardData.from_judgements(judgements, strength_margin=settings.strength_margin)
    if not len(data.fold(train=True)):
        raise DataError(
            f"none of the {len(judgements)} judgements can be fitted on: no vote is on a train prompt",
            'give votes on other prompts, or "split": "train" to rows of a file whose prompts are not held out',
        )
    pairs = [(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    encoded = Encoded.of(trunk, pairs, context_length(trunk.model))
    reward, result, scores = _fit_one(trunk, data, encoded, settings, precision, run, run.seed, scale_set)
    utilities = gold(pairs)
    assessment = assess(
        scores.numpy(),
        data,
        np.array([len(c) for c in encoded.completions]),
        group_by="kind",
        gold=None if utilities is None else np.array(utilities),
    ).as_json()
    about = {"events": len(judgements), "fit": asdict(result)}
    with run.making("reward") as folder:
        reward.save(folder, about)
        (folder / "assessment.json").write_text(json.dumps(assessment, indent=1, sort_keys=True))
        if settings.judge and len(data.fold(False)) >= MIN_JUDGE_ROWS:
            swapped = _swap_splits(data)
            own = replace(run, name=f"{run.name}:judge", folder=run.folder / "judge", seed=derive(run.seed, "judge"))
            judge, _, _ = _fit_one(trunk, swapped, encoded, settings, precision, own, own.seed, scale_set)
            judge.save(folder / "judge", {"fitted on": "validation split"})
    values = {"assessment": assessment, "fit": asdict(result), "rows_cut": encoded.cut, "data": data.summary()}
    return Made({"reward": run.folder / "reward"}, values)


def _fit_one(
    trunk: LanguagePolicy,
    data: RewardData,
    encoded: Encoded,
    settings: RewardSection,
    precision: Precision,
    run: StageRun,
    seed: int,
    scale_set: ScaleSet,
) -> tuple[LearnedReward, FitResult, torch.Tensor]:
    """A fitted and scaled reward model, how the fit went, and its scores of all candidates ``[n]``."""
    model: FrozenScores | FineTunedReward
    network: TokenEnsemble | FineTunedReward
    if settings.network == "frozen":
        width = 2 * int(trunk.model.config.hidden_size) + OPINIONS
        network = TokenEnsemble(width, settings.members, settings.hidden, settings.dropout, seed)
        model = FrozenScores(network, trunk, encoded, precision)
        model.standardise(_train_candidates(data))
    else:
        network = model = FineTunedReward(trunk, settings.members, seed, precision)
        model.encoded = encoded
    fit_settings = FitSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        patience=settings.patience,
        rating_loss=settings.rating_loss,
    )
    result = fit(model, data, fit_settings, seed, run)
    network.requires_grad_(False)
    tasks, samples = scale_set
    reference = Encoded.of(trunk, [(t, c) for t, row in zip(tasks, samples, strict=True) for c in row], 1 << 30)
    unscaled = LearnedReward(
        settings.network,
        trunk,
        network,
        FrozenScale((0.0,) * settings.members, (1.0,) * settings.members, 1.0, 0, "unscaled"),
        precision,
        context_length(trunk.model),
        settings.pessimism,
    )
    scale = FrozenScale.fit(unscaled.member_scores(reference), f"{len(reference)} samples of the reference")
    reward = replace(unscaled, scale=scale)
    return reward, result, reward.combine(reward.member_scores(encoded))


def _train_candidates(data: RewardData) -> torch.Tensor:
    """Numbers of the candidates of train tasks."""
    is_train = torch.tensor([t.split == "train" for t in data.tasks])
    return is_train[data.candidate_task].nonzero().squeeze(1)


def _swap_splits(data: RewardData) -> RewardData:
    """The same data with train and validation exchanged."""
    tasks = tuple(Task("validation" if t.split == "train" else "train", t.payload, t.id) for t in data.tasks)
    return replace(data, tasks=tasks)
