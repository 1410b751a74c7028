"""A lock that is had in the order in which it was asked for.

``threading.Lock`` may be taken again by the thread that has just let it go, for as long as that thread likes: a writer
under load would keep everybody else in its process waiting. Left out: other processes, which the database sees to.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """Acquire and release like ``threading.Lock``."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def acquire(self, timeout: float = -1) -> bool:
        """Whether it is had within ``timeout`` seconds (-1: waits for ever)."""
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._mutex:
            if turn not in self._waiting:  # it became ours in this very moment
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hand it to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
