"""Making files durable: what was written is on the disk before anything relies on it."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """fsync a file, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """fsync every file below a folder, then the folders themselves."""
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)
