"""``tropism studio DIR``: the web application on a study; and the same options for ``tropism run DIR --studio``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tropism.studio.settings import StudioSettings

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; others than this machine need accounts.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")]
Solo = Annotated[bool, typer.Option("--solo", help="One person on this machine: no login.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="A host name that browsers use for it, as behind a proxy. May be repeated."),
]
Proxies = Annotated[
    list[str] | None,
    typer.Option("--proxy", help="Address or network of a proxy on another machine, to be believed about https."),
]
Lease = Annotated[float, typer.Option("--lease", help="Seconds a question is held without a sign of life.")]
GoldRate = Annotated[float, typer.Option("--gold-rate", help="Share of questions with a known answer.")]
RepeatRate = Annotated[float, typer.Option("--repeat-rate", help="Share of questions asked a second time.")]
MostVotes = Annotated[
    int, typer.Option("--most-votes", min=0, help="Ask up to so many people about comparisons that stay unsure.")
]
HERE, PORT, LEASE_S = "127.0.0.1", 7860, 300.0


def add_to(app: typer.Typer) -> None:
    """Put the command on the application."""
    app.command()(studio)


def studio(
    folder: Folder,
    host: Host = HERE,
    port: Port = PORT,
    solo: Solo = False,
    name: Names = None,
    proxy: Proxies = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            help="postgresql://USER@HOST/NAME, instead of DIR/study.db. DIR/study.url remembers it, but no password: "
            "that belongs into PGPASSWORD or ~/.pgpass.",
        ),
    ] = None,
    lease: Lease = LEASE_S,
    gold_rate: GoldRate = 0.0,
    repeat_rate: RepeatRate = 0.0,
    most_votes: MostVotes = 0,
) -> None:
    """Open the studio: people judge in a browser, while the study runs or before. Ends with Ctrl-C."""
    from tropism.store.placing import place_on_server
    from tropism.studio.serving import serve

    if database_url is not None and (said := place_on_server(folder, database_url)):
        typer.echo(said)
    settings = settings_of(host, port, solo, name, proxy, lease, gold_rate, repeat_rate, most_votes, database_url)
    serve(folder, settings, typer.echo)


def settings_of(
    host: str,
    port: int,
    solo: bool,
    names: list[str] | None,
    proxies: list[str] | None,
    lease: float,
    gold_rate: float,
    repeat_rate: float,
    most_votes: int,
    database_url: str | None = None,
) -> StudioSettings:
    """What the options say. Errors: ConfigError for those that do not go together."""
    from tropism.studio.settings import StudioSettings

    return StudioSettings(
        solo=solo,
        host=host,
        port=port,
        names=tuple(names or ()),
        proxies=("127.0.0.1", "::1", *(proxies or ())),
        database_url=database_url,
        lease_s=lease,
        gold_rate=gold_rate,
        repeat_rate=repeat_rate,
        most_votes=most_votes,
    )
