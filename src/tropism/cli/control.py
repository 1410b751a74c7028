"""``tropism control train | demonstrate | evaluate``: agents in Gymnasium environments, on the true reward."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tropism.cli.jobs import OnlyPlan, Out, Recipe, Settings, run_or_plan
from tropism.errors import ConfigError, StoreError
from tropism.files import sync_folder

if TYPE_CHECKING:
    from tropism.control.policy import ControlPolicy

app = typer.Typer(
    name="control", help="Agents in Gymnasium environments: train on the true reward, evaluate.", no_args_is_help=True
)


@app.command()
def train(
    out: Out,
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="A Gymnasium id, as HalfCheetah-v5.")] = None,
    algo: Annotated[str | None, typer.Option("--algo", help="ppo, a2c, reinforce, dqn or sac.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Environment steps in all.")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    recipe: Recipe = None,
    settings: Settings = None,
    plan: OnlyPlan = False,
) -> None:
    """Train an agent on an environment's own reward. The same command again goes on where it was."""
    from tropism.cli.control_tables import print_training
    from tropism.jobs import control_train as job
    from tropism.jobs.config import resolve

    flags: dict[str, Any] = {
        "environment.id": env, "agent.algorithm": algo, "agent.steps": steps, "run.seed": seed
    }  # fmt: skip
    config = resolve(job.ControlTrainConfig, flags, settings or [], recipe)
    run_or_plan(
        plan, lambda: job.plan(config, out), lambda progress: job.run(config, out, progress), out, print_training
    )


@app.command()
def demonstrate(
    policy: Annotated[Path, typer.Argument(metavar="DIR", help="A policy's folder.")],
    out: Out,
    episodes: Annotated[int, typer.Option("--episodes", min=1)] = 10,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    sample: Annotated[bool, typer.Option("--sample", help="Draw actions instead of taking the most likely.")] = False,
) -> None:
    """Keep whole episodes of a policy as demonstrations, for a study to start from (demonstrations.folder)."""
    from tropism.control.demonstrations import demonstrate as show
    from tropism.control.demonstrations import save_demonstrations
    from tropism.control.policy import load_policy

    loaded = load_policy(policy)
    with _new_folder(out, "--out") as folder:
        shown = show(
            loaded.actor, loaded.environment, episodes, seed, sample=sample, about={"policy": dict(loaded.about)}
        )
        save_demonstrations(folder, shown)
    returns = ", ".join(f"{r:.4g}" for r in shown.returns[:10])
    typer.echo(f"{len(shown.episodes)} episodes of {loaded.environment.id} in {out}; true returns {returns}")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(metavar="DIR", help="A policy's folder.")],
    episodes: Annotated[int, typer.Option("--episodes", min=1)] = 20,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    sample: Annotated[bool, typer.Option("--sample", help="Draw actions instead of taking the most likely.")] = False,
    video: Annotated[
        Path | None, typer.Option("--video", metavar="DIR", help="A new folder for clips of the first episodes.")
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=1, max=10, help="How many, with --video.")] = 2,
) -> None:
    """Play whole episodes with a trained policy: true returns and lengths, and clips if asked for."""
    from tropism.cli.control_tables import print_returns
    from tropism.control.evaluate import evaluate as play
    from tropism.control.policy import load_policy

    if video is not None and sample:
        raise ConfigError("--video with --sample", "leave one out: clips show the most likely actions")
    loaded = load_policy(policy)
    print_returns(play(loaded.actor, loaded.environment, episodes, seed, sample), loaded.environment.id)
    if video is not None:
        _film(loaded, episodes, seed, min(clips, episodes), video)


def _film(policy: ControlPolicy, episodes: int, seed: int, count: int, out: Path) -> None:
    """The first of the episodes that were just played. Errors: StoreError for a folder that is there, ConfigError where
    nothing can be drawn."""
    from tropism.control.footage import film

    with _new_folder(out, "--video") as folder:
        if why := film({"policy": policy.actor}, policy.environment, episodes, seed, count, folder):
            raise ConfigError(f"no clip of {policy.environment.id}: {why}", "mend that, or leave out --video")
    typer.echo(f"{count} clips in {out}")


@contextmanager
def _new_folder(out: Path, option: str) -> Iterator[Path]:
    """A folder to fill, which appears as ``out`` once it is whole. Errors: StoreError where there is one."""
    if out.exists():
        raise StoreError(f"{out} is there already", f"choose another {option}: nothing is overwritten")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
