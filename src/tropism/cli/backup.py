"""``tropism backup | restore``: a study copied whole while it runs, and made again of the copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tropism.study.backup import Backup

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]


def add_to(app: typer.Typer) -> None:
    """Put the commands on the application."""
    app.command()(backup)
    app.command()(restore)


def backup(
    folder: Folder,
    target: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="A new folder, or an earlier backup of this study, to be renewed.")
    ],
) -> None:
    """Back a study up, its database and artifacts, while it runs and people judge. Status 1 when the study itself is
    damaged; the backup is made all the same."""
    from tropism.study.backup import back_up

    made = back_up(folder, target)
    typer.echo(f"backed up {_counted(made)} to {target}")
    for problem in made.problems:
        typer.echo(f"problem: {problem}", err=True)
    if made.problems:
        raise typer.Exit(1)


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `tropism backup` made.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the study goes: a new folder.")],
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            help="postgresql://USER@HOST/NAME: put the database there, where it must be empty, instead of a file.",
        ),
    ] = None,
) -> None:
    """Make a study of a backup, after a look at every event, seal and artifact in it."""
    from tropism.study.backup import restore as make

    made = make(source, folder, database_url)
    typer.echo(f"restored {_counted(made)} to {folder}; next: tropism run {folder}, or tropism studio {folder}")


def _counted(made: Backup) -> str:
    return f"{made.events} events in {made.seals} seals, {len(made.artifacts)} artifacts"
