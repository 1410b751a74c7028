"""``tropism reward assess``: what any reward model is worth on judged data that it has not seen.

Left out: telling whether it has seen them: give data that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tropism.data.judgements import to_judgements
from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement, Task
from tropism.jobs.config import DataSection, JobConfig, required
from tropism.jobs.folder import writing_file
from tropism.jobs.inputs import account, read_data
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered
from tropism.reward.assessment import assess_scores
from tropism.reward.dataset import RewardData
from tropism.runtime.memory import tune
from tropism.runtime.precision import resolve_precision
from tropism.settings.paths import PathKind
from tropism.settings.sections import Section

ENOUGH_GROUPS = 10
"""From so many groups on (topics, trees) intervals count groups as independent; with fewer, prompts."""


class RewardPath(Section):
    """``[reward]``: the reward model."""

    path: str = ""
    """A folder of `tropism reward fit`, or any Hugging Face sequence classifier by folder or name."""
    label: int | str | None = Field(None)
    """Which output is the reward, where a classifier from elsewhere has several."""
    longer: bool = True
    """The length-only baseline prefers the longer answer; false: the shorter."""


class RewardAssessConfig(JobConfig):
    """All settings of ``tropism reward assess``."""

    job: ClassVar[str] = "reward assess"
    path_settings: ClassVar[Mapping[str, PathKind]] = {"reward.path": "model", "data.source": "model"}

    reward: RewardPath = RewardPath()
    data: DataSection = DataSection()


def run(config: RewardAssessConfig, out: Path | None = None) -> dict[str, Any]:
    """Assess ``reward.path`` on all of ``data.source``; returns the assessment, and writes it to the file ``out``.

    Values: ``source`` (every row accounted for), ``judgements``, ``assessment``, ``rows_cut``. Errors: DataError,
    ModelError and StoreError with the fix; DataError where ``out`` exists.
    """
    if out is not None and out.exists():
        raise DataError(f"{out} exists already", "choose another --out: nothing is overwritten")
    path = required(config.reward.path, "reward.path", "REWARD")
    tune(config.run.threads, config.run.tune_memory, config.run.passive_wait)
    reading = read_data(config.data)
    # all of it is held out: whoever names data to assess on means all of its rows, whatever split they come from
    judged = to_judgements(replace(record, split="validation") for record in reading.records)
    if not len(RewardData.from_judgements(judged.judgements)):
        raise DataError(
            f"{config.data.source} was read as {reading.source.get('format')} and holds no judgement to assess on",
            "give comparisons, votes, rankings, ratings or labels",
        )
    reward = LearnedReward.load(path, label=config.reward.label, precision=resolve_precision(config.run.precision))
    values: dict[str, Any] = {"source": account(reading), "judgements": judged.summary()}
    values |= assess(reward, judged.judgements, config.reward.longer)
    if out is not None:
        with writing_file(out):
            out.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return values


def assess(reward: LearnedReward, judgements: Sequence[Judgement], longer: bool = True) -> dict[str, Any]:
    """``assessment`` of a reward model on judgements that it has not seen, and ``rows_cut``. Lengths are characters."""
    rows: dict[str, tuple[Task, Candidate]] = {c.id: (j.task, c) for j in judgements for c in j.candidates}
    for task, candidate in rows.values():
        if not isinstance(candidate.content.get("text"), str):
            raise DataError(
                f"candidate {candidate.id} of prompt {str(task.payload.get('prompt'))!r:.60} has no text "
                f"(it is a {candidate.kind})",
                "a reward model of language reads texts: give data that hold them",
            )
    answered = [Answered.of(task, candidate) for task, candidate in rows.values()]
    reward.rows_cut = 0
    scores = reward.combine(reward.member_scores(answered)).tolist()
    groups = len({str(task.payload.get("group", "")) for task, _ in rows.values()})
    found = assess_scores(
        dict(zip(rows, scores, strict=True)),
        judgements,
        {id_: len(str(candidate.content["text"])) for id_, (_, candidate) in rows.items()},
        "group" if groups > 1 else None,
        cluster_by="group" if groups >= ENOUGH_GROUPS else None,
        longer=longer,
        rows_cut=reward.rows_cut,
    )
    return {"assessment": found.as_json(), "rows_cut": reward.rows_cut}
