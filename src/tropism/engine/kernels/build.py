"""Compiling the C files of this folder once, with the compiler that is there, into a cache folder.

The library is never required: without a compiler, or where the sources do not compile, ``library()`` is None,
``why_not()`` says why and the log says it once; every caller has a torch path. ``TROPISM_KERNELS=off`` switches it off.

The OpenMP threads are torch's own. Objects are compiled with ``-fopenmp`` but linked without it, and the OpenMP runtime
that torch has loaded resolves them: a second runtime would bring a second pool of threads that fight for the cores.
Linking without ``-ffast-math`` keeps gcc's start-up code out, which would flush denormals to zero in all of the
process.

Left out: Windows; removing libraries of older sources from the cache (a few hundred kilobytes each).
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tropism.files import sync_path

log = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().parent
COMPILE = ("-std=c11", "-O3", "-ffast-math", "-ffp-contract=fast", "-fPIC", "-Wno-psabi")
TIMEOUT_S = 180.0  # for one run of the compiler; all sources take a few seconds
_RUNTIME = re.compile(r"(/\S*/(?:libgomp|libomp|libiomp5)[^/\s]*\.(?:so[\d.]*|dylib))$", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """One way to build: flags for the objects, then for the link."""

    compile: tuple[str, ...]
    link: tuple[str, ...]


class _Refused(Exception):
    """The compiler or the loader said no; the text is the first line of why."""


def library() -> ctypes.CDLL | None:
    """The compiled kernels, built or taken from the cache at the first call; None where there are none."""
    return _outcome()[0]


def why_not() -> str | None:
    """Why there are no compiled kernels, in one line; None where there are."""
    return _outcome()[1]


@functools.cache
def _outcome() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("TROPISM_KERNELS", "on").strip().lower() in {"off", "0", "no", "false"}:
        return None, "switched off by TROPISM_KERNELS"
    if sys.platform == "win32":
        return None, "not built on Windows"
    compiler = find_compiler()
    if compiler is None:
        return None, "no C compiler found ($CC, cc, gcc, clang)"
    try:
        return _make(compiler), None
    except (_Refused, OSError) as error:
        log.warning("compiled kernels are not used: %s", error)
        return None, str(error)


def find_compiler() -> list[str] | None:
    """The command of the first C compiler that is there: $CC, cc, gcc, clang."""
    named = os.environ.get("CC", "")
    for name in (named, "cc", "gcc", "clang"):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
        if words and name == named:
            log.warning("$CC names %s, which is not there", words[0])
    return None


def _make(compiler: list[str]) -> ctypes.CDLL:
    """Load the library from the cache, or build it there; in a folder of this process if the cache cannot be used."""
    runtime = openmp_runtime()
    if runtime is not None:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)  # already loaded: this makes its symbols visible to ours
    plans = list(_plans(shared_pool=runtime is not None))
    name = f"tropism-{_digest(compiler, plans, runtime)}.so"
    loading: OSError | None = None
    for folder in _folders():
        path = folder / name
        try:
            if path.exists():
                return ctypes.CDLL(str(path))
        except OSError as error:
            log.info("%s cannot be loaded and is built again: %s", path, error)
        try:
            return _build_any(compiler, plans, path)
        except OSError as error:  # read-only, full, or nothing may be run from there: the next folder may do
            log.warning("compiled kernels cannot be built in %s: %s", folder, error)
            loading = error
    raise _Refused(f"no folder to build in: {loading}")


def _build_any(compiler: list[str], plans: list[Plan], path: Path) -> ctypes.CDLL:
    """Build by the first plan that works. Raises what spoke against the first plan if none does."""
    errors: list[_Refused | OSError] = []
    for plan in plans:
        try:
            loaded = _build(compiler, plan, path)
        except (_Refused, OSError) as error:
            errors.append(error)
            continue
        if errors:
            log.warning("compiled kernels: built with %s only, because %s", shlex.join(plan.compile), errors[0])
        return loaded
    raise errors[0]


def _plans(shared_pool: bool) -> Iterator[Plan]:
    """Ways to build, the best first: for this CPU before any CPU, with OpenMP before without."""
    link = ("-shared", *(("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()))
    for cpu in (("-march=native",), ()):
        # where torch brings a runtime, one of the compiler's own would be a second pool: rather no threads
        yield Plan((*COMPILE, *cpu, "-fopenmp"), link if shared_pool else (*link, "-fopenmp"))
        yield Plan((*COMPILE, *cpu), link)


def openmp_runtime() -> str | None:
    """Path of the OpenMP runtime that torch uses in this process; None if it has none that can be found."""
    import torch

    home = Path(torch.__file__).resolve().parent
    own = [str(p) for p in sorted((home / "lib").glob("lib*omp*")) if _RUNTIME.search(str(p))]
    try:
        loaded = list(dict.fromkeys(_RUNTIME.findall(Path("/proc/self/maps").read_text())))
    except OSError:
        return own[0] if own else None  # no /proc: what torch ships is what it has loaded
    # another package may have loaded one of its own; torch's lies in or beside torch's folder
    beside = (f"{home}{os.sep}", f"{home.parent / 'torch.libs'}{os.sep}")
    return next(iter([p for p in loaded if p.startswith(beside)] or loaded), None)


def _digest(compiler: list[str], plans: list[Plan], runtime: str | None) -> str:
    """What the library depends on: sources, compiler, flags, the CPU (``-march=native``) and the OpenMP runtime."""
    version = _run([*compiler, "--version"], SOURCES)
    hashed = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        hashed.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    parts = [shlex.join(compiler), version, repr(plans), _cpu(), Path(runtime or "").name]
    hashed.update("\0".join(parts).encode())
    return hashed.hexdigest()[:24]


def _cpu() -> str:
    """What tells CPUs apart whose instructions differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.split(":")[0].strip() in {"flags", "Features", "model name", "CPU part"}}
    return "\n".join([platform.machine(), platform.processor(), *sorted(kept)])


def _folders() -> Iterator[Path]:
    """Where the library may lie: the user's cache, else a temporary folder that goes with this process."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        log.warning("compiled kernels have no cache folder (%s): they are built in a temporary one", error)
    else:
        yield folder  # it may be read-only and still hold the library
    folder = Path(tempfile.mkdtemp(prefix="tropism-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    yield folder


def cache_folder() -> Path:
    """``$TROPISM_CACHE``, else ``$XDG_CACHE_HOME/tropism``, else ``~/.cache/tropism``; not made here."""
    if named := os.environ.get("TROPISM_CACHE"):
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "tropism"


def _build(compiler: list[str], plan: Plan, path: Path) -> ctypes.CDLL:
    """Compile, link, try to load, and only then give the library its name: nobody ever loads half a file."""
    sources = sorted(str(source) for source in SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        made = Path(folder) / path.name
        _run([*compiler, *plan.compile, "-c", *sources], Path(folder))
        objects = sorted(str(o) for o in Path(folder).glob("*.o"))
        _run([*compiler, *plan.link, "-o", str(made), *objects, "-lm"], Path(folder))
        ctypes.CDLL(str(made))  # a symbol that nobody has is found here
        sync_path(made)
        os.replace(made, path)
    log.info("compiled kernels: built %s", path)
    return ctypes.CDLL(str(path))


def _run(command: list[str], folder: Path) -> str:
    """What the command printed; _Refused if it fails or takes too long."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise _Refused(f"{command[0]} took longer than {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise _Refused(f"{command[0]} failed: {first}")
    return done.stdout.decode(errors="replace")
