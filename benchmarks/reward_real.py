"""Reward models on what people really said: arguments, dialogue trees, harmless answers, instructions.

The ``lexical`` reward model, which reads the text alone, beside three baselines fitted on the same train folds: the
length, a linear Bradley-Terry model on tf-idf, and one on surface features (each chooses what it has to choose on
train folds too). Nothing pretrained is used. Folds are by topic, tree or prompt, and so are the bootstrap's clusters;
differences are paired. Accuracy is measured in two ways: ``votes`` (each vote counts, ties half) and ``majority``
(pairs where more than half of the votes are for one side, the literature's way, in which length has 0.756).

Left out: models that were pretrained elsewhere, and the written reasons and worker ids of the arguments.

    python benchmarks/reward_real.py --data FOLDER [--seeds 3] [--threads 1] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import Claim, write_result
from reward_real_baselines import Floats, Fold, length, surface_features, tfidf
from tropism.data import read
from tropism.data.judgements import to_judgements
from tropism.evaluation.intervals import percentile_interval, resampled_rows
from tropism.feedback.records import Judgement
from tropism.language.lexical_features import Counted
from tropism.language.lexical_fit import fit_lexical
from tropism.language.lexical_reward import count_rows, lexical_scores
from tropism.language.reward_text import Answered
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import FrozenScale
from tropism.reward.fitting import FitSettings
from tropism.reward.pairs import Pairs, credits
from tropism.runtime.memory import tune
from tropism.runtime.seeding import permutation

MEMBERS = 5
FOLDS = {"ukp": 8, "oasst": 10, "hh": 5, "pandalm": 10}
FOLDERS = {
    "ukp": "ukp_convarg1", "oasst": "oasst_100_trees", "hh": "hh_harmless_test", "pandalm": "pandalm_testset"
}  # fmt: skip
FORMATS = {"ukp": "ukp", "oasst": "oasst", "hh": "hh", "pandalm": "votes"}
LINEAR_ALLOWANCE, AIM = -0.01, 0.80


@dataclass(frozen=True)
class Corpus:
    """Judgements of one source, and what stays together when it is split: ``group`` ``[tasks]``."""

    name: str
    data: RewardData
    rows: list[Answered]
    counted: Counted
    group: np.ndarray
    majority: np.ndarray
    """``[P]``: 1 or 0 where more than half of a pair's votes are for the first or second side, else NaN."""

    @classmethod
    def load(cls, folder: Path, name: str, limit: int | None) -> Corpus:
        """Read one source; ``limit``: its first groups only."""
        held = to_judgements(read(folder / FOLDERS[name], format=FORMATS[name]).records, validation_share=0.0)
        judgements = held.judgements
        if limit is not None:
            first = list(dict.fromkeys(_group(name, j) for j in judgements))[:limit]
            judgements = [j for j in judgements if _group(name, j) in set(first)]
        data = RewardData.from_judgements(judgements)
        rows = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
        of_task = {j.task.id: _group(name, j) for j in judgements}
        _, group = np.unique([of_task[t.id] for t in data.tasks], return_inverse=True)
        return cls(name, data, rows, count_rows(rows), group, _majority(judgements))

    def folds(self, seed: int, by: np.ndarray | None = None) -> list[np.ndarray]:
        """Groups held out, fold by fold (``by`` ``[groups]`` keeps groups of one label together)."""
        label = np.arange(self.group.max() + 1) if by is None else by
        order = permutation(int(label.max()) + 1, seed, 0)
        return [np.flatnonzero(np.isin(label, order[i :: FOLDS[self.name]])) for i in range(FOLDS[self.name])]

    def split(self, held: np.ndarray) -> RewardData:
        """The same data, the tasks of the groups ``held`` in the validation split and all others to train on."""
        tasks = tuple(
            replace(t, split="validation" if g in held else "train")
            for t, g in zip(self.data.tasks, self.group, strict=True)
        )
        return replace(self.data, tasks=tasks)


def _group(name: str, judgement: Judgement) -> str:
    """Topic and stance, tree, or prompt."""
    payload = judgement.task.payload
    return str(payload["group"] if name in ("ukp", "oasst") else payload["prompt"])


def _majority(judgements: Sequence[Judgement]) -> np.ndarray:
    """One entry per compared pair, in the order in which ``RewardData`` numbers them."""
    votes: dict[tuple[str, str], list[str]] = {}
    for j in judgements:
        if j.value["kind"] == "comparison":
            votes.setdefault((j.query.id, j.teacher_kind or j.teacher_id), []).append(str(j.value["choice"]))
    shares = [(v.count("a") / len(v), v.count("b") / len(v)) for v in votes.values()]
    return np.array([1.0 if a > 0.5 else 0.0 if b > 0.5 else np.nan for a, b in shares])


@dataclass
class Scores:
    """Held-out scores of all candidates by one method: ``standard`` for who wins, ``logits`` for how surely."""

    standard: Floats
    logits: Floats
    cpu_s: float = 0.0
    chosen: list[Any] = field(default_factory=list)
    """What was chosen on each train fold."""


Method = Callable[[Corpus, RewardData, int], tuple[Floats, Floats, Any]]


def lexical(corpus: Corpus, data: RewardData, seed: int) -> tuple[Floats, Floats, Any]:
    """The reward model: standardised on its train candidates as a frozen scale would, and the members' mean logit."""
    of_task = np.array([t.split == "train" for t in data.tasks])
    tasks = data.candidate_task.tolist()
    train = [i for i, t in enumerate(tasks) if of_task[t]]
    _, model = lexical_scores(corpus.counted, tasks, train, MEMBERS, seed)
    result = fit_lexical(model, data, FitSettings(), seed)
    with torch.no_grad():
        raw = model.score(torch.arange(len(tasks)))
    scale = FrozenScale.fit(raw[:, torch.tensor(train)], "train candidates")
    return scale.combine(raw).numpy(), raw.mean(0).numpy(), result.history[0]["reward/strength"]


def baseline(fit: Callable[[Fold], tuple[Floats, Any]]) -> Method:
    """A baseline as a method; its scores are logits already."""

    def method(corpus: Corpus, data: RewardData, seed: int) -> tuple[Floats, Floats, Any]:
        texts = [r.text for r in corpus.rows]
        train = np.array([t.split == "train" for t in data.tasks])[data.candidate_task.numpy()]
        pairs = Pairs.of(data.fold(True))
        scores, chosen = fit(Fold(texts, corpus.counted.surface, train, pairs, corpus.group[pairs.task], seed))
        return scores, scores, chosen

    return method


def majority_votes(weigh: bool) -> Method:
    """The reward model fitted on each pair's winner alone, as one vote, or (``weigh``) as if all votes had agreed."""

    def method(corpus: Corpus, data: RewardData, seed: int) -> tuple[Floats, Floats, Any]:
        first = data.choices.target[:, 0]
        hard = torch.where(first == 0.5, first, (first > 0.5).to(first.dtype))
        weight = data.choices.weight if weigh else torch.ones_like(data.choices.weight)
        choices = replace(data.choices, target=torch.stack([hard, 1 - hard], 1), weight=weight)
        return lexical(corpus, replace(data, choices=choices), seed)

    return method


METHODS: dict[str, Method] = {
    "lexical": lexical, "length": baseline(length), "tfidf": baseline(tfidf), "surface": baseline(surface_features)
}  # fmt: skip
MAJORITY = {"majority": majority_votes(False), "majority_as_unanimous": majority_votes(True)}


def held_out(corpus: Corpus, method: Method, seed: int, by: np.ndarray | None = None) -> Scores:
    """Every candidate scored by a fit that saw nothing of its group."""
    n, cpu = len(corpus.rows), time.process_time()
    made = Scores(np.zeros(n), np.zeros(n))
    for held in corpus.folds(seed, by):
        standard, logits, chosen = method(corpus, corpus.split(held), seed)
        mine = np.isin(corpus.group, held)[corpus.data.candidate_task.numpy()]
        made.standard[mine], made.logits[mine] = standard[mine], logits[mine]
        made.chosen.append(chosen)
    made.cpu_s = time.process_time() - cpu
    return made


@dataclass(frozen=True)
class Items:
    """One measure of one method: values of items, their weights and clusters; a mean is Σ w·x / Σ w."""

    value: Floats
    weight: Floats
    cluster: np.ndarray

    def minus(self, other: Items) -> Items:
        """The paired difference."""
        return replace(self, value=self.value - other.value)

    def interval(self, draws: int = 2000) -> dict[str, float]:
        """Weighted mean with its 95 % percentile interval; whole clusters are drawn."""
        _, group = np.unique(self.cluster, return_inverse=True)
        total, weight = np.bincount(group, self.value * self.weight), np.bincount(group, self.weight)
        means = np.concatenate([total[r].sum(1) / weight[r].sum(1) for r in resampled_rows(len(total), draws, 0)])
        return percentile_interval(float(total.sum() / weight.sum()), means, len(total)).as_json()


def measures(corpus: Corpus, runs: Sequence[Scores]) -> dict[str, Items]:
    """All measures of one method, each item's value the mean over seeds."""
    if len(corpus.data.rankings):
        return _of_rankings(corpus, runs)
    pairs = Pairs.of(corpus.data)
    cluster, sure = corpus.group[pairs.task], ~np.isnan(corpus.majority)
    one = replace(pairs, target=np.where(sure, corpus.majority, 0.5))
    logits = [r.logits[pairs.first] - r.logits[pairs.second] for r in runs]
    scaled = [_cross_scaled(z, pairs, cluster) for z in logits]
    return {
        "votes": Items(np.mean([credits(r.standard, pairs) for r in runs], 0), pairs.weight, cluster),
        "majority": Items(
            np.mean([credits(r.standard, one) for r in runs], 0)[sure], np.ones(sure.sum()), cluster[sure]
        ),
        "nll": Items(np.mean([_nll(z, pairs.target) for z in logits], 0), pairs.weight, cluster),
        "nll_scaled": Items(np.mean([_nll(z, pairs.target) for z in scaled], 0), pairs.weight, cluster),
    }


def _nll(z: Floats, target: Floats) -> Floats:
    return target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z)


def _cross_scaled(z: Floats, pairs: Pairs, cluster: np.ndarray) -> Floats:
    """Logits times the factor that is likeliest on the other clusters: how good they are when their scale is set."""
    factors = np.exp(np.linspace(-3, 3, 121))
    labels, group = np.unique(cluster, return_inverse=True)
    lost = np.stack([np.bincount(group, pairs.weight * _nll(f * z, pairs.target), len(labels)) for f in factors])
    return z * factors[(lost.sum(1, keepdims=True) - lost).argmin(0)][group]


def _of_rankings(corpus: Corpus, runs: Sequence[Scores]) -> dict[str, Items]:
    """Top-1 (the share of the best candidates among those scored highest), less chance too, and Kendall's tau-b."""
    from scipy.stats import kendalltau

    ranked = corpus.data.rankings
    top, tau, chance = [], [], []
    for index, tiers in zip(ranked.index.numpy(), ranked.tiers.numpy(), strict=True):
        there = tiers >= 0
        best = tiers[there] == 0
        chance.append(best.mean())
        scores = [r.standard[index[there]] for r in runs]
        top.append(np.mean([best[s == s.max()].mean() for s in scores]))
        tau.append(np.mean([0.0 if np.ptp(s) == 0 else kendalltau(s, -tiers[there]).statistic for s in scores]))
    weight, cluster = np.ones(len(ranked)), corpus.group[ranked.task.numpy()]
    made = {"top1": np.array(top), "top1_over_chance": np.array(top) - chance, "tau": np.array(tau)}
    return {name: Items(value, weight, cluster) for name, value in made.items()}


def study(corpus: Corpus, methods: Mapping[str, Method], seeds: Sequence[int], by: np.ndarray | None = None) -> Any:
    """(JSON, measures by method) of all methods on the same folds."""
    found, made = {}, {}
    for name, method in methods.items():
        wall = time.perf_counter()
        runs = [held_out(corpus, method, seed, by) for seed in seeds]
        made[name] = measures(corpus, runs)
        found[name] = {k: v.interval() for k, v in made[name].items()}
        found[name] |= {"cpu_s": sum(r.cpu_s for r in runs), "chosen": [r.chosen for r in runs]}
        print(
            f"{corpus.name} {name}: {time.perf_counter() - wall:.0f} s",
            _brief(found[name]),
            file=sys.stderr,
            flush=True,
        )
    ours = made["lexical"]
    differences = {
        f"lexical - {other}": {k: ours[k].minus(v).interval() for k, v in made[other].items()}
        for other in made
        if other != "lexical"
    }
    counts = {"candidates": len(corpus.rows), "groups": int(corpus.group.max()) + 1, "rows": len(corpus.data)}
    return {"counts": counts, "methods": found, "differences": differences}


def _brief(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v['value']:.4f}" for k, v in found.items() if isinstance(v, dict))


def claims_of(result: Mapping[str, Any]) -> list[Claim]:
    """What is claimed, each as a paired difference with its interval where it is one."""
    ukp, oasst = result["ukp"], result["oasst"]

    def claim(name: str, of: Mapping[str, float], target: str, holds: bool) -> Claim:
        return Claim(name, of["value"], of["low"], of["high"], target, bool(holds))

    def positive(name: str, of: Mapping[str, float]) -> Claim:
        return claim(name, of, "> 0 with its lower bound", of["low"] > 0)

    own = ukp["methods"]["lexical"]["majority"]
    apart = ukp["differences"]
    made = [
        claim("arguments: accuracy on clear majorities", own, f"aim {AIM}", own["value"] >= AIM),
        positive("arguments: accuracy over length-only", apart["lexical - length"]["majority"]),
        positive("arguments: accuracy of votes over length-only", apart["lexical - length"]["votes"]),
    ]
    linear = apart["lexical - tfidf"]["majority"]
    made.append(
        claim(
            "arguments: accuracy over linear tf-idf",
            linear,
            f">= {LINEAR_ALLOWANCE}",
            linear["value"] >= LINEAR_ALLOWANCE,
        )
    )
    for other in MAJORITY:
        for measure in ("nll", "nll_scaled"):
            of = apart[f"lexical - {other}"][measure]
            name = f"arguments: NLL per vote, soft targets less {other.replace('_', ' ')}"
            made.append(claim(name + (", scaled" if measure == "nll_scaled" else ""), of, "< 0", of["value"] < 0))
    for measure, word in (("top1_over_chance", "top-1 over chance"), ("tau", "Kendall's tau (chance: 0)")):
        made.append(positive(f"OpenAssistant: {word}", oasst["methods"]["lexical"][measure]))
    for measure, word in (("top1", "top-1"), ("tau", "Kendall's tau")):
        of = oasst["differences"]["lexical - length"][measure]
        made.append(claim(f"OpenAssistant: {word} over length-only", of, "> 0", of["value"] > 0))
    return made


def main() -> None:
    """Fit everything on every fold, then write and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(FOLDERS.values())}")
    parser.add_argument("--seeds", type=int, default=3, help="splits into folds, each with its own bootstrap")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="a few groups, one seed; writes no result file")
    options = parser.parse_args()

    tune(options.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    seeds = range(1 if options.quick else options.seeds)
    result: dict[str, Any] = {}
    for name in FOLDERS:
        corpus = Corpus.load(options.data, name, {"ukp": 8, "oasst": 40}.get(name, 80) if options.quick else None)
        methods = METHODS | (MAJORITY if name == "ukp" else {})
        result[name] = study(corpus, methods, seeds)
        if name == "ukp":  # the two sides of a debate share their words: a stricter split keeps them together
            names = {int(g): str(t.payload["group"]) for g, t in zip(corpus.group, corpus.data.tasks, strict=True)}
            debates = [names[g].rpartition("_")[0] for g in range(len(names))]
            _, by = np.unique(debates, return_inverse=True)
            result["ukp_by_debate"] = study(corpus, METHODS, seeds, by)
    extra = {
        "seeds": list(seeds),
        "folds": FOLDS,
        "members": MEMBERS,
        "results": result,
        "threads": torch.get_num_threads(),
        "seconds": {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu},
    }
    write_result("reward_real", claims_of(result), extra, options.quick)


if __name__ == "__main__":
    main()
