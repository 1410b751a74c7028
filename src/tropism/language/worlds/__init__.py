"""Text worlds by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tropism.errors import ConfigError

if TYPE_CHECKING:
    from tropism.language.config import WorldSection
    from tropism.language.worlds.base import World

NAMES = ("tinytalk", "sentiment", "text")


def load_world(section: WorldSection) -> World:
    """The world that a study's [world] section names."""
    if section.name == "tinytalk":
        from tropism.language.worlds.tinytalk import TinyTalk

        return TinyTalk.from_options(section.options)
    if section.name == "sentiment":
        from tropism.language.worlds.sentiment import SentimentSettings, SentimentWorld

        return SentimentWorld(section.data, SentimentSettings.model_validate(section.options))
    if section.name == "text":
        from tropism.language.worlds.text import TextWorld

        if section.prompts is None:
            raise ConfigError("the text world needs world.prompts", "name a .jsonl, .csv or .txt file of prompts")
        return TextWorld(
            Path(section.prompts),
            demonstrations=None if section.demonstrations is None else Path(section.demonstrations),
            gold=section.gold,
            test_fraction=section.test_fraction,
            validation_fraction=section.validation_fraction,
        )
    raise ConfigError(f"world.name = {section.name!r} is not a world", f"choose one of {', '.join(NAMES)}")
