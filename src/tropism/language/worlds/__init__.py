"""Text worlds by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from tropism.errors import ConfigError

if TYPE_CHECKING:
    from tropism.language.config import WorldSection
    from tropism.language.worlds.base import World

_OWN = {"tinytalk": (), "sentiment": ("data",), "text": ("prompts", "demonstrations", "gold")}
"""Each world, and the settings that only some worlds read."""
NAMES = tuple(_OWN)


def load_world(section: WorldSection) -> World:
    """The world that a study's [world] section names; ConfigError for a setting that this world would not read."""
    if section.name not in _OWN:
        raise ConfigError(f"world.name = {section.name!r} is not a world", f"choose one of {', '.join(NAMES)}")
    for key in {key for keys in _OWN.values() for key in keys} - set(_OWN[section.name]):
        if getattr(section, key) is not None:
            readers = " or ".join(repr(name) for name, keys in _OWN.items() if key in keys)
            raise ConfigError(
                f"world.{key} = {getattr(section, key)!r}, which world {section.name!r} does not read",
                f"remove it, or set world.name = {readers}",
            )
    if section.name == "tinytalk":
        from tropism.language.worlds.tinytalk import TinyTalk

        return TinyTalk.from_options(section.options)
    if section.name == "sentiment":
        from tropism.language.worlds.sentiment import SentimentSettings, SentimentWorld

        try:
            settings = SentimentSettings.model_validate(section.options)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["world.options", *(str(part) for part in first["loc"])])
            known = ", ".join(SentimentSettings.model_fields)
            raise ConfigError(f"{key} = {first.get('input')!r}: {first['msg']}", f"the options are {known}") from error
        return SentimentWorld(section.data, settings)
    from tropism.language.worlds.text import TextWorld

    return TextWorld.from_settings(section)
