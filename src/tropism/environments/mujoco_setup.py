"""What MuJoCo does to a process unless it is told otherwise: where it draws, what it prints, the log file it leaves.

What a user has set in the environment stays as it is. Nothing here hides a warning but one, by its text.

Left out: MuJoCo before 4, whose log file cannot be switched off.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOG_FILE = "MUJOCO_LOG.TXT"
_KNOWN = "compiler attribute 'settotalmass' is deprecated"
_lock = threading.Lock()


def settle_drawing() -> None:
    """Say how pictures are made without a screen, before the libraries that draw are imported."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software GL: threads cost small pictures half their speed
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@contextmanager
def compiling() -> Iterator[None]:
    """Compile models inside: the one warning that Gymnasium's own files always cause is dropped, every other one is
    passed on to the handler that was set, or to Python's warnings. From here on MuJoCo writes no log file into the
    working folder, unless another file was named. Without MuJoCo it does nothing."""
    if importlib.util.find_spec("mujoco") is None:
        yield  # whoever makes the environment says what to install
        return
    import mujoco

    _no_log_file(mujoco)
    said: list[str] = []
    with _lock:  # the handler is the process's
        before: Any = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(said.append)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)
            others = [message for message in said if _KNOWN not in message]
    for message in others:
        if before is not None:
            before(message)
        else:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)


def _no_log_file(mujoco: Any) -> None:
    if hasattr(mujoco, "MjLogConfig"):
        config = mujoco.MjLogConfig.get()
        if config.logto_file and config.logfile == _LOG_FILE:
            config.logto_file = False
            config.set()
