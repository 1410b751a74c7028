"""Evaluation of a language policy on held-out prompts, against the reference and the policy before it.

Utilities for win rates are the world's gold where it knows the truth, else the scores of a judge: a second reward model
fitted on the held-out split, which training never saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, Sampling, generate
from tropism.engine.scoring import predicting_states, scores_from
from tropism.engine.working import Working
from tropism.errors import ConfigError
from tropism.evaluation.bradley_terry import fit_bradley_terry
from tropism.evaluation.diversity import distinct_n
from tropism.evaluation.intervals import Interval, bootstrap_mean, bootstrap_paired
from tropism.evaluation.winrate import length_controlled_win_rate, outcomes, win_rate
from tropism.feedback.records import Task
from tropism.language.config import EvaluationSection
from tropism.language.policy import LanguagePolicy
from tropism.language.rewards import RewardSource
from tropism.language.rollouts import write_rows
from tropism.language.worlds.base import Rubric
from tropism.runtime.precision import Precision
from tropism.runtime.stage import Made, StageRun

CHUNK = 64
SAMPLING_SEED = 20_170_612
"""One seed for every evaluation: policies with equal weights give equal answers."""


@dataclass
class Sampled:
    """One policy's answers to the test prompts, N of each."""

    generation: Generation
    texts: list[str]
    aspects: dict[str, NDArray[np.float64]]
    """Each ``[N]``, NaN where an aspect does not apply."""
    gold: NDArray[np.float64] | None
    scores: dict[str, NDArray[np.float64]]
    """By judge, each ``[N]``."""

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Completion lengths in tokens ``[N]``."""
        return np.array([len(c) for c in self.generation.completions], dtype=np.float64)


@dataclass
class Evaluator:
    """Compares policies on one world's test tasks."""

    world: Rubric
    settings: EvaluationSection
    sampling: Sampling
    precision: Precision
    run: StageRun

    def compare(
        self, policies: Mapping[str, LanguagePolicy], tasks: Sequence[Task], judges: Mapping[str, RewardSource]
    ) -> Made:
        """``policies`` holds ``policy`` and ``reference``, perhaps ``previous``; ``judges`` perhaps ``proxy``,
        ``judge`` and the Python rewards (``reward_NAME``)."""
        sampled: dict[str, Sampled] = {}
        for done, (name, policy) in enumerate(policies.items()):
            self.run.check_stop()
            sampled[name] = self.sample(policy, tasks, judges)
            self.run.progress.update("evaluate", done + 1, len(policies), name)
        metrics = self.metrics(sampled)
        metrics |= self.divergence(policies["policy"], policies["reference"], sampled["policy"].generation)
        ratings = self.ratings(sampled)
        if "policy" in ratings:
            metrics |= {f"rating{end}": ratings["policy"][key] for end, key in _ENDS.items()}
        kept = self.kept(metrics)
        promote, reasons = self.decision(metrics, kept)
        with self.run.making("samples") as folder:
            write_rows(folder / "samples.jsonl", iter(self.rows(tasks, sampled)))
            (folder / "tasks.json").write_text(json.dumps([t.id for t in tasks]))
        self.run.log(0, {f"evaluation/{name}": value for name, value in metrics.items()})
        values = {"metrics": metrics, "kept": kept, "promote": promote, "reasons": reasons, "ratings": ratings}
        return Made({"samples": self.run.folder / "samples"}, values)

    def sample(self, policy: LanguagePolicy, tasks: Sequence[Task], judges: Mapping[str, RewardSource]) -> Sampled:
        """One answer per task, measured."""
        prompts = [policy.encode_task(t.payload) for t in tasks]
        out = generate(
            policy.model, prompts, self.sampling, seed=SAMPLING_SEED, sequence_ids=range(len(prompts)),
            policy_version=self.run.name, precision=self.precision,
        )  # fmt: skip
        texts = [policy.decode(c) for c in out.completions]
        table = [self.world.aspects(t, x) for t, x in zip(tasks, texts, strict=True)]
        names = sorted({name for row in table for name in row})
        found = {n: np.array([np.nan if row.get(n) is None else float(row[n] or 0.0) for row in table]) for n in names}
        gold = [self.world.gold(t, x) for t, x in zip(tasks, texts, strict=True)]
        known = None if any(g is None for g in gold) else np.array(gold, dtype=np.float64)
        scores = {name: judge(list(tasks), out, texts).double().numpy() for name, judge in judges.items()}
        return Sampled(out, texts, found, known, scores)

    def metrics(self, sampled: Mapping[str, Sampled]) -> dict[str, float]:
        """Flat numbers of policy and (prefixed) reference; win rates of the policy with 95 % bootstrap intervals."""
        own, reference = sampled["policy"], sampled["reference"]
        found = _about(own) | {f"reference_{name}": value for name, value in _about(reference).items()}
        pairs = {"win_rate": reference} | ({"win_rate_previous": sampled["previous"]} if "previous" in sampled else {})
        for name, other in pairs.items():
            for kind in ("gold", "judge"):
                a, b = _utility(own, kind), _utility(other, kind)
                if a is None or b is None:
                    continue
                raw = win_rate(a, b)
                controlled = length_controlled_win_rate(outcomes(a, b), own.lengths, other.lengths)
                found |= _interval(f"{name}_{kind}", raw) | _interval(f"{name}_length_controlled_{kind}", controlled)
                if kind == "gold" or f"{name}" not in found:
                    found |= _interval(name, raw) | _interval(f"{name}_length_controlled", controlled)
        return found | _interval("length_change", bootstrap_paired(own.lengths, reference.lengths))

    def divergence(self, policy: LanguagePolicy, reference: LanguagePolicy, generation: Generation) -> dict[str, float]:
        """Sequence KL(π‖π_ref) in nats on the policy's own samples: mean of k1, with interval, and of k3."""
        k1, k3 = [], []
        batch = generation.batch()
        temperature = self.sampling.temperature
        both = [Working(p.model, self.precision) for p in (policy, reference)]
        for rows in torch.arange(len(batch)).split(CHUNK):
            part = batch.select(rows)
            with torch.no_grad():
                own, ref = (_logprobs(p, part, temperature) for p in both)
            k1 += (own - ref).sum(1).tolist()
            k3 += (torch.expm1(ref - own) - (ref - own)).sum(1).tolist()
        return _interval("kl_sequence", bootstrap_mean(np.array(k1))) | {"kl_sequence_k3": float(np.mean(k3))}

    def kept(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """The aspects that no round may lose: value, floor (the reference's less the tolerance), whether it holds."""
        kept = {}
        for name in self.settings.keep:
            if name in metrics:
                floor = metrics[f"reference_{name}"] - self.settings.tolerance
                kept[name] = {"value": metrics[name], "floor": floor, "holds": metrics[name] >= floor}
        return kept

    def decision(self, metrics: Mapping[str, float], kept: Mapping[str, Mapping[str, Any]]) -> tuple[bool, list[str]]:
        """Whether to promote, and why not."""
        reasons = [f"{n} fell to {k['value']:.3f}, below {k['floor']:.3f}" for n, k in kept.items() if not k["holds"]]
        reasons += [f"{name} applies to none of these prompts" for name in self.settings.keep if name not in kept]
        floor = 0.5 - self.settings.tolerance
        # against both: small losses to the round before would add up to a large one to the reference
        for name in ("win_rate_previous", "win_rate"):
            if name in metrics and metrics[name] < floor:
                reasons.append(f"{name} is {metrics[name]:.3f}, below {floor:.3f}")
        limit = self.settings.kl_limit
        if limit is not None and metrics["kl_sequence"] > limit:
            reasons.append(f"sequence KL is {metrics['kl_sequence']:.2f} nats, above {limit:g}")
        return not reasons, reasons

    def ratings(self, sampled: Mapping[str, Sampled]) -> dict[str, Any]:
        """Bradley-Terry ratings of all policies from their answers' pairwise outcomes (reference at 0), or empty."""
        names = list(sampled)
        kind = "gold" if all(s.gold is not None for s in sampled.values()) else "judge"
        games: list[tuple[int, int, float]] = []
        prompt: list[int] = []
        for i, a in enumerate(names):
            for j in range(i + 1, len(names)):
                left, right = _utility(sampled[a], kind), _utility(sampled[names[j]], kind)
                if left is not None and right is not None:
                    games += [(i, j, float(o)) for o in outcomes(left, right)]
                    prompt += range(len(left))
        if not games:
            return {}
        fitted, zero = fit_bradley_terry(games, len(names), clusters=prompt), names.index("reference")
        return {n: fitted.difference(i, zero).as_json() for i, n in enumerate(names) if i != zero}

    def rows(self, tasks: Sequence[Task], sampled: Mapping[str, Sampled]) -> list[dict[str, Any]]:
        """One JSON row per test prompt with every policy's answer side by side."""
        rows = []
        for i, task in enumerate(tasks):
            outputs = {
                name: {
                    "text": s.texts[i],
                    "tokens": len(s.generation.completions[i]),
                    "stop": s.generation.stops[i],
                    "gold": None if s.gold is None else float(s.gold[i]),
                    "aspects": {k: None if np.isnan(v[i]) else float(v[i]) for k, v in s.aspects.items()},
                    "scores": {k: float(v[i]) for k, v in s.scores.items()},
                }
                for name, s in sampled.items()
            }
            rows.append(
                {
                    "task_id": task.id,
                    "kind": task.payload.get("kind", ""),
                    "prompt": task.payload["prompt"],
                    "outputs": outputs,
                }
            )
        return rows


def check_kept(world: Rubric, names: Sequence[str], tasks: Sequence[Task]) -> None:
    """ConfigError for an ``evaluation.keep`` that nothing measures: it would guard nothing."""
    measured = {name for task in tasks for name in world.aspects(task, "")}
    measured |= {"distinct_1", "distinct_2"} | ({"gold_mean"} if world.gold(tasks[0], "") is not None else set())
    for name in names:
        if name not in measured:
            raise ConfigError(
                f'evaluation.keep names "{name}", which nothing measures in world {world.name}',
                f"name some of {', '.join(sorted(measured))}",
            )


_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _about(s: Sampled) -> dict[str, float]:
    found = {name: float(np.nanmean(v)) for name, v in s.aspects.items() if not np.isnan(v).all()}
    if s.gold is not None:
        found["gold_mean"] = float(s.gold.mean())
    found |= {f"{name}_mean": float(v.mean()) for name, v in s.scores.items()}
    completions = s.generation.completions
    found |= {
        "length_mean": float(s.lengths.mean()),
        "missing_end": float(np.mean([x == "length" for x in s.generation.stops])),
    }
    return found | {f"distinct_{n}": distinct_n(completions, n) for n in (1, 2)}


def _utility(s: Sampled, kind: str) -> NDArray[np.float64] | None:
    return s.gold if kind == "gold" else s.scores.get("judge")


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: float(interval.value), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def _logprobs(policy: Working, batch: TokenBatch, temperature: float) -> torch.Tensor:
    with policy.running():
        states = predicting_states(policy.model, batch)
        return scores_from(policy.model, batch, states, temperature=temperature).logprobs
