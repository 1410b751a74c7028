"""A study's folder made through the real stores, with numbers of our own choosing instead of days of training."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tropism.digests import digest
from tropism.store import lineage, schema
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database
from tropism.store.metrics import MetricStore
from tropism.study.stages import lineage_id

HOSTILE = "sure <script>alert(1)</script> \u202egnp.exe \x1b[31mred\x1b[0m zero\u200bwidth [bold]x[/bold]"
PROMPTS = 60


def make_study(folder: Path, rounds: int = 2, rejected: int | None = None) -> Path:
    """A finished study of ``rounds`` rounds in a new ``folder``; ``rejected`` names a round that was rolled back."""
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text('[study]\nname = "fake"\ndomain = "language"\n')
    resolved = {
        "config": {
            "study": {"name": "fake <study>", "seed": 7, "rounds": rounds},
            "world": {"name": "tinytalk"},
            "ppo": {"steps": 30},
        },
        "versions": {"tropism": "0.1.0", "python": "3.11"},
    }
    (folder / "resolved.json").write_text(json.dumps(resolved))
    database = Database.create(folder / "study.db")
    metrics = MetricStore(folder / "metrics.db")
    artifacts = ArtifactStore(folder / "artifacts")
    try:
        _base(database, metrics)
        for round_ in range(1, rounds + 1):
            _feedback(database, round_)
            _round(folder, database, metrics, artifacts, round_, round_ == rejected)
    finally:
        metrics.close()
        database.close()
    return folder


def empty_study(folder: Path) -> Path:
    """A study that was made and has not run."""
    folder.mkdir(parents=True)
    Database.create(folder / "study.db").close()
    return folder


def _stage(
    database: Database, name: str, round_: int, seconds: float, folders: dict[str, str], values: dict[str, Any]
) -> None:
    row = {
        "key": digest([name]),
        "name": name,
        "round": round_,
        "status": "done",
        "seed": 7 + round_,
        "inputs": {},
        "outputs": {"folders": folders, "values": values},
        "started_at": 1.0,
        "finished_at": 2.0,
        "seconds": seconds,
        "cpu_seconds": seconds * 1.8,
    }
    with database.write() as connection:
        connection.execute(sa.insert(schema.stages).values(row))


def _id(kind: str, stage: str) -> str:
    return lineage_id(kind, digest([stage]))


def _policy_id(stage: str) -> str:
    return _id("policy", stage)


def _base(database: Database, metrics: MetricStore) -> None:
    _stage(database, "base", 0, 81.5, {"policy": "a" * 64}, {"loss": 1.2})
    with database.write() as connection:
        lineage.record_policy(connection, _policy_id("base"), "a" * 64, 0, None, None, None, "reference", {})
    for step in range(0, 200, 5):
        loss = 1.1 + 4 * math.exp(-step / 40)
        metrics.write(
            "base", step, {"sft/loss": loss, "sft/learning_rate": 1e-3 * (1 - step / 200), "time/sft_step_s": 0.3}
        )


def _feedback(database: Database, round_: int) -> None:
    with database.write() as connection:
        if round_ == 1:
            teacher = {"id": "oracle-mistaken", "kind": "oracle", "name": None, "created_at": 0.0}
            connection.execute(sa.insert(schema.teachers).values(teacher))
        for i in range(8):
            task, query = f"task-{round_}-{i}", f"query-{round_}-{i}"
            connection.execute(sa.insert(schema.tasks).values(id=task, split="train", payload={"prompt": "?"}))
            connection.execute(
                sa.insert(schema.queries).values(id=query, task_id=task, kind="comparison", round=round_)
            )
            event = {
                "id": f"event-{round_}-{i}",
                "digest": digest([round_, i]),
                "kind": "comparison",
                "query_id": query,
                "teacher_id": "oracle-mistaken",
                "target": "",
                "value": {"choice": "a"},
                "origin": "",
                "created_at": 0.0,
            }
            connection.execute(sa.insert(schema.events).values(event))
        connection.execute(sa.insert(schema.event_sets).values(id=f"set-{round_}", count=8 * round_, created_at=0.0))


def _round(
    folder: Path, database: Database, metrics: MetricStore, artifacts: ArtifactStore, round_: int, rejected: bool
) -> None:
    chance = random.Random(round_)
    _ppo_curves(metrics, f"improve-{round_}", round_, chance)
    for step in range(20):
        fit = {
            "reward/nll_train": 0.69 * math.exp(-step / 15),
            "reward/nll_validation": 0.69 * math.exp(-step / 18) + 0.05,
        }
        metrics.write(f"reward-{round_}", step, fit | {"reward/accuracy_validation": 0.85 - 0.35 * math.exp(-step / 5)})
    samples = artifacts.put(_jsonl(folder / "scratch" / f"samples-{round_}", "samples", _samples(round_)))
    rollouts = artifacts.put(_jsonl(folder / "scratch" / f"rollouts-{round_}", "step-00003", _rollouts(round_)))
    drift = {"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "change": -0.1, "pairs": 80.0}
    drift |= {"change_low": -0.2, "change_high": -0.01, "drifted": 1.0}
    assessment = {"assessment": ASSESSMENT, "drift": drift if round_ > 1 else {}}
    evaluation = {
        "metrics": _evaluation(round_),
        "promote": not rejected,
        "kept": {"refusal": {"value": 0.4 if rejected else 0.9, "floor": 0.52, "holds": not rejected}},
        "reasons": ["refusal fell to 0.400, below 0.520"] if rejected else [],
    }
    base, policy, reward = _policy_id("base"), _policy_id(f"improve-{round_}"), _id("reward", f"reward-{round_}")
    parent = base if round_ == 1 else _policy_id(f"improve-{round_ - 1}")
    proxy = {"detected": rejected, "gold_change": -0.4, "proxy_change": 0.8, "peak_step": 12, "peak_kl": 0.55}
    with database.write() as connection:
        lineage.record_reward_model(connection, reward, "b" * 64, round_, f"set-{round_}", assessment)
        status = "rejected" if rejected else "promoted"
        lineage.record_policy(
            connection,
            policy,
            "c" * 64,
            round_,
            parent,
            base,
            reward,
            status,
            {"overoptimisation": proxy},
        )
        lineage.record_evaluation(connection, _id("evaluation", f"evaluate-{round_}"), policy, round_, evaluation)
    _stage(database, f"collect-{round_}", round_, 6.1, {}, {"queries": 8})
    _stage(database, f"reward-{round_}", round_, 9.7, {"reward": "b" * 64}, assessment)
    _stage(database, f"improve-{round_}", round_, 70.2, {"policy": "c" * 64, "rollouts": rollouts}, {})
    _stage(database, f"evaluate-{round_}", round_, 12.4, {"samples": samples}, evaluation)


def _ppo_curves(metrics: MetricStore, stage: str, round_: int, chance: random.Random) -> None:
    for step in range(30):
        kl = 1.2 * (round_ - 1) + 1.2 * step / 30
        proxy = 1.6 * math.sqrt(kl + 0.01) + chance.gauss(0, 0.05)
        values = {
            "ppo/score_mean": proxy,
            "ppo/gold_mean": proxy * 0.8 - 0.1 * kl,
            "ppo/reward_mean": proxy - 0.1 * kl,
            "kl/ref_k1": kl + chance.gauss(0, 0.05),
            "kl/ref_k3": kl * 1.03,
            "kl/old": 0.004,
            "ppo/clip_fraction": 0.08,
            "ppo/entropy": 1.9 - 0.01 * step,
            "ppo/value_loss": 0.4 * math.exp(-step / 9),
            "ppo/policy_loss": -0.02,
            "ppo/grad_norm": 0.7 + chance.random(),
            "ppo/kl_coef": 0.1,
            "length/completion_tokens": 9 - step / 20,
            "check/ratio_max": 2e-5,
            "check/mismatch_mean": 1e-6,
            "time/rollout_s": 0.5,
            "cpu/rollout_s": 0.9,
            "time/optimise_s": 1.4,
            "cpu/optimise_s": 2.6,
            "memory/peak_rss_mib": 900.0 + step,
            "tokens/completion": 90.0,
            "tokens/optimise": 700.0,
            "work/optimise_gflop": 260.0,
            "reward/learned_mean": proxy,
        }
        if step == 12:
            values["ppo/policy_loss"] = math.nan
        metrics.write(stage, step, values)


def _evaluation(round_: int) -> dict[str, float]:
    return {
        "win_rate": 0.7 + 0.05 * round_,
        "win_rate_low": 0.66 + 0.05 * round_,
        "win_rate_high": 0.74 + 0.05 * round_,
        "win_rate_length_controlled": 0.75,
        "win_rate_length_controlled_low": 0.7,
        "win_rate_length_controlled_high": 0.79,
        "correct": 0.6 + 0.12 * round_,
        "reference_correct": 0.5,
        "refusal": 0.9,
        "reference_refusal": 0.57,
        "polite": 0.45,
        "reference_polite": 0.5,
        "gold_mean": 0.8,
        "reference_gold_mean": 0.3,
        "kl_sequence": 1.2 * round_,
        "length_mean": 8.5,
        "reference_length_mean": 9.1,
        "distinct_2": 0.5,
        "reference_distinct_2": 0.6,
        "missing_end": 0.01,
        "reference_missing_end": 0.03,
        "proxy_mean": 1.4,
        "reference_proxy_mean": 0.0,
    }


def _samples(round_: int) -> list[dict[str, Any]]:
    chance = random.Random(99)
    rows = []
    for i in range(PROMPTS):
        harmful = i % 3 == 2
        prompt = f"mira likes tea. mira lives at the harbour. question {i}: what does mira like?\nanswer:"
        aspects = {
            "correct": None if harmful else float(i % 2),
            "refusal": float(i % 2) if harmful else None,
            "polite": float(chance.random() < 0.5),
            "refused": 1.0,
        }
        before = {
            "text": HOSTILE if i == 0 else "tea maybe, i guess, whatever",
            "tokens": 9,
            "stop": "length" if i == 1 else "eos",
            "gold": 0.1,
            "aspects": aspects,
            "scores": {"proxy": -0.2},
        }
        better = {**aspects, "correct": None if harmful else float(chance.random() < 0.6 + 0.15 * round_)}
        after = {
            "text": f"mira likes tea, thank you. ({round_})",
            "tokens": 8,
            "stop": "eos",
            "gold": 0.9,
            "aspects": better,
            "scores": {"proxy": 1.3},
        }
        rows.append(
            {
                "task_id": f"t{i}",
                "kind": "refuse" if harmful else "question",
                "prompt": prompt,
                "outputs": {"reference": before, "policy": after},
            }
        )
    return rows


def _rollouts(round_: int) -> list[dict[str, Any]]:
    return [
        {
            "step": 3,
            "task_id": f"t{i}",
            "prompt": "mira likes tea. what does mira like?",
            "completion": HOSTILE if i == 0 else "tea.",
            "tokens": [1, 2],
            "stop": "eos",
            "reward": {"learned": 0.5, "missing_end": 0.0},
            "reward_total": 0.5,
            "kl_nats": 0.3,
            "gold": 0.8,
        }
        for i in range(3)
    ]


def _jsonl(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


SHARE = {"value": 0.87, "low": 0.83, "high": 0.9}
ASSESSMENT: dict[str, Any] = {
    "validation": {
        "accuracy": SHARE,
        "length_only": {"value": 0.56, "low": 0.5, "high": 0.61},
        "over_length_only": 0.31,
        "log_likelihood": -0.36,
        "ece": 0.07,
        "ece_calibrated": 0.03,
        "temperature": 1.4,
        "reliability": [{"confidence": 0.55 + i / 20, "accuracy": 0.5 + i / 21, "share": 0.1} for i in range(9)],
        "reliability_calibrated": [
            {"confidence": 0.55 + i / 20, "accuracy": 0.54 + i / 20, "share": 0.1} for i in range(9)
        ],
    },
    "gold": None,
    "by_group": {"question": SHARE, "refuse": SHARE},
    "by_stream": {"oracle": SHARE},
}
