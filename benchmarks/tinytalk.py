"""The whole language loop on tinytalk, over several seeds, against gold: does feedback make the policy better?

Each seed is one study of the `tinytalk` recipe, run by the study loop itself: SFT, two rounds of feedback from a noisy
oracle, reward model, PPO, evaluation. Then, on held-out prompts that no stage of the study asked about: SFT against the
final policy and the policy of round 1, best-of-16 of SFT by gold (the headroom), the reward model against noise-free
gold, and a control that is trained on noise instead of the reward.

    python benchmarks/tinytalk.py [--seeds 5] [--jobs 2] [--quick] [--set a.b=c]

Each seed is kept in the cache folder; one that is done is not done again, one that was interrupted goes on. Left out:
other algorithms, larger models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, interval, write_result
from tropism import Study
from tropism.digests import digest
from tropism.evaluation.intervals import bootstrap_paired
from tropism.feedback.records import Task
from tropism.language.config import PpoSection
from tropism.language.domain import LanguageDomain
from tropism.language.evaluate import Evaluator
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.reward_network import LearnedReward
from tropism.language.rewards import CallableReward, RewardSum
from tropism.language.rollouts import sample_candidates
from tropism.reward.assessment import assess_pairs, prefers_longer
from tropism.reward.pairs import Pairs
from tropism.runtime.seeding import derive, uniform
from tropism.runtime.stage import StageRun

PROMPTS_SEED = 77
ASPECTS = {"correctness": "correct", "refusals": "harmless", "politeness": "polite"}
NOISE_KL_SHARE = 0.6
"""The control stops once its KL is this share of the real run's; at least 0.5 is asked."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    prompts: int = 1000
    best_of: int = 16
    pairs: int = 1000


QUICK = Size(200, 4, 200)
QUICK_SETTINGS = [
    "study.rounds=1",
    "ppo.steps=4",
    "feedback.queries_per_round=200",
    "sft.steps=30",
    "evaluation.prompts=50",
]
QUICK_SETTINGS.append("world.options.pretrain.steps=30")


def study_of(seed: int, settings: Sequence[str], cache: Path) -> Study:
    """The seed's study, made or opened, and run to its end."""
    folder = cache / f"study-{digest(list(settings))[:8]}-{seed}"
    own = [*settings, f"study.seed={seed}", "runtime.threads=1"]
    study = Study.open(folder) if folder.exists() else Study.create(folder, "tinytalk", own)
    study.run()
    return study


def folders_of(study: Study) -> dict[str, Path]:
    """SFT policy, the policy kept after each round, and the last reward model."""
    stages = {s.name: s for s in study.status().stages}
    place = study.artifacts.path
    found = {"sft": place(stages["base"].folders["policy"])}
    kept = found["sft"]
    for round_ in range(1, study.config.study.rounds + 1):
        if stages[f"decide-{round_}"].values["promoted"]:
            kept = place(stages[f"improve-{round_}"].folders["policy"])
        found[f"round-{round_}"] = kept
    found["final"] = kept
    found["reward"] = place(stages[f"reward-{study.config.study.rounds}"].folders["reward"])
    return found


def measure(seed: int, settings: Sequence[str], cache: Path, size: Size) -> dict[str, Any]:
    """One seed's row of results."""
    wall, cpu = time.perf_counter(), time.process_time()
    study = study_of(seed, settings, cache)
    domain, folders = LanguageDomain(study.config.domain), folders_of(study)
    tasks = domain.world.tasks("test", size.prompts, PROMPTS_SEED)
    scratch = cache / f"measure-{study.folder.name}"
    policies = {"policy": folders["final"], "reference": folders["sft"], "previous": folders["round-1"]}
    loaded = {name: LanguagePolicy.load(folder) for name, folder in policies.items()}
    sampling = domain.sampling(loaded["policy"])
    evaluator = Evaluator(
        domain.world, study.config.domain.evaluation, sampling, domain.precision, StageRun("measure", scratch, 0)
    )
    made = evaluator.compare(loaded, tasks, {"proxy": LearnedReward.load(folders["reward"])})
    rows = [json.loads(line) for line in (scratch / "samples" / "samples.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "metrics": made.values["metrics"],
        "differences": differences(rows),
        "round_2_over_1": win_over(rows, "policy", "previous"),
        "best_of": best_of(domain, loaded["reference"], tasks, size),
        "reward_model": reward_model(domain, loaded["reference"], folders["reward"], size),
        "noise": noise_control(
            domain, loaded["reference"], made.values["metrics"]["kl_sequence"], tasks, scratch, seed
        ),
        "promoted": [s.values["promoted"] for s in study.status().stages if s.name.startswith("decide")],
        "stage_seconds": {s.name: [s.seconds, s.cpu_seconds] for s in study.status().stages},
        "measuring_wall_s": time.perf_counter() - wall,
        "measuring_cpu_s": time.process_time() - cpu,
    }


def differences(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Final policy less SFT on every aspect, paired by prompt, with a bootstrap interval."""
    found = {}
    for label, aspect in ASPECTS.items():
        both = [(r["outputs"]["policy"]["aspects"][aspect], r["outputs"]["reference"]["aspects"][aspect]) for r in rows]
        known = np.array([(a, b) for a, b in both if a is not None and b is not None])
        found[label] = bootstrap_paired(known[:, 0], known[:, 1]).as_json()
    return found


def win_over(rows: Sequence[dict[str, Any]], a: str, b: str) -> dict[str, float]:
    """Gold win rate of one policy over another less ½, paired by prompt."""
    gold = np.array([(r["outputs"][a]["gold"], r["outputs"][b]["gold"]) for r in rows])
    outcome = np.where(gold[:, 0] > gold[:, 1], 1.0, np.where(gold[:, 0] < gold[:, 1], 0.0, 0.5))
    return bootstrap_paired(outcome, np.full(len(outcome), 0.5)).as_json()


def best_of(domain: LanguageDomain, sft: LanguagePolicy, tasks: Sequence[Task], size: Size) -> dict[str, float]:
    """Headroom: SFT's best of K by gold against one of its own samples; correctness of the best."""
    few = list(tasks)[: max(1, size.prompts // 2)]
    rows = sample_candidates(sft, "sft", few, size.best_of + 1, domain.sampling(sft), 99, domain.precision)
    gold = domain.gold(few, rows)
    assert gold is not None  # tinytalk knows the truth
    best, one = gold[:, 1:].max(1), gold[:, 0]
    chosen = [row[1 + int(i)] for row, i in zip(rows, gold[:, 1:].argmax(1), strict=True)]
    correct = [domain.world.aspects(t, str(c.content["text"]))["correct"] for t, c in zip(few, chosen, strict=True)]
    wins = np.where(best > one, 1.0, np.where(best < one, 0.0, 0.5))
    return {
        "k": size.best_of,
        "win_rate": float(wins.mean()),
        "correct": float(np.mean([c for c in correct if c is not None])),
    }


def reward_model(domain: LanguageDomain, sft: LanguagePolicy, folder: Path, size: Size) -> dict[str, Any]:
    """The reward model on pairs of SFT samples of held-out prompts, judged by noise-free gold.

    Length-only is fitted on pairs of train prompts. Accuracy is over pairs that gold tells apart; `with_ties` counts
    the others as half, for any model.
    """
    reward, found = LearnedReward.load(folder), {}
    tables: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for split in ("train", "test"):
        tasks = domain.world.tasks(split, size.pairs, derive(PROMPTS_SEED, "pairs"))  # type: ignore[arg-type]
        rows = sample_candidates(sft, "sft", tasks, 2, domain.sampling(sft), derive(7, split), domain.precision)
        gold = domain.gold(tasks, rows)
        assert gold is not None
        lengths = np.array([[len(c.content["tokens"]) for c in row] for row in rows])
        scores = reward.score_candidates(tasks, rows).double().numpy() if split == "test" else lengths
        tables[split] = (scores, gold, lengths)
    longer = prefers_longer(tables["train"][2].ravel(), pairs_of(tables["train"][1], True))
    scores, gold, lengths = tables["test"]
    for name, strict in (("strict", True), ("with_ties", False)):
        found[name] = asdict(assess_pairs(scores.ravel(), pairs_of(gold, strict), lengths.ravel(), longer))
        for key in ("reliability", "reliability_calibrated"):
            found[name].pop(key)
    return found


def pairs_of(gold: np.ndarray, strict: bool) -> Pairs:
    """Pairs (2i, 2i + 1) with gold's judgement; ``strict`` leaves out ties."""
    rows = np.flatnonzero(gold[:, 0] != gold[:, 1]) if strict else np.arange(len(gold))
    gap = gold[rows, 0] - gold[rows, 1]
    target = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))
    return Pairs(2 * rows, 2 * rows + 1, target, np.ones(len(rows)), rows, np.zeros(len(rows), dtype=np.int64))


def noise_control(
    domain: LanguageDomain, sft: LanguagePolicy, real_kl: float, tasks: Sequence[Task], scratch: Path, seed: int
) -> dict[str, float]:
    """PPO from SFT on rewards drawn from N(0, 1), without a leash, until it has moved as far; then its win rate."""
    base = domain.config.ppo.model_dump()
    settings = PpoSection(**base | {"kl_ref_coef": 0.0, "steps": 400, "kl_limit": NOISE_KL_SHARE * real_kl})
    run = StageRun("noise", scratch / "noise", derive(seed, "noise"))

    def noise(tasks: Sequence[Task], generation: Any, texts: Sequence[str]) -> list[float]:
        u = uniform(
            derive(seed, generation.policy_version), np.arange(len(texts)), np.zeros(len(texts), dtype=np.int64)
        )
        v = uniform(
            derive(seed, generation.policy_version, 2), np.arange(len(texts)), np.zeros(len(texts), dtype=np.int64)
        )
        return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).tolist()

    policy = LanguagePolicy(copy_of(sft.model).requires_grad_(True), sft.tokenizer, sft.eos)
    trainer = PpoTrainer(
        policy=policy,
        reference=LanguagePolicy(copy_of(sft.model), sft.tokenizer, sft.eos),
        actor=ActorCritic(policy.model, settings.value_trunk),
        rewards=RewardSum([CallableReward("noise", noise)]),
        tasks=domain.world.tasks("train", settings.prompts, derive(seed, "prompts")),
        settings=settings,
        sampling=domain.sampling(policy),
        precision=domain.precision,
        run=run,
    )
    trainer.train()
    evaluator = Evaluator(domain.world, domain.config.evaluation, domain.sampling(policy), domain.precision, run)
    metrics = evaluator.compare({"policy": policy, "reference": sft}, tasks, {}).values["metrics"]
    kept = ("win_rate", "win_rate_low", "win_rate_high", "kl_sequence", "correct", "reference_correct")
    return {name: metrics[name] for name in kept} | {"steps": float(trainer.state.step), "real_kl": real_kl}


def claims_of(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """The claims, each the mean over seeds with its t interval."""

    def over(path: str) -> tuple[float, float, float]:
        values = []
        for row in rows:
            at: Any = row
            for key in path.split("."):
                at = at[key]
            values.append(float(at))
        return interval(values)

    sft, gain = over("metrics.reference_correct"), over("differences.correctness.value")
    every_sft = [r["metrics"]["reference_correct"] for r in rows]
    win, controlled = over("metrics.win_rate"), over("metrics.win_rate_length_controlled")
    second, accuracy = over("round_2_over_1.value"), over("reward_model.strict.accuracy.value")
    margin, ece = over("reward_model.strict.over_length_only"), over("reward_model.strict.ece_calibrated")
    noise, share = over("noise.win_rate"), interval([r["noise"]["kl_sequence"] / r["noise"]["real_kl"] for r in rows])
    claims = [
        Claim("SFT answers correctly", *sft, "0.35 .. 0.70, every seed", all(0.35 <= x <= 0.70 for x in every_sft)),
        Claim("correctness gained", *gain, ">= 0.12", gain[0] >= 0.12),
    ]
    for label in ASPECTS:
        change = over(f"differences.{label}.value")
        claims.append(Claim(f"{label} against SFT", *change, "not worse (>= 0)", change[0] >= 0))
    claims += [
        Claim("gold win rate over SFT", *win, ">= 0.75, low > 0.65", win[0] >= 0.75 and win[1] > 0.65),
        Claim("length-controlled win rate", *controlled, ">= 0.65", controlled[0] >= 0.65),
        Claim("second round over the first, win rate less 1/2", *second, "low >= -0.03", second[1] >= -0.03),
        Claim("reward model against gold, accuracy", *accuracy, ">= 0.80", accuracy[0] >= 0.80),
        Claim("reward model above length-only", *margin, ">= 0.15", margin[0] >= 0.15),
        Claim("ECE after temperature", *ece, "<= 0.05", ece[0] <= 0.05),
        Claim("noise control: win rate", *noise, "high <= 0.56", noise[2] <= 0.56),
        Claim("noise control: KL over the real run's", *share, ">= 0.5, every seed", min(
            r["noise"]["kl_sequence"] / r["noise"]["real_kl"] for r in rows) >= 0.5),
    ]  # fmt: skip
    return claims


def cells(seeds: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every seed's row, missing ones made by ``--jobs`` processes of one thread each."""
    size = QUICK if options.quick else Size()
    settings = [*(QUICK_SETTINGS if options.quick else []), *(options.set or [])]
    key = digest([settings, asdict(size)])[:8]
    places = {seed: options.cache / f"seed-{seed}-{key}.json" for seed in seeds}
    if options.only is not None:
        row = measure(options.only, settings, options.cache, size)
        places[options.only].write_text(json.dumps(row))
        return [row]
    waiting = [seed for seed in seeds if not places[seed].is_file()]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            again = [sys.executable, __file__, *sys.argv[1:], "--only", str(waiting.pop(0))]
            running.append(subprocess.Popen(again, stdout=subprocess.DEVNULL))
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise SystemExit(f"a seed failed with exit code {process.returncode}; see above")
    return [json.loads(places[seed].read_text()) for seed in seeds]


def main() -> None:
    """Run what is not cached yet, then write and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="seeds side by side, one thread each")
    parser.add_argument("--cache", type=Path, default=Path(__file__).resolve().parent / ".cache" / "tinytalk")
    parser.add_argument("--set", action="append", metavar="a.b=c", help="settings laid over the recipe")
    parser.add_argument("--quick", action="store_true", help="one small seed; writes no result file")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    seeds = [0] if options.quick else list(range(options.seeds))
    rows = cells(seeds, options)
    if options.only is None:
        cpu = sum(sum(c for _, c in r["stage_seconds"].values()) for r in rows) / len(rows)
        extra = {"seeds": seeds, "settings": options.set or [], "runs": rows, "cpu_s_per_study": cpu, "threads": 1}
        write_result("tinytalk", claims_of(rows), extra, options.quick)


if __name__ == "__main__":
    main()
