"""``tropism sample``: answers of a model to prompts, with what reward models say of them, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tropism.data.judgements import to_prompts
from tropism.data.records import Record
from tropism.engine.generation import Sampling
from tropism.errors import DataError
from tropism.feedback.records import Task
from tropism.jobs.config import DataSection, JobConfig
from tropism.jobs.folder import writing_file
from tropism.jobs.inputs import limited, read_data
from tropism.jobs.models import ModelPath
from tropism.jobs.rewards import RewardsSection, load_models
from tropism.language.config import SamplingSection
from tropism.language.rollouts import sample_candidates, write_rows
from tropism.runtime.memory import tune
from tropism.runtime.precision import resolve_precision
from tropism.settings.paths import PathKind


class SampleConfig(JobConfig):
    """All settings of ``tropism sample``."""

    job: ClassVar[str] = "sample"
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "model.path": "model",
        "model.chat_template": "file",
        "prompts.source": "model",
        "rewards.models": "models",
    }

    model: ModelPath = ModelPath()
    prompts: DataSection = DataSection()
    texts: list[str] = Field([])
    """Prompts given directly, before those of ``prompts.source``."""
    rewards: RewardsSection = RewardsSection()
    sampling: SamplingSection = SamplingSection(max_new_tokens=128)
    number: int = Field(1, ge=1)
    """Answers to each prompt."""


def run(config: SampleConfig, out: Path | None = None) -> list[dict[str, Any]]:
    """Sample ``number`` answers to every prompt; returns the rows, and writes them to the file ``out`` if given.

    A row: ``prompt``, ``completion``, ``tokens``, ``stop`` (``eos`` or ``length``), ``reward`` by model. Equal settings
    give equal rows. Errors: DataError without prompts or where ``out`` exists; those of models and data.
    """
    if out is not None and out.exists():
        raise DataError(f"{out} exists already", "choose another --out: nothing is overwritten")
    tune(config.run.threads, config.run.tune_memory, config.run.passive_wait)
    policy, tasks = config.model.load(), _tasks(config)
    policy, _ = limited(policy, tasks, config.sampling.max_new_tokens)
    sampling = Sampling(config.sampling.max_new_tokens, policy.eos, config.sampling.temperature)
    precision = resolve_precision(config.run.precision)
    found = sample_candidates(policy, config.model.about(), tasks, config.number, sampling, config.run.seed, precision)
    models = load_models(config.rewards, policy).values()
    scores = {name: model.score_candidates(tasks, found) for name, model in models}
    rows = [
        {
            "prompt": task.payload.get("messages", task.payload["prompt"]),
            "completion": candidate.content["text"],
            "tokens": len(candidate.content["tokens"]),
            "stop": candidate.content["stop"],
            "reward": {name: float(table[n, k]) for name, table in scores.items()},
        }
        for n, (task, row) in enumerate(zip(tasks, found, strict=True))
        for k, candidate in enumerate(row)
    ]
    if out is not None:
        with writing_file(out):
            write_rows(out, _each(rows))
    return rows


def _tasks(config: SampleConfig) -> list[Task]:
    records = [Record(text, split="test") for text in config.texts]
    if config.prompts.source or not records:
        records += read_data(config.prompts, "--prompts FILE or --prompt TEXT", "prompts.source").records
    return to_prompts(records, validation_share=0.0)


def _each(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows
