"""``tropism reward fit | assess``: a reward model from judged data, and what any reward model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tropism.cli.jobs import (
    Columns,
    Data,
    Format,
    Lora,
    Model,
    OnlyPlan,
    Out,
    Recipe,
    Settings,
    SkipBad,
    data_flags,
    run_or_plan,
)  # fmt: skip

app = typer.Typer(name="reward", help="Reward models: fit one on judgements, assess any.", no_args_is_help=True)


@app.command()
def fit(
    out: Out,
    data: Data = None,
    model: Model = None,
    format_: Format = None,
    columns: Columns = None,
    network: Annotated[
        str | None, typer.Option("--network", help="classifier, frozen, or lexical (needs no language model).")
    ] = None,
    lora: Lora = None,
    recipe: Recipe = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    plan: OnlyPlan = False,
) -> None:
    """Fit a reward model on comparisons, rankings, ratings or labels, and assess it on held-out prompts."""
    from tropism.cli.job_tables import print_fit
    from tropism.jobs import reward_fit as job
    from tropism.jobs.config import resolve

    flags = {"model.path": model, "reward.network": network, "reward.lora.rank": lora}
    flags |= data_flags("data", data, format_, columns, skip_bad)
    config = resolve(job.RewardFitConfig, flags, settings or [], recipe)
    run_or_plan(plan, lambda: job.plan(config, out), lambda progress: job.run(config, out, progress), out, print_fit)


@app.command()
def assess(
    reward: Annotated[str, typer.Argument(metavar="REWARD", help="A reward model's folder or hub name.")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the assessment as JSON too.")] = None,
    format_: Format = None,
    columns: Columns = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
) -> None:
    """Assess a reward model on judged data it has not seen: accuracy beside length alone, by group and annotator."""
    from tropism.cli.job_tables import print_assessment
    from tropism.jobs import reward_assess as job
    from tropism.jobs.config import resolve

    flags = {"reward.path": reward} | data_flags("data", data, format_, columns, skip_bad)
    print_assessment(job.run(resolve(job.RewardAssessConfig, flags, settings or []), out), out)
