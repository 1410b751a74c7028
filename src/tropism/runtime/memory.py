"""The process, tuned once at start: memory kept and not returned to the kernel, tensor threads and how they wait.

glibc gives every block above 32 MB back to the kernel when it is freed, so that each step faults its large activations
in again; two ``mallopt`` calls keep them. OpenMP's threads spin for milliseconds after every parallel operation in case
another one follows; told to wait passively they sleep, and the CPU seconds of a run are work. Everything done is
returned, so that a run can log it.

Left out: NUMA, huge pages, other allocators (preload them from outside: the calls below then have no effect).
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

WAIT_POLICY = "OMP_WAIT_POLICY"
"""The variable that OpenMP libraries read once, when torch loads them."""
NARROW = 384
"""Hidden states up to this width are decoded on one thread."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Tuning:
    """What was done to the process: ``mallopt`` is True where glibc took both calls; ``wait_policy`` says in words how
    tensor threads wait for one another."""

    mallopt: bool
    threads: int
    wait_policy: str

    @property
    def allocator(self) -> str:
        """What becomes of freed memory, in words."""
        return "glibc keeps freed memory (mallopt)" if self.mallopt else "the C library's own way"


def tune(threads: int = 0, keep_memory: bool = True, passive_wait: bool = True) -> Tuning:
    """Set the number of tensor threads (0: leave the library's own choice), keep freed memory, let threads sleep.

    Where torch is not loaded yet it is not loaded here: the variables that it reads when it starts are set instead.
    Once it is loaded the way threads wait is settled, and ``wait_policy`` of the result says so.
    """
    if threads:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    policy = wait_policy(passive_wait)
    made = Tuning(keep_memory and _keep_freed_memory(), tensor_threads(), policy)
    log.info("process: %d tensor threads, which wait: %s; %s", made.threads, made.wait_policy, made.allocator)
    return made


def wait_policy(passive: bool = True) -> str:
    """Let tensor threads sleep while they wait, if ``passive`` and if it can still be chosen: before torch is loaded,
    and where the environment does not say otherwise. Returns in words how they wait."""
    given = os.environ.get(WAIT_POLICY)
    if given:
        return given.lower()
    if not passive:
        return "OpenMP's own way"
    if "torch" in sys.modules:
        return f"OpenMP's own way (torch was loaded before {WAIT_POLICY} could be set)"
    os.environ[WAIT_POLICY] = "PASSIVE"
    return "passive"


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
