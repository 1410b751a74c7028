"""``tropism sft | ppo | evaluate``: one stage alone, on files and folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tropism.errors import ConfigError

if TYPE_CHECKING:
    from tropism.jobs.plan import Plan

Model = Annotated[str | None, typer.Option("--model", metavar="DIR|NAME", help="A Hugging Face folder or hub name.")]
Data = Annotated[str | None, typer.Option("--data", metavar="FILE|DIR|NAME", help="What to train on.")]
Prompts = Annotated[str | None, typer.Option("--prompts", metavar="FILE|DIR|NAME", help="Prompts, in any format.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the result.")]
Format = Annotated[str | None, typer.Option("--format", help="The data's format; by default told from its columns.")]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="OURS=THEIRS,…", help="As in prompt=question,chosen=good.")
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|FILE", help="A built-in recipe or a TOML file of yours.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting. May be repeated.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used; they are counted.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Only say what would happen: sizes, memory, time.")]
Profiled = Annotated[
    bool, typer.Option("--profile", help="Show what each phase cost beside the least that arithmetic allows.")
]
Lora = Annotated[int | None, typer.Option("--lora", metavar="RANK", help="Train adapters of this rank only.")]
Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", metavar="DIR[=WEIGHT]", help="A reward model's folder. May be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Put this group's commands on the application."""
    for command in (sft, ppo, evaluate):
        app.command()(command)


def sft(
    out: Out,
    model: Model = None,
    data: Data = None,
    format_: Format = None,
    columns: Columns = None,
    lora: Lora = None,
    recipe: Recipe = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
    profile: Profiled = False,
) -> None:
    """Fine-tune a model on demonstrations (prompt and completion, or chats). OUT is a Hugging Face folder."""
    from tropism.cli.job_tables import print_profile, print_sft
    from tropism.jobs import sft as job
    from tropism.jobs.config import resolve

    flags = {"model.path": model, "lora.rank": lora} | data_flags("data", data, format_, columns, skip_bad)
    config = resolve(job.SftConfig, flags, settings or [], recipe)
    run_or_plan(
        plan, lambda: job.plan(config, out), lambda progress: job.run(config, out, progress, profile), out, print_sft
    )
    if profile and not plan:
        print_profile(out, "sft")


def ppo(
    out: Out,
    model: Model = None,
    prompts: Prompts = None,
    reward: Rewards = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="DIR|NAME", help="What the KL is measured to [--model]."),
    ] = None,
    format_: Format = None,
    columns: Columns = None,
    lora: Lora = None,
    recipe: Recipe = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
    profile: Profiled = False,
) -> None:
    """Improve a model against reward models (and Python functions) with PPO, leashed to a reference by KL."""
    from tropism.cli.job_tables import print_ppo, print_profile
    from tropism.jobs import ppo as job
    from tropism.jobs.config import resolve

    flags: dict[str, Any] = {"model.path": model, "reference.path": reference, "lora.rank": lora}
    flags |= data_flags("prompts", prompts, format_, columns, skip_bad) | reward_flags(reward)
    config = resolve(job.PpoConfig, flags, settings or [], recipe)
    run_or_plan(
        plan, lambda: job.plan(config, out), lambda progress: job.run(config, out, progress, profile), out, print_ppo
    )
    if profile and not plan:
        print_profile(out, "ppo")


def evaluate(
    out: Out,
    model: Model = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="DIR|NAME", help="The model to compare with.")
    ] = None,
    prompts: Prompts = None,
    reward: Rewards = None,
    gold: Annotated[
        str | None, typer.Option("--gold", metavar="FILE.py:FUNCTION", help="A function that knows the truth.")
    ] = None,
    format_: Format = None,
    columns: Columns = None,
    recipe: Recipe = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
) -> None:
    """Compare a model with a reference on prompts: win rates with intervals, KL, lengths, diversity, samples."""
    from tropism.cli.job_tables import print_evaluation
    from tropism.jobs import evaluate as job
    from tropism.jobs.config import resolve

    flags: dict[str, Any] = {"model.path": model, "reference.path": reference, "judges.gold": gold}
    flags |= data_flags("prompts", prompts, format_, columns, skip_bad) | reward_flags(reward, "judges.models")
    config = resolve(job.EvaluateConfig, flags, settings or [], recipe)
    run_or_plan(
        plan, lambda: job.plan(config, out), lambda progress: job.run(config, out, progress), out, print_evaluation
    )


def data_flags(
    section: str, source: str | None, format_: str | None, columns: str | None, skip_bad: bool
) -> dict[str, Any]:
    """The settings behind a command's data flags; None where a flag was not given."""
    return {
        f"{section}.source": source,
        f"{section}.format": format_,
        f"{section}.columns": None if columns is None else column_map(columns),
        f"{section}.skip_bad": skip_bad or None,
    }


def column_map(text: str) -> dict[str, str]:
    """``prompt=question,chosen=good answer`` as a mapping; ConfigError for anything else."""
    made = {}
    for part in text.split(","):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            fix = "write for example prompt=question,chosen=good"
            raise ConfigError(f"--columns {text!r} is not OURS=THEIRS,…", fix)
        made[ours.strip()] = theirs.strip()
    return made


def reward_flags(given: list[str] | None, setting: str = "rewards.models") -> dict[str, Any]:
    """``DIR`` or ``DIR=WEIGHT``, repeated, as a table of weights; ConfigError for a weight that is no number."""
    made: dict[str, float] = {}
    for item in given or []:
        place, equals, weight = item.rpartition("=")
        try:
            made[place if equals else item] = float(weight) if equals else 1.0
        except ValueError as error:
            raise ConfigError(f"--reward {item!r}: {weight!r} is no weight", "write DIR or DIR=0.5") from error
    return {setting: made or None}


def run_or_plan(
    only_plan: bool,
    make_plan: Callable[[], Plan],
    run: Callable[[Any], Mapping[str, Any]],
    out: Path,
    show: Callable[[Mapping[str, Any], Path], None],
) -> None:
    """Do a job with its progress shown and print what came out, or print its plan."""
    from tropism.cli.job_tables import print_plan
    from tropism.cli.show import progress

    if only_plan:
        print_plan(make_plan())
        return
    with progress() as sink:
        values = run(sink)
    show(values, out)
