"""What the commands show: progress, tables, model text.

A terminal gets bars; a pipe or a log file gets one plain line when an activity begins, at each tenth, and when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tropism.runtime.stage import ProgressSink

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def console() -> Console:
    """A console on stdout. Markup is off wherever text is not ours; emoji codes are off everywhere."""
    from rich.console import Console

    return Console(emoji=False, highlight=False)


class PlainProgress:
    """Progress as plain lines, at most about a dozen for each activity."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._shown: tuple[str, int] = ("", -1)
        self._began = time.monotonic()

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // total if total > 0 else 0
        if activity != self._shown[0]:
            self._began = time.monotonic()
        if (activity, tenth) == self._shown:
            return
        self._shown = (activity, tenth)
        seconds = time.monotonic() - self._began
        count = f"{done}/{total}" if total > 0 else f"{done}"
        self._out.print(f"{activity}: {count}  {seconds:.0f} s  {note}".rstrip(), markup=False, soft_wrap=True)


class BarProgress:
    """One bar for each activity; the finished ones stay on the screen."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        from rich.markup import escape

        known = self._tasks.get(activity)
        if known is None:
            known = self._tasks[activity] = self._progress.add_task(escape(activity), total=total or None, note="")
        self._progress.update(known, completed=done, total=total or None, note=escape(note))


@contextmanager
def progress() -> Iterator[ProgressSink]:
    """The progress sink that fits where stdout goes."""
    out = console()
    if not out.is_terminal:
        yield PlainProgress(out)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=out) as bars:
        yield BarProgress(bars)
