"""The command that the harness kills: make the study if there is none, then run it to its end.

    python child.py FOLDER SPEC

SPEC is JSON: ``{"recipe", "overrides", "path"}``; ``path`` goes in front of ``sys.path``.

``TROPISM_DIE_AT=KIND:N`` makes the process kill itself at the N-th call of that kind: ``rename`` and ``renamed``
(before and after it), ``fsync``, ``commit`` (before the database commits), ``ddl`` (before a statement of a migration).
``TROPISM_FILE_LIMIT=BYTES`` limits the size of every file that is written, which looks like a full disk.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine


class Countdown:
    """Kills this process at the n-th tick."""

    def __init__(self, n: int) -> None:
        self.left = n

    def tick(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tick()
        return function(*args, **kwargs)

    return wrapped


def after(function: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        tick()
        return made

    return wrapped


def arm(kind: str, countdown: Countdown) -> None:
    """Count calls of a kind."""
    if kind == "rename":
        os.rename = before(os.rename, countdown.tick)
    elif kind == "renamed":
        os.rename = after(os.rename, countdown.tick)
    elif kind == "fsync":
        os.fsync = before(os.fsync, countdown.tick)
    elif kind == "commit":
        sa.event.listen(Engine, "commit", countdown.tick)
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

    load_domain_class(spec["overrides"].get("study.domain", "language"))  # imports are no part of the run time
    if "TROPISM_FILE_LIMIT" in os.environ:
        limit = int(os.environ["TROPISM_FILE_LIMIT"])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if "TROPISM_DIE_AT" in os.environ:
        kind, _, n = os.environ["TROPISM_DIE_AT"].partition(":")
        arm(kind, Countdown(int(n)))
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


if __name__ == "__main__":
    main()
