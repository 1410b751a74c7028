"""Content-addressed artifacts: folders stored under the SHA-256 of what is in them, and never changed afterwards.

Left out: deduplication of single files between artifacts, and remote stores.
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tropism.digests import digest_folder
from tropism.errors import StoreError
from tropism.files import sync_path


class ArtifactStore:
    """Artifacts at ``root/<first 2 hex digits>/<digest>/``; unfinished copies live in ``root/tmp``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"

    def put(self, folder: Path) -> str:
        """Copy a folder in and return its digest. Putting the same content again changes nothing.

        Files are copied, never hard-linked: a scratch folder may be written again, and would change the artifact.
        Errors: StoreError if the folder is missing or changes while it is copied, or the disk is full or read-only.
        """
        if not folder.is_dir():
            raise StoreError(f"{folder} is no folder", "put the folder that holds the artifact's files")
        name = digest_folder(folder)
        final = self._place(name)
        if final.is_dir():
            return name
        partial = self._tmp / uuid.uuid4().hex
        with _as_store_error(self.root):
            try:
                partial.parent.mkdir(parents=True, exist_ok=True)
                _copy(folder, partial)
                if digest_folder(partial) != name:
                    raise StoreError(f"{folder} changed while it was stored", "finish writing before storing it")
                final.parent.mkdir(exist_ok=True)
                try:
                    partial.rename(final)
                except OSError as error:
                    # another process stored the same content first: its copy is as good as ours
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                sync_path(final.parent)
                sync_path(self.root)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return name

    def path(self, digest: str) -> Path:
        """The artifact's folder, for reading only. Errors: StoreError if it is not there."""
        place = self._place(digest)
        if not place.is_dir():
            raise StoreError(
                f"artifact {digest} is missing from {self.root}", "restore the artifacts folder from a copy"
            )
        return place

    def has(self, digest: str) -> bool:
        """Whether the artifact is there (its content is not looked at; see ``verify``)."""
        return self._place(digest).is_dir()

    def verify(self, digest: str) -> None:
        """Read the artifact again. Errors: StoreError if it is missing or its content no longer has this digest."""
        found = digest_folder(self.path(digest))
        if found != digest:
            raise StoreError(
                f"artifact {digest} is damaged: its content has digest {found}",
                "restore it from a copy, or make it again",
            )

    def size(self, digest: str) -> int:
        """Bytes of the artifact's files."""
        return _size(self.path(digest))

    def all(self) -> list[str]:
        """Digests of all artifacts, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(place.name for place in self.root.glob("[0-9a-f][0-9a-f]/*") if place.is_dir())

    def sweep(self, keep: set[str]) -> int:
        """Delete every artifact outside ``keep``, and unfinished copies. Returns the bytes freed.

        Call it only while holding the trainer's lease: an artifact that is stored but not yet in the lineage would go.
        """
        freed = 0
        with _as_store_error(self.root):
            if self._tmp.is_dir():
                freed += _size(self._tmp)
                shutil.rmtree(self._tmp)
            for digest in self.all():
                if digest in keep:
                    continue
                freed += self.size(digest)
                # renamed first: a kill in the middle must not leave half an artifact under its digest
                grave = self._tmp / f"dead-{digest}"
                self._tmp.mkdir(exist_ok=True)
                self._place(digest).rename(grave)
                shutil.rmtree(grave)
        return freed

    def _place(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise StoreError(f"{digest!r} is no artifact digest", "give the 64 hex digits that put() returned")
        return self.root / digest[:2] / digest


def _copy(source: Path, target: Path) -> None:
    """Copy files below ``source`` (links followed), fsync each and every folder."""
    target.mkdir()
    for item in sorted(source.rglob("*")):
        place = target / item.relative_to(source)
        if item.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item, place)
            sync_path(place)
    for item in [*target.rglob("*"), target]:
        if item.is_dir():
            sync_path(item)


def _size(folder: Path) -> int:
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())


@contextmanager
def _as_store_error(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"the disk that holds {root} is full", "free some space; nothing was half written"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(f"{root} is read-only", "give write permission to the study's folder") from error
        raise
