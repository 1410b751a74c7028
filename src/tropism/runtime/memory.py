"""The process, tuned once at start: memory kept instead of returned to the kernel, and the number of threads.

glibc gives every block above 32 MB back to the kernel when it is freed, so that each step faults its large activations
in again; two ``mallopt`` calls keep them. Everything done is returned, so that a run can log it.

Left out: NUMA, huge pages, other allocators (preload them from outside: the calls below then have no effect).
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NARROW = 384
"""Hidden states up to this width are decoded on one thread."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Tuning:
    """What was done to the process: ``mallopt`` is True where glibc took both calls."""

    mallopt: bool
    threads: int


def tune(threads: int = 0, keep_memory: bool = True) -> Tuning:
    """Set the number of tensor threads (0: leave the library's own choice) and keep freed memory.

    Where torch is not loaded yet it is not loaded here: the variables that it reads when it starts are set instead.
    """
    if threads:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return Tuning(mallopt=keep_memory and _keep_freed_memory(), threads=tensor_threads())


def tensor_threads() -> int:
    """The number of threads that tensor operations use, or will use once torch is loaded."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))


@contextmanager
def decode_threads(width: int) -> Iterator[None]:
    """One tensor thread inside the block where a model is ``width`` wide and that is narrow: waking a second thread
    costs more than it takes off the small products of one new token per row."""
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    if before == 1 or width > NARROW:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _keep_freed_memory() -> bool:
    """Ask glibc never to use mmap for blocks and never to trim the heap; False where the C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
