"""Small studies of the bandit, for the tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tropism.study.study import Study

BASE: dict[str, Any] = {
    "study.domain": "bandit:BanditDomain",
    "feedback.queries_per_round": 30,
    "improve.steps": 10,
    "improve.checkpoint_every": 3,
}


def make(folder: Path, **more: Any) -> Study:
    return Study.create(folder, overrides={**BASE, **{k.replace("__", "."): v for k, v in more.items()}})
