"""A process beside the one that serves pages, for work that would hold them up; it ends with the studio, however that
ends. Left out: more than one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

LOOK_S = 1.0


def helper() -> ProcessPoolExecutor:
    """One process, begun when it is first given something to do."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(studio: int) -> None:
    """In the process: it holds both ends of its queue, so it would not notice by itself that nobody is left. Ctrl-C in
    a terminal reaches it, too, and is for the studio."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(studio,), daemon=True).start()


def _watch(studio: int) -> None:
    while os.getppid() == studio:
        time.sleep(LOOK_S)
    os._exit(1)
