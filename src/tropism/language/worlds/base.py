"""What a text world is: tasks with a prompt, perhaps demonstrations, perhaps a gold rubric that knows the truth.

Left out: everything about policies; a world never sees one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tropism.feedback.records import Split, Task
from tropism.language.sft import Example, SftSettings


class ModelSettings(BaseModel):
    """Shape of a Llama-like model that a world makes from nothing. The defaults are tinytalk's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int = Field(128, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    intermediate_size: int = Field(256, ge=8)
    context: int = Field(128, ge=16)
    rope_theta: float = Field(10_000.0, gt=0)
    tied: bool = True
    initializer_range: float = Field(0.06, gt=0)
    """Deviation of the initial weights. At 0.06 a small model learns to copy two to four times sooner than
    at the usual 0.02."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights while training."""


@dataclass(frozen=True)
class Phase:
    """One phase of a small model's pretraining: examples and how to train on them. ``name`` is the activity's name."""

    name: str
    examples: Sequence[Example]
    settings: SftSettings


class Rubric(Protocol):
    """What is true of an answer, where somebody knows: all that an evaluation needs of a world."""

    name: str

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        """What is true of a completion, each in [0, 1]; None where an aspect does not apply to this kind of task."""
        ...

    def gold(self, task: Task, text: str) -> float | None:
        """True utility of a completion, or None where nobody knows it."""
        ...


class World(Rubric, Protocol):
    """A source of text tasks. Everything is a function of its arguments: the same call gives the same texts."""

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """``count`` distinct tasks of a split, fewer if the world has fewer. Payload: ``prompt``, ``kind``, and what
        the rubric needs, all JSON. No task (in tinytalk: no fact) of one split occurs in another."""
        ...

    def demonstrations(self, count: int, seed: int) -> Sequence[tuple[str | Mapping[str, Any], str]]:
        """(prompt, completion) for SFT, of the train split; empty where the world has none. The prompt of a chat is a
        task's payload, with ``messages``."""
        ...

    def curriculum(self, seed: int) -> list[Phase]:
        """Pretraining phases in order, of the train split; empty where the world starts from a trained model."""
        ...

    def build(self, folder: Path, settings: ModelSettings, seed: int) -> None:
        """Write a tokenizer and an untrained model as a Hugging Face folder. ModelError where the world cannot."""
        ...
