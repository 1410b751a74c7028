"""The algorithms of the control domain by name.

Left out: RLHF on language models, which has its own PPO (``language/ppo.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tropism.control.a2c import A2c, A2cSettings
from tropism.control.agent import Agent
from tropism.control.dqn import Dqn, DqnSettings
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.reinforce import Reinforce, ReinforceSettings
from tropism.control.sac import Sac, SacSettings
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError
from tropism.settings.sections import Section, check_section, nearest


@dataclass(frozen=True)
class Algorithm:
    """An agent's class, made by ``agent(environments, settings, seed)``, and the class of its settings."""

    agent: Callable[[Environments, Any, int], Agent]
    settings: type[Section]


ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Algorithm(Ppo, PpoSettings),
    "a2c": Algorithm(A2c, A2cSettings),
    "reinforce": Algorithm(Reinforce, ReinforceSettings),
    "dqn": Algorithm(Dqn, DqnSettings),
    "sac": Algorithm(Sac, SacSettings),
}


def make_agent(name: str, environments: Environments, settings: Section | Mapping[str, Any], seed: int) -> Agent:
    """The agent of a name. Errors: ConfigError for an unknown name, for settings that it does not have, or for a space
    of actions that it does not support."""
    if name not in ALGORITHMS:
        names = ", ".join(ALGORITHMS)
        raise ConfigError(f"there is no algorithm {name!r}", nearest(name, ALGORITHMS, f"choose one of {names}"))
    found = ALGORITHMS[name]
    if isinstance(settings, Section):
        if not isinstance(settings, found.settings):
            raise ConfigError(f"{type(settings).__name__} for {name}", f"give it {found.settings.__name__}")
        return found.agent(environments, settings, seed)
    return found.agent(environments, check_section(found.settings, name, settings), seed)
