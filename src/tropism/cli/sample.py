"""``tropism sample``: what a round's policy said, and what each answer earned, component by component."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Put the command on the application."""
    app.command()(sample)


def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")],
    round_: Annotated[int, typer.Option("--round", min=1, help="Which round's samples.")] = 1,
    step: Annotated[int | None, typer.Option("--step", help="The stored rollouts of this PPO step instead.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many to show.")] = 5,
) -> None:
    """Show stored samples before and after a round, or the rollouts of one PPO step with reward by component."""
    from tropism.cli.tables import print_rollouts, print_samples

    if step is None:
        print_samples(folder, round_, count)
    else:
        print_rollouts(folder, round_, step, count)
