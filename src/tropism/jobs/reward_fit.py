"""``tropism reward fit``: a reward model from judged data. OUT is the reward model's folder.

Comparisons, split votes, rankings, ratings and labels are read alike. A classifier's folder is a plain Hugging Face
one. Left out: samples of a policy to freeze the scale on (it is frozen on the train rows' answers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from tropism.data.judgements import Judged, to_judgements
from tropism.data.records import Reading
from tropism.engine.cards import write_card
from tropism.errors import ConfigError, DataError
from tropism.feedback.records import Judgement
from tropism.jobs.config import HeldOut, JobConfig
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.inputs import account, digest_of, digest_of_data, read_data
from tropism.jobs.models import ModelPath
from tropism.jobs.plan import Cost, Plan, measured
from tropism.language.config import NetworkKind, RewardModelSection
from tropism.language.fit_reward import NEEDS_NO_BASE, OWN, fit_learned_reward
from tropism.language.reward_card import reward_card
from tropism.runtime.precision import resolve_precision
from tropism.runtime.stage import ProgressSink, StageRun
from tropism.settings.paths import PathKind


class FitSection(RewardModelSection):
    """``[reward]``: the reward model and how it is fitted."""

    network: NetworkKind = "classifier"
    judge: bool = False
    """Also fit a judge on the held-out rows alone, into ``OUT/judge``."""


class RewardFitConfig(JobConfig):
    """All settings of ``tropism reward fit``."""

    job: ClassVar[str] = "reward fit"
    path_settings: ClassVar[Mapping[str, PathKind]] = {"model.path": "model", "data.source": "model"}

    model: ModelPath = ModelPath()
    """What the reward model starts from: decoder or encoder; a causal language model for ``frozen``."""
    data: HeldOut = HeldOut()
    reward: FitSection = FitSection()


def run(config: RewardFitConfig, out: Path, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Fit on ``data.source`` from ``model.path`` into the folder ``out``; returns what came out.

    Values: ``source`` (every row accounted for), ``judgements`` (by split and kind, dropped ones by reason),
    ``assessment`` on held-out prompts, ``fit``, ``rows_cut``. Errors: ModelError, DataError, ConfigError with the fix;
    those of ``folder.run_job``.
    """
    _check(config)
    reading = read_data(config.data)
    inputs = {"data": digest_of_data(reading)}
    if config.model.path:
        inputs["model"] = digest_of(config.model.path)
    return run_job(out, Job.of(config, inputs), lambda folder: _fit(config, reading, folder), progress)


def plan(config: RewardFitConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on a few judgements in a temporary folder."""
    _check(config)
    reading = read_data(config.data)
    judged, made = _judged(config, reading), Plan(RewardFitConfig.job, out)
    made.data("data", reading)
    summary = judged.summary()
    made.line("judgements", ", ".join(f"{count} {split}" for split, count in summary["judgements"].items()))
    made.line("kinds", ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items()))
    if judged.dropped:
        made.line("dropped", ", ".join(f"{count}: {reason}" for reason, count in judged.reasons.items()))
    train = [j for j in judged.judgements if j.task.split == "train"]
    made.line("network", f"{config.reward.network} from {config.model.path or 'the text alone'}")
    short = config.reward.model_copy(update={"epochs": 1, "judge": False})
    precision = resolve_precision(config.run.precision)

    def fit_on(judgements: Sequence[Judgement]) -> Cost:
        return measured(
            lambda folder: fit_learned_reward(
                config.model.path, judgements, short, precision, StageRun("plan", folder, config.run.seed)
            )
        )

    if config.reward.network in NEEDS_NO_BASE:  # not a matter of epochs, and done in seconds: all of it is measured
        made.line("fit", f"to the optimum on {len(train)} judgements")
        made.cost(fit_on(train), 1, 1)
        return made
    epochs = config.reward.epochs or OWN[config.reward.network].fit.epochs
    few = train[: max(2 * config.reward.batch_size, 1)]
    made.line("epochs", f"{epochs} at most over {len(train)} judgements; held-out rows end it sooner")
    made.cost(fit_on(few), len(few), len(train) * epochs)
    return made


def _check(config: RewardFitConfig) -> None:
    if config.reward.network not in NEEDS_NO_BASE and not config.model.path:
        raise ConfigError(
            f"a reward model of kind {config.reward.network!r} starts from a model, and model.path is not set",
            f"give --model, or --network {NEEDS_NO_BASE[0]}, which reads the text alone",
        )


def _judged(config: RewardFitConfig, reading: Reading) -> Judged:
    judged = to_judgements(
        reading.records, validation_share=config.data.validation_share, split_by=config.data.split_by
    )
    if not judged.judgements:
        raise DataError(
            f"{config.data.source} was read as {reading.source.get('format')} and holds no judgement to fit on",
            "give comparisons, rankings, ratings or labels (`tropism data show` says what a file holds)",
        )
    return judged


def _fit(config: RewardFitConfig, reading: Reading, folder: JobFolder) -> None:
    judged, values = _judged(config, reading), folder.values
    made = fit_learned_reward(
        config.model.path,
        judged.judgements,
        config.reward,
        resolve_precision(config.run.precision),
        folder.run,
        cluster_by="group" if config.data.split_by == "group" else None,
    )
    values |= {"source": account(reading), "judgements": judged.summary(), **made.values}
    base = config.model.about() if config.model.path else "no model"
    place = made.folders["reward"]
    card = reward_card(folder.run.name, base, config.reward, made.values)
    write_card(place, replace(card, title=folder.out.name, data=[values["source"], *card.data]))
    folder.publish(place)
