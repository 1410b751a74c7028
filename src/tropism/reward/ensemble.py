"""Ensembles of reward models: one frozen scale per reward version, and ways to combine the members.

Members are standardised one by one on a reference set before anything is averaged or compared: a member with a larger
scale would otherwise decide alone. The scale is fitted once, stored with the weights, and never moves afterwards.

Left out: weighting members by their accuracy, and running normalisers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tropism.errors import RewardError

Combination = Literal["mean", "min", "pessimistic", "optimistic"]


def combine(members: Tensor, how: Combination = "mean", weight: float = 0.0) -> Tensor:
    """One score ``[...]`` from standardised members ``[E, ...]``.

    ``mean``; ``min`` over members; ``pessimistic``: mean − ``weight`` · variance (Coste et al. 2024, "Reward model
    ensembles help mitigate overoptimization", uncertainty-weighted optimisation); ``optimistic``: mean + ``weight`` ·
    standard deviation (Liang et al. 2022, "Reward uncertainty for exploration in preference-based reinforcement
    learning", whose weight fades by itself; here it is the deviation that does, as answers come in).
    """
    if how == "mean":
        return members.mean(0)
    if how == "min":
        return members.amin(0)
    if how == "pessimistic":
        return members.mean(0) - weight * members.var(0, correction=0)
    if how == "optimistic":
        return members.mean(0) + weight * members.std(0, correction=0)
    raise RewardError(f"ensemble combination {how!r}", "choose 'mean', 'min', 'pessimistic' or 'optimistic'")


@dataclass(frozen=True)
class FrozenScale:
    """Mean and deviation of each member on a frozen reference set, and the deviation of the members' mean."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    combined_std: float
    """Deviation of the mean of the standardised members: at most 1, and less the more the members disagree."""
    samples: int
    reference: str
    """What the scale was fitted on: a digest or a name."""

    @classmethod
    def fit(cls, scores: Tensor, reference: str) -> FrozenScale:
        """From raw scores ``[E, n]`` on a reference set. RewardError for NaN, n < 2, or a member that is constant."""
        if scores.dim() != 2 or scores.shape[1] < 2:
            raise RewardError(
                f"a scale was to be fitted on scores of shape {tuple(scores.shape)}",
                "give [members, samples] with at least two samples",
            )
        raw = scores.detach().double()
        bad = ~torch.isfinite(raw).all(1)
        if bad.any():
            raise RewardError(f"members {_which(bad)} give NaN or infinity on the reference set", "fit them again")
        mean, std = raw.mean(1), raw.std(1, correction=0)
        constant = std <= 1e-9 * raw.abs().amax(1).clamp(min=1e-3)
        if constant.any():
            raise RewardError(
                f"members {_which(constant)} give every reference sample the same score",
                "use a more varied reference set, or look at the fit: the model learned nothing",
            )
        combined = ((raw - mean[:, None]) / std[:, None]).mean(0).std(correction=0)
        if not combined > 1e-6:
            raise RewardError(
                "the members' scores cancel out in their mean", "fit the ensemble again: they disagree fully"
            )
        return cls(tuple(mean.tolist()), tuple(std.tolist()), float(combined), raw.shape[1], reference)

    def members(self, scores: Tensor) -> Tensor:
        """Raw scores ``[E, ...]`` with each member standardised (mean 0, deviation 1 on the reference set)."""
        if scores.shape[0] != len(self.mean):
            raise RewardError(
                f"{scores.shape[0]} members for a scale of {len(self.mean)}", "load the scale saved with them"
            )
        shape = (-1, *[1] * (scores.dim() - 1))
        mean = torch.tensor(self.mean, dtype=scores.dtype, device=scores.device).reshape(shape)
        std = torch.tensor(self.std, dtype=scores.dtype, device=scores.device).reshape(shape)
        return (scores - mean) / std

    def combine(self, scores: Tensor, how: Combination = "mean", weight: float = 0.0) -> Tensor:
        """The reward ``[...]`` from raw scores ``[E, ...]``: standardised, combined, and divided by the frozen
        ``combined_std``, so that the ensemble's mean itself has mean 0 and deviation 1 on the reference set."""
        return combine(self.members(scores), how, weight) / self.combined_std

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.__dict__, indent=1, sort_keys=True))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FrozenScale:
        """From the fields by name. Errors: KeyError, TypeError or ValueError for something else."""
        mean, std = (tuple(float(x) for x in raw[name]) for name in ("mean", "std"))
        return cls(mean, std, float(raw["combined_std"]), int(raw["samples"]), str(raw["reference"]))

    @classmethod
    def load(cls, path: Path) -> FrozenScale:
        """Read what ``save`` wrote; RewardError if the file is missing or is something else."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RewardError(f"{path} holds no reward scale ({error})", "fit the reward model again") from error


def _which(flags: Tensor) -> str:
    return ", ".join(str(int(i)) for i in flags.nonzero().flatten())
