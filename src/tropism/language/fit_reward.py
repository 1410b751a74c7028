"""From judgements to a fitted, scaled and assessed reward folder, with a judge beside it that training never sees.

The judge is a second model of the same kind, its weights fitted on the validation split alone (the train split only
tells it when to stop): where nobody knows the truth, win rates are told by it and not by the model that was optimised
against. No study is needed: judgements and a base model are enough.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tropism.engine.adapters import add_lora
from tropism.engine.cards import write_card
from tropism.engine.classifiers import load_classifier
from tropism.engine.models import context_length
from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement, Task
from tropism.language.classifier_reward import ClassifierNetwork, ClassifierScores
from tropism.language.config import RewardModelSection
from tropism.language.frozen_reward import OPINIONS, FrozenNetwork, FrozenScores, TokenEnsemble
from tropism.language.lexical_fit import fit_lexical
from tropism.language.lexical_reward import LexicalNetwork, count_rows, lexical_scores
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_card import reward_card
from tropism.language.reward_network import LearnedReward, RewardNetwork, rows_of
from tropism.language.reward_text import Answered, shares_ids
from tropism.reward.assessment import assess
from tropism.reward.dataset import RewardData
from tropism.reward.fitting import FitResult, FitSettings, fit
from tropism.runtime.precision import Precision
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun

MIN_JUDGE_ROWS = 20
"""Fewer validation rows than this make no judge."""

Gold = Callable[[Sequence[tuple[Task, Candidate]]], list[float] | None]
ScaleSet = tuple[Sequence[Task], Sequence[Sequence[Candidate]]]


@dataclass(frozen=True)
class Untrained:
    """A network before its fit: what fitting sees (all candidates by number), and what scores and saves afterwards.

    ``network`` is asked for when ``model`` is fitted, which ``fit`` does. ``lengths``: of every candidate's completion
    as the network reads it. ``fresh``: weights the base did not have.
    """

    model: Any
    network: Callable[[], RewardNetwork]
    exact: bool
    lengths: list[int]
    fresh: tuple[str, ...] = ()
    fit: Callable[[Any, RewardData, FitSettings, int, StageRun], FitResult] = fit


@dataclass(frozen=True)
class Fitting:
    """All that both fits share, the model's and the judge's."""

    base: str | Path
    rows: Sequence[Answered]
    settings: RewardModelSection
    precision: Precision
    policy: PreTrainedTokenizerBase | None
    scale_rows: Sequence[Answered] | None

    @cached_property
    def trunk(self) -> LanguagePolicy:
        """The base as a language model whose features are read: one copy in memory for both fits."""
        return LanguagePolicy.load(self.base)

    def untrained(self, data: RewardData, seed: int) -> Untrained:
        """A network of the kind that the settings name."""
        return BUILDERS[self.settings.network](self, data, seed)

    def fit(self, data: RewardData, run: StageRun) -> tuple[LearnedReward, FitResult, Untrained]:
        """A fitted model on a frozen scale, and how the fit went."""
        made = self.untrained(data, run.seed)
        result = made.fit(made.model, data, fit_settings(self.settings), run.seed, run)
        for _, parameter in made.model.named_parameters():
            parameter.requires_grad_(False)
        reward = LearnedReward(made.network(), None, made.exact, self.settings.pessimism)
        if self.scale_rows is not None:
            return reward.frozen_on(self.scale_rows, f"{len(self.scale_rows)} samples of the reference"), result, made
        train = [self.rows[i] for i in train_candidates(data).tolist()]
        return reward.frozen_on(train, f"{len(train)} train candidates, for want of a reference"), result, made

    def shares(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the candidates' ids, if they have any, are ids of this tokenizer."""
        return self.policy is not None and shares_ids(self.policy, tokenizer)


def fit_learned_reward(
    base: str | Path,
    judgements: Sequence[Judgement],
    settings: RewardModelSection,
    precision: Precision,
    run: StageRun,
    *,
    policy: PreTrainedTokenizerBase | None = None,
    scale_set: ScaleSet | None = None,
    gold: Gold | None = None,
    cluster_by: str | None = None,
) -> Made:
    """Fit on train tasks, stop early and assess on validation tasks, freeze the scale.

    ``base``: the model that the reward model starts from, by folder or name. ``policy``: the tokenizer of the policies
    whose token ids the candidates hold; without it their texts are read. ``scale_set``: samples of the reference that
    the scale is frozen on; without them it is the train candidates. ``cluster_by``: the field of payloads that says
    what was split together (``group``), where that is not the task. Returns folder ``reward`` (with ``judge/`` inside
    where there is enough held-out feedback) and values ``assessment``, ``fit``, ``rows_cut``, ``data``, ``fresh``.
    """
    data = RewardData.from_judgements(judgements, strength_margin=settings.strength_margin)
    if not len(data.fold(train=True)):
        raise DataError(
            f"none of the {len(judgements)} judgements can be fitted on: no vote is on a train prompt",
            'give votes on other prompts, or "split": "train" to rows of a file whose prompts are not held out',
        )
    pairs = [(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    rows = [Answered.of(t, c) for t, c in pairs]
    scale_rows = None if scale_set is None else rows_of(*scale_set)
    fitting = Fitting(base, rows, settings, precision, policy, scale_rows)
    reward, result, made = fitting.fit(data, run)
    reward.rows_cut = 0
    scores = reward.combine(reward.member_scores(rows))
    utilities = None if gold is None else gold(pairs)
    group_by = "group" if any("group" in t.payload for t in data.tasks) else "kind"
    truth = None if utilities is None else np.array(utilities)
    known: dict[str, Any] = {"judgements": judgements, "cluster_by": cluster_by, "rows_cut": reward.rows_cut}
    assessment = assess(scores.numpy(), data, np.array(made.lengths), group_by, truth, **known).as_json()
    about = {"events": len(judgements), "fit": asdict(result), "fresh": list(made.fresh)}
    values: dict[str, Any] = {"assessment": assessment, "fit": asdict(result), "fresh": list(made.fresh)}
    values |= {"rows_cut": reward.rows_cut, "data": data.summary()}
    with run.making("reward") as folder:
        reward.save(folder, about)
        (folder / "assessment.json").write_text(json.dumps(assessment, indent=1, sort_keys=True))
        write_card(folder, reward_card(run.name, base, settings, values))
        del reward, made  # the judge may need their memory
        if settings.judge and len(data.fold(False)) >= MIN_JUDGE_ROWS:
            own = replace(run, name=f"{run.name}:judge", folder=run.folder / "judge", seed=derive(run.seed, "judge"))
            judge, _, _ = fitting.fit(swap_splits(data), own)
            judge.save(folder / "judge", {"fitted on": "validation split"})
            write_card(folder / "judge", reward_card(run.name, base, settings, values, judge=True))
    return Made({"reward": run.folder / "reward"}, values)


def fit_settings(settings: RewardModelSection) -> FitSettings:
    """How the network that the settings name is fitted, with that kind's own choices where nothing was set."""
    own = OWN["adapters" if settings.lora.rank else settings.network]
    chosen = {name: getattr(settings, name) for name in ("epochs", "learning_rate", "head_learning_rate", "patience")}
    return replace(
        own.fit,
        batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        rating_loss=settings.rating_loss,
        center_coef=settings.center_coef,
        **{name: value for name, value in chosen.items() if value is not None},
    )


@dataclass(frozen=True)
class Own:
    """What a kind of network chooses where the settings leave it open."""

    members: int
    fit: FitSettings


OWN = {
    "frozen": Own(5, FitSettings(epochs=30, learning_rate=2e-3, patience=6)),
    "classifier": Own(
        1, FitSettings(epochs=3, learning_rate=2e-5, head_learning_rate=1e-3, patience=2, warmup=0.05, decay=True)
    ),
    "lexical": Own(5, FitSettings(epochs=1)),
}
OWN["adapters"] = replace(OWN["classifier"], fit=replace(OWN["classifier"].fit, learning_rate=2e-4))


def build_frozen(fitting: Fitting, data: RewardData, seed: int) -> Untrained:
    """Small networks on features of the base, a causal language model."""
    trunk, settings = fitting.trunk, fitting.settings
    width = 2 * int(trunk.model.config.hidden_size) + OPINIONS
    members = settings.members or OWN["frozen"].members
    ensemble = TokenEnsemble(width, members, settings.hidden, settings.dropout, seed)
    context = min(settings.max_tokens or context_length(trunk.model), context_length(trunk.model))
    network, exact = FrozenNetwork(trunk, ensemble, fitting.precision, context), fitting.shares(trunk.tokenizer)
    encoded = network.reader.read(fitting.rows, context, exact)
    model = FrozenScores(ensemble, network.trunk, encoded)
    model.standardise(train_candidates(data))
    return Untrained(model, lambda: network, exact, [len(c) for c in encoded.completions])


def build_classifier(fitting: Fitting, data: RewardData, seed: int) -> Untrained:
    """The base, decoder or encoder, with a head of one output per member."""
    settings = fitting.settings
    members = settings.members or OWN["classifier"].members
    classifier = load_classifier(fitting.base, members, new_head=True, seed=seed)
    add_lora(classifier.model, settings.lora, seed, train=sorted({n.rpartition(".")[0] for n in classifier.head}))
    network = ClassifierNetwork(classifier, fitting.precision, context=settings.max_tokens)
    exact = fitting.shares(classifier.tokenizer)
    encoded = network.reader.read(fitting.rows, network.context, exact)
    model = ClassifierScores(network, encoded, settings.micro_batch_tokens)
    return Untrained(model, network.merged, exact, [len(c) for c in encoded.completions], classifier.fresh)


def build_lexical(fitting: Fitting, data: RewardData, seed: int) -> Untrained:
    """A Gaussian process on the texts themselves. Lengths are characters."""
    members = fitting.settings.members or OWN["lexical"].members
    counted, train = count_rows(fitting.rows), train_candidates(data).tolist()
    features, scores = lexical_scores(counted, data.candidate_task.tolist(), train, members, seed)
    lengths = [len(row.text) for row in fitting.rows]
    return Untrained(scores, lambda: LexicalNetwork.of(features, scores), False, lengths, fit=fit_lexical)


NEEDS_NO_BASE = ("lexical",)
"""Kinds that read the text itself and start from nothing."""
BUILDERS: dict[str, Callable[[Fitting, RewardData, int], Untrained]] = {
    "frozen": build_frozen,
    "classifier": build_classifier,
    "lexical": build_lexical,
}


def train_candidates(data: RewardData) -> torch.Tensor:
    """Numbers of the candidates of train tasks."""
    is_train = torch.tensor([t.split == "train" for t in data.tasks])
    return is_train[data.candidate_task].nonzero().squeeze(1)


def swap_splits(data: RewardData) -> RewardData:
    """The same data with train and validation exchanged."""
    tasks = tuple(Task("validation" if t.split == "train" else "train", t.payload, t.id) for t in data.tasks)
    return replace(data, tasks=tasks)
