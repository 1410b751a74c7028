"""SIGTERM and Ctrl-C as a polite request: the work stops at its next durable point, and the exit code says why.

Left out: SIGKILL and power loss, which need no handler: whatever is durable is found again.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from tropism.errors import InterruptedRun

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A context manager that turns SIGTERM and SIGINT into ``requested()``.

    The second SIGINT raises KeyboardInterrupt at once, for whoever does not want to wait; what is durable stays so.
    Outside the main thread, where Python allows no handlers, it does nothing and ``requested()`` stays False.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._woken = threading.Event()
        self._previous: dict[int, Any] = {}

    def requested(self) -> bool:
        """Whether the process was asked to stop."""
        return self.signal is not None

    def sleep(self, seconds: float) -> None:
        """Wait without burning CPU; ends early when a stop is requested."""
        self._woken.wait(seconds)

    def error(self, where: str) -> InterruptedRun:
        """The InterruptedRun to raise; its ``exit_code`` is 128 + the signal's number (130 and 143)."""
        number = self.signal if self.signal is not None else signal.SIGINT
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        made = InterruptedRun(f"stopped cleanly by {name} {where}", "run the same command again to go on")
        made.exit_code = 128 + number
        return made

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            # None: the handler before ours was not set from Python and cannot be put back by it
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        self._woken.set()
