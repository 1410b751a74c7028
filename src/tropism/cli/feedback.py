"""``tropism feedback verify | import | export | trace | erase``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tropism.store.database import Database
    from tropism.store.lineage import RewardModelRow

app = typer.Typer(
    help="The study's feedback: verify, import, export, trace, erase a person.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SHOWN_EVENTS = 5
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


@app.command("import")
def import_(
    folder: Folder,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A file or folder of judgements, in any format of `data show`.")
    ],
    format_: Annotated[
        str, typer.Option("--format", help="The source's format; by default told from its columns.")
    ] = "auto",
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="OURS=THEIRS,…", help="As in prompt=question,chosen=good.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An option of the format, as in scale=[1,5]."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good rows of a source that has bad ones.")
    ] = False,
) -> None:
    """Import judgements of any format. A source with bad rows changes nothing, unless --skip-bad."""
    from tropism.cli.jobs import column_map
    from tropism.data.importing import ImportTeacher, placed
    from tropism.feedback.events import FeedbackLog
    from tropism.settings.overrides import parse_overrides
    from tropism.study.study import Study

    mapped = {} if columns is None else column_map(columns)
    teacher = ImportTeacher(format=format_, columns=mapped, options=parse_overrides(option or []))
    with Study.open(folder) as study:
        report = teacher.load(FeedbackLog(study.database), source, skip_bad=skip_bad)
    for bad in report.rejected:
        typer.echo(f"{placed(bad)}: {bad.reason}", err=True)
    for reason, count in report.left_out.items():
        typer.echo(f"{count} left out: {reason}", err=True)
    known = report.events - report.imported
    typer.echo(f"{report.imported} events imported, {known} known already, {len(report.rejected)} rows rejected")


@app.command()
def export(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl, .csv, .parquet; no suffix: a datasets folder.")],
    to: Annotated[str, typer.Option("--to", help="A format of `data export`.")] = "pairs",
) -> None:
    """Write the current feedback so that `feedback import` reads it; pairs keep their ties, which have a label."""
    from tropism.data.importing import export_feedback
    from tropism.feedback.events import FeedbackLog
    from tropism.study.study import Study

    with Study.open(folder) as study:
        report = export_feedback(FeedbackLog(study.database), file, to)
    typer.echo(f"{report.rows} {'pairs' if to == 'pairs' else 'rows'} written to {file}")
    for reason, count in report.left_out.items():
        typer.echo(f"{count} left out: {reason}", err=True)


@app.command()
def trace(
    folder: Folder,
    id_: Annotated[str, typer.Argument(metavar="ID", help="An event or a policy: its id, or a beginning of it.")],
) -> None:
    """What a vote shaped, or which votes are behind a policy."""
    from tropism.store.trace import find
    from tropism.study.study import Study

    with Study.open(folder) as study:
        found = find(study.database, id_)
        if found.kind == "event":
            _trace_event(study.database, found.id)
        else:
            _trace_policy(study.database, found.id)


def _trace_event(database: Database, event: str) -> None:
    from tropism.store.lineage import policies_shaped_by, reward_models_shaped_by

    policies = policies_shaped_by(database, event)
    typer.echo(f"event {event} shaped {len(policies)} {'policy' if len(policies) == 1 else 'policies'}")
    _echo_reward_models(reward_models_shaped_by(database, event))
    for policy in policies:
        typer.echo(f"policy {policy.id}, round {policy.round}, {policy.status}")


def _trace_policy(database: Database, policy: str) -> None:
    from tropism.store.lineage import events_behind, reward_models_behind
    from tropism.store.trace import count_votes

    events = events_behind(database, policy)
    typer.echo(f"policy {policy} was shaped by {len(events)} events")
    _echo_reward_models(reward_models_behind(database, policy))
    for votes in count_votes(database, events):
        typer.echo(f"round {'–' if votes.round is None else votes.round}, {votes.teacher}: {votes.events} events")
    for event in events[:SHOWN_EVENTS]:
        typer.echo(f"event {event}")
    if len(events) > SHOWN_EVENTS:
        typer.echo(f"… and {len(events) - SHOWN_EVENTS} more")


def _echo_reward_models(models: list[RewardModelRow]) -> None:
    for model in models:
        typer.echo(f"reward model {model.id}, round {model.round}, fitted on event set {model.event_set_id}")


@app.command()
def erase(
    folder: Folder,
    pseudonym: Annotated[str, typer.Argument(metavar="PSEUDONYM", help="The person, as the events name them.")],
    reason: Annotated[str, typer.Option("--reason", help="Kept for ever: nothing personal.")] = "asked to be erased",
) -> None:
    """Erase a person's name, contact and texts, and say which reward models and policies must be made again."""
    from tropism.feedback.people import erase_person
    from tropism.store.lineage import refit_after_erasure
    from tropism.study.study import Study

    with Study.open(folder) as study:
        event = erase_person(study.database, pseudonym, reason)
        refit = refit_after_erasure(study.database, pseudonym)
    typer.echo(f"{pseudonym} is erased (event {event})")
    for what, ids in (("reward model", refit.reward_models), ("policy", refit.policies)):
        for id_ in ids:
            typer.echo(f"to be made again: {what} {id_}")
