"""A process beside the one that serves pages, for work that would hold them up; it ends with the studio, however that
ends. Left out: more than one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

LOOK_S = 1.0


_P = ParamSpec("_P")
_T = TypeVar("_T")


class Helper(ProcessPoolExecutor):
    """One process, begun when it is first given something to do. Ctrl-C is not for it, nor while it begins."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        super().__init__(1, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See ``Executor``."""
        # a new process inherits what is blocked, until it can say that it ignores it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """End it at once, whatever it does: what it was to make is not wanted any more, and a process that is only
        beginning would not find what its parent is taking down."""
        processes = list(self._processes.values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _end_with(studio: int) -> None:
    """In the process: it holds both ends of its queue, so it would not notice by itself that nobody is left. Ctrl-C in
    a terminal reaches it, too, and is for the studio."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    threading.Thread(target=_watch, args=(studio,), daemon=True).start()


def _watch(studio: int) -> None:
    while os.getppid() == studio:
        time.sleep(LOOK_S)
    os._exit(1)
