"""``resolved.json``: what a run was made from: every setting, versions, seeds, data digests, the process's tuning."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tropism.runtime.memory import Tuning
from tropism.runtime.seeding import derive
from tropism.runtime.versions import versions
from tropism.study.config import Config


def write_resolved(path: Path, config: Config, tuning: Tuning, data: Mapping[str, str]) -> None:
    """Write the file anew, atomically. ``data`` maps the data files' names to their digests."""
    seeds = {"study": config.study.seed, "base": derive(config.study.seed, "base", 0)}
    content: dict[str, Any] = {
        "recipe": config.recipe,
        "config": dict(config.values),
        "seeds": seeds,
        "versions": versions(),
        "data": dict(data),
        "process": {**asdict(tuning), "machine": platform.machine(), "system": platform.system()},
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
    partial.rename(path)
