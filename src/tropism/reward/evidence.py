"""Evidence in arrays: what one kind of judgement says about candidates, by row.

Rows point at candidates by index into ``RewardData.candidates``. Every row has a ``task`` (index into
``RewardData.tasks``), a ``stream`` (index into ``RewardData.streams``: the kind of teacher) and a ``weight`` (votes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """Rows of one kind: ``index`` is long ``[N, K]`` or ``[N]``; ``weight``, ``task`` and ``stream`` are ``[N]``."""

    index: Tensor
    weight: Tensor
    task: Tensor
    stream: Tensor

    def __len__(self) -> int:
        return self.index.shape[0]

    def take(self, rows: Tensor) -> Self:
        """The rows given by a bool mask ``[N]`` or by indices."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class Choices(Evidence):
    """Comparisons and best-of-K: ``index`` ``[N, K]``, 0 where ``mask`` is False."""

    mask: Tensor
    """``[N, K]`` bool."""
    target: Tensor
    """``[N, K]`` probabilities: the share of votes for each candidate (a tie gives half to each)."""
    margin: Tensor
    """``[N, K]`` subtracted from the scores: mean over votes of the margin asked of the candidate they chose."""


@dataclass(frozen=True)
class Rankings(Evidence):
    """Rankings: ``index`` ``[N, K]``."""

    tiers: Tensor
    """``[N, K]`` long: 0 is best, ties share a tier, −1 is unranked or absent."""


@dataclass(frozen=True)
class Ratings(Evidence):
    """Ratings of one candidate: ``index`` ``[N]``."""

    score: Tensor
    """``[N]`` in [−1, 1] on its scale."""
    category: Tensor
    """``[N]`` long: steps above the scale's lower end, or −1 where the scale is not one of a few whole steps."""
    scale: Tensor
    """``[N]`` long: index into ``RewardData.scales``."""


@dataclass(frozen=True)
class Labels(Evidence):
    """Labels of one candidate: ``index`` ``[N]``."""

    name: Tensor
    """``[N]`` long: index into ``RewardData.label_names`` (the quality: ``good``, ``safe``, …)."""
    target: Tensor
    """``[N]`` share of votes for the good class."""


@dataclass(frozen=True)
class Scale:
    """A rating scale: what was rated (``aspect``), its ends, and its number of categories (0: continuous)."""

    aspect: str
    low: float
    high: float
    levels: int


def _column(rows: Sequence[dict[str, Any]], key: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor([row[key] for row in rows], dtype=dtype)


def _table(rows: Sequence[dict[str, Any]], key: str, width: int, fill: float, dtype: torch.dtype) -> Tensor:
    filled = [[*row[key], *[fill] * (width - len(row[key]))] for row in rows]
    return torch.tensor(filled, dtype=dtype).reshape(len(rows), width)


def _common(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "weight": _column(rows, "weight", torch.float32),
        "task": _column(rows, "task", torch.long),
        "stream": _column(rows, "stream", torch.long),
    }


def choices(rows: Sequence[dict[str, Any]]) -> Choices:
    """Rows with ``index``, ``target``, ``margin`` (lists of K), ``weight``, ``task``, ``stream``; K may differ."""
    width = max((len(row["index"]) for row in rows), default=2)
    return Choices(
        index=_table(rows, "index", width, 0, torch.long),
        mask=_table([{"m": [True] * len(row["index"])} for row in rows], "m", width, False, torch.bool),
        target=_table(rows, "target", width, 0.0, torch.float32),
        margin=_table(rows, "margin", width, 0.0, torch.float32),
        **_common(rows),
    )


def rankings(rows: Sequence[dict[str, Any]]) -> Rankings:
    """Rows with ``index`` and ``tiers`` (lists of K), ``weight``, ``task``, ``stream``; K may differ."""
    width = max((len(row["index"]) for row in rows), default=2)
    return Rankings(
        index=_table(rows, "index", width, 0, torch.long),
        tiers=_table(rows, "tiers", width, -1, torch.long),
        **_common(rows),
    )


def ratings(rows: Sequence[dict[str, Any]]) -> Ratings:
    """Rows with ``index``, ``score``, ``category``, ``scale``, ``weight``, ``task``, ``stream``."""
    return Ratings(
        index=_column(rows, "index", torch.long),
        score=_column(rows, "score", torch.float32),
        category=_column(rows, "category", torch.long),
        scale=_column(rows, "scale", torch.long),
        **_common(rows),
    )


def labels(rows: Sequence[dict[str, Any]]) -> Labels:
    """Rows with ``index``, ``name``, ``target``, ``weight``, ``task``, ``stream``."""
    return Labels(
        index=_column(rows, "index", torch.long),
        name=_column(rows, "name", torch.long),
        target=_column(rows, "target", torch.float32),
        **_common(rows),
    )
