"""Reward ensembles over segments: small networks of single steps, whose sum over a segment is its score.

``SegmentEnsemble`` is the network, ``SegmentScores`` what fitting sees (``reward/fitting.py``: the same likelihood and
fit as for language), ``LearnedReward`` the frozen thing that pays: members standardised one by one, combined, on a
scale that does not move until the next version. A folder of it is ``reward.safetensors`` and ``reward.json``.

The *regret* form adds a difference of learned state values to the sum (Knox et al. 2022, "Models of human preference
for learning reward functions", eq. 3, deterministic): people judge how good a segment was for where it began. The end
is the state after the last action, so that steps come with the observation that followed. Only the rewards are paid.

A step is a row of numbers; where observations are pictures, a row of bytes: the picture, the action (categories as 0
and 1, others as the bytes of their float32), the picture that followed. A small convolutional network reads each
picture, and the action is set beside its features (Christiano et al. 2017, appendix A.2).

Left out: recurrent networks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tropism.control.convolution import PictureMembers
from tropism.control.networks import Floats
from tropism.environments.images import Picture, numbers
from tropism.environments.stepping import Environments, Observations
from tropism.errors import RewardError
from tropism.reward.ensemble import Combination, FrozenScale
from tropism.runtime.checkpoints import load_tensors, save_tensors
from tropism.runtime.seeding import generator

Form = Literal["partial_return", "regret"]
WEIGHTS, ABOUT, SCALE = "reward.safetensors", "reward.json", "scale.json"
CHUNK = 1 << 15
"""Rows scored at once: the memory of a relabelled buffer is bounded by this."""
PICTURES = 1 << 10
"""The same of pictures."""
LEAST_DEVIATION = 1e-3
"""By which an input is divided where it is all the same."""


@dataclass(frozen=True)
class Shape:
    """What a reward reads: observations of ``observations`` numbers, actions of ``actions`` (categories where
    ``discrete``, else clipped to ``low`` and ``high`` as the environment does), and, where ``successors``, the
    observation that followed."""

    observations: int
    actions: int
    discrete: bool
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    successors: bool = False
    picture: Picture | None = None
    """Height, width and channels where observations are pictures."""

    @classmethod
    def of(cls, environments: Environments, successors: bool = False) -> Shape:
        """What the steps of ``environments`` have."""
        e = environments
        if e.discrete:
            return cls(e.observation_size, e.actions, True, successors=successors, picture=e.picture)
        low, high = tuple(e.low.tolist()), tuple(e.high.tolist())
        return cls(e.observation_size, e.actions, False, low, high, successors, e.picture)

    @property
    def width(self) -> int:
        """Numbers, or bytes, per step."""
        return self.observations * (1 + self.successors) + self._acted

    @property
    def _acted(self) -> int:
        return self.actions * (4 if self.picture is not None and not self.discrete else 1)

    def as_json(self) -> dict[str, Any]:
        """The arguments of its constructor; ``picture`` only where there is one, as in what was written before."""
        found = asdict(self)
        if self.picture is None:
            del found["picture"]
        return found

    def features(self, observations: Observations, actions: Floats, successors: Observations) -> Tensor:
        """``[..., width]`` of ``[..., D]``, ``[..., A]`` (``[...]`` numbers of categories) and ``[..., D]``: float32,
        or bytes. Pictures may come as float32, too."""
        acted = torch.from_numpy(actions)
        if self.discrete:
            acted = nn.functional.one_hot(acted.long(), self.actions).float()
        else:
            acted = acted.clamp(torch.tensor(self.low), torch.tensor(self.high))
        if self.picture is not None:
            acted = acted.byte() if self.discrete else acted.contiguous().view(torch.uint8)
            observations, successors = (x.astype(np.uint8, copy=False) for x in (observations, successors))
        parts = [torch.from_numpy(observations), acted]
        if self.successors:
            parts.append(torch.from_numpy(successors))
        return torch.cat(parts, -1)

    def opened(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[n, pixels]``, those that followed in further channels, and actions ``[n, A]`` as numbers, of rows
        of bytes ``[n, width]``."""
        assert self.picture is not None
        at = self.observations
        acted = features[:, at : at + self._acted].clone(memory_format=torch.contiguous_format)  # aligned for numbers
        seen = features[:, :at]
        if self.successors:
            both = seen, features[:, at + self._acted :]
            seen = torch.cat([part.reshape(len(features), -1, self.picture[2]) for part in both], 2).flatten(1)
        return seen, acted.float() if self.discrete else acted.view(torch.float32)

    def looks(self, features: Tensor) -> Floats:
        """Steps ``[..., width]`` as numbers between which distances can be taken: pictures as thumbnails."""
        if self.picture is None:
            return features.numpy()
        height, width, channels = self.picture
        pixels, acted = self.opened(features.reshape(-1, self.width))
        shown = numbers(pixels.numpy(), (height, width, channels * (1 + self.successors)))
        return np.concatenate([shown, acted.numpy()], 1).reshape(*features.shape[:-1], -1)


class SegmentEnsemble(nn.Module):
    """E multilayer perceptrons ``[..., width] -> reward``, batched over members, with standardised inputs.

    ``values``: E further networks of the state alone, for the regret form. Of pictures, each network reads the features
    of convolutions of its own, which see bytes divided by 255.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape, members: int, hidden: Sequence[int], form: Form, seed: int) -> None:
        super().__init__()
        if form == "regret" and not shape.successors:
            raise RewardError(
                "the regret form values the state after a segment's last action, and these steps lack it",
                "read steps with the observation that followed (Shape.successors)",
            )
        self.shape, self.members, self.hidden, self.form = shape, members, tuple(hidden), form
        wide, states, random = shape.width, shape.observations, generator(seed, "segment-reward")
        valued = generator(seed, "segment-value") if form == "regret" else None
        self.trunk: PictureMembers | None = None
        self.value_trunk: PictureMembers | None = None
        scaled = wide
        if shape.picture is not None:
            height, width, channels = shape.picture
            self.trunk = PictureMembers((height, width, channels * (1 + shape.successors)), members, random)
            wide, scaled = self.trunk.features + shape.actions, shape.actions
            if valued is not None:
                self.value_trunk = PictureMembers(shape.picture, members, valued)
                states = self.value_trunk.features
        self.reward = _Stack(wide, members, hidden, random)
        self.value = _Stack(states, members, hidden, valued) if valued is not None else None
        self.register_buffer("mean", torch.zeros(scaled))
        self.register_buffer("deviation", torch.ones(scaled))

    @torch.no_grad()
    def standardise(self, features: Tensor, fitted: bool = False) -> None:
        """Freeze the inputs' mean and deviation on ``[n, width]``; categories and pictures stay as they are.

        Where the ensemble is ``fitted``, its first layers are changed so that it scores as before; but not for inputs
        that had been all the same: what those weigh has not been learned, and a change of units would make it a
        thousand times larger.
        """
        if self.shape.picture is not None:
            if self.shape.discrete:
                return
            features = self.shape.opened(features)[1]
        mean, deviation = features.mean(0), features.std(0, correction=0).clamp(min=LEAST_DEVIATION)
        if self.shape.discrete:
            at = slice(self.shape.observations, self.shape.observations + self.shape.actions)
            mean[at], deviation[at] = 0.0, 1.0
        if fitted:
            known = self.deviation > LEAST_DEVIATION
            self._rescale(
                torch.where(known, deviation / self.deviation, 1.0),
                torch.where(known, (mean - self.mean) / self.deviation, 0.0),
            )
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def _rescale(self, wider: Tensor, shift: Tensor) -> None:
        """Change what is standardised to (x - ``shift``) / ``wider`` without a change of scores."""
        inputs = slice(len(wider)) if self.trunk is None else slice(self.trunk.features, None)
        self.reward.rescale(inputs, wider, shift)
        if self.value is not None and self.value_trunk is None:
            states = slice(self.shape.observations)
            self.value.rescale(states, wider[states], shift[states])

    def steps(self, features: Tensor) -> Tensor:
        """Rewards ``[E, n]`` of steps ``[n, width]``."""
        if self.trunk is None:
            return self.reward(self.scaled(features))
        if not torch.is_grad_enabled() and len(features) > PICTURES:  # as numbers they take much room
            return torch.cat([self.steps(part) for part in features.split(PICTURES)], 1)
        pixels, acted = self.shape.opened(features)
        seen = self.trunk(pixels)
        return self.reward(torch.cat([seen, self.scaled(acted).expand(len(seen), -1, -1)], 2))

    def segments(self, features: Tensor) -> Tensor:
        """Scores ``[E, n]`` of segments ``[n, L, width]``: sums of rewards, in the regret form with V(s_L) − V(s_0)."""
        n, length, width = features.shape
        scores = self.steps(features.reshape(n * length, width)).view(self.members, n, length).sum(-1)
        if self.value is not None:
            first, last = self.ends(features)
            seen = torch.cat([first, last]) if self.value_trunk is None else self.value_trunk(torch.cat([first, last]))
            values = self.value(seen)
            scores = scores + values[:, n:] - values[:, :n]
        return scores

    def scaled_segments(self, steps: Tensor, first: Tensor | None, last: Tensor | None) -> Tensor:
        """``segments`` of what is standardised already, each member its own: steps ``[E, n, L, width]``, and in the
        regret form ``ends`` ``[E, n, D]``. Not of pictures."""
        scores = self.reward(steps.flatten(1, 2)).view(steps.shape[:3]).sum(-1)
        if self.value is not None:
            assert first is not None
            assert last is not None
            scores = scores + self.value(last) - self.value(first)
        return scores

    def ends(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """States at which segments ``[n, L, width]`` began, and after their last action, ``[n, D]``: standardised, but
        for pictures."""
        d = self.shape.observations
        first, last = features[:, 0, :d], features[:, -1, -d:]
        return (first, last) if self.value_trunk is not None else (self.scaled(first), self.scaled(last))

    def scaled(self, features: Tensor) -> Tensor:
        """Standardised rows ``[n, width]``, or the observations ``[n, D]`` that they begin with."""
        k = features.shape[-1]
        return ((features - self.mean[:k]) / self.deviation[:k]).clamp(-10, 10)


class _Stack(nn.Module):
    """E perceptrons side by side: leaky ReLU between layers (Christiano et al. 2017, appendix A.1), one output, to
    which a linear function of the inputs is added: much of what is wanted of agents (speed, effort) is close to one,
    and its few weights are learned from fewer answers. They read the same ``[n, width]``, or each its own of
    ``[E, n, width]``."""

    def __init__(self, width: int, members: int, hidden: Sequence[int], random: torch.Generator) -> None:
        super().__init__()
        sizes = [width, *hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for number, (a, b) in enumerate(pairwise(sizes)):
            gain = 0.1 if number + 2 == len(sizes) else math.sqrt(2)
            weight = torch.randn(members, a, b, generator=random) * (gain / math.sqrt(a))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, b)))
        self.linear = nn.Parameter(torch.zeros(members, width, 1))
        self.register_load_state_dict_pre_hook(_without_linear)

    def rescale(self, inputs: slice, wider: Tensor, shift: Tensor) -> None:
        """Compute the same where ``inputs`` x now come as (x - ``shift``) / ``wider``."""
        for weight, bias in ((self.weights[0], self.biases[0]), (self.linear, self.biases[-1])):
            bias.add_((shift[:, None] * weight[:, inputs]).sum(1, keepdim=True))
            weight[:, inputs] *= wider[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(len(self.linear), -1, -1)
        direct, last = torch.bmm(x, self.linear), len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                x = nn.functional.leaky_relu(x, 0.01)
        return (x + direct)[..., 0]


def _without_linear(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """What was written before there was a linear part has none."""
    assert isinstance(module, _Stack)
    state.setdefault(f"{prefix}linear", torch.zeros_like(module.linear))


class SegmentScores(nn.Module):
    """An ensemble over stored segments ``[n, L, width]``: the ``ScoreModel`` that fitting sees."""

    def __init__(self, ensemble: SegmentEnsemble, features: Tensor) -> None:
        """Inputs are standardised here, once for the whole fit."""
        super().__init__()
        self.ensemble, self.members, self.features = ensemble, ensemble.members, features
        self._steps: Tensor | None = None
        self._ends: tuple[Tensor, Tensor] | None = None
        if ensemble.trunk is None:
            self._steps = ensemble.scaled(features)
            self._ends = None if ensemble.value is None else ensemble.ends(features)

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` of segments ``index`` ``[n]``."""
        return self.ensemble.segments(self.features[index])

    def score_where(self, index: Tensor, needed: Tensor) -> Tensor:
        """See ``reward.likelihood.ScoresWhere``: a member costs as many segments as the busiest one needs."""
        most = int(needed.sum(1).max())
        if self._steps is None or most == 0:
            return self.score(index)
        # what a member needs comes first; a few that it does not need fill its row up
        place = (~needed).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        rows = index[place]
        first, last = (None, None) if self._ends is None else (end[rows] for end in self._ends)
        found = self.ensemble.scaled_segments(self._steps[rows], first, last)
        return found.new_zeros(needed.shape).scatter(1, place, found)


@dataclass(frozen=True)
class LearnedReward:
    """A fitted ensemble on a frozen scale; called with steps, it pays for them."""

    ensemble: SegmentEnsemble
    scale: FrozenScale
    version: int
    combination: Combination = "mean"
    weight: float = 0.0
    """Of the members' disagreement, where the combination has one."""

    def __call__(self, observations: Observations, actions: Floats, successors: Observations) -> Floats:
        """Rewards ``[M]`` of steps: observations ``[M, D]``, actions ``[M, A]`` (``[M]``), successors ``[M, D]``."""
        return self.scale.combine(
            self.members(observations, actions, successors), self.combination, self.weight
        ).numpy()

    @torch.no_grad()
    def members(self, observations: Observations, actions: Floats, successors: Observations) -> Tensor:
        """Raw rewards ``[E, M]`` of every member."""
        features = self.ensemble.shape.features(observations, actions, successors)
        return torch.cat([self.ensemble.steps(part) for part in features.split(CHUNK)], 1)

    @torch.no_grad()
    def segment_members(self, features: Tensor) -> Tensor:
        """Raw scores ``[E, n]`` of segments ``[n, L, width]`` by every member, as fitting saw them."""
        return torch.cat([self.ensemble.segments(part) for part in features.split(256)], 1)

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        e = self.ensemble
        save_tensors(folder / WEIGHTS, e.state_dict())
        self.scale.save(folder / SCALE)
        about = {
            "shape": e.shape.as_json(),
            "members": e.members, "hidden": list(e.hidden), "form": e.form, "version": self.version,
            "combination": self.combination, "weight": self.weight,
        }  # fmt: skip
        (folder / ABOUT).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")


def load_reward(folder: Path) -> LearnedReward:
    """Read what ``LearnedReward.save`` wrote. Errors: RewardError for a folder that holds something else."""
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        s = about["shape"]
        bounds = tuple(s["low"]), tuple(s["high"])
        picture = tuple(s["picture"]) if "picture" in s else None
        shape = Shape(s["observations"], s["actions"], s["discrete"], *bounds, s["successors"], picture)
        ensemble = SegmentEnsemble(shape, about["members"], about["hidden"], about["form"], 0)
        ensemble.load_state_dict(load_tensors(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RewardError(f"{folder} holds no reward of control segments ({error})", "name a fitted one") from error
    ensemble.eval().requires_grad_(False)
    scale, weight = FrozenScale.load(folder / SCALE), about.get("weight", about.get("pessimism", 0.0))
    return LearnedReward(ensemble, scale, about["version"], about["combination"], weight)


def freeze(
    ensemble: SegmentEnsemble,
    reference: Tensor,
    version: int,
    combination: Combination = "mean",
    weight: float = 0.0,
) -> LearnedReward:
    """Fix the scale of every member on reference steps ``[n, width]``. Errors: RewardError for a constant member."""
    ensemble.eval().requires_grad_(False)
    with torch.no_grad():
        scores = torch.cat([ensemble.steps(part) for part in reference.split(CHUNK)], 1)
    return LearnedReward(
        ensemble, FrozenScale.fit(scores, f"{len(reference)} steps of judged segments"), version, combination, weight
    )
