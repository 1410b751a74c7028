"""The laws of the house: who may import whom, what stays unloaded, how long things get, what never appears.

Left out: style and types, which ruff and mypy hold.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tropism"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# As in ARCHITECTURE.md: a folder imports only from rows with a smaller number, and from itself.
ROWS = {
    "cli": 9,
    "studio": 8,
    "study": 7,
    "jobs": 7,
    "language": 6,
    "control": 6,
    "evaluation": 5,
    "monitoring": 5,
    "reward": 4,
    "data": 4,
    "engine": 3,
    "environments": 3,
    "feedback": 3,
    "store": 2,
    "objectives": 2,
    "runtime": 2,
    "settings": 2,
    "client": 2,
    "errors": 1,
    "digests": 1,
    "files": 1,
}
TOP = 10  # the package's own __init__ and __main__ stand above every folder
DATA_FOLDERS = {"recipes"}  # TOML only: no code to place in a row


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def house_of(path: Path) -> str:
    """The folder (or top-level module) a source file belongs to; '' for the package's own files."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] in {"__init__", "__main__"} else parts[0]


def imported_modules(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every absolute module name that a file imports, inside functions and TYPE_CHECKING blocks too."""
    package = ["tropism", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def broken_imports(path: Path, source: str) -> list[str]:
    """What a file imports against the law."""
    here = house_of(path)
    problems = []
    for line, module in imported_modules(path, ast.parse(source)):
        parts = module.split(".")
        if parts[0] != "tropism" or len(parts) < 2:
            continue
        there = parts[1]
        if there == here or there not in ROWS:
            continue
        if ROWS[there] >= ROWS.get(here, TOP):
            problems.append(f"{name_of(path)}:{line} ({here}) imports {module} ({there})")
    return problems


def test_every_folder_has_a_row() -> None:
    found = {house_of(path) for path in SOURCES} - {""} - DATA_FOLDERS
    assert found <= set(ROWS), f"give these a row in ARCHITECTURE.md and here: {sorted(found - set(ROWS))}"


def test_rows_agree_with_the_architecture_page() -> None:
    table: dict[str, int] = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        if match := re.match(r"\| (\d) \| ([^|]+) \|", line):
            for name in re.findall(r"`(\w+)(?:/|\.py)`", match[2]):
                table[name] = int(match[1])
    assert {name: row for name, row in ROWS.items() if name in table} == table
    assert set(table) <= set(ROWS)


def test_import_law() -> None:
    problems = [problem for path in SOURCES for problem in broken_imports(path, path.read_text())]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("store/x.py", "from tropism.feedback.records import Task"),
        ("store/x.py", "import tropism.runtime.stage"),
        ("engine/deep/x.py", "def f():\n    from ...language import ppo"),
        ("evaluation/x.py", "from tropism import monitoring"),
        ("language/x.py", "from ..study.protocol import Domain"),
    ],
)
def test_import_law_sees_a_breach(file: str, line: str) -> None:
    assert broken_imports(PACKAGE / file, line)


def test_import_law_allows_rows_below() -> None:
    assert not broken_imports(
        PACKAGE / "study/x.py", "from tropism.store import database\nfrom .protocol import Domain"
    )


def loaded_after(code: str) -> set[str]:
    """The heavy modules in a fresh interpreter after ``code``."""
    probe = f"{code}\nimport sys\nprint('\\n'.join(m for m in ('torch', 'transformers') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split()) & {"torch", "transformers"}


@pytest.mark.parametrize(
    "module",
    [
        "tropism",
        "tropism.store",
        "tropism.feedback.records",
        "tropism.study.protocol",
        "tropism.study.report",
        "tropism.cli.main",
    ],
)
def test_import_loads_no_torch(module: str) -> None:
    assert not loaded_after(f"import {module}")


def test_every_store_module_is_free_of_torch() -> None:
    names = [p.relative_to(ROOT / "src").with_suffix("") for p in (PACKAGE / "store").glob("*.py")]
    code = "\n".join(f"import {'.'.join(n.parts)}" for n in names if n.name != "__init__")
    assert not loaded_after(code)


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "from typer.testing import CliRunner\nfrom tropism.cli.main import app\n"
    code += "assert CliRunner().invoke(app, ['--help']).exit_code == 0"
    assert not loaded_after(code)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tropism", "--help"], capture_output=True, check=True, timeout=60)
        times.append(time.perf_counter() - start)
    # half a second on an idle machine; torch alone would add two seconds, and test machines are shared
    assert min(times) < 1.5


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in SOURCES:
        text = path.read_text()
        if (lines := text.count("\n")) > 400:
            long.append(f"{name_of(path)} has {lines} lines (400 allowed)")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long.append(f"{name_of(path)}:{node.lineno} {node.name} has {length} lines (60 allowed)")
    assert not long, "\n".join(long)


def test_nothing_loads_code_from_data() -> None:
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for line, module in imported_modules(path, tree):
            if module.split(".")[0] in {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}:
                found.append(f"{name_of(path)}:{line} imports {module}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in {"torch.load", "torch.save", "eval", "exec"}:
                found.append(f"{name_of(path)}:{node.lineno} calls {called}")
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False":
                    found.append(f"{name_of(path)}:{node.lineno} sets trust_remote_code")
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    found.append(f"{name_of(path)}:{node.lineno} sets allow_pickle")
    assert not found, "\n".join(found)


def test_only_runtime_may_know_about_other_processes() -> None:
    found = []
    for path in SOURCES:
        if house_of(path) == "runtime":
            continue
        for line, module in imported_modules(path, ast.parse(path.read_text())):
            if module.split(".")[0] == "ray" or module.startswith("torch.distributed"):
                found.append(f"{name_of(path)}:{line} imports {module}")
    assert not found, "\n".join(found)


def test_no_paths_of_one_machine() -> None:
    folders = ["work", "home", "root", "Users", "mnt", "tmp"]
    pattern = re.compile(r"(?<![\w.~-])/(?:" + "|".join(folders) + r")/[\w.]")
    kinds = {".py", ".toml", ".md", ".sh", ".html", ".j2", ".mako", ".css", ".js"}
    places = [ROOT / name for name in ("src", "tests", "examples", "benchmarks", "scripts", "docs", ".ci")]
    files = [p for place in places if place.is_dir() for p in place.rglob("*") if p.is_file()]
    files += [p for p in ROOT.iterdir() if p.suffix == ".md" or p.name in {"Makefile", "pyproject.toml"}]
    found = []
    for path in files:
        if path.suffix not in kinds and path.name not in {"Makefile", "run"}:
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_recipes_are_short_and_say_what_they_are() -> None:
    for path in sorted((PACKAGE / "recipes").glob("*.toml")):
        text = path.read_text()
        assert text.count("\n") <= 30, f"{path.name} has more than 30 lines"
        assert text.startswith("# "), f"{path.name} begins with no comment line for `tropism recipes`"
        tomllib.loads(text)
