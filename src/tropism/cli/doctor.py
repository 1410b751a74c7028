"""``tropism doctor``: what this machine has, what is missing, and how to get it.

Status 0 when everything needed is there; optional parts only say how to get them. Left out: measuring speed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

NEEDED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "datasets",
    "numpy",
    "scipy",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "typer",
    "rich",
    "jinja2",
    "tensorboardX",
)
OPTIONAL = {
    "matplotlib": "the plots of the benchmarks",
    "tensorboard": "a look at the curves that jobs write",
    "wandb": "curves in Weights & Biases",
    "mlflow-skinny": "curves in MLflow",
    "psutil": "tests of memory and processes",
    "pytest": "the tests",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LEAST_MEMORY_GIB = 4.0
LEAST_DISK_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: ``ok``, ``note`` (optional and absent) or ``missing`` (needed), and the way to get it."""

    state: Literal["ok", "note", "missing"]
    name: str
    found: str
    fix: str = ""


def add_to(app: typer.Typer) -> None:
    """Put the command on the application."""
    app.command()(doctor)


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where studies would go: its disk is looked at.")
    ] = Path("."),
) -> None:
    """Say what this machine has, what is missing and how to get it. Status 0 when all that is needed is there."""
    from tropism.cli.show import console

    out = console()
    signs = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "missing": "[red]missing[/]"}
    missing = 0
    from rich.markup import escape

    for finding in examine(folder):
        missing += finding.state == "missing"
        out.print(f"{signs[finding.state]} {finding.name:<13} {escape(finding.found)}", soft_wrap=True)
        if finding.fix:
            out.print(f"        fix: {finding.fix}", markup=False, soft_wrap=True)
    if missing:
        out.print(f"{missing} needed thing(s) missing", markup=False)
        raise typer.Exit(1)
    out.print("everything needed is there", markup=False)


def examine(folder: Path) -> Iterator[Finding]:
    """All findings for this machine, with ``folder``'s disk."""
    yield _python()
    yield from _packages()
    yield _cores()
    yield _memory()
    yield _disk(folder)
    yield from _torch()
    yield _tool("C compiler", ("cc", "gcc", "clang"), "optional: builds faster kernels (Debian: apt install gcc)")
    yield _tool("browser", BROWSERS, "optional, for the report's browser test: scripts/install_debian.sh chromium")


def _python() -> Finding:
    # an older Python cannot even import this file, so there is nothing to find missing
    return Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        version = _version(name)
        if version is None:
            yield Finding("missing", name, "not installed", "pip install -c constraints.txt -e .")
    for name, use in OPTIONAL.items():
        version = _version(name)
        if version is None:
            yield Finding("note", name, f"not installed; gives {use}", f"pip install {name}")
        else:
            yield Finding("ok", name, f"{version} ({use})")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    found = f"{usable} usable" + (f", limited to {quota:g} by the container" if quota and quota < usable else "")
    return Finding("ok", "cores", found)


def _cgroup_cores() -> float | None:
    """The container's CPU quota in cores, if it has one."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def memory_gib() -> tuple[float, float] | None:
    """(total, available) memory in GiB, the container's limit included; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.endswith("kB")}
    total, available = values["MemTotal"], values["MemAvailable"]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return total, available
    if limit.isdigit():
        total, available = min(total, int(limit) / 2**30), min(available, (int(limit) - used) / 2**30)
    return total, available


def _memory() -> Finding:
    sizes = memory_gib()
    if sizes is None:
        return Finding("note", "memory", "unknown on this system", f"the demo needs {LEAST_MEMORY_GIB:g} GiB")
    total, available = sizes
    found = f"{available:.1f} GiB available of {total:.1f} GiB"
    if total >= LEAST_MEMORY_GIB:
        return Finding("ok", "memory", found)
    return Finding("missing", "memory", found, f"the demo needs a machine with {LEAST_MEMORY_GIB:g} GiB")


def _disk(folder: Path) -> Finding:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    found = f"{free:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return Finding(
            "missing", "disk", f"{place} cannot be written", "choose another folder, or change its permissions"
        )
    if free < LEAST_DISK_GIB:
        return Finding("missing", "disk", found, f"free {LEAST_DISK_GIB:g} GiB, or choose a folder on another disk")
    return Finding("ok", "disk", found)


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def _torch() -> Iterator[Finding]:
    if _version("torch") is None:
        return  # already named among the missing packages
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of the build is absent
        yield Finding("missing", "torch", f"cannot be loaded: {error}", "pip install --force-reinstall torch==2.13.0")
        return
    yield Finding("ok", "torch", torch.__version__)
    yield from _process()
    fast = sorted(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    if fast:
        yield Finding("ok", "bf16", f"in hardware ({', '.join(fast)})")
    else:
        yield Finding("note", "bf16", "not in hardware (no AVX512-BF16, no AMX): runs are in fp32, correct but slower")
    if torch.cuda.is_available():
        yield Finding("ok", "CUDA", f"{torch.cuda.get_device_name(0)}; tropism runs on the CPU today")
    else:
        yield Finding("ok", "CUDA", "no device; none is needed")


def _process() -> Iterator[Finding]:
    """How a run would be tuned here, and whether it would use compiled kernels (which are built now if they can be)."""
    from tropism.engine import kernels
    from tropism.jobs.profile import kernels_in_words
    from tropism.runtime.memory import tune

    tuning = tune()
    yield Finding("ok", "threads", f"{tuning.threads} for tensors, which wait: {tuning.wait_policy}")
    yield Finding("ok", "allocator", tuning.allocator)
    if (why := kernels.why_not()) is None:
        yield Finding("ok", "kernels", kernels_in_words())
        return
    off = "TROPISM_KERNELS" in why
    fix = "unset TROPISM_KERNELS" if off else "language models run faster with a C compiler (Debian: apt install gcc)"
    yield Finding("note", "kernels", f"{kernels_in_words()}; correct but slower", f"optional: {fix}")


def _tool(name: str, commands: tuple[str, ...], fix: str) -> Finding:
    for command in commands:
        if found := shutil.which(command):
            return Finding("ok", name, _first_line([found, "--version"]) or found)
    return Finding("note", name, "not found", fix)


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().split("\n")[0]
