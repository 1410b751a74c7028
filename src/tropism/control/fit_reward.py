"""Fitting a reward ensemble on judged segments, again and again while an agent trains.

The fit is ``reward/fitting.py``'s, on the likelihood that all feedback shares. A first fit begins with fresh networks,
a later one with the weights before, on inputs standardised anew: the agent has come to where none of the first
segments were. It stops on what each member's bootstrap left out: those are a third of all answers for every member,
where the answers held out to measure by are too few to tell when to stop.

Left out: choosing settings by held-out likelihood, but for the form of the preference model.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tropism.control.reward_network import Form, LearnedReward, SegmentEnsemble, SegmentScores, Shape, freeze
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import Combination
from tropism.reward.fitting import FitSettings, fit
from tropism.reward.pairs import Pairs, pair_accuracy
from tropism.runtime.seeding import derive
from tropism.settings.sections import Section

BAG_SEED = derive(0, "control-reward-bags")
"""One for all fits: what is left out of a member's bag in one round is not what it was fitted on in another."""


class RewardSection(Section):
    """``[reward]``: the ensemble and its fit."""

    members: int = Field(3, ge=1)
    hidden: tuple[int, ...] = (64, 64)
    form: Literal["partial_return", "regret", "auto"] = "partial_return"
    """What a segment's score is beside the sum of rewards; ``auto``: whichever has, in every version anew, the better
    likelihood of what the members' bags left out."""
    successors: bool = False
    """Whether the reward reads the observation that followed, too; other forms than the partial return always do, for
    the value of where a segment ends."""
    label_error: float = Field(0.1, ge=0, lt=1)
    """Share of answers that are assumed to be random (Christiano et al. 2017, section 2.2.3)."""
    fit_steps: int = Field(300, ge=1)
    """Steps of the optimiser in the first fit, at most."""
    fit_steps_again: int = Field(150, ge=1)
    """And in each later one, which goes on from the weights before."""
    least_steps: int = Field(50, ge=1)
    """Steps before which no fit stops: where questions are chosen to be hard, a few left out say little."""
    patience: int = Field(60, ge=1)
    """Steps without a better likelihood out of bag before a fit stops."""
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    """Of matrices."""
    bootstrap: bool = True
    early_stopping: bool = True
    """Stop on what each member's bootstrap left out; else, and where there are no bags, every fit has all its steps."""
    combination: Combination = "mean"
    """What the members pay together: ``mean``, ``min``, ``pessimistic`` or ``optimistic``."""
    pessimism: float = Field(0.0, ge=0)
    """c in mean − c · variance over the members, where they are combined so."""
    optimism: float = Field(0.0, ge=0)
    """c in mean + c · deviation over the members, where they are combined so: the agent seeks what the reward does not
    know, is asked about it, and learns (Liang et al. 2022)."""

    @property
    def bags(self) -> bool:
        """Whether something is left out of members' bags."""
        return self.bootstrap and self.members > 1

    @property
    def weight(self) -> float:
        """Of the members' disagreement in what they pay together."""
        return {"pessimistic": self.pessimism, "optimistic": self.optimism}.get(self.combination, 0.0)

    @property
    def reads_successors(self) -> bool:
        """Whether a step's row has the observation that followed."""
        return self.successors or self.form != "partial_return"

    @model_validator(mode="after")
    def _weighs_disagreement(self) -> RewardSection:
        for how, name in (("pessimistic", "pessimism"), ("optimistic", "optimism")):
            weight = getattr(self, name)
            if (self.combination == how) != (weight > 0):
                raise ValueError(
                    f'reward.combination = "{self.combination}" with reward.{name} = {weight:g}: '
                    f'"{how}" needs a weight above 0, and the weight that combination'
                )
            if weight and self.members == 1:
                raise ValueError(f"reward.{name} weighs the members' disagreement, and reward.members = 1 has none")
        return self

    @model_validator(mode="after")
    def _auto_has_bags(self) -> RewardSection:
        if self.form == "auto" and not (self.bags and self.early_stopping):
            raise ValueError(
                'reward.form = "auto" compares forms by what members\' bags leave out: it needs reward.members of 2 or '
                "more, reward.bootstrap and reward.early_stopping"
            )
        return self


def fit_reward(
    data: RewardData,
    features: Tensor,
    steps: Tensor,
    shape: Shape,
    before: LearnedReward | None,
    settings: RewardSection,
    seed: int,
) -> tuple[LearnedReward, dict[str, float]]:
    """The next version of a reward, and metrics.

    ``features`` ``[n, L, width]`` of ``data.candidates``; ``steps`` ``[m, width]``, of all segments that were asked
    about, are what inputs are standardised and the scale is frozen on. Errors: DataError without train evidence.
    """
    s, version = settings, (before.version if before else 0) + 1
    train = data.fold(True)
    wanted = s.fit_steps if version == 1 or s.form == "auto" else s.fit_steps_again
    each = math.ceil(len(train) / s.batch_size)
    how = FitSettings(
        epochs=math.ceil(wanted / each), batch_size=s.batch_size, learning_rate=s.learning_rate,
        weight_decay=s.weight_decay, bootstrap=s.bootstrap, bag_seed=BAG_SEED, out_of_bag=s.early_stopping,
        patience=math.ceil(s.patience / each), least_epochs=math.ceil(s.least_steps / each), lapse=s.label_error,
    )  # fmt: skip
    forms: list[Form] = ["partial_return", "regret"] if s.form == "auto" else [s.form]
    found = []
    for form in forms:
        if before is not None and s.form != "auto":
            ensemble = copy.deepcopy(before.ensemble).requires_grad_(True)
            ensemble.standardise(steps, fitted=True)
        else:
            ensemble = SegmentEnsemble(shape, s.members, s.hidden, form, derive(seed, "reward", version))
            ensemble.standardise(steps)
        scores = SegmentScores(ensemble, features)
        result = fit(scores, train, how, derive(seed, "fit"))
        epochs = result.best_epoch or result.epochs
        metrics = result.history[epochs - 1] | {"reward/version": float(version), "reward/fit_steps": epochs * each}
        # nothing is left out of three answers: then the first form it is, until there are more
        left_out = math.inf if result.nll_validation is None else result.nll_validation
        found.append((left_out, ensemble, metrics | _held_out(scores, data.fold(False))))
    _, ensemble, metrics = min(found, key=lambda row: row[0])
    metrics["reward/regret"] = float(ensemble.form == "regret")
    return freeze(ensemble, steps, version, s.combination, s.weight), metrics


@torch.no_grad()
def _held_out(scores: SegmentScores, data: RewardData) -> dict[str, float]:
    """Accuracy and likelihood (nats per vote) of the members' mean on held-out comparisons; nothing without any."""
    pairs = Pairs.of(data)
    if not len(pairs):
        return {}
    wanted = pairs.candidates()
    mean = torch.zeros(len(data.candidates))
    mean[wanted] = scores.score(wanted).mean(0)
    gap = mean[pairs.first] - mean[pairs.second]
    target, weight = torch.from_numpy(pairs.target).float(), torch.from_numpy(pairs.weight).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(gap, target, weight, reduction="sum") / weight.sum()
    return {
        "reward/accuracy_validation": pair_accuracy(mean.numpy(), pairs),
        "reward/nll_validation": float(loss),
    }
