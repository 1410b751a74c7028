"""``tropism ppo``: PPO of a model on prompts against reward models and Python functions. OUT is a Hugging Face folder.

The reference is the model itself unless another is named. Left out: collecting feedback, and the rounds of a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tropism.data.judgements import to_demonstrations, to_prompts
from tropism.data.records import Reading
from tropism.engine.adapters import LoraSettings
from tropism.engine.generation import Sampling
from tropism.errors import ConfigError, DataError
from tropism.feedback.records import Task
from tropism.jobs.cards import ppo_card
from tropism.jobs.config import DataSection, JobConfig, required
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.inputs import account, digest_of, digest_of_data, limited, read_data
from tropism.jobs.models import ModelPath
from tropism.jobs.plan import Plan, measured, model_size
from tropism.jobs.profile import write_profile
from tropism.jobs.rewards import RewardsSection, ScaleSamples, load_rewards, reward_digests
from tropism.language.config import PpoSection, SamplingSection
from tropism.language.leash import leashed
from tropism.language.policy import ActorCritic, LanguagePolicy
from tropism.language.ppo import PpoTrainer
from tropism.language.rewards import RewardSum
from tropism.runtime.precision import Precision, resolve_precision
from tropism.runtime.stage import ProgressSink, StageRun
from tropism.settings.paths import PathKind


class PpoConfig(JobConfig):
    """All settings of ``tropism ppo``."""

    job: ClassVar[str] = "ppo"
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "model.path": "model",
        "model.chat_template": "file",
        "reference.path": "model",
        "reference.chat_template": "file",
        "prompts.source": "model",
        "demonstrations.source": "model",
        "rewards.models": "models",
        "rewards.functions": "functions",
    }

    model: ModelPath = ModelPath()
    reference: ModelPath = ModelPath()
    """What the KL is measured to; without a path the model as it is at the start."""
    prompts: DataSection = DataSection()
    demonstrations: DataSection = DataSection()
    """For the pretraining mix (``ppo.ptx_coef``)."""
    rewards: RewardsSection = RewardsSection()
    sampling: SamplingSection = SamplingSection()
    lora: LoraSettings = LoraSettings()
    ppo: PpoSection = PpoSection()


@dataclass(frozen=True)
class _Inputs:
    """What was read before any model is loaded."""

    reading: Reading
    tasks: list[Task]
    demonstrations: list[tuple[dict[str, Any], str]]
    digests: dict[str, str]


def run(config: PpoConfig, out: Path, progress: ProgressSink | None = None, profile: bool = False) -> dict[str, Any]:
    """Improve ``model.path`` on ``prompts.source`` into the folder ``out``; returns what came out.

    Values: ``prompts`` (every row accounted for), ``steps``, ``rollbacks``, ``first`` and ``last`` (score and sequence
    KL of those steps), ``metrics`` (all of the last step). Rollouts with their reward by component stay in
    ``out/rollouts``. ``profile``: also measure the floor of what it cost (``jobs/profile.py``). Errors: ModelError,
    DataError, RewardError, ConfigError, DivergenceError with the fix; those of ``folder.run_job``.
    """
    inputs = _read(config)
    return run_job(
        out, Job.of(config, inputs.digests), lambda folder: _train(config, inputs, folder, profile), progress
    )


def plan(config: PpoConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on one real step in a temporary folder."""
    inputs, made, p = _read(config), Plan(PpoConfig.job, out), config.ppo
    loaded = _load(config, inputs)
    # a critic's warm-up step is cheaper than the others
    whole = config.model_copy(update={"ppo": p.model_copy(update={"critic_warmup_steps": 0})})
    made.data("prompts", inputs.reading)
    made.line(
        "distinct", f"{len(inputs.tasks)} prompts, {loaded.cut} of them cut from the left to leave room to answer"
    )
    made.line("model", model_size(loaded.policy.model))
    made.line("reward", ", ".join([*config.rewards.models, *config.rewards.functions]))
    batches = f"{p.epochs} epochs in mini-batches of {p.mini_batch_size}"
    made.line("steps", f"{p.steps} of {p.batch_size} completions, {batches}")
    cost = measured(lambda folder: _trainer(whole, inputs, loaded, StageRun("plan", folder, config.run.seed)).step())
    made.cost(cost, 1, p.steps)
    made.line("note", "completions that grow while the policy learns make later steps longer")
    return made


def _read(config: PpoConfig) -> _Inputs:
    model = required(config.model.path, "model.path", "--model")
    reading = read_data(config.prompts, "--prompts", "prompts.source")
    digests = {"model": digest_of(model), "prompts": digest_of_data(reading), **reward_digests(config.rewards)}
    if config.reference.path:
        digests["reference"] = digest_of(config.reference.path)
    tasks = [task for task in to_prompts(reading.records, validation_share=0.0) if task.split != "test"]
    if not tasks:
        raise DataError(f"all prompts of {config.prompts.source} are of the test split", "give prompts to train on")
    demonstrations: list[tuple[dict[str, Any], str]] = []
    if config.ppo.ptx_coef:
        mixed = read_data(config.demonstrations, "--set demonstrations.source=FILE", "demonstrations.source")
        digests["demonstrations"] = digest_of_data(mixed)
        demonstrations = to_demonstrations(mixed.records)
    elif config.demonstrations.source:
        raise ConfigError("demonstrations.source is set, and ppo.ptx_coef is 0", "raise ppo.ptx_coef, or remove it")
    return _Inputs(reading, tasks, demonstrations, digests)


@dataclass(frozen=True)
class _Loaded:
    """Everything that a trainer is made of, and how many prompts are cut to leave room to answer."""

    policy: LanguagePolicy
    reference: LanguagePolicy
    rewards: RewardSum
    sampling: Sampling
    precision: Precision
    cut: int


def _load(config: PpoConfig, inputs: _Inputs) -> _Loaded:
    start, cut = limited(config.model.load(), inputs.tasks, config.sampling.max_new_tokens)
    given = config.reference.load() if config.reference.path else None
    policy, reference = leashed(start, given, config.lora, config.run.seed, base=config.model.path)
    sampling = Sampling(config.sampling.max_new_tokens, policy.eos, config.sampling.temperature)
    precision = resolve_precision(config.run.precision)
    rewards = load_rewards(config.rewards, ScaleSamples(reference, inputs.tasks, sampling, precision))
    return _Loaded(policy, reference, rewards, sampling, precision, cut)


def _trainer(config: PpoConfig, inputs: _Inputs, loaded: _Loaded, run: StageRun) -> PpoTrainer:
    policy = loaded.policy
    pairs = [(policy.encode_task(p), policy.encode_completion(c, payload=p)) for p, c in inputs.demonstrations]
    return PpoTrainer(
        policy=policy,
        reference=loaded.reference,
        actor=ActorCritic(policy.model, config.ppo.value_trunk),
        rewards=loaded.rewards,
        tasks=inputs.tasks,
        settings=config.ppo,
        sampling=loaded.sampling,
        precision=loaded.precision,
        run=run,
        demonstrations=pairs,
    )


def _train(config: PpoConfig, inputs: _Inputs, folder: JobFolder, profile: bool) -> None:
    loaded = _load(config, inputs)
    trainer = _trainer(config, inputs, loaded, folder.run)
    last = trainer.train()
    if profile:
        write_profile(folder, trainer.actor.working.model, loaded.precision)
    values, state = folder.values, trainer.state
    values["prompts"] = account(inputs.reading) | {"distinct": len(inputs.tasks), "cut": loaded.cut}
    values |= {"steps": state.step, "rollbacks": state.rollbacks, "metrics": last}
    (kl_first, first, _), (kl_last, final, _) = state.history[0], state.history[-1]
    values["first"] = {"score": first, "kl_sequence": kl_first}
    values["last"] = {"score": final, "kl_sequence": kl_last}
    about = {"job": PpoConfig.job, "base": config.model.about(), "steps": state.step}
    card = ppo_card(folder.out, config.model.about(), config.model_dump(mode="json"), values)
    with folder.run.making("model") as made:
        trainer.policy.save(made, about, card, adapters=config.lora)
    folder.publish(folder.run.folder / "model")
    folder.publish_folder(folder.run.folder / "rollouts", "rollouts")
