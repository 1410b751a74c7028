"""Controlled sentiment with real text and real people's labels (Rafailov et al. 2023, section 6).

A language model pretrained on film reviews continues openings of held-out reviews by 48 tokens. A reward model learns
from the labels of sentences (``sentence_polarity``); PPO improves the policy against it under a KL leash; the judge
is a tf-idf logistic regression fitted on other text (``movie_reviews``), its threshold centred so that exactly half of
the reference's samples count as positive. The language model saw the judge's train reviews as text, without labels.

Every (seed, KL weight) cell is kept in the cache folder, and a finished cell is not done again. Left out: other
algorithms than PPO (the frontier is of one method), and human evaluation.

    python benchmarks/sentiment.py --data FOLDER [--seeds 3] [--threads 2] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common import RESULTS, Claim, interval, write_result
from tropism.digests import digest
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Sampling, generate
from tropism.engine.scoring import completion_scores, hidden_states
from tropism.evaluation.diversity import distinct_n
from tropism.feedback.records import Judgement, Task
from tropism.language.config import LanguageConfig
from tropism.language.domain import LanguageDomain
from tropism.language.policy import LanguagePolicy
from tropism.language.worlds.sentiment import PRETRAINING, WINDOW_WORDS, SentimentWorld
from tropism.language.worlds.sentiment_judge import centred_threshold
from tropism.runtime.memory import tune
from tropism.runtime.seeding import derive
from tropism.runtime.stage import StageRun

NEW_TOKENS = 48
KL_WEIGHT = 0.08
KL_STOP, FRONTIER_KL_STOP = 13.0, 25.0
"""Nats at which a run ends early: the main runs before diversity suffers, those of the frontier later."""
FRONTIER = (0.05, 0.1, 0.15, 0.3)
MODEL = ("model",)
TARGET_SHARE, TARGET_KL, TARGET_DISTINCT = 0.80, 22.0, 0.80


Values = dict[str, Any]
Work = Callable[[StageRun], Mapping[str, Any]]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    pretraining_steps: int
    feedback: int
    ppo_steps: int
    batch: int
    samples_per_prompt: int
    hidden: int
    layers: int
    prompts: int = 100_000


FULL = Size(700, 100_000, 24, 128, 4, 256, 4)
QUICK = Size(30, 600, 5, 32, 1, 64, 2, 48)


class Terminal:
    """Progress as one line that is overwritten."""

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        end = "\n" if done == total else ""
        print(f"\r{activity} {done}/{total} {note}".ljust(79), end=end, file=sys.stderr, flush=True)


@dataclass
class Bench:
    """One run of the benchmark over a cache folder."""

    data: Path
    cache: Path
    size: Size
    precision: str

    def __post_init__(self) -> None:
        self.options = {"pretraining_steps": self.size.pretraining_steps}
        self.world = SentimentWorld(self.data)
        self.test = self.world.tasks("test", self.size.prompts, 0)

    def domain(self, kl_weight: float = KL_WEIGHT) -> LanguageDomain:
        """The language domain, configured for one KL weight."""
        sections = {
            "world": {"name": "sentiment", "data": str(self.data), "options": self.options},
            "model": {
                "hidden_size": self.size.hidden, "layers": self.size.layers, "heads": self.size.hidden // 64,
                "intermediate_size": self.size.hidden * 11 // 4, "initializer_range": 0.02,
            },
            "sampling": {"max_new_tokens": NEW_TOKENS},
            "reward": {"missing_end_penalty": 0.0, "judge": False, "epochs": 8, "patience": 3, "scale_samples": 512},
            "ppo": {
                "steps": self.size.ppo_steps, "batch_size": self.size.batch, "mini_batch_size": self.size.batch // 2,
                "epochs": 2, "learning_rate": 3e-4, "kl_ref_coef": kl_weight,
                "kl_limit": KL_STOP if kl_weight == KL_WEIGHT else FRONTIER_KL_STOP, "checkpoint_every": 10,
            },
            "runtime": {"precision": self.precision},
        }  # fmt: skip
        return LanguageDomain(LanguageConfig.model_validate(sections))

    def cell(self, name: str, sections: Sequence[str], seed: int, work: Work, kl: float = 0.0) -> tuple[Path, Values]:
        """(folder, values) of a unit of work, done once per corpus, seed and the settings it depends on.

        Values end with the wall and CPU seconds it took (from its newest checkpoint on, if it was interrupted).
        """
        settings = self.domain(kl or KL_WEIGHT).config.model_dump(mode="json", include=set(sections))
        key = {"corpus": self.world.corpus.digest, "settings": settings, "feedback": self.size.feedback}
        key |= {
            "pretraining": [PRETRAINING.model_dump(mode="json"), self.options],
            "precision": self.precision,
            "seed": seed,
        }
        key["samples"] = [len(self.test), self.size.samples_per_prompt] if name == "ppo" else []
        folder = self.cache / f"{name}-{digest(key)[:16]}"
        done = folder / "done.json"
        if not done.is_file():
            print(f"{name}, seed {seed}{f', KL weight {kl:g}' if kl else ''}", file=sys.stderr, flush=True)
            wall, cpu = time.perf_counter(), time.process_time()
            values = dict(work(StageRun(name, folder, seed, progress=Terminal())))
            values |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            partial = folder / "done.partial"
            partial.write_text(json.dumps(values))
            partial.replace(done)
        return folder, json.loads(done.read_text())

    def base(self) -> tuple[Path, dict[str, Any]]:
        """The pretrained language model, shared by all seeds and weights, and its perplexity on held-out text."""

        def work(run: StageRun) -> dict[str, Any]:
            self.domain().initial_policy(run)
            policy = LanguagePolicy.load(run.folder / "policy")
            return {"perplexity": {name: self.perplexity(policy, name) for name in ("reviews", "sentences")}}

        folder, values = self.cell("base", MODEL, 0, work)
        return folder / "policy", values

    @torch.no_grad()
    def perplexity(self, policy: LanguagePolicy, corpus: str) -> float:
        """exp of the mean negative log-likelihood per token over windows of validation text."""
        texts = [t.text for t in getattr(self.world.corpus, corpus) if t.split == "validation"]
        words = " ".join(texts).split()[:20_000]
        size = WINDOW_WORDS
        windows = [" ".join(words[i : i + size]) for i in range(0, len(words), size)]
        total, count = 0.0, 0
        start = policy.encode_prompt("")
        for i in range(0, len(windows), 64):
            rows = [policy.encode_completion(w, ended=False) for w in windows[i : i + 64]]
            batch = TokenBatch.of([start] * len(rows), rows)
            scores = completion_scores(policy.model, batch, hidden_states(policy.model, batch))
            total -= float(scores.logprobs.sum())
            count += int(batch.completion_lengths.sum())
        return float(np.exp(total / count))

    def reward(self, base: Path, seed: int) -> tuple[Path, dict[str, Any]]:
        """The reward model fitted on people's pairs, assessed on held-out pairs."""

        def work(run: StageRun) -> dict[str, Any]:
            made = self.domain().fit_reward(base, base, self.judgements(seed), run)
            return {"assessment": made.values["assessment"], "fit": made.values["fit"]}

        folder, values = self.cell("reward", (*MODEL, "sampling", "reward"), seed, work)
        return folder / "reward", values

    def judgements(self, seed: int) -> list[Judgement]:
        """People's labels as pairs, of train and validation sentences."""
        made = []
        for split in ("train", "validation"):
            for row in self.world.recorded_feedback("comparison", split, self.size.feedback, seed):
                event, value = digest([row.query.id, seed]), row.answer.value or {}
                made.append(Judgement(event, "people:sentence_polarity", row.query, row.task, row.candidates, value))
        return made

    def ppo(self, base: Path, reward: Path, kl_weight: float, seed: int) -> dict[str, Any]:
        """One PPO run and its evaluation on held-out openings; the curve is from its rollouts on train openings."""

        def work(run: StageRun) -> dict[str, Any]:
            self.domain(kl_weight).improve(base, base, reward, run)
            return {"test": self.evaluate(run.folder / "policy", base, seed), "curve": self.curve(run.folder, base)}

        made = self.cell("ppo", (*MODEL, "sampling", "reward", "ppo"), seed, work, kl_weight)[1]
        return made | {"kl_weight": kl_weight, "seed": seed}

    def sample(self, policy: LanguagePolicy, tasks: Sequence[Task], seed: int) -> tuple[Any, NDArray[np.float64]]:
        """(generation, judge's log odds) of ``samples_per_prompt`` completions per task."""
        domain, repeats = self.domain(), self.size.samples_per_prompt
        prompts = [policy.encode_prompt(str(t.payload["prompt"])) for t in tasks for _ in range(repeats)]
        with domain.precision.autocast():
            out = generate(
                policy.model, prompts, Sampling(NEW_TOKENS, policy.eos), seed=derive(seed, "evaluation"),
                sequence_ids=range(len(prompts)), policy_version="evaluation",
            )  # fmt: skip
        return out, self.world.judge.score([policy.decode(c) for c in out.completions])

    @torch.no_grad()
    def evaluate(self, folder: Path, base: Path, seed: int) -> dict[str, Any]:
        """Share judged positive, sequence KL (mean of k1 on own samples), distinct-2, on held-out openings."""
        policy, reference = LanguagePolicy.load(folder), LanguagePolicy.load(base)
        ref_out, ref_scores = self.sample(reference, self.test, 0)
        out, scores = self.sample(policy, self.test, seed)
        threshold = centred_threshold(ref_scores)
        batch, kl = out.batch(), []
        for rows in torch.arange(len(batch)).split(64):
            part = batch.select(rows)
            own, ref = (
                completion_scores(p.model, part, hidden_states(p.model, part)).logprobs for p in (policy, reference)
            )
            kl += (own - ref).sum(1).tolist()
        positive = (scores > threshold).reshape(len(self.test), -1)
        low, high = _bootstrap(positive.mean(1), seed)
        texts = [policy.decode(c) for c in out.completions[:: self.size.samples_per_prompt][:5]]
        return {
            "share_positive": float(positive.mean()),
            "share_low": low,
            "share_high": high,
            "reference_share": float((ref_scores > threshold).mean()),
            "kl_nats": float(np.mean(kl)),
            "distinct_2": distinct_n(out.completions, 2),
            "reference_distinct_2": distinct_n(ref_out.completions, 2),
            "length": float(np.mean([len(c) for c in out.completions])),
            "samples": [f"{t.payload['prompt']} | {x.strip()}" for t, x in zip(self.test, texts, strict=False)],
        }

    def curve(self, folder: Path, base: Path) -> list[dict[str, float]]:
        """KL, reward and share judged positive of every rollout, with the threshold centred on train openings."""
        tasks = self.world.tasks("train", len(self.test), 0)
        threshold = centred_threshold(self.sample(LanguagePolicy.load(base), tasks, 0)[1])
        points = []
        for path in sorted((folder / "rollouts").glob("step-*.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            share = float((self.world.judge.score([r["completion"] for r in rows]) > threshold).mean())
            points.append({
                "step": rows[0]["step"],
                "kl_nats": float(np.mean([r["kl_nats"] for r in rows])),
                "reward": float(np.mean([r["reward_total"] for r in rows])),
                "share_positive": share,
            })  # fmt: skip
        return points


def _bootstrap(values: NDArray[np.float64], seed: int, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of a mean over prompts."""
    random = np.random.default_rng(seed)
    means = values[random.integers(0, len(values), (draws, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def claims_of(runs: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """What acceptance asks, each with the t interval over seeds."""
    share = interval([r["test"]["share_positive"] for r in runs])
    kl = interval([r["test"]["kl_nats"] for r in runs])
    start = interval([r["test"]["reference_share"] for r in runs])
    distinct = interval([r["test"]["distinct_2"] / r["test"]["reference_distinct_2"] for r in runs])
    return [
        Claim("reference share judged positive", *start, "0.5", abs(start[0] - 0.5) < 0.005),
        Claim("share judged positive", *share, f">= {TARGET_SHARE}", share[0] >= TARGET_SHARE),
        Claim("sequence KL, nats", *kl, f"<= {TARGET_KL}", kl[0] <= TARGET_KL),
        Claim("distinct-2 over the reference's", *distinct, f">= {TARGET_DISTINCT}", distinct[0] >= TARGET_DISTINCT),
    ]


def plot(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Share judged positive over KL: a curve along training for each run, a mark where it ended on held-out prompts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=130)
    weights = sorted({r["kl_weight"] for r in runs})
    colours = {w: pyplot.get_cmap("viridis")(i / max(1, len(weights) - 1) * 0.9) for i, w in enumerate(weights)}
    for run in runs:
        colour, curve, test = colours[run["kl_weight"]], run["curve"], run["test"]
        smooth = np.convolve([p["share_positive"] for p in curve], np.ones(3) / 3, "valid")
        axes.plot([p["kl_nats"] for p in curve][1:-1], smooth, color=colour, alpha=0.35, linewidth=1)
        error = [[test["share_positive"] - test["share_low"]], [test["share_high"] - test["share_positive"]]]
        axes.errorbar(test["kl_nats"], test["share_positive"], yerr=error, fmt="o", color=colour, capsize=2)
    for weight in weights:
        axes.plot([], [], "o", color=colours[weight], label=f"KL weight {weight:g}")
    axes.axhline(TARGET_SHARE, color="grey", linestyle=":", linewidth=1)
    axes.axvline(TARGET_KL, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="sequence KL to the reference (nats, 48 tokens)", ylabel="share judged positive", ylim=(0.45, 1.0))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Run what is not cached yet, then write and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with sentiment/*.zip")
    parser.add_argument("--cache", type=Path, default=Path(__file__).resolve().parent / ".cache" / "sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its own choice")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--quick", action="store_true", help="a much smaller case; writes no result file")
    options = parser.parse_args()

    tune(options.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    bench = Bench(options.data, options.cache, QUICK if options.quick else FULL, options.precision)
    seeds, frontier = (range(1), ()) if options.quick else (range(options.seeds), FRONTIER)
    base, pretrained = bench.base()
    rewards = {seed: bench.reward(base, seed) for seed in seeds}
    runs = [bench.ppo(base, rewards[seed][0], KL_WEIGHT, seed) for seed in seeds]
    others = [bench.ppo(base, rewards[0][0], weight, 0) for weight in frontier]
    if not options.quick:
        plot([*runs, *others], RESULTS / "sentiment_frontier.png")
    cells = [pretrained, *(values for _, values in rewards.values()), *runs, *others]
    extra = {
        "seeds": list(seeds),
        "kl_weight": KL_WEIGHT,
        "perplexity": pretrained["perplexity"],
        "reward_models": [values["assessment"] for _, values in rewards.values()],
        "runs": runs,
        "frontier": others,
        "threads": torch.get_num_threads(),
        "seconds": {
            "all_cells_wall": sum(c["wall_s"] for c in cells),
            "all_cells_cpu": sum(c["cpu_s"] for c in cells),
            "this_run_wall": time.perf_counter() - wall,
            "this_run_cpu": time.process_time() - cpu,
        },
    }
    write_result("sentiment", claims_of(runs), extra, options.quick)


if __name__ == "__main__":
    main()
