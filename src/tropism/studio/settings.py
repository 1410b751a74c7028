"""How one studio is run, and what it needs to know of its study.

A study's settings are read here without its domain: that would load tensors into a process that serves pages. Left out:
checking study.toml (``study/config.py`` does, when the study is made and run).
"""

from __future__ import annotations

import ipaddress
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError, StoreError
from tropism.settings.overrides import merge
from tropism.settings.recipes import recipe_values

DAY_S, LEAST_LEASE_S = 86400.0, 1.0


@dataclass(frozen=True)
class StudioSettings:
    """One running studio. Times in seconds, sizes in bytes."""

    solo: bool = False
    """One person on this machine: no login, loopback only."""
    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()
    """Host names by which browsers reach it (behind a proxy); addresses and localhost are always allowed."""
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses and networks of proxies that are believed when they say who asks, and whether over https."""
    database_url: str | None = None
    lease_s: float = 300.0
    undo_s: float = 30.0
    gold_rate: float = 0.0
    repeat_rate: float = 0.0
    most_votes: int = 0
    """Adaptive overlap: a comparison is asked again while its votes leave it unsure, up to so many people; 0: never."""
    session_s: float = 14 * DAY_S
    idle_s: float = 3 * DAY_S
    invitation_s: float = 3 * DAY_S
    setup_s: float = DAY_S
    body_limit: int = 1 << 20
    bulk_limit: int = 32 << 20
    draft_limit: int = 256 << 10
    login_attempts: int = 5
    """Wrong passwords for one name before waits begin, which then double."""

    def __post_init__(self) -> None:
        if self.solo and not is_loopback(self.host):
            raise ConfigError(
                f"--solo with --host {self.host}: whoever reaches it would need no password",
                "leave --host out, or leave --solo out and make accounts",
            )
        if self.solo and self.names:
            raise ConfigError(
                f"--solo with --name {self.names[0]}: whoever reaches it by that name would need no password",
                "leave --name out, or leave --solo out and make accounts",
            )
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                fix = "give the proxy's address, as 10.0.0.5, or its network, as 172.18.0.0/16"
                raise ConfigError(f"--proxy {proxy}: {error}", fix) from error
        if not LEAST_LEASE_S <= self.lease_s < math.inf:
            raise ConfigError(f"--lease {self.lease_s:g}", f"give {LEAST_LEASE_S:g} seconds or more")
        for name in ("gold_rate", "repeat_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", "give a share from 0 to below 1, as 0.05")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class StudyFacts:
    """What the studio says about its study. ``kind`` is what is asked by default; ``domain`` its kind of policy."""

    folder: Path
    name: str
    domain: str
    kind: str
    rounds: int
    teacher: str
    votes_per_query: int


def read_facts(folder: Path) -> StudyFacts:
    """What study.toml, over its recipe, says. Errors: StoreError if there is none, ConfigError if it is no TOML."""
    path = folder / "study.toml"
    try:
        own = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{folder} is no study (it has no study.toml)", f"tropism new {folder} --recipe NAME"
        ) from None
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError(f"{path} cannot be read: {error}", "mend that line; strings need quotes") from None
    recipe = own.pop("recipe", None)
    values = merge(recipe_values(recipe), own) if isinstance(recipe, str) else own
    study, feedback = _table(values, "study"), _table(values, "feedback")
    return StudyFacts(
        folder=folder,
        name=str(study.get("name", folder.name)),
        domain=str(study.get("domain", "")),
        kind=str(feedback.get("kind", "comparison")),
        rounds=int(study.get("rounds", 2)),
        teacher=str(feedback.get("teacher", "oracle")),
        votes_per_query=int(feedback.get("votes_per_query", 1)),
    )


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"[{name}] of study.toml is {found!r}", "write it as a table")
    return found
