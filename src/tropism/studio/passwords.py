"""Passwords (argon2id), random tokens, and how long a guesser has to wait.

Left out: rules on what a password must contain; length is what counts.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from functools import cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

LONGEST_WAIT_S = 900.0
_turn = threading.BoundedSemaphore(2)  # each hash takes 64 MiB: guessers must not take all memory


@cache
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@cache
def _nobodys() -> str:
    return _hasher().hash(secrets.token_hex(16))


def hash_password(password: str) -> str:
    """The argon2id hash, with its salt and cost."""
    with _turn:
        return _hasher().hash(password)


def password_fits(password: str, stored: str | None) -> bool:
    """Whether a password is the stored one; takes as long where there is no such account (``stored`` None)."""
    with _turn:
        fits = _hasher().verify(password, stored or _nobodys())
    return fits and stored is not None


def new_token() -> str:
    """256 random bits, for an address or a header."""
    return secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """What is stored of a token: whoever reads the database cannot use it. No salt is needed: it is random."""
    return hashlib.sha256(token.encode()).hexdigest()


def wait_s(failures: int, free: int) -> float:
    """Seconds to wait after so many wrong passwords in a row: none for the first ``free``, then 2, 4, 8, …"""
    over = failures - free
    return 0.0 if over < 0 else min(LONGEST_WAIT_S, 2.0 ** (over + 1))
