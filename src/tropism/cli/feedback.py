"""``tropism feedback verify | import | export | erase``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The study's feedback: verify, import, export, erase a person.", no_args_is_help=True, rich_markup_mode=None
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]


@app.command()
def verify(folder: Folder) -> None:
    """Recompute every event's digest and the hash chain. Status 1 when something does not hold."""
    from tropism.study.study import Study

    with Study.open(folder) as study:
        found = study.verify()
    typer.echo(f"{found.events} events, {found.sealed} sealed, {found.open} open")
    for problem in found.problems:
        typer.echo(f"problem: {problem}", err=True)
    typer.echo("the feedback is intact" if found.ok else "the feedback was changed")
    if not found.ok:
        raise typer.Exit(1)
