"""Artifacts: content addresses, idempotence, damage, collection, and full disks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tropism.digests import digest_folder
from tropism.errors import StoreError
from tropism.store.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def folder(tmp_path: Path, name: str, text: str = "weights") -> Path:
    made = tmp_path / name
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text(text)
    (made / "sub" / "b.txt").write_text("b")
    return made


def test_put_is_addressed_by_content_and_idempotent(tmp_path: Path, store: ArtifactStore) -> None:
    digest = store.put(folder(tmp_path, "one"))
    assert digest == digest_folder(tmp_path / "one")
    assert store.put(folder(tmp_path, "same")) == digest
    assert store.all() == [digest]
    assert store.has(digest)
    assert (store.path(digest) / "sub" / "b.txt").read_text() == "b"
    assert store.size(digest) == len("weights") + 1
    assert list((store.root / "tmp").iterdir()) == []


def test_artifact_does_not_share_files_with_the_scratch_folder(tmp_path: Path, store: ArtifactStore) -> None:
    scratch = folder(tmp_path, "scratch")
    digest = store.put(scratch)
    (scratch / "a.txt").open("r+").write("changed")
    assert (store.path(digest) / "a.txt").read_text() == "weights"
    store.verify(digest)


def test_missing_and_damaged_artifacts_are_named(tmp_path: Path, store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="0" * 64):
        store.path("0" * 64)
    with pytest.raises(StoreError, match="no artifact digest"):
        store.path("../../etc")
    with pytest.raises(StoreError, match="no folder"):
        store.put(tmp_path / "nothing")
    digest = store.put(folder(tmp_path, "one"))
    (store.path(digest) / "a.txt").write_text("tampered")
    with pytest.raises(StoreError, match=f"{digest} is damaged"):
        store.verify(digest)


def test_sweep_keeps_what_it_is_told_and_counts_bytes(tmp_path: Path, store: ArtifactStore) -> None:
    keep, drop = store.put(folder(tmp_path, "one")), store.put(folder(tmp_path, "two", "x" * 1000))
    leftover = store.root / "tmp" / "unfinished"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"12345")
    assert store.sweep({keep}) == 1001 + 5
    assert store.all() == [keep]
    assert not store.has(drop)
    assert list((store.root / "tmp").iterdir()) == []
    assert store.sweep({keep}) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield place
    subprocess.run(["umount", place], check=True)


def test_full_disk_leaves_no_half_artifact(tmp_path: Path, small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")
    small = store.put(folder(tmp_path, "one"))
    with pytest.raises(StoreError, match="is full"):
        store.put(folder(tmp_path, "big", "x" * 300_000))
    assert store.all() == [small]
    store.verify(small)
    assert list((store.root / "tmp").iterdir()) == []
