"""``tropism control train``: an agent on an environment's true reward. OUT is a policy folder (``control/policy.py``).

Left out: learned rewards, which need a teacher: that is a study (``tropism new DIR --recipe control/…``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tropism.control.config import AlgorithmSections, EnvironmentSection, EvaluationSection
from tropism.control.evaluate import evaluate, random_returns
from tropism.control.policy import save_policy
from tropism.environments.stepping import Environments
from tropism.evaluation.intervals import bootstrap_mean
from tropism.jobs.config import JobConfig, RunSection
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.plan import Plan, measured
from tropism.runtime.checkpoints import load_state, save_state
from tropism.runtime.seeding import derive
from tropism.runtime.stage import ProgressSink
from tropism.settings.paths import PathKind

ACTIVITY = "train"
RANDOM_EPISODES = 20


class TrueRewardEnvironment(EnvironmentSection):
    """``[environment]`` as Gymnasium has it: episodes end where they end."""

    horizon: str = Field("variable", pattern="^(fixed|variable)$")  # type: ignore[assignment]


class ControlTrainConfig(JobConfig, AlgorithmSections):
    """All settings of ``tropism control train``."""

    job: ClassVar[str] = "control train"
    path_settings: ClassVar[Mapping[str, PathKind]] = {}

    environment: TrueRewardEnvironment = TrueRewardEnvironment()
    evaluation: EvaluationSection = EvaluationSection()
    run: RunSection = RunSection(threads=1)  # networks this small lose more to a second thread's waiting than they gain


def run(config: ControlTrainConfig, out: Path, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Train into the folder ``out``. Values: ``steps``, ``true_return`` (of the trained policy's mode, with interval),
    ``random_return``, ``episodes`` (finished while training), ``steps_per_cpu_second``. Errors: ConfigError for an
    environment or an algorithm that does not fit; DivergenceError; those of ``folder.run_job``."""
    return run_job(out, Job.of(config, {}), lambda folder: _train(config, folder), progress)


def plan(config: ControlTrainConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on a few real turns."""
    made = Plan(ControlTrainConfig.job, out)
    environments = _environments(config)
    agent = config.make(environments, config.run.seed)
    made.line("environment", f"{config.environment.id}, {environments.count} copies")
    made.line("agent", f"{config.agent.algorithm}, {config.agent.steps} environment steps")
    turns = 3
    cost = measured(lambda _: [agent.advance(None, 0.0) for _ in range(turns)])
    each = environments.steps
    made.cost(cost, each, max(config.agent.steps, each))
    environments.close()
    return made


def _environments(config: ControlTrainConfig) -> Environments:
    spec, count = config.environment.spec(), config.environment.count
    return Environments(spec, count, derive(config.run.seed, "environments"))


def _train(config: ControlTrainConfig, folder: JobFolder) -> None:
    run, total = folder.run, config.agent.steps
    environments = _environments(config)
    agent = config.make(environments, derive(config.run.seed, "agent"))
    turn, episodes = 0, list[float]()
    if (found := run.latest_checkpoint(ACTIVITY)) is not None:
        tensors, meta = load_state(found[1])
        agent.restore(tensors, meta["agent"])
        turn, episodes = found[0], meta["episodes"]
    began, spent, first = time.monotonic(), time.process_time(), environments.steps
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
        if stop or time.monotonic() - began > config.agent.checkpoint_seconds:
            held, about = agent.state()
            meta = {"agent": about, "episodes": episodes}
            run.checkpoint(ACTIVITY, turn, lambda f, t=held, m=meta: save_state(f, tensors=t, meta=m))  # type: ignore[misc]
            began = time.monotonic()
        if stop:
            run.check_stop()
    cpu = max(time.process_time() - spent, 1e-9)
    run.log(environments.steps, {"speed/steps_per_cpu_s": (environments.steps - first) / cpu})
    spec, seed = config.environment.spec(), derive(config.run.seed, "starts")
    played = evaluate(agent, spec, config.evaluation.episodes, seed)
    chance = random_returns(spec, RANDOM_EPISODES, derive(config.run.seed, "random"))
    values = folder.values
    values |= {"steps": environments.steps, "episodes": len(episodes), "algorithm": config.agent.algorithm}
    values["true_return"] = bootstrap_mean(played.returns).as_json()
    values |= {"length": float(played.lengths.mean()), "random_return": chance.mean}
    with run.making("policy") as made:
        about = {"algorithm": config.agent.algorithm, "steps": environments.steps, "seed": config.run.seed}
        save_policy(made, agent.policy(), spec, about | {"environment": spec.as_json()})
    environments.close()
    folder.publish(run.folder / "policy")
