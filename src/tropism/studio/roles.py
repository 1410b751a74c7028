"""Roles and scopes: who may do what, told in one place.

Left out: rights by query; blinding is one of those (``blinding.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Role = Literal["viewer", "annotator", "reviewer", "lead", "engineer", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""From the least to the most; each may do what those before it may."""

TokenScope = Literal["read", "feedback", "write"]
_SCOPES: Final = {"read": ("read",), "feedback": ("read", "feedback"), "write": ("read", "feedback", "write")}


def rank(role: str) -> int:
    """0 for viewer … 5 for admin."""
    return ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. ``session`` is the digest of their session's token, or None where a token of the interface
    was sent, whose ``scope`` then bounds what they may do."""

    account_id: str
    name: str
    role: Role
    pseudonym: str
    settings: Mapping[str, Any]
    session: str | None
    csrf: str
    scope: TokenScope

    def may(self, role: Role, need: TokenScope) -> bool:
        """Whether role and scope suffice."""
        return rank(self.role) >= rank(role) and need in _SCOPES[self.scope]

    def shown(self) -> dict[str, Any]:
        """The account as the interface gives it."""
        return {"id": self.account_id, "name": self.name, "role": self.role, "settings": dict(self.settings)}
