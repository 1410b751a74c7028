"""``tropism evaluate``: a model against a reference on prompts, judged by reward models or a function that knows.

OUT holds ``evaluation.json`` (win rates with 95 % intervals, KL, length, diversity), ``samples/samples.jsonl`` (both
answers to every prompt, side by side) and ``README.md`` (both in words).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tropism.data.judgements import to_prompts
from tropism.data.records import Reading
from tropism.engine.generation import Sampling
from tropism.errors import ConfigError
from tropism.feedback.records import Task
from tropism.jobs.config import DataSection, JobConfig, required
from tropism.jobs.folder import Job, JobFolder, run_job
from tropism.jobs.inputs import account, digest_of, digest_of_data, limited, read_data
from tropism.jobs.models import ModelPath
from tropism.jobs.plan import Plan, measured, model_size
from tropism.jobs.rewards import RewardsSection, ScaleSamples, load_models, reward_digests
from tropism.language.config import EvaluationSection, SamplingSection
from tropism.language.evaluate import Evaluator
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_text import shares_ids
from tropism.language.rewards import FunctionReward, RewardSource, call_function
from tropism.runtime.precision import Precision, resolve_precision
from tropism.runtime.stage import ProgressSink, StageRun
from tropism.settings.functions import load_function
from tropism.settings.paths import PathKind


class JudgesSection(RewardsSection):
    """``[judges]``: who says which answer is better. The first named decides the win rates, unless ``gold`` knows."""

    gold: str | None = None
    """``file.py:function`` of (prompts, completions, rows): true utilities."""


class EvaluateConfig(JobConfig):
    """All settings of ``tropism evaluate``."""

    job: ClassVar[str] = "evaluate"
    path_settings: ClassVar[Mapping[str, PathKind]] = {
        "model.path": "model",
        "model.chat_template": "file",
        "reference.path": "model",
        "reference.chat_template": "file",
        "prompts.source": "model",
        "judges.models": "models",
        "judges.functions": "functions",
        "judges.gold": "function",
    }

    model: ModelPath = ModelPath()
    reference: ModelPath = ModelPath()
    prompts: DataSection = DataSection()
    judges: JudgesSection = JudgesSection()
    sampling: SamplingSection = SamplingSection()
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)


class _Truth:
    """What is known of an answer: the gold function's value, and no aspects. What ``Evaluator`` asks of a world."""

    name = "files"

    def __init__(self, gold: str | None) -> None:
        self._name, self._gold = gold, load_function(gold) if gold else None

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        """None are known."""
        return {}

    def gold(self, task: Task, text: str) -> float | None:
        """The function's value, or None without one; RewardError where it raises or is no finite number."""
        if self._gold is None or self._name is None:
            return None
        return float(call_function(self._gold, self._name, [task], [text])[0])


@dataclass(frozen=True)
class _Work:
    policies: dict[str, LanguagePolicy]
    judges: dict[str, RewardSource]
    sampling: Sampling
    precision: Precision
    cut: int


def run(config: EvaluateConfig, out: Path, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Compare ``model.path`` with ``reference.path`` into the folder ``out``; returns the evaluation.

    Values: ``metrics`` (flat numbers; intervals as ``_low`` and ``_high``), ``judge`` (who decided), ``promote`` and
    ``reasons`` (as a study would decide), ``prompts``. Errors: as the other jobs'.
    """
    reading, tasks, digests = _read(config)
    return run_job(out, Job.of(config, digests), lambda folder: _compare(config, reading, tasks, folder), progress)


def plan(config: EvaluateConfig, out: Path) -> Plan:
    """What ``run`` would do, with time and memory measured on a few prompts in a temporary folder."""
    reading, tasks, _ = _read(config)
    made = Plan(EvaluateConfig.job, out)
    made.data("prompts", reading)
    work = _load(config, tasks)
    few = tasks[: max(4, len(tasks) // 20)]
    made.line("prompts", f"{len(tasks)} answered by each model, {work.cut} cut from the left to leave room")
    for name, policy in work.policies.items():
        made.line(name, model_size(policy.model))
    made.line("judges", ", ".join([*work.judges, *(["gold"] if config.judges.gold else [])]) or "none")

    def answer(folder: Path) -> None:
        _evaluator(config, work, StageRun("plan", folder, 0)).compare(work.policies, few, work.judges)

    cost = measured(answer)
    made.cost(cost, len(few), len(tasks))
    return made


def _read(config: EvaluateConfig) -> tuple[Reading, list[Task], dict[str, str]]:
    model = required(config.model.path, "model.path", "--model")
    reference = required(config.reference.path, "reference.path", "--reference")
    if not config.judges.models and not config.judges.functions and config.judges.gold is None:
        raise ConfigError(
            "nothing says which answer is better", "give --reward DIR, --gold FILE.py:FUNCTION or judges.functions"
        )
    reading = read_data(config.prompts, "--prompts", "prompts.source")
    # all of them: whoever names a file to evaluate on means all of its rows, whatever split they come from
    tasks = to_prompts([replace(r, split="test") for r in reading.records])[: config.evaluation.prompts]
    digests = {"model": digest_of(model), "reference": digest_of(reference), "prompts": digest_of_data(reading)}
    return reading, tasks, digests | dict(reward_digests(config.judges))


def _load(config: EvaluateConfig, tasks: list[Task]) -> _Work:
    policy, reference = config.model.load(), config.reference.load("reference.path", "--reference")
    if not shares_ids(policy.tokenizer, reference.tokenizer):
        raise ConfigError(
            f"{config.model.path} and {config.reference.path} have different tokenizers: there is no KL between them",
            "compare models that share one, as a policy and what it started from do",
        )
    (policy, cut), (reference, _) = (limited(p, tasks, config.sampling.max_new_tokens) for p in (policy, reference))
    sampling = Sampling(config.sampling.max_new_tokens, policy.eos, config.sampling.temperature)
    precision = resolve_precision(config.run.precision)
    samples = ScaleSamples(reference, tasks, sampling, precision)
    judges: dict[str, RewardSource] = {
        name: samples.scaled(model) for name, model in load_models(config.judges, policy).values()
    }
    for reference_, weight in config.judges.functions.items():
        function = FunctionReward(reference_, weight, load_function(reference_))
        judges[function.name] = function
    if judges:  # the first is the judge by which win rates are told
        first = next(iter(judges))
        judges = {"judge": judges[first], **{name: judge for name, judge in judges.items() if name != first}}
    return _Work({"policy": policy, "reference": reference}, judges, sampling, precision, cut)


def _evaluator(config: EvaluateConfig, work: _Work, run: StageRun) -> Evaluator:
    return Evaluator(_Truth(config.judges.gold), config.evaluation, work.sampling, work.precision, run)


def _compare(config: EvaluateConfig, reading: Reading, tasks: list[Task], folder: JobFolder) -> None:
    work = _load(config, tasks)
    made = _evaluator(config, work, folder.run).compare(work.policies, tasks, work.judges)
    deciding = "gold" if config.judges.gold else next(iter([*config.judges.models, *config.judges.functions]))
    values = folder.values
    values |= {
        "prompts": account(reading) | {"answered": len(tasks), "cut": work.cut},
        "judge": deciding,
        **made.values,
    }
    with folder.run.making("result") as result:
        (result / "evaluation.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    folder.publish(folder.run.folder / "result")
    folder.publish_folder(made.folders["samples"], "samples")
