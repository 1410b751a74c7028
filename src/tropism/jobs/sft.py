"""``tropism sft``: supervised fine-tuning of a model on demonstrations, full or LoRA. OUT is a Hugging Face folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from tropism.data.judgements import to_demonstrations
from tropism.data.records import Reading
from tropism.data.voting import Splits
from tropism.engine.adapters import LoraSettings
from tropism.engine.models import context_length, eos_ids
from tropism.engine.working import Working
from tropism.errors import DataError
from tropism.jobs.cards import sft_card
from tropism.jobs.config import HeldOut, JobConfig, required
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.inputs import account, digest_of, digest_of_data, read_data
from tropism.jobs.models import ModelPath
from tropism.jobs.plan import Plan, measured, model_size
from tropism.jobs.profile import write_profile
from tropism.language.leash import trainable
from tropism.language.policy import LanguagePolicy
from tropism.language.sft import Example, Rows, SftSettings, batch_loss, encode_examples, fine_tune
from tropism.runtime.precision import Precision, resolve_precision
from tropism.runtime.stage import ProgressSink, StageRun
from tropism.settings.paths import PathKind


class SftSection(SftSettings):
    """``[sft]``: how to train. The rate is that of fine-tuning a trained model; a LoRA wants about ten times more."""

    epochs: float | None = Field(3.0, gt=0)
    """Passes over the data; null: ``steps`` decides."""
    learning_rate: float = Field(2e-5, gt=0)
    warmup_steps: int = Field(10, ge=0)
    max_length: int = Field(1024, ge=2)
    checkpoint_every: int = Field(50, ge=1)
    chosen: bool = False
    """Also imitate the preferred answers of comparisons, rankings and best-of-K."""


class SftConfig(JobConfig):
    """All settings of ``tropism sft``."""

    job: ClassVar[str] = "sft"
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "model.path": "model",
        "model.chat_template": "file",
        "data.source": "model",
    }

    model: ModelPath = ModelPath()
    data: HeldOut = HeldOut(validation_share=0.05)
    lora: LoraSettings = LoraSettings()
    sft: SftSection = SftSection()


@dataclass(frozen=True)
class _Work:
    """Everything loaded: what to train, on what."""

    policy: LanguagePolicy
    train: list[Example]
    held_out: list[Example]
    settings: SftSettings
    reading: Reading


def run(config: SftConfig, out: Path, progress: ProgressSink | None = None, profile: bool = False) -> dict[str, Any]:
    """Fine-tune ``model.path`` on ``data.source`` into the folder ``out``; returns what came out.

    Values: ``data`` (every row accounted for), ``sft`` (steps, tokens, rows cut and skipped), ``loss_before`` and
    ``loss_after`` (nats per token on held-out rows; None without any). ``profile``: also measure the floor of what it
    cost (``jobs/profile.py``). Errors: ModelError, DataError, ConfigError with the fix; those of ``folder.run_job``.
    """
    model = required(config.model.path, "model.path", "--model")
    reading = read_data(config.data)
    inputs = {"model": digest_of(model), "data": digest_of_data(reading)}
    return run_job(out, Job.of(config, inputs), lambda folder: _train(config, reading, folder, profile), progress)


def plan(config: SftConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on three real steps in a temporary folder."""
    work = _prepare(config, read_data(config.data))
    rows = _encoded(work, work.train)
    made = Plan(SftConfig.job, out)
    made.data("data", work.reading)
    made.line("rows", f"{len(work.train)} to train on, {len(work.held_out)} held out")
    lengths = np.array([len(t) for t in rows.tokens])
    made.line("tokens", f"{lengths.mean():.0f} a row in the mean, {lengths.max()} at most, {int(lengths.sum())} in all")
    made.line("too long", f"{rows.cut} cut from the left of the prompt, {rows.skipped} left out ({_limit(work)} fit)")
    made.line("model", model_size(work.policy.model))
    made.line("steps", f"{work.settings.steps} of {min(work.settings.batch_size, len(rows.tokens))} rows")
    short = work.settings.model_copy(update={"steps": 3, "checkpoint_every": 3})
    cost = measured(
        lambda folder: fine_tune(
            work.policy.model, work.policy.tokenizer, work.train, short, StageRun("plan", folder, config.run.seed)
        )
    )
    made.cost(cost, 3, work.settings.steps)
    return made


def _prepare(config: SftConfig, reading: Reading) -> _Work:
    policy = trainable(config.model.load(), config.lora, config.run.seed, base=config.model.path)
    split = Splits(config.data.validation_share, config.data.split_by, seed=0)
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for name, found in parts.items():
        records = [r for r in reading.records if split.of(r) == name]
        pairs = to_demonstrations(records, chosen=config.sft.chosen, splits=("train", "validation", "test", None))
        found += [policy.example(payload, completion) for payload, completion in pairs]
    if not parts["train"]:
        raise DataError(
            f"{config.data.source} was read as {reading.source.get('format')} and holds no demonstration to train on",
            "give rows with prompt and completion, or --set sft.chosen=true to imitate preferred answers",
        )
    settings = SftSettings.model_validate(
        {name: getattr(config.sft, name) for name in SftSettings.model_fields}
        | {"precision": resolve_precision(config.run.precision).name}
    )
    if config.sft.epochs is not None:
        size = min(settings.batch_size, len(parts["train"]))
        steps = math.ceil(len(parts["train"]) // size * config.sft.epochs)
        settings = settings.model_copy(update={"steps": max(1, steps)})
    return _Work(policy, parts["train"], parts["validation"], settings, reading)


def _train(config: SftConfig, reading: Reading, folder: JobFolder, profile: bool) -> None:
    work = _prepare(config, reading)
    values = folder.values
    values["data"] = account(reading)
    values["rows"] = {"train": len(work.train), "held_out": len(work.held_out)}
    precision = resolve_precision(work.settings.precision)
    values["loss_before"] = held_out_loss(work, precision)  # these are the untrained weights, after a kill too
    summary = fine_tune(work.policy.model, work.policy.tokenizer, work.train, work.settings, folder.run)
    values["sft"] = summary
    if profile:
        write_profile(folder, work.policy.model, precision)
    values["loss_after"] = held_out_loss(work, precision)
    for step, name in ((0, "loss_before"), (work.settings.steps, "loss_after")):
        if values[name] is not None:
            folder.run.log(step, {"sft/loss_held_out": values[name]})
    with folder.run.making("model") as made:
        about = {"job": SftConfig.job, "base": config.model.about(), "sft": summary}
        card = sft_card(folder.out, config.model.about(), config.model_dump(mode="json"), values)
        work.policy.save(made, about, card, adapters=config.lora)
    folder.publish(folder.run.folder / "model")


def held_out_loss(work: _Work, precision: Precision) -> float | None:
    """Nats per completion token on the held-out rows, or None without any that fit."""
    if not work.held_out:
        return None
    try:
        rows = _encoded(work, work.held_out)
    except DataError:  # none of the few held-out rows fits: the training rows are judged on their own
        return None
    total, count = 0.0, 0
    work.policy.model.eval()
    working = Working(work.policy.model, precision)
    with torch.no_grad(), working.running():
        for start in range(0, len(rows.tokens), work.settings.batch_size):
            chosen = np.arange(start, min(start + work.settings.batch_size, len(rows.tokens)))
            loss, tokens = batch_loss(working.model, rows, chosen)
            total, count = total + float(loss) * tokens, count + tokens
    return total / count


def _limit(work: _Work) -> int:
    return min(work.settings.max_length, context_length(work.policy.model))


def _encoded(work: _Work, examples: Sequence[Example]) -> Rows:
    model, tokenizer = work.policy.model, work.policy.tokenizer
    return encode_examples(examples, tokenizer, min(eos_ids(model, tokenizer)), _limit(work))
