"""Interrupts and process tuning, seen from inside and from outside the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tropism.runtime.interrupts import StopRequest
from tropism.runtime.memory import WAIT_POLICY, peak_memory_bytes, tune


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_request(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert stop.error("in stage x").exit_code == code
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_does_not_wait() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()


def test_sleep_ends_when_asked_to_stop() -> None:
    with StopRequest() as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        stop.sleep(20)
        assert time.monotonic() - start < 10


def test_threads_are_set_before_and_after_torch_is_loaded() -> None:
    code = (
        "from tropism.runtime.memory import tune; import sys; a = tune(threads=1);"
        "assert 'torch' not in sys.modules and a.threads == 1;"
        "import torch; assert torch.get_num_threads() == 1; assert tune(threads=2).threads == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_freed_memory_is_kept() -> None:
    """With the calls, a large block that is freed and taken again costs no page faults; without them it does."""
    code = (
        "import sys, resource, ctypes; from tropism.runtime.memory import tune;"
        "tuned = tune(keep_memory=sys.argv[1] == 'yes').mallopt; libc = ctypes.CDLL(None);"
        "libc.malloc.restype = ctypes.c_void_p; libc.malloc.argtypes = [ctypes.c_size_t];"
        "libc.free.argtypes = [ctypes.c_void_p]; size = 1 << 27\n"
        "def once():\n    p = libc.malloc(size); ctypes.memset(p, 1, size); libc.free(p)\n"
        "once(); start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): once()\n"
        "print(int(tuned), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)"
    )
    faults = {}
    for word in ("yes", "no"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True)
        tuned, faults[word] = map(int, done.stdout.split())
        assert tuned == 0 or word == "yes"
    if sys.platform == "linux" and sys.implementation.name == "cpython" and os.confstr("CS_GNU_LIBC_VERSION"):
        assert faults["yes"] * 10 < faults["no"]


def test_peak_memory_counts_bytes() -> None:
    block = bytearray(50 << 20)
    assert peak_memory_bytes() > len(block)
    assert tune(threads=0, keep_memory=False).mallopt is False


def child(code: str, *arguments: str, policy: str | None = None) -> str:
    """What a fresh interpreter prints; ``policy`` is what its environment says of waiting threads."""
    environment = {k: v for k, v in os.environ.items() if k not in (WAIT_POLICY, "OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    if policy is not None:
        environment[WAIT_POLICY] = policy
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def test_how_threads_wait_is_chosen_before_torch_and_said_afterwards() -> None:
    code = (
        "import os, sys; from tropism.runtime.memory import WAIT_POLICY, tune; wanted = sys.argv[1] == 'yes'\n"
        "first = tune(passive_wait=wanted).wait_policy; assert 'torch' not in sys.modules\n"
        "import torch; print(first, os.environ.get(WAIT_POLICY), tune(passive_wait=wanted).wait_policy, sep='|')"
    )
    assert child(code, "yes") == "passive|PASSIVE|passive"
    assert child(code, "no") == "OpenMP's own way|None|OpenMP's own way"
    assert child(code, "yes", policy="ACTIVE") == "active|ACTIVE|active"  # the environment was asked for
    late = "import torch; from tropism.runtime.memory import tune; print(tune().wait_policy)"
    assert "torch was loaded before" in child(late)


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one core, or no GNU OpenMP: nobody spins"
)
def test_threads_that_wait_burn_no_cpu() -> None:
    """Between two parallel operations a second thread spins for milliseconds, unless it was told to sleep in time."""
    code = (
        "import sys, time; from tropism.runtime.memory import tune\n"
        "tune(threads=2, passive_wait=sys.argv[1] == 'yes')\n"
        "import torch; x = torch.ones(1 << 18); x.add_(1); start = time.process_time()\n"
        "for _ in range(60): x.add_(1); time.sleep(0.003)\n"
        "print(time.process_time() - start)"
    )
    asleep, spinning = float(child(code, "yes")), float(child(code, "no"))
    assert asleep * 2 < spinning
