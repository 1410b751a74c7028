"""Does the engine change what PPO learns? Reward at equal KL, under several engines, from one start.

For each world (tinytalk, sentiment) and seed, SFT and the reward model are made once; then PPO runs alone under

    control   float32, rollouts by Hugging Face ``generate`` on padded prompts
    fp32      float32, rollouts by the engine
    bf16      the engine in bf16
    separate  as bf16, with a value trunk of its own (the others share the policy's)

with the same seed, prompts, settings and frozen reward. The weight of the KL adapts, so that the first half of a run is
held at a sequence KL of 3 nats and the second at 10: what a policy earns at a KL hangs on how long it has been there.
The policy's weights are measured on held-out prompts by Hugging Face alone, in float32 (``*_oracle.py``): what the
frozen reward pays, what gold or the judge says, and the KL. The last measurements of a half give the reward at its KL,
by a straight line; runs are paired by seed. Where a run does not get to a KL (a small world's reward may be earned in
full before), the claim says so, and all are compared at the nearest KL that each has been at.

    python benchmarks/engine_quality.py --world tinytalk --work FOLDER [--seeds 0 1 2] [--arms …] [--jobs 2] [--quick]
    python benchmarks/engine_quality.py --world sentiment --data FOLDER --work FOLDER …

About 25 CPU minutes for a world; a run takes one to two, a start one to three. Each run is a process of one thread,
kept in the work folder once it is done; ``--seeds`` and ``--arms`` make a part of them, and the result is written when
all are there. Left out: time (see ``ppo_speed.py``), later rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common import RESULTS, Claim, interval, write_result
from engine_quality_oracle import HfOracle, HfTrainer, load_weights
from engine_quality_worlds import LEVELS, Sentiment, Start, Tinytalk, World
from learning_curves import on_line
from tropism.language.policy import ActorCritic, LanguagePolicy, ValueTrunk, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.objectives.kl import AdaptiveKL
from tropism.runtime.memory import tune
from tropism.runtime.precision import resolve_precision
from tropism.runtime.seeding import derive
from tropism.runtime.stage import StageRun

HELD = 10
"""The last steps at a KL, which speak for it."""
SEEDS = (0, 1, 2)
TIMEOUT_S = 3600
MEASURES = ("reward", "gold")


@dataclass(frozen=True)
class Arm:
    """One engine."""

    precision: Literal["fp32", "bf16"]
    sampler: Literal["hf", "engine"] = "engine"
    trunk: ValueTrunk = "shared"


ARMS: Mapping[str, Arm] = {
    "control": Arm("fp32", "hf"),
    "fp32": Arm("fp32"),
    "bf16": Arm("bf16"),
    "separate": Arm("bf16", trunk="separate"),
}
PAIRS = (("fp32", "control"), ("bf16", "control"), ("bf16", "separate"))
"""(which must not be below, which)."""
TITLES = {"fp32": "fp32 engine", "bf16": "bf16 engine", "control": "HF generate in fp32", "separate": "separate trunks"}

Curve = list[dict[str, float]]


class Measure:
    """Measures a policy on held-out tasks, by means that no engine has a part in."""

    def __init__(self, world: World, start: Start, trainer: PpoTrainer) -> None:
        self.world, self.start, self.rewards = world, start, trainer.rewards
        self.tasks = world.evaluated(start)
        limit = trainer.sampling.max_new_tokens
        self.policy, self.reference = (HfOracle(LanguagePolicy.load(start.policy), limit) for _ in range(2))
        self.prompts = [self.policy.policy.encode_task(t.payload) for t in self.tasks]
        out = self.reference.sample(self.prompts, 0, "reference")
        self.reference_texts = [self.reference.policy.decode(c) for c in out.completions]

    def __call__(self, step: int, trained: LanguagePolicy) -> dict[str, float]:
        """One point of the curve, of the weights as they are."""
        load_weights(self.policy.policy, trained.model.state_dict())
        out = self.policy.sample(self.prompts, 1, f"measured:{step}")
        texts = [self.policy.policy.decode(c) for c in out.completions]
        kl = self.policy.sequence_logprobs(out) - self.reference.sequence_logprobs(out)
        return {
            "step": float(step),
            "kl": float(kl.mean()),
            "reward": float(self.rewards(self.tasks, out, texts).total.mean()),
            "gold": self.world.judge(self.start, self.tasks, texts, self.reference_texts),
            "length": sum(map(len, out.completions)) / len(texts),
        }


def run(world: World, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One PPO run under one engine, from the seed's start; its curve."""
    arm, start = ARMS[name], world.start(seed)
    settings = world.ppo(start).model_copy(update={"value_trunk": arm.trunk})
    policy = LanguagePolicy.load(start.policy)
    reference = LanguagePolicy(copy_of(policy.model), policy.tokenizer, policy.eos)
    trainer = (HfTrainer if arm.sampler == "hf" else PpoTrainer)(
        policy=policy,
        reference=reference,
        actor=ActorCritic(policy.model, arm.trunk),
        rewards=start.domain.rewards(start.reward, policy),
        tasks=start.domain.tasks("train", settings.prompts, derive(seed, "prompts")),
        settings=settings,
        sampling=start.domain.sampling(policy),
        precision=resolve_precision(arm.precision),
        run=StageRun(f"engine-{name}", folder, derive(seed, "ppo")),
    )
    measure, spent = Measure(world, start, trainer), 0.0
    curve: Curve = []
    for level in LEVELS:
        trainer.state.controller = AdaptiveKL(level, trainer.state.kl_coef, settings.kl_rate)
        left = settings.steps // len(LEVELS)
        while left:
            began = time.process_time()
            trainer.step()
            spent, left = spent + time.process_time() - began, left - 1
            if left < HELD:
                curve.append(measure(trainer.state.step, policy) | {"leash": level, "kl_coef": trainer.state.kl_coef})
                print(name, seed, {k: round(v, 3) for k, v in curve[-1].items()}, file=sys.stderr, flush=True)
    return {"arm": name, "seed": seed, "curve": curve, "training_cpu_s": spent, "rollbacks": trainer.state.rollbacks}


def held(run: Mapping[str, Any], level: float) -> Curve:
    """A run's measurements while it was held at a KL."""
    return [point for point in run["curve"] if point["leash"] == level]


def common_kl(runs: Sequence[Mapping[str, Any]], level: float) -> float:
    """The KL to compare at: ``level`` if every run was on both sides of it while it was held there, else the nearest KL
    of which that is so (the middle of the gap, if there is none)."""
    kls = [[point["kl"] for point in held(run, level)] for run in runs]
    low, high = max(map(min, kls)), min(map(max, kls))
    return (low + high) / 2 if low > high else min(max(level, low), high)


def compared(runs: Mapping[tuple[str, int], Mapping[str, Any]], seeds: Sequence[int], gold: str) -> list[Claim]:
    """Each pair of engines at each KL: the difference in reward and in gold, paired by seed."""
    claims = []
    names = {"reward": "frozen reward", "gold": gold}
    for level in LEVELS:
        kl = common_kl(list(runs.values()), level)
        where = f"KL {level:g}" if kl == level else f"KL {kl:.2f} (not every run was at {level:g})"
        for left, right in PAIRS:
            for measure in MEASURES:
                both = [[on_line(held(runs[arm, s], level), measure, kl) for arm in (left, right)] for s in seeds]
                gaps = [one - other for one, other in both]
                mean, low, high = interval(gaps)
                name = f"{names[measure]} at {where}: {TITLES[left]} less {TITLES[right]}"
                claims.append(Claim(name, mean, low, high, "not below 0: interval's high >= 0", high >= 0))
    return claims


def levels(runs: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[str, Any]:
    """Of every engine, held at each KL: mean KL, frozen reward, gold and weight of the KL, seed by seed."""
    found: dict[str, Any] = {}
    for (arm, _), each in runs.items():
        for level in LEVELS:
            points = held(each, level)
            for name in ("kl", *MEASURES, "length", "kl_coef"):
                mean = sum(p[name] for p in points) / len(points)
                found.setdefault(f"{arm}, held at KL {level:g}", {}).setdefault(name, []).append(mean)
    return found


def plot(runs: Mapping[tuple[str, int], Mapping[str, Any]], gold: str, path: Path) -> None:
    """Frozen reward and gold over KL, a mark for each measurement, a colour for each engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), dpi=130)
    colours = {name: pyplot.get_cmap("tab10")(i) for i, name in enumerate(ARMS)}
    for axis, measure, title in zip(axes, MEASURES, ("frozen reward", gold), strict=True):
        for (arm, _), each in runs.items():
            x, y = ([p[key] for p in each["curve"]] for key in ("kl", measure))
            axis.plot(x, y, ".", color=colours[arm], alpha=0.5)
        axis.set(xlabel="sequence KL to the start (nats)", ylabel=title)
        axis.spines[["top", "right"]].set_visible(False)
    for name, colour in colours.items():
        axes[0].plot([], [], "o", color=colour, label=TITLES[name])
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def world_of(given: argparse.Namespace) -> World:
    """The world that the command line names."""
    if given.world == "tinytalk":
        return Tinytalk(given.work, given.quick)
    return Sentiment(given.data, given.work, given.quick)


def place(given: argparse.Namespace, name: str, seed: int) -> Path:
    """The file of one run."""
    return given.work / f"{name}-{seed}.json"


def make(given: argparse.Namespace, jobs: Sequence[tuple[str, int]]) -> None:
    """Run what is missing, ``--jobs`` processes side by side; ("start", seed) makes a seed's start."""
    waiting, running = list(jobs), dict[subprocess.Popen[bytes], tuple[str, int, float]]()
    variables = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        while waiting or running:
            while waiting and len(running) < given.jobs:
                name, seed = waiting.pop(0)
                again = [sys.executable, __file__, *sys.argv[1:], "--one", f"{name}:{seed}"]
                started = subprocess.Popen(again, stdout=subprocess.DEVNULL, env=variables)
                running[started] = (name, seed, time.monotonic())
            time.sleep(0.5)
            for process, (name, seed, began) in list(running.items()):
                code, took = process.poll(), time.monotonic() - began
                if code is None and took > TIMEOUT_S:
                    raise SystemExit(f"{name}, seed {seed} took more than {TIMEOUT_S} s")
                if code:
                    raise SystemExit(f"{name}, seed {seed} failed with exit code {code}; see above")
                if code == 0:
                    print(f"{given.world} {name}, seed {seed}: {took:.0f} s", file=sys.stderr, flush=True)
                    del running[process]
    finally:
        for process in running:
            process.kill()


def one(given: argparse.Namespace) -> None:
    """What a process of its own does: a start, or a run."""
    tune(1)
    name, _, seed = given.one.partition(":")
    if name == "start":
        world_of(given).start(int(seed))
        return
    scratch = given.work / "scratch" / f"{name}-{seed}-{os.getpid()}"
    found, path = run(world_of(given), name, int(seed), scratch), place(given, name, int(seed))
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, allow_nan=False))
    partial.replace(path)


def main() -> None:
    """Make what is asked for and not there yet; the result once everything is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--world", choices=("tinytalk", "sentiment"), required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--data", type=Path, help="folder with sentiment/*.zip")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="make these seeds' runs now")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="make these runs now")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps; writes no result file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.world == "sentiment" and given.data is None:
        parser.error("--world sentiment needs --data FOLDER with sentiment/*.zip")
    given.work = given.work.resolve() / given.world / ("quick" if given.quick else "full")
    given.work.mkdir(parents=True, exist_ok=True)
    if given.one:
        one(given)
        return
    seeds = (0,) if given.quick else SEEDS
    cells = [(name, seed) for seed in seeds for name in ARMS]
    asked = [c for c in cells if c[0] in given.arms and c[1] in given.seeds and not place(given, *c).is_file()]
    make(given, [("start", seed) for seed in seeds if any(c[1] == seed for c in asked)])
    make(given, asked)
    missing = [f"{name}-{seed}" for name, seed in cells if not place(given, name, seed).is_file()]
    if missing:
        print(f"not there yet: {', '.join(missing)}", file=sys.stderr)
        return
    runs = {c: json.loads(place(given, *c).read_text()) for c in cells}
    world = world_of(given)
    if not given.quick:
        plot(runs, world.gold_name, RESULTS / f"engine_quality_{given.world}.png")
    claims = [] if given.quick else compared(runs, seeds, world.gold_name)
    extra = {"world": given.world, "seeds": list(seeds), "levels": levels(runs), "runs": list(runs.values())}
    write_result(f"engine_quality_{given.world}", claims, extra, given.quick)


if __name__ == "__main__":
    main()
