"""``tropism …``: the application, its errors and its version.

An error made on purpose is printed as ``error: …`` and ``fix: …`` on stderr and ends with status 2; a clean stop on a
signal ends with 130 (Ctrl-C) or 143 (SIGTERM); any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tropism import __version__
from tropism.cli import backup, control, data, doctor, early, feedback, jobs, reward, sample, studio, study
from tropism.errors import InterruptedRun, TropismError

app = typer.Typer(
    name="tropism",
    help="RLHF end to end: collect feedback, fit reward models, improve policies, evaluate, go round again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tropism {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """RLHF end to end: collect feedback, fit reward models, improve policies, evaluate, go round again."""


study.add_to(app)
studio.add_to(app)
backup.add_to(app)
jobs.add_to(app)
sample.add_to(app)
doctor.add_to(app)
app.add_typer(reward.app, name="reward")
app.add_typer(control.app, name="control")
app.add_typer(data.app, name="data")
app.add_typer(feedback.app, name="feedback")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its status. ``arguments``: those after the program's name."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    early.settle(given)
    try:
        app(args=given, prog_name="tropism")
    except InterruptedRun as error:
        _print_error(error)
        sys.exit(getattr(error, "exit_code", 130))
    except TropismError as error:
        _print_error(error)
        sys.exit(2)
    except BrokenPipeError:
        # the reader (head, less) went away: nothing to say, and nobody to say it to
        sys.stderr.close()
        sys.exit(141)


def _print_error(error: TropismError) -> None:
    typer.echo(f"error: {error.problem}", err=True)
    if error.fix:
        typer.echo(f"fix: {error.fix}", err=True)
