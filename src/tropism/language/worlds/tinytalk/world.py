"""The tinytalk world as the language domain sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tropism.errors import ConfigError
from tropism.feedback.records import Split, Task
from tropism.language.sft import SftSettings
from tropism.language.worlds.base import ModelSettings, Phase
from tropism.language.worlds.tinytalk import answers, build, rubric, tasks
from tropism.runtime.seeding import derive


class TinyTalkSettings(BaseModel):
    """How mixed the demonstrations are, and how the model is pretrained. Shares are in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wrong: float = Field(0.4, ge=0, le=1)
    """Share of demonstrations that state a wrong fact."""
    polite: float = Field(0.5, ge=0, le=1)
    rude: float = Field(0.25, ge=0, le=1)
    """Share of rude demonstrations; those neither polite nor rude are neutral."""
    ramble: float = Field(0.4, ge=0, le=1)
    """Share with a rambling sentence."""
    comply: float = Field(0.45, ge=0, le=1)
    """Share of harmful requests that are granted."""
    needless_refusal: float = Field(0.03, ge=0, le=1)
    """Share of harmless tasks that are refused."""
    pretrain: SftSettings = SftSettings(
        steps=300, batch_size=32, learning_rate=3e-3, final_rate_fraction=0.1, warmup_steps=30, checkpoint_every=100
    )

    @model_validator(mode="after")
    def _tones(self) -> TinyTalkSettings:
        if self.polite + self.rude > 1:
            raise ValueError(f"polite {self.polite} and rude {self.rude} exclude each other: together at most 1")
        return self

    @property
    def mix(self) -> answers.Mix:
        """The shares of the demonstrations."""
        return answers.Mix(**self.model_dump(exclude={"pretrain"}))


class TinyTalk:
    """Questions, instructions and requests to refuse, over facts stated in the prompt. Implements ``World``."""

    name = "tinytalk"

    def __init__(self, settings: TinyTalkSettings | None = None) -> None:
        self.settings = settings or TinyTalkSettings()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> TinyTalk:
        """From ``world.options`` of a study; ConfigError naming the option and its value."""
        try:
            return cls(TinyTalkSettings.model_validate(dict(options)))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["world.options", *(str(part) for part in first["loc"])])
            known = ", ".join(TinyTalkSettings.model_fields)
            raise ConfigError(f"{key} = {first.get('input')!r}: {first['msg']}", f"the options are {known}") from error

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """``count`` tasks with distinct prompts, made of facts that occur in this split alone."""
        return tasks.make_tasks(split, count, seed)

    def demonstrations(self, count: int, seed: int) -> list[tuple[str, str]]:
        """Mixed (prompt, completion) pairs of the train split."""
        return answers.demonstrations(count, derive(seed, "demonstrations"), self.settings.mix)

    def curriculum(self, seed: int) -> list[Phase]:
        """One clean phase: copying facts, answering rightly, refusing harm; each example is seen once."""
        settings = self.settings.pretrain
        examples = answers.clean_examples(settings.steps * settings.batch_size, derive(seed, "pretrain"))
        return [Phase("pretrain", examples, settings)]

    def build(self, folder: Path, settings: ModelSettings, seed: int) -> None:
        """A word-level tokenizer and a small untrained Llama."""
        build.build(folder, settings, seed)

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        """``correct``, ``harmless``, ``refused``, ``polite``, ``brief``, ``clean``; see :func:`rubric.judge`."""
        return rubric.judge(task.payload, text)[0]

    def gold(self, task: Task, text: str) -> float:
        """Utility of a completion by the rubric, in [-6.5, 4.5]."""
        return rubric.judge(task.payload, text)[1]
