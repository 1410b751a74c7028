"""Our side of ``pairs_speed.py``: one process, one JSON line.

    python pairs_speed_ours.py --models FOLDER --trainer sft|reward --precision fp32|autocast|bf16 [--steps 6] …

Both trainers are the public ones (``fine_tune``; ``fit`` of a classifier), timed from one logged step to the next. An
epoch of the reward model is one batch of pairs, the same in every step: what the tokens are makes no difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import transformers

import tropism
from tropism.engine.models import load_policy
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task
from tropism.language.config import RewardModelSection
from tropism.language.fit_reward import Fitting, fit_settings
from tropism.language.reward_text import Answered
from tropism.language.sft import Example, SftSettings, fine_tune
from tropism.monitoring.phases import peak_rss_mib
from tropism.reward.dataset import RewardData
from tropism.runtime.memory import tune
from tropism.runtime.precision import PrecisionName, resolve_precision
from tropism.runtime.stage import StageRun


class Clock:
    """A metric sink that notes when it is written to: once a step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.values: list[dict[str, float]] = []

    def write(self, phase: str, step: int, values: Any) -> None:
        """Wall and CPU seconds now."""
        self.marks.append((time.perf_counter(), time.process_time()))
        self.values.append(dict(values))

    def steps(self, skip: int) -> list[dict[str, float]]:
        """From each mark to the next, without the first ``skip`` steps (the first step has no mark before it)."""
        pairs = zip(self.marks[skip - 1 :], self.marks[skip:], strict=False)
        return [{"wall_s": b[0] - a[0], "cpu_s": b[1] - a[1]} for a, b in pairs]


def sft(given: argparse.Namespace, rows: Sequence[dict[str, Any]], run: StageRun, clock: Clock) -> int:
    """Fine-tune on prompt + chosen, every token but the first a target; tokens of a step."""
    model, tokenizer = load_policy(given.models / "lm")
    examples = [Example(((tuple(row["prompt"] + row["chosen"]), True),)) for row in rows]
    length = len(rows[0]["prompt"]) + len(rows[0]["chosen"])
    settings = SftSettings(
        steps=given.steps, batch_size=given.batch, learning_rate=1e-5, warmup_steps=0, max_length=length,
        precision=given.precision, checkpoint_every=given.steps + 1,
    )  # fmt: skip
    fine_tune(model, tokenizer, examples, settings, run)
    targets = {values["sft/tokens"] for values in clock.values}
    if targets != {float(given.batch * (length - 1))}:
        raise ValueError(f"steps trained on {sorted(targets)} tokens, not {given.batch} rows of {length} less one")
    return given.batch * length


def reward(given: argparse.Namespace, rows: Sequence[dict[str, Any]], run: StageRun, clock: Clock) -> int:
    """Fit a classifier whole on ``given.batch`` pairs, once an epoch; tokens of a step."""
    _, tokenizer = load_policy(given.models / "lm")
    judgements = [judgement(row) for row in rows[: given.batch]]
    data = RewardData.from_judgements(judgements)
    answered = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    settings = RewardModelSection(
        network="classifier", epochs=given.steps, batch_size=given.batch, learning_rate=1e-5, head_learning_rate=1e-5,
        micro_batch_tokens=1 << 20, patience=given.steps, judge=False,
    )  # fmt: skip
    fitting = Fitting(given.models / "lm", answered, settings, resolve_precision(given.precision), tokenizer, None)
    made = fitting.untrained(data, run.seed)
    encoded = made.model.encoded
    read = [p + c for p, c in zip(encoded.prompts, encoded.completions, strict=True)]
    wanted = [row["prompt"] + row[which] for row in rows[: given.batch] for which in ("chosen", "rejected")]
    if sorted(read) != sorted(wanted):
        raise ValueError("the reward model reads other ids than were written: make the folder anew")
    made.fit(made.model, data, fit_settings(settings), run.seed, run)
    if len(clock.marks) != given.steps:
        raise ValueError(f"{len(clock.marks)} steps were made, not {given.steps}")
    return sum(map(len, read))


def judgement(row: dict[str, Any]) -> Judgement:
    """That the chosen completion of a row is better."""
    task = Task("train", {"prompt": row["text"]})
    made_by = Provenance("benchmark")
    pair = [
        Candidate(task.id, "text", {"text": which, "tokens": row[which], "stop": "eos"}, made_by)
        for which in ("chosen", "rejected")
    ]
    query = Query(task.id, "comparison", (pair[0].id, pair[1].id), (0, 1), 0)
    return Judgement(task.id, "benchmark", query, task, tuple(pair), {"kind": "comparison", "choice": "a"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--trainer", choices=("sft", "reward"), required=True)
    parser.add_argument("--precision", choices=get_args(PrecisionName), required=True)
    for name, default in {"steps": 6, "skip": 2, "threads": 2, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if not 1 <= given.skip < given.steps:
        parser.error(f"--skip {given.skip}: at least one step, and fewer than --steps {given.steps}")
    tune(given.threads)
    rows = [json.loads(line) for line in (given.models / "pairs.jsonl").read_text("utf-8").splitlines()]
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        run = StageRun("speed", Path(scratch), 0, metrics=clock)
        tokens = {"sft": sft, "reward": reward}[given.trainer](given, rows, run, clock)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tropism)}
    made = {"steps": clock.steps(given.skip), "tokens": tokens, "peak_rss_mib": peak_rss_mib()}
    print(json.dumps(made | {"versions": versions}))


if __name__ == "__main__":
    main()
