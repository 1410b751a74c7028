"""``tropism sample``: what a model says to prompts, or what a study's rounds said, with the reward by component."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tropism.cli.jobs import Columns, Format, Prompts, Recipe, Rewards, Settings, data_flags, reward_flags
from tropism.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Put the command on the application."""
    app.command()(sample)


def sample(
    place: Annotated[str, typer.Argument(metavar="MODEL|STUDY", help="A model's or a study's folder, or a hub name.")],
    prompts: Prompts = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="May be repeated.")] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Answers to each prompt.")] = 1,
    reward: Rewards = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all answers as JSON lines.")] = None,
    format_: Format = None,
    columns: Columns = None,
    recipe: Recipe = None,
    settings: Settings = None,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="Of a study: whose samples [1].")] = None,
    step: Annotated[int | None, typer.Option("--step", help="Of a study: rollouts of this PPO step.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many to show.")] = 5,
) -> None:
    """Sample a model on prompts, or show what a study has stored: samples before and after a round, or rollouts."""
    if (Path(place) / "study.toml").is_file():
        if prompt or prompts:
            raise ConfigError(f"{place} is a study, and prompts are for models", "give one of its model folders")
        _stored(Path(place), round_ or 1, step, count)
        return
    if round_ is not None or step is not None:
        raise ConfigError(f"{place} is no study, so it has no rounds", "leave out --round and --step")
    from tropism.cli.job_tables import print_answers
    from tropism.jobs import sample as job
    from tropism.jobs.config import resolve

    flags: dict[str, Any] = {"model.path": place, "texts": prompt or None, "number": number}
    flags |= data_flags("prompts", prompts, format_, columns, False) | reward_flags(reward)
    print_answers(job.run(resolve(job.SampleConfig, flags, settings or [], recipe), out), count if out else None)


def _stored(folder: Path, round_: int, step: int | None, count: int) -> None:
    from tropism.cli.tables import print_rollouts, print_samples

    if step is None:
        print_samples(folder, round_, count)
    else:
        print_rollouts(folder, round_, step, count)
