"""A tiny text world of a user's own, and what it means that a command refused something and left nothing behind."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures import llama, word_tokenizer
from tropism.cli.main import main
from tropism.engine.models import save_policy

SCORES = """
def brevity(prompts, completions, rows):
    return [-len(c.split()) / 4 for c in completions]
def low(prompts, completions, rows):
    return [sum(int(w[1:]) < 30 for w in c.split() if w[:1] == "w") - 0.5 * len(c.split()) for c in completions]
"""
SMALL = [
    "study.rounds=1", "ppo.steps=2", "ppo.batch_size=8", "ppo.mini_batch_size=4", "ppo.epochs=1",
    "ppo.critic_warmup_steps=0", "evaluation.prompts=8", "sampling.max_new_tokens=4", "feedback.queries_per_round=40",
    "reward.epochs=2", "reward.scale_samples=16", "reward.members=2", "reward.judge=false", "runtime.threads=1",
]  # fmt: skip
"""A loop of a second or two."""


def own_world(folder: Path) -> Path:
    """A folder as a user has it: ``model/``, ``prompts.jsonl``, ``pairs.jsonl``, ``score.py``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(llama(scale=0.1), word_tokenizer(), folder / "model")
    prompts = [f"w{i % 60} w{(i * 7 + 3) % 60} w{i // 60}" for i in range(80)]
    write_rows(folder / "prompts.jsonl", [{"prompt": p} for p in prompts])
    pairs = [{"prompt": p, "chosen": f"w{i % 30} w3", "rejected": f"w{30 + i % 30} w42"} for i, p in enumerate(prompts)]
    write_rows(folder / "pairs.jsonl", pairs)
    (folder / "score.py").write_text(SCORES)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(values: list[str]) -> list[str]:
    """``--set`` before each."""
    return [part for value in values for part in ("--set", value)]


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: (status, stdout, stderr)."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return (0 if caught.value.code is None else int(caught.value.code)), out, err


def contents(folder: Path) -> Mapping[str, str]:
    """What is below a folder: file → digest; of databases their rows (the lease's aside, which comes and goes)."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))):
        name = str(path.relative_to(folder))
        try:
            content = _rows(path) if path.suffix == ".db" else path.read_bytes()
        except sqlite3.DatabaseError:
            content = path.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _rows(path: Path) -> bytes:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return "\n".join(line for line in database.iterdump() if 'INTO "lease"' not in line).encode()


def check_refusal(status: int, out: str, err: str, *says: str) -> None:
    """An error and its fix, each said once, and nothing that looks like a bug."""
    assert status == 2, (out, err)
    assert "Traceback" not in out + err
    assert err.count("error: ") == 1, err
    assert err.count("\nfix: ") == 1, err
    fix = err[err.index("\nfix: ") + 6 :].strip()
    assert fix, err
    for text in says:
        assert text in err, (text, err)


def refused(capsys: pytest.CaptureFixture[str], below: Path, says: list[str], *arguments: object) -> None:
    """The command is refused, its message holds ``says``, and nothing below the folder is other than before."""
    before = contents(below)
    check_refusal(*cli(capsys, *arguments), *says)
    assert contents(below) == before
