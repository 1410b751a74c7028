"""``tropism control train``: an agent on an environment's true reward. OUT is a policy folder (``control/policy.py``)
with clips of the policy in ``clips/``, where they can be drawn.

Left out: learned rewards, which need a teacher: that is a study (``tropism new DIR --recipe control/…``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tropism.control.agent import Agent
from tropism.control.config import AlgorithmSections, EnvironmentSection, PlayedSection
from tropism.control.evaluate import evaluate, random_returns
from tropism.control.footage import film
from tropism.control.policy import save_policy
from tropism.digests import digest_folder
from tropism.environments.stepping import Environments
from tropism.evaluation.intervals import bootstrap_mean
from tropism.jobs.config import JobConfig, RunSection
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.plan import Plan, measured
from tropism.runtime.checkpoints import Pace, load_state, save_state
from tropism.runtime.seeding import derive
from tropism.runtime.stage import ProgressSink
from tropism.settings.paths import PathKind

ACTIVITY = "train"
RANDOM_EPISODES = 20
CLIPS = "clips"
"""Folder of the clips, in OUT."""


class TrueRewardEnvironment(EnvironmentSection):
    """``[environment]`` as Gymnasium has it: episodes end where they end."""

    horizon: str = Field("variable", pattern="^(fixed|variable)$")  # type: ignore[assignment]


class ControlTrainConfig(JobConfig, AlgorithmSections):
    """All settings of ``tropism control train``."""

    job: ClassVar[str] = "control train"
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "environment.reward": "function",
        "environment.wrapper": "function",
        "agent.start": "file",
    }

    environment: TrueRewardEnvironment = TrueRewardEnvironment()
    evaluation: PlayedSection = PlayedSection()
    run: RunSection = RunSection(threads=1)  # networks this small lose more to a second thread's waiting than they gain


def run(config: ControlTrainConfig, out: Path, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Train into the folder ``out``. Values: ``steps``, ``true_return`` (of the trained policy's mode, with interval),
    ``random_return``, ``episodes`` (finished while training), ``clips`` (how many starts are shown, or why none).
    Errors: ConfigError for an environment or an algorithm that does not fit; ModelError for a policy to start from that
    does not; DivergenceError; those of ``folder.run_job``."""
    inputs, start = config.environment.code_digests(), config.agent.start
    if start is not None:
        inputs["agent.start"] = digest_folder(start)
    return run_job(out, Job.of(config, inputs), lambda folder: _train(config, folder), progress)


def plan(config: ControlTrainConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on a few real turns."""
    made = Plan(ControlTrainConfig.job, out)
    environments = config.environment.copies(config.run.seed)
    agent = _agent(config, environments)
    made.line("environment", f"{config.environment.id}, {environments.count} copies")
    made.line("agent", f"{config.agent.algorithm}, {config.agent.steps} environment steps")
    turns = 3
    cost = measured(lambda _: [agent.advance(None, 0.0) for _ in range(turns)])
    each = environments.steps
    made.cost(cost, each, max(config.agent.steps, each))
    environments.close()
    return made


def _agent(config: ControlTrainConfig, environments: Environments) -> Agent:
    agent = config.make(environments, derive(config.run.seed, "agent"))
    config.begin(agent)
    return agent


def _train(config: ControlTrainConfig, folder: JobFolder) -> None:
    environments = config.environment.copies(config.run.seed)
    agent = _agent(config, environments)
    episodes = _learn(config, folder, agent)
    _hand_over(config, folder, agent, episodes)
    environments.close()
    folder.publish(folder.run.folder / "policy")


def _learn(config: ControlTrainConfig, folder: JobFolder, agent: Agent) -> int:
    """All steps, with checkpoints. Returns how many episodes have ended."""
    run, total, environments = folder.run, config.agent.steps, agent.environments
    turn, episodes = 0, list[float]()
    if (found := run.latest_checkpoint(ACTIVITY)) is not None:
        tensors, meta = load_state(found[1], mapped=lambda name: True)
        agent.restore(tensors, meta["agent"])
        turn, episodes = found[0], meta["episodes"]
    pace, spent, first = Pace(config.agent.checkpoint_seconds), time.process_time(), environments.steps
    while environments.steps < total:
        _, metrics = agent.advance(None, min(1.0, environments.steps / total))
        turn += 1
        ended = [f.returned for f in environments.take_finished()]
        episodes += ended
        if ended:
            metrics["episode/true_return"] = sum(ended) / len(ended)
        run.log(environments.steps, metrics)
        recent = episodes[-20:]
        note = f"true return {sum(recent) / len(recent):.4g}" if recent else ""
        run.progress.update(ACTIVITY, min(environments.steps, total), total, note)
        stop = run.stop_requested()
        if stop or pace.due:
            with pace.saving():
                held, about = agent.state()
                meta = {"agent": about, "episodes": episodes}
                run.checkpoint(ACTIVITY, turn, partial(save_state, tensors=held, meta=meta))
        if stop:
            run.check_stop()
    cpu = max(time.process_time() - spent, 1e-9)
    run.log(environments.steps, {"speed/steps_per_cpu_s": (environments.steps - first) / cpu})
    return len(episodes)


def _hand_over(config: ControlTrainConfig, folder: JobFolder, agent: Agent, episodes: int) -> None:
    """What the trained policy is worth, its weights, and clips of it on the first starts of that evaluation."""
    spec, seed, settings = config.environment.spec(), derive(config.run.seed, "starts"), config.evaluation
    played = evaluate(agent, spec, settings.episodes, seed)
    chance = random_returns(spec, RANDOM_EPISODES, derive(config.run.seed, "random"))
    values, steps = folder.values, agent.environments.steps
    values |= {"steps": steps, "episodes": episodes, "algorithm": config.agent.algorithm}
    values["true_return"] = bootstrap_mean(played.returns).as_json()
    values |= {"length": float(played.lengths.mean()), "random_return": chance.mean}
    shown, why = min(settings.clips, settings.episodes), ""
    with folder.run.making("policy") as made:
        about = {"algorithm": config.agent.algorithm, "steps": steps, "seed": config.run.seed}
        save_policy(made, agent.policy(), spec, about | {"environment": spec.as_json()})
        if shown:
            clips = made / CLIPS
            clips.mkdir()
            why = film({"policy": agent}, spec, settings.episodes, seed, shown, clips)
    values["clips"] = {"starts": 0 if why else shown, "why_none": why}
