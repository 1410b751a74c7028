"""``tropism control train | evaluate``: agents in Gymnasium environments, on the true reward."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tropism.cli.jobs import OnlyPlan, Out, Recipe, Settings, run_or_plan
from tropism.errors import StoreError
from tropism.files import sync_folder

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

    if out.exists():
        raise StoreError(f"{out} is there already", "choose another --out: nothing is overwritten")
    loaded = load_policy(policy)
    shown = show(loaded.actor, loaded.environment, episodes, seed, sample=sample, about={"policy": dict(loaded.about)})
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    save_demonstrations(partial, shown)
    sync_folder(partial)
    partial.rename(out)
    returns = ", ".join(f"{r:.4g}" for r in shown.returns[:10])
    typer.echo(f"{len(shown.episodes)} episodes of {loaded.environment.id} in {out}; true returns {returns}")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(metavar="DIR", help="A policy's folder.")],
    episodes: Annotated[int, typer.Option("--episodes", min=1)] = 20,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    sample: Annotated[bool, typer.Option("--sample", help="Draw actions instead of taking the most likely.")] = False,
) -> None:
    """Play whole episodes with a trained policy: true returns and lengths."""
    from tropism.cli.control_tables import print_returns
    from tropism.control.evaluate import evaluate as play
    from tropism.control.policy import load_policy

    loaded = load_policy(policy)
    print_returns(play(loaded.actor, loaded.environment, episodes, seed, sample), loaded.environment.id)
