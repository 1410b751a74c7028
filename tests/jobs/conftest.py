"""The example files of the docs, and a model fine-tuned on them, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from job_cases import ROOT

from tropism.jobs import sft
from tropism.jobs.config import resolve


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``examples/example_files.py`` writes."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run([sys.executable, str(ROOT / "examples/example_files.py"), str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def tuned(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model after SFT: it answers in sentences that end."""
    out = tmp_path_factory.mktemp("tuned") / "sft"
    flags = {"model.path": str(files / "my-model"), "data.source": str(files / "demos.jsonl")}
    values = sft.run(resolve(sft.SftConfig, flags, {"sft.learning_rate": 2e-3, "sft.epochs": 10}), out)
    assert values["loss_after"] < 0.3 * values["loss_before"]
    return out
