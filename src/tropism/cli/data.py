"""``tropism data import | export | show``: what a source holds, and from any format into any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tropism.cli.jobs import column_map
from tropism.errors import ConfigError
from tropism.settings.overrides import parse_overrides

if TYPE_CHECKING:
    from tropism.data.importing import ImportReport
    from tropism.data.reading import Source
    from tropism.data.records import Record

app = typer.Typer(
    help="Data of your own: show what a file holds, import any format, export to any other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder, or a data set's name on the hub.")]
Format = Annotated[str, typer.Option("--format", help="The source's format; by default told from its columns.")]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="OURS=THEIRS,…", help="As in prompt=question,chosen=good.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the format, as in scale=[1,5]. May be repeated."),
]
Licence = Annotated[str | None, typer.Option("--licence", help="The source's licence, for the manifest.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used; they are counted.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Write nothing; say what would be written.")]


@app.command("import")
def import_(
    source: SourceName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .jsonl to write.")],
    format_: Format = "auto",
    columns: Columns = None,
    option: Options = None,
    licence: Licence = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
) -> None:
    """Any format into tropism's own: one JSON object for each record, without loss, and a manifest."""
    from tropism.cli.data_tables import print_export
    from tropism.data.exporting import export as write_records
    from tropism.data.importing import ImportReport

    opened, report = _opened(source, format_, columns, option, licence), ImportReport()
    described: list[dict[str, Any]] = []
    records = _described(opened, report, described, skip_bad)
    done = write_records(records, out, "tropism", sources=described, licence=licence, write=not plan)
    print_export(done, report)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder, a hub name, or a study's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help=".jsonl, .csv, .parquet; no suffix: a datasets folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="pairs, unpaired, demonstrations, ranked, votes, ratings, critiques, prompts or tropism."
        ),
    ],
    form: Annotated[
        str,
        typer.Option(help="pairs: chosen (ties are left out), label (first, second, label), or mixed (ties by label)."),
    ] = "chosen",
    conversational: Annotated[
        str, typer.Option(help="Prompts as messages: auto (as they are), always, or never.")
    ] = "auto",
    unpair: Annotated[bool, typer.Option(help="unpaired: the answers of a pair become two rows.")] = True,
    chosen: Annotated[bool, typer.Option("--chosen", help="demonstrations: preferred answers are some too.")] = False,
    split: Annotated[str | None, typer.Option("--split", metavar="NAME,…", help="Only records of these.")] = None,
    format_: Format = "auto",
    columns: Columns = None,
    option: Options = None,
    licence: Licence = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
) -> None:
    """One format into another: TRL's, KTO's, ranked lists, Parquet, a datasets folder; and a manifest."""
    from tropism.cli.data_tables import print_export
    from tropism.data.exporting import export as write_records
    from tropism.data.exporting_rows import ExportOptions
    from tropism.data.importing import ImportReport, export_feedback

    options = ExportOptions(form, conversational, unpair, chosen)  # type: ignore[arg-type]
    splits = _splits(split)
    if (Path(source) / "study.toml").is_file():
        _refuse_for_study(format_, columns, option)
        from tropism.feedback.events import FeedbackLog
        from tropism.study.study import Study

        with Study.open(source) as study:
            some = {} if splits is None else {"splits": splits}
            log = FeedbackLog(study.database)
            print_export(export_feedback(log, out, to, options=options, licence=licence, write=not plan, **some))
        return
    opened, report = _opened(source, format_, columns, option, licence), ImportReport()
    described: list[dict[str, Any]] = []
    records = _described(opened, report, described, skip_bad)
    done = write_records(
        records, out, to, options=options, splits=splits, sources=described, licence=licence, write=not plan
    )
    print_export(done, report)


@app.command()
def show(
    source: SourceName,
    count: Annotated[int, typer.Option("-n", min=0, help="How many records to print.")] = 3,
    format_: Format = "auto",
    columns: Columns = None,
    option: Options = None,
    licence: Licence = None,
) -> None:
    """What a source is recognised as, what it holds, and what of it cannot be used and why. Writes nothing."""
    from tropism.cli.data_tables import print_records, print_source
    from tropism.data.describing import Description
    from tropism.data.importing import ImportReport
    from tropism.data.records import Rejected

    opened, report, made = _opened(source, format_, columns, option, licence), ImportReport(), Description()
    first: list[Record] = []
    for record in opened.records():
        if isinstance(record, Rejected):
            report.rejected.append(record)
            continue
        made.add(record)
        if len(first) < count:
            first.append(record)
    print_source(opened.reading, made, report.rejected, named=format_ != "auto")
    print_records(first, made.records)


def _opened(source: str, format_: str, columns: str | None, options: list[str] | None, licence: str | None) -> Source:
    from tropism.data.importing import opened

    mapped = None if columns is None else column_map(columns)
    return opened(source, format=format_, columns=mapped, licence=licence, **parse_overrides(options or []))


def _described(
    opened: Source, report: ImportReport, described: list[dict[str, Any]], skip_bad: bool
) -> Iterator[Record]:
    """The source's records; its description is complete, and in ``described``, when all of them were taken."""
    from tropism.data.importing import usable_records

    yield from usable_records(opened, report, skip_bad=skip_bad)
    described.append(opened.reading.source)


def _splits(names: str | None) -> Any:
    if names is None:
        return None
    given = [name.strip() for name in names.split(",")]
    for name in given:
        if name not in ("train", "validation", "test"):
            raise ConfigError(f"--split {name!r} is no split", "use train, validation or test, with commas between")
    return given


def _refuse_for_study(format_: str, columns: str | None, option: list[str] | None) -> None:
    for flag, given in (("--format", format_ != "auto"), ("--columns", columns), ("--option", option)):
        if given:
            raise ConfigError(f"{flag} is given, but a study's feedback has no format of its own", "leave it out")
