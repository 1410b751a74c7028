"""``tropism demo | new | run | status | report | recipes | gc``: a study's life from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tropism.cli import studio as options
from tropism.errors import ConfigError

if TYPE_CHECKING:
    from tropism.study.study import Study

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in --set ppo.steps=40. May be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Put this group's commands on the application."""
    for command in (demo, new, run, status, report, recipes, gc):
        app.command()(command)


DEMOS = {"language": "tinytalk", "control": "control/cheetah"}
"""Demos by name, each with its recipe."""
STUDIO = "studio"
"""The demo in which a person is the teacher."""


def demo(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[language|control|studio] [DIR]", help="Which demo, and where its study goes."),
    ] = None,
    settings: Settings = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="studio: 7860; 0: any free one.")] = None,
) -> None:
    """Run the whole loop for two rounds: a table here, report.html there. Downloads nothing. ``language`` (the default)
    is a small model in an embedded world, ``control`` a half-cheetah that learns to run from comparisons, ``studio``
    asks you: it opens in the browser, and what you prefer is what is learned."""
    from tropism.study.study import Study

    given = list(places or [])
    kinds = (*DEMOS, STUDIO)
    which = given.pop(0) if given and given[0] in kinds else "language"
    if len(given) > 1:
        raise ConfigError(f"demo of {given}", f"write tropism demo [{'|'.join(kinds)}] [DIR]")
    if port is not None and which != STUDIO:
        raise ConfigError(f"--port {port} for the demo of {which}, which opens none", "write tropism demo studio")
    folder = Path(given[0] if given else "demo" if which == "language" else f"demo-{which}")
    if which == STUDIO:
        from tropism.cli.studio_demo import demo_studio

        demo_studio(folder, settings or [], options.PORT if port is None else port)
        return
    if (folder / "study.toml").exists():
        typer.echo(f"going on with the study in {folder}")
        study = Study.open(folder)
    else:
        study = Study.create(folder, recipe=DEMOS[which], overrides=settings or [])
    _run(study)


def new(
    folder: Folder,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="NAME|FILE", help="A built-in recipe (`tropism recipes`) or a TOML file of yours."
        ),
    ] = "tinytalk",
    settings: Settings = None,
) -> None:
    """Make a study from a recipe. Nothing runs yet."""
    from tropism.study.study import Study

    Study.create(folder, recipe=recipe, overrides=settings or []).close()
    typer.echo(f"made {folder / 'study.toml'}; next: tropism run {folder}")


def run(
    folder: Folder,
    settings: Settings = None,
    studio: Annotated[
        bool, typer.Option("--studio", help="Open the studio beside it, for people to answer. What follows is its own.")
    ] = False,
    host: options.Host = options.HERE,
    port: options.Port = options.PORT,
    solo: options.Solo = False,
    name: options.Names = None,
    proxy: options.Proxies = None,
    lease: options.Lease = options.LEASE_S,
    gold_rate: options.GoldRate = 0.0,
    repeat_rate: options.RepeatRate = 0.0,
    most_votes: options.MostVotes = 0,
) -> None:
    """Run a study to its end. The same command again goes on where it was."""
    from tropism.study.study import Study

    if not studio:
        given = {
            "--host": host != options.HERE, "--port": port != options.PORT, "--solo": solo, "--name": bool(name),
            "--proxy": bool(proxy), "--lease": lease != options.LEASE_S, "--gold-rate": gold_rate != 0,
            "--repeat-rate": repeat_rate != 0, "--most-votes": most_votes != 0,
        }  # fmt: skip
        if alone := ", ".join(option for option, is_given in given.items() if is_given):
            raise ConfigError(f"{alone} without --studio", "add --studio, or leave the studio's options out")
        _run(Study.open(folder, overrides=settings or []))
        return
    from tropism.studio.serving import beside

    told = options.settings_of(host, port, solo, name, proxy, lease, gold_rate, repeat_rate, most_votes)
    opened = Study.open(folder, overrides=settings or [])
    with beside(folder, told, typer.echo):
        _run(opened)


def status(folder: Folder) -> None:
    """Say how far a study is, and who is running it."""
    from tropism.cli.tables import print_status
    from tropism.study.study import Study

    with Study.open(folder) as study:
        print_status(study.status())


def report(folder: Folder) -> None:
    """Write the study's self-contained report.html from what is there."""
    from tropism.study.study import Study

    with Study.open(folder) as study:
        typer.echo(str(study.report()))


def recipes() -> None:
    """List the built-in recipes."""
    from tropism.settings.recipes import recipes as built_in

    listed = built_in()
    width = max((len(recipe.name) for recipe in listed), default=0)
    for recipe in listed:
        how = f" (tropism {recipe.job} --recipe {recipe.name})" if recipe.job else ""
        typer.echo(f"{recipe.name:<{width}}  {recipe.summary}{how}")


def gc(folder: Folder) -> None:
    """Delete the artifacts that the study's lineage does not need."""
    from tropism.study.study import Study

    with Study.open(folder) as study:
        freed = study.gc()
    typer.echo(f"freed {freed / 2**20:.1f} MiB")


def _run(study: Study) -> None:
    from tropism.cli.show import progress
    from tropism.cli.tables import print_results

    with study:
        with progress() as sink:
            study.run(progress=sink)
        written = study.report()
    print_results(study.folder)
    typer.echo(f"report: {written}")
