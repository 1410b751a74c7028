"""tinytalk: an English-like world that the package generates, with its facts in the prompts, not in the weights."""

from tropism.language.worlds.tinytalk.world import TinyTalk, TinyTalkSettings

__all__ = ["TinyTalk", "TinyTalkSettings"]
