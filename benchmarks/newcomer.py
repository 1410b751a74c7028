"""A newcomer's path, timed: from a fresh installation to a reward model of one's own pairs, as docs say it.

Every command of docs/train-a-reward-model.md is run word for word, each in a process of its own as in a shell, on the
files of examples/example_files.py. Reading is counted at 200 words a minute (slow for prose, about right beside
commands; Brysbaert 2019 gives 238 for English non-fiction), the whole page with its tables and commands.

    python benchmarks/newcomer.py [--setup] [--runs 3] [--quick]

The claim is the median run, between the fastest and the slowest. ``--setup`` also times `make setup` in a fresh copy
of the repository (it downloads, so it depends on the network).
Left out: finding the project, thinking, and typing other people's commands.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Claim, write_result

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "train-a-reward-model.md"
WORDS_PER_MINUTE = 200
LIMIT_MINUTES = 10.0


def commands(page: Path) -> list[str]:
    """The lines of every sh block of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    return [line for block in blocks for line in block.strip().splitlines()]


def timed(line: str, arguments: list[str], folder: Path, limit_s: float = 600.0) -> dict[str, Any]:
    """Wall and CPU seconds of one process that stands for ``line``; CalledProcessError with its output if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command": line, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def tropism(line: str) -> list[str]:
    """A command of the page as a process of this installation."""
    words = shlex.split(line)
    assert words[0] == "tropism", line
    return [sys.executable, "-m", "tropism", *words[1:]]


def path(folder: Path) -> list[dict[str, Any]]:
    """Every step of the page in an empty folder."""
    folder.mkdir()
    script = ROOT / "examples" / "example_files.py"
    steps = [timed(f"python examples/{script.name} .", [sys.executable, str(script), "."], folder)]
    return steps + [timed(line, tropism(line), folder) for line in commands(PAGE)]


def setup_time(folder: Path) -> dict[str, Any]:
    """`make setup` in a fresh clone."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=120)
    return timed("make setup", ["make", "--silent", "setup"], folder, 1800.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--setup", action="store_true", help="also time `make setup` in a fresh clone")
    parser.add_argument("--runs", type=int, default=3, help="times that the whole path is gone")
    parser.add_argument("--quick", action="store_true", help="print only")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    with tempfile.TemporaryDirectory(prefix="newcomer-") as made:
        folder = Path(made)
        installed = setup_time(folder / "clone") if options.setup else None
        runs = [path(folder / f"try-{n}") for n in range(options.runs)]
    words = len(PAGE.read_text("utf-8").split())
    reading = words / WORDS_PER_MINUTE
    minutes = sorted(sum(step["wall_s"] for step in steps) / 60 for steps in runs)
    total, low, high = (reading + m for m in (statistics.median(minutes), minutes[0], minutes[-1]))
    name, target = "minutes of reading and running to a reward model", f"<= {LIMIT_MINUTES:g}"
    claim = Claim(name, total, low, high, target, high <= LIMIT_MINUTES)
    extra = {
        "page": PAGE.relative_to(ROOT).as_posix(),
        "words": words,
        "reading_minutes": round(reading, 2),
        "running_minutes": round(statistics.median(minutes), 2),
        "runs": runs,
        "setup": installed,
    }
    write_result("newcomer", [claim], extra, options.quick)


if __name__ == "__main__":
    main()
