"""The command that the harness kills: make the study if there is none, then run it to its end.

    python child.py FOLDER SPEC

SPEC is JSON: ``{"recipe", "overrides", "path"}``; ``path`` goes in front of ``sys.path``. ``started`` and ``ended`` on
stdout frame the work: imports and the interpreter's end are no part of it.

``TROPISM_DIE_AT=KIND:N`` makes the process kill itself at the N-th call of that kind: ``rename`` and ``renamed``
(before and after it), ``fsync``, ``commit`` (before the database commits), ``committing`` (a moment later, while SQLite
writes), ``ddl`` (before a statement of a migration). ``rename@TEXT:N`` and ``renamed@TEXT:N`` count only sources whose
path has TEXT in it: the progress mark is renamed too, as often as the clock says.
``TROPISM_FILE_LIMIT=BYTES`` limits the size of every file that is written, which looks like a full disk.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

COMMITTING_S = 2e-4
"""How long after a commit's begin the ``committing`` kill comes: a commit with its fsyncs takes about 1 ms."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Kills this process at the n-th tick."""

    def __init__(self, n: int, end: Callable[[], None] = die) -> None:
        self.left, self.end = n, end

    def tick(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.end()


def renaming(tick: Callable[[], None], after: bool, text: str) -> Callable[..., None]:
    """``os.rename`` that ticks before or after it moves a path with ``text`` in it."""
    real = os.rename

    def rename(source: Any, *args: Any, **kwargs: Any) -> None:
        counts = text in str(source)
        if counts and not after:
            tick()
        real(source, *args, **kwargs)
        if counts and after:
            tick()

    return rename


def arm(point: str, n: int) -> None:
    """Count calls of a kind, up to the n-th."""
    kind, _, text = point.partition("@")
    countdown = Countdown(n)
    if kind in ("rename", "renamed"):
        os.rename = renaming(countdown.tick, kind == "renamed", text)  # type: ignore[assignment]
    elif kind == "fsync":
        real = os.fsync

        def fsync(handle: int) -> None:
            countdown.tick()
            real(handle)

        os.fsync = fsync  # type: ignore[assignment]
    elif kind == "commit":
        sa.event.listen(Engine, "commit", countdown.tick)
    elif kind == "committing":
        # the driver lets other threads run while SQLite works
        soon = Countdown(n, lambda: threading.Timer(COMMITTING_S, die).start())
        sa.event.listen(Engine, "commit", soon.tick)
    elif kind == "ddl":

        def on_statement(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP")):
                countdown.tick()

        sa.event.listen(Engine, "before_cursor_execute", on_statement)
    else:
        raise SystemExit(f"unknown kind {kind!r}")


def main() -> None:
    folder, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
    sys.path[:0] = spec["path"]
    from tropism.errors import InterruptedRun, TropismError
    from tropism.study.config import load_domain_class
    from tropism.study.study import Study

    load_domain_class(spec["overrides"].get("study.domain", "language"))
    if "TROPISM_FILE_LIMIT" in os.environ:
        limit = int(os.environ["TROPISM_FILE_LIMIT"])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if "TROPISM_DIE_AT" in os.environ:
        point, _, n = os.environ["TROPISM_DIE_AT"].rpartition(":")
        arm(point, int(n))
    print("started", flush=True)
    try:
        if not folder.exists():
            Study.create(folder, recipe=spec["recipe"], overrides=spec["overrides"])
        Study.open(folder).run()
    except InterruptedRun as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except TropismError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print("ended", flush=True)


if __name__ == "__main__":
    main()
