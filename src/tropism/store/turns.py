"""A lock, or a number of places, had in the order in which they were asked for.

``threading``'s own may be taken again by the thread that has just let go, for as long as that thread likes: a busy
writer would keep everybody else in its process waiting. Left out: other processes, which the database sees to.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """Acquire and release like ``threading.Lock``, by ``places`` threads at once."""

    def __init__(self, places: int = 1) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._free = places

    def acquire(self, timeout: float = -1) -> bool:
        """Whether a place is had within ``timeout`` seconds (-1: waits for ever)."""
        with self._mutex:
            if self._free:
                self._free -= 1
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
        """Hand the place to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
