"""Compiled kernels: built once and safely, never required, and equal to torch."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tropism.engine.kernels import build

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The builder as in a new process, on one small source and with a cache of its own."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.c").write_text("int answer(void) { return 41; }\n")
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("TROPISM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TROPISM_KERNELS", raising=False)
    build._outcome.cache_clear()
    yield tmp_path
    build._outcome.cache_clear()


def built(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*"))


@needs_compiler
def test_the_library_is_built_once_and_again_for_other_sources(fresh: Path) -> None:
    library = build.library()
    assert library is not None
    assert library.answer() == 41
    assert build.why_not() is None
    assert build.library() is library
    [path] = built(fresh)
    made = path.stat().st_mtime_ns
    build._outcome.cache_clear()
    assert build.library() is not None
    assert path.stat().st_mtime_ns == made
    (fresh / "sources" / "one.c").write_text("int answer(void) { return 42; }\n")
    build._outcome.cache_clear()
    library = build.library()
    assert library is not None
    assert library.answer() == 42
    assert len(built(fresh)) == 2  # and no folder that it was built in


@needs_compiler
def test_a_damaged_file_in_the_cache_is_built_again(fresh: Path) -> None:
    compiler = build.find_compiler()
    assert compiler is not None
    runtime = build.openmp_runtime()
    name = f"tropism-{build._digest(compiler, list(build._plans(runtime is not None)), runtime)}.so"
    (fresh / "cache").mkdir()
    (fresh / "cache" / name).write_bytes(b"\x7fELF, and then the power went")
    library = build.library()
    assert library is not None
    assert library.answer() == 41


@needs_compiler
def test_many_at_once_end_with_one_library(fresh: Path) -> None:
    answers: list[int] = []

    def load() -> None:
        library = build._outcome.__wrapped__()[0]
        answers.append(library.answer() if library else 0)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [41] * 4
    assert len(built(fresh)) == 1


def test_off_means_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROPISM_KERNELS", "off")
    assert build.library() is None
    assert "TROPISM_KERNELS" in (build.why_not() or "")
    assert not built(fresh)


def test_no_compiler_is_said(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    assert build.library() is None
    assert "no C compiler" in (build.why_not() or "")


@needs_compiler
def test_a_source_that_does_not_compile_is_logged_once(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    (fresh / "sources" / "one.c").write_text("int answer(void) { return 41 }\n")
    with caplog.at_level(logging.WARNING):
        assert build.library() is None
        assert build.library() is None
    assert "one.c:1" in (build.why_not() or "")
    assert [record.getMessage().count("one.c:1") for record in caplog.records] == [1]
    assert not built(fresh)


@needs_compiler
def test_a_symbol_that_nobody_has_is_no_library(fresh: Path) -> None:
    (fresh / "sources" / "one.c").write_text("int nobody(void);\nint answer(void) { return nobody(); }\n")
    assert build.library() is None
    assert "nobody" in (build.why_not() or "")


@needs_compiler
def test_a_compiler_that_fails_and_a_flag_that_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = build.find_compiler()
    assert compiler is not None
    picky = fresh / "picky"
    picky.write_text(f'#!/bin/sh\nfor w; do [ "$w" = -march=native ] && exit 1; done\nexec {compiler[0]} "$@"\n')
    picky.chmod(0o755)
    monkeypatch.setenv("CC", str(picky))
    library = build.library()
    assert library is not None
    assert library.answer() == 41
    monkeypatch.setenv("CC", "false")
    build._outcome.cache_clear()
    assert build.library() is None
    assert "false failed" in (build.why_not() or "")


@needs_compiler
def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (fresh / "file").write_text("not a folder")
    monkeypatch.setenv("TROPISM_CACHE", str(fresh / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        library = build.library()
    assert library is not None
    assert library.answer() == 41
    assert "temporary" in caplog.text


@needs_compiler
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_read(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert build.library() is not None
    [path] = built(fresh)
    path.parent.chmod(0o500)
    try:
        build._outcome.cache_clear()
        assert build.library() is not None
        assert not caplog.records
        (fresh / "sources" / "one.c").write_text("int answer(void) { return 43; }\n")
        build._outcome.cache_clear()
        library = build.library()
        assert library is not None
        assert library.answer() == 43
        assert "cannot be built in" in caplog.text
        assert built(fresh) == [path]
    finally:
        path.parent.chmod(0o700)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TROPISM_CACHE", str(tmp_path / "own"))
    assert build.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TROPISM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "tropism"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert build.cache_folder() == tmp_path / "me" / ".cache" / "tropism"


POOL = """
import os, torch
torch.set_num_threads(3)
x = torch.randn(400, 400)
x @ x
torch.randn(1 << 20).exp()
before = len(os.listdir("/proc/self/task"))
from tropism.engine import kernels
library = kernels.library()
assert library is not None, kernels.why_not()
print(library.tropism_team(3), len(os.listdir("/proc/self/task")) - before, (torch.tensor(1e-40) * 0.5).item() > 0)
"""


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_one_pool_of_threads_and_denormals_survive() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr
    team, more, denormals = done.stdout.split()
    if build.openmp_runtime() is not None:
        assert (team, more) == ("3", "0")
    assert denormals == "True"


@needs_compiler
def test_the_real_sources_build() -> None:
    assert isinstance(build.library(), ctypes.CDLL), build.why_not()
