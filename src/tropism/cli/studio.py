"""``tropism studio DIR``: the web application on a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]


def add_to(app: typer.Typer) -> None:
    """Put the command on the application."""
    app.command()(studio)


def studio(
    folder: Folder,
    host: Annotated[str, typer.Option("--host", help="Where to listen; others than this machine need accounts.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 7860,
    solo: Annotated[bool, typer.Option("--solo", help="One person on this machine: no login.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A host name that browsers use for it, as behind a proxy. May be repeated."),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", help="Address or network of a proxy on another machine, to be believed about https."),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            help="postgresql://USER@HOST/NAME, instead of DIR/study.db. DIR/study.url remembers it, but no password: "
            "that belongs into PGPASSWORD or ~/.pgpass.",
        ),
    ] = None,
    lease: Annotated[float, typer.Option("--lease", help="Seconds a question is held without a sign of life.")] = 300.0,
    gold_rate: Annotated[float, typer.Option("--gold-rate", help="Share of questions with a known answer.")] = 0.0,
    repeat_rate: Annotated[float, typer.Option("--repeat-rate", help="Share of questions asked a second time.")] = 0.0,
    most_votes: Annotated[
        int, typer.Option("--most-votes", min=0, help="Ask up to so many people about comparisons that stay unsure.")
    ] = 0,
) -> None:
    """Open the studio: people judge in a browser, while the study runs or before. Ends with Ctrl-C."""
    from tropism.store.placing import place_on_server
    from tropism.studio.serving import serve
    from tropism.studio.settings import StudioSettings

    if database_url is not None and (said := place_on_server(folder, database_url)):
        typer.echo(said)
    settings = StudioSettings(
        solo=solo,
        host=host,
        port=port,
        names=tuple(name or ()),
        proxies=("127.0.0.1", "::1", *(proxy or ())),
        database_url=database_url,
        lease_s=lease,
        gold_rate=gold_rate,
        repeat_rate=repeat_rate,
        most_votes=most_votes,
    )
    serve(folder, settings, typer.echo)
