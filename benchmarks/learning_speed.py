"""CPU seconds to the reward that TRL's PPO reaches at a sequence KL of 3 nats, and both sides at KL 10.

The task is in ``learning_meter.py``: model S after a short SFT, paid for the share of its 24 new tokens that contain a
letter, 16 rollouts of 64, four epochs each. Both sides start from one folder, take the same prompts and the same
reward, and are measured by one meter on held-out prompts after every rollout; their clocks stand still meanwhile. TRL's
PPO 1.12 is run with three KL weights, ours with two, the weaker at a higher rate; the one with the most reward at KL 3
is a side's best, and a weight under which some seed never gets there is none. Ours must reach TRL's reward within the
same leash, at a KL of at most 3. Since the seeds that are measured also choose the weights, ours is run with its best
once more on seeds that chose nothing. Our mini-batch (32, TRL's is 64), rates and the weight of the value loss were
chosen by hand on a seed that is not measured; nothing else of TRL's is tuned. Both sides and TRL's GRPO 1.16 are shown
at KL 10, without a claim.

    scripts/trl_environment.sh A 1.12 && scripts/trl_environment.sh B 1.16
    python benchmarks/learning_speed.py --texts TEXT… --work FOLDER --trl-python A/bin/python \\
        --trl-grpo-python B/bin/python [--seeds 0 1 2] [--only start ours trl grpo] [--quick]

On two idle cores about an hour: the start 4, a run of TRL's PPO 4 (nine of them), of GRPO 3 (three), of ours 2
(nine). Every run is a process of its own, kept in the work folder once it is done: ``--only`` and ``--seeds`` make a
part of them (say, one seed of TRL), and the result is written when all are there. Left out: other tasks, wall clocks as
a claim (CPU seconds are what a busy machine leaves comparable).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import Claim, interval, write_result
from learning_curves import at_kl, crossing, highest, reach
from tropism.digests import digest

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 3600
LEASH, WIDE = 3.0, 10.0
"""Sequence KLs, nats, at which sides are compared."""
TRL_WEIGHTS = (0.02, 0.05, 0.1)
OURS_WEIGHTS = (0.05, 0.01)
OURS_RATES = {0.01: 4e-4}
"""Learning rates that are not the default."""
GRPO_WEIGHT = 0.05
TARGET = 0.5
"""The share of TRL's CPU seconds that ours may take."""
SEEDS = (0, 1, 2)
FRESH_SEEDS = (3, 4, 5)
"""Of ours alone: they choose nothing, and their seconds are not compared."""

Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Work:
    """How much is done."""

    rollouts: int = 16
    batch: int = 64
    evaluated: int = 256
    sft_steps: int = 200


QUICK = Work(2, 8, 32, 3)


@dataclass(frozen=True)
class Cell:
    """One run: of whom, under which KL weight, from which seed."""

    side: str
    precision: str
    weight: float
    seed: int

    def command(self, start: Path, work: Work, given: argparse.Namespace) -> list[str]:
        """The process that makes it."""
        asked = ["--start", str(start), "--kl-weight", str(self.weight), "--seed", str(self.seed)]
        asked += ["--precision", self.precision, "--threads", str(given.threads)]
        asked += ["--rollouts", str(work.rollouts), "--batch", str(work.batch), "--evaluated", str(work.evaluated)]
        if self.side == "ours":
            rate = ["--lr", str(OURS_RATES[self.weight])] if self.weight in OURS_RATES else []
            return [sys.executable, str(HERE / "learning_ours.py"), *asked, *rate]
        python, algorithm = {"trl": (given.trl_python, "ppo"), "grpo": (given.trl_grpo_python, "grpo")}[self.side]
        return [str(python), str(HERE / "peers" / "trl_learn_driver.py"), "--algorithm", algorithm, *asked]

    def path(self, folder: Path, work: Work) -> Path:
        """Where its curve is kept."""
        key = digest(asdict(work))[:8]
        return folder / "cells" / f"{self.side}-{self.precision}-kl{self.weight:g}-seed{self.seed}-{key}.json"


def cells_of(given: argparse.Namespace) -> list[Cell]:
    """All runs of the benchmark, the sides in turns."""
    made = []
    for seed in given.all_seeds:
        made += [Cell("ours", given.precision, w, seed) for w in OURS_WEIGHTS]
        made += [Cell("trl", given.trl_precision, w, seed) for w in TRL_WEIGHTS]
        made += [Cell("grpo", given.trl_precision, GRPO_WEIGHT, seed)]
    return [cell for cell in made if can_run(cell, given)] if given.quick else made


def can_run(cell: Cell, given: argparse.Namespace) -> bool:
    """Whether the interpreter that a run needs was named."""
    return {"ours": True, "trl": bool(given.trl_python), "grpo": bool(given.trl_grpo_python)}[cell.side]


def ran(command: Sequence[str], threads: int, what: str) -> str:
    """The last line that a process printed; an error with the end of its stderr if it failed."""
    began = time.perf_counter()
    # waiting threads sleep, so that CPU seconds are work
    variables = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        list(command), env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=HERE
    )
    if done.returncode:
        raise SystemExit(f"{what} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    print(f"{what}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return (done.stdout.splitlines() or [""])[-1]


def seconds(curve: Curve, reward: float, kl_limit: float | None = None) -> tuple[float, bool]:
    """(CPU seconds to a reward, whether it was reached); those of the whole curve if it was not."""
    found = reach(curve, reward, kl_limit)
    return (curve[-1]["cpu_s"], False) if found is None else (found["cpu_s"], True)


def best_weight(curves: Mapping[float, Mapping[int, Curve]]) -> tuple[float, dict[str, float]]:
    """A side's best KL weight, and the mean reward at the leash of every weight under which all seeds get as far.
    Errors: ValueError if there is none."""
    rewards = {}
    for weight, of_seed in curves.items():
        found = [at_kl(curve, "reward", LEASH) for curve in of_seed.values()]
        known = [r for r in found if r is not None]
        if len(known) == len(found):
            rewards[weight] = sum(known) / len(known)
    if not rewards:
        far = {w: [round(highest(c), 2) for c in of_seed.values()] for w, of_seed in curves.items()}
        raise ValueError(f"no KL weight took all seeds to a KL of {LEASH} ({far}): more rollouts are needed")
    return max(rewards, key=lambda w: rewards[w]), {f"{w:g}": r for w, r in rewards.items()}


def compared(
    ours: Mapping[float, Mapping[int, Curve]], trl: Mapping[float, Mapping[int, Curve]]
) -> tuple[list[Claim], dict[str, Any]]:
    """The claim, and what it rests on. TRL's seconds are to its own mean reward at the leash, at whatever KL."""
    (own, own_rewards), (weight, rewards) = best_weight(ours), best_weight(trl)
    target = rewards[f"{weight:g}"]
    rows = []
    for seed, curve in ours[own].items():
        (mine, reached), (theirs, reached_too) = seconds(curve, target, LEASH), seconds(trl[weight][seed], target)
        found = reach(curve, target)
        rows.append({
            "seed": seed, "ours_cpu_s": mine, "trl_cpu_s": theirs, "ours_reached": reached, "trl_reached": reached_too,
            "ours_kl": None if found is None else found["kl"], "ratio": mine / theirs,
        })  # fmt: skip
    # ratios are averaged as logarithms: half and twice are equally far from one
    mean, low, high = (math.exp(x) for x in interval([math.log(r["ratio"]) for r in rows]))
    every = all(r["ours_reached"] and r["ratio"] <= TARGET for r in rows)
    name = f"CPU seconds to TRL PPO's reward at KL {LEASH:g}, ours over TRL's"
    claims = [Claim(name, mean, low, high, f"<= {TARGET:g}, every seed", every)]
    weights = {"ours_weight": own, "ours_rewards_at_leash": own_rewards}
    weights |= {"trl_weight": weight, "trl_rewards_at_leash": rewards}
    return claims, {**weights, "target_reward": target, "seeds": rows}


def again(fresh: Mapping[int, Curve], target: float) -> Claim:
    """Whether seeds that chose nothing have a reward within the leash; shown are their rewards at its end."""
    found = [at_kl(curve, "reward", LEASH) for curve in fresh.values()]
    known = [max(p["reward"] for p in c) if r is None else r for r, c in zip(found, fresh.values(), strict=True)]
    every = all(reach(curve, target, LEASH) is not None for curve in fresh.values())
    name = f"reward of ours at KL {LEASH:g} on seeds that chose no weight"
    return Claim(name, sum(known) / len(known), min(known), max(known), f">= {target:.3f} (TRL's), every seed", every)


def shown(curves: Mapping[str, Mapping[int, Curve]], kl: float) -> dict[str, Any]:
    """Reward and CPU seconds of each side where it first has a KL; None for a seed that never has."""
    found: dict[str, Any] = {}
    for side, of_seed in curves.items():
        points = [crossing(curve, "kl", kl) for curve in of_seed.values()]
        found[side] = {
            "reward": [at_kl(curve, "reward", kl) for curve in of_seed.values()],
            "cpu_s": [None if p is None else p["cpu_s"] for p in points],
            "highest_kl": [highest(curve) for curve in of_seed.values()],
        }
    return found


def begins_at_zero(curves: Sequence[Curve]) -> Claim:
    """The meter finds no KL in the start policy, whoever brings it (bf16 weights are rounded, which it sees)."""
    worst = max(abs(curve[0]["kl"]) for curve in curves)
    return Claim("KL of the start policy, the farthest run's", worst, worst, worst, "< 0.01", worst < 0.01)


def result(
    found: Mapping[Cell, Mapping[str, Any]], fresh: Mapping[Cell, Mapping[str, Any]], given: argparse.Namespace
) -> None:
    """Write and print what all cells say; ``fresh``: those of ours alone."""

    def of(side: str, weight: float) -> dict[int, Curve]:
        return {c.seed: found[c]["curve"] for c in found if (c.side, c.weight) == (side, weight)}

    claims, extra = [begins_at_zero([f["curve"] for f in found.values()])], {}
    trl = {w: of("trl", w) for w in TRL_WEIGHTS if of("trl", w)}
    ours = {w: of("ours", w) for w in OURS_WEIGHTS}
    if trl and not given.quick:
        made, extra["at_leash"] = compared(ours, trl)
        claims += [*made, again({c.seed: f["curve"] for c, f in fresh.items()}, extra["at_leash"]["target_reward"])]
    sides = {f"ours, KL weight {w:g}": curves for w, curves in ours.items()}
    sides |= {f"TRL PPO, KL weight {w:g}": curves for w, curves in trl.items()}
    if grpo := of("grpo", GRPO_WEIGHT):
        sides[f"TRL GRPO, KL weight {GRPO_WEIGHT:g}"] = grpo
    extra |= {f"at_kl_{level:g}": shown(sides, level) for level in (LEASH, WIDE)}
    runs = [asdict(cell) | {"curve": made["curve"]} for cell, made in {**found, **fresh}.items()]
    versions = {cell.side: made["versions"] for cell, made in found.items()}
    more = {"seeds": list(given.all_seeds), "threads": given.threads, "peer_versions": versions, "runs": runs}
    write_result("learning_speed", claims, {**extra, "work": asdict(given.size), **more}, given.quick)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="text files (.txt, .txt.xz)")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--trl-python", type=Path, help="interpreter of an environment with TRL 1.12")
    parser.add_argument("--trl-grpo-python", type=Path, help="interpreter of an environment with TRL 1.16")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="make these seeds' runs now")
    parser.add_argument("--only", nargs="+", choices=("start", "ours", "trl", "grpo"), help="make these runs now")
    parser.add_argument("--precision", default="bf16", help="ours")
    parser.add_argument("--trl-precision", choices=("fp32", "bf16"), default="bf16", help="bf16 is autocast, its best")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, two rollouts of 8; TRL only if it is named")
    given = parser.parse_args()
    given.size, given.all_seeds = (QUICK, (0,)) if given.quick else (Work(), SEEDS)
    if not (given.quick or given.only) and not (given.trl_python and given.trl_grpo_python):
        parser.error("the claim needs --trl-python, and the figures at KL 10 --trl-grpo-python")
    for name in ("trl_python", "trl_grpo_python"):  # not resolved: an environment's interpreter is a link
        if getattr(given, name):
            setattr(given, name, getattr(given, name).absolute())
    return given


def make(cell: Cell, start: Path, work: Path, given: argparse.Namespace) -> None:
    """Run a cell that is not there yet, if its side's interpreter was named."""
    path = cell.path(work, given.size)
    if path.is_file() or not can_run(cell, given):
        return
    line = ran(cell.command(start, given.size, given), given.threads, str(path.stem))
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(json.loads(line)))
    partial.replace(path)


def main() -> None:
    """Make what is asked for and not there yet; the result once everything is."""
    given = arguments()
    work = given.work.resolve() / ("quick" if given.quick else "full")
    (work / "cells").mkdir(parents=True, exist_ok=True)
    start = work / "start"
    if not (start / "prompts.jsonl").is_file():
        texts = [str(path.resolve()) for path in given.texts]
        steps = ["--steps", str(given.size.sft_steps), "--threads", str(given.threads)]
        ran([sys.executable, str(HERE / "learning_start.py"), "--texts", *texts, "--out", str(start), *steps],
            given.threads, "start")  # fmt: skip
    cells = cells_of(given)
    for cell in cells:
        if cell.seed in given.seeds and cell.side in (given.only or ("ours", "trl", "grpo")):
            make(cell, start, work, given)
    missing = [c.path(work, given.size).stem for c in cells if not c.path(work, given.size).is_file()]
    if missing:
        print(f"not there yet: {', '.join(missing)}", file=sys.stderr)
        return
    found = {c: json.loads(c.path(work, given.size).read_text()) for c in cells}
    fresh = []
    if not given.quick:
        of = {w: [c for c in cells if (c.side, c.weight) == ("ours", w)] for w in OURS_WEIGHTS}
        ours = {w: {c.seed: found[c]["curve"] for c in mine} for w, mine in of.items()}
        fresh = [Cell("ours", given.precision, best_weight(ours)[0], seed) for seed in FRESH_SEEDS]
        for cell in fresh:
            make(cell, start, work, given)
    result(found, {c: json.loads(c.path(work, given.size).read_text()) for c in fresh}, given)


if __name__ == "__main__":
    main()
