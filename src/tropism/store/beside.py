"""Folders that appear whole: made beside where they are to be, and renamed into place.

Whoever is killed on the way leaves a folder whose name ends with its process's number; the next one removes it. Left
out: files, for which a rename does without a name of its own.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tropism.errors import StoreError
from tropism.files import sync_folder, sync_path
from tropism.store.lease import process_start


@contextmanager
def made_beside(target: Path, mode: int = 0o755) -> Iterator[Path]:
    """A new folder that takes ``target``'s place, complete and on the disk, when the block ends well; what was there
    before goes only then. ``mode``: who may enter it. Errors: StoreError if there is no folder for it to be in.
    """
    target = target.absolute()
    if not target.parent.is_dir():
        raise StoreError(f"folder {target.parent} does not exist", "make it first")
    partial = target.parent / f".{target.name}.new-{os.getpid()}"
    old = target.parent / f".{target.name}.old"
    if old.is_dir() and not target.exists():  # killed between the two renames below
        old.rename(target)
    remove_dead(partial)
    partial.mkdir(mode=mode)
    try:
        yield partial
        sync_folder(partial)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        sync_path(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_dead(partial: Path) -> None:
    """Remove ``partial``, and what killed processes left under the same name; those of living ones stay."""
    head = partial.name.rpartition("-")[0]
    for left in partial.parent.glob(f"{glob.escape(head)}-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or process_start(int(pid)) is None):
            shutil.rmtree(left)
