"""What is found out about annotators: simulated ones of known kinds, adaptive overlap, and real votes held out.

Simulated: 20 people of five kinds (9 good, 3 random, 2 inverted, 3 drawn by the first place, 3 by length) cast 4,000
votes on 40 items, with and without ties; a second crowd is 15 good, 3 random and 2 inverted. Measured are the joint
fit's correlation with the true utilities beside plain Bradley-Terry's, each annotator's kind, and the seconds of a fit.
As a study has it, the twenty also judge 2,000 pairs of candidates of their own, three votes a pair: no ranking comes of
that, but the kinds must.

Adaptive overlap: 1,500 queries, each with its own order of the same 20 people, of whom 4,000 earlier votes are known.
Fixed overlap takes the first 3 (or 5) votes; adaptive overlap stops when the posterior error is below a threshold, at 9
votes at the latest. Both decide by the same posterior. Compared are the votes at equal true accuracy: at the one
threshold that over all seeds is not less accurate than fixed overlap.

Real votes (``--data``): UKPConvArg1, five votes a pair. Fitted on three, predicted are the other two, of a1, a2, equal.
The figures beside it are uniform trust in its usual form (the posterior of a pair's true answer, taken for the
distribution of its votes) and in its best (made a distribution of votes; or shares with one added to each), and one
coin per annotator. Intervals: over random splits of the votes, and over topics (drawn whole) of the first split.

    python benchmarks/annotators.py [--data FOLDER] [--seeds 12] [--work FOLDER]
    python benchmarks/annotators.py --quick     few seeds; no result file

Left out: people who change, and people who talk to each other.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, interval, kept, write_result
from tropism.data import read
from tropism.data.judgements import to_judgements
from tropism.evaluation.intervals import bootstrap_paired, wilson
from tropism.feedback.quality.joint_fit import Evidence, JointSettings, fit_jointly
from tropism.feedback.quality.joint_likelihood import Spreads
from tropism.feedback.quality.kinds import Kind, kinds_of
from tropism.feedback.quality.overlap import OverlapRules, decide
from tropism.feedback.quality.simulation import TWENTY, Simulated, simulate
from tropism.feedback.quality.truth import Account, fit_truth
from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Integers, Votes, votes_of
from tropism.runtime.seeding import derive, uniform

CROWD: tuple[Kind, ...] = tuple(kind for kind in TWENTY if kind in ("random", "inverted")) + ("good",) * 15
FEW = "three votes a candidate"
SETTINGS: dict[str, dict[str, Any]] = {
    "five kinds": {"kinds": TWENTY}, "five kinds, ties": {"kinds": TWENTY, "tie": -0.5},
    "random and inverted": {"kinds": CROWD}, FEW: {"kinds": TWENTY, "votes": 6000, "per_pair": 3},
}  # fmt: skip
PLAIN = JointSettings(position=False, length=False, rounds=0, spreads=Spreads(skill=1e-3))
QUERIES, MOST, FIXED = 1500, 9, (3, 5)
THRESHOLDS = np.arange(2, 49) / 100
SPLITS = 5


def simulated(name: str, seed: int) -> dict[str, Any]:
    """The joint fit, and plain Bradley-Terry, of one simulated crowd."""
    made = simulate(seed, **SETTINGS[name])
    started, busy = time.perf_counter(), time.process_time()
    fit = fit_jointly(made.votes)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    plain = fit_jointly(made.votes, PLAIN)
    pairs = Counter(zip(made.kinds, kinds_of(fit), strict=True))
    return {
        "setting": name, "seed": seed, "seconds": round(seconds, 4), "cpu_seconds": round(cpu, 4),
        "correlation": float(np.corrcoef(fit.utility.value, made.utility)[0, 1]),
        "plain": float(np.corrcoef(plain.utility.value, made.utility)[0, 1]),
        "kinds": {f"{truth} as {said}": n for (truth, said), n in sorted(pairs.items())},
    }  # fmt: skip


def kinds_found(rows: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Of each kind: how many were found, and of how many."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        for name, n in row["kinds"].items():
            truth, _, said = name.partition(" as ")
            hits, every = found.get(truth, (0, 0))
            found[truth] = hits + n * (truth == said), every + n
    return found


def wrongly_named(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """How many good annotators were called anything but good or unclear, of how many."""
    cases = [(name, n) for row in rows for name, n in row["kinds"].items() if name.startswith("good as ")]
    return sum(n for name, n in cases if name not in ("good as good", "good as unclear")), sum(n for _, n in cases)


def asked(made: Simulated, seed: int) -> tuple[Floats, Votes]:
    """True differences ``[Q]``, and MOST votes on each of the queries, query by query, by people in random order."""
    random = np.random.Generator(np.random.Philox(derive(seed, "overlap", QUERIES)))
    people = np.array([random.permutation(len(made.kinds))[:MOST] for _ in range(QUERIES)]).ravel()
    utility, lengths = random.normal(0, 1.2, (QUERIES, 2)), random.normal(0, 1, (QUERIES, 2))
    true = utility[:, 0] - utility[:, 1]
    query = np.repeat(np.arange(QUERIES), MOST)
    first, gap = random.choice([-1.0, 1.0], len(query)), (lengths[:, 0] - lengths[:, 1])[query]
    delta = made.skill[people] * true[query] + made.position[people] * first + made.length[people] * gap
    choice = np.where(random.random(len(query)) < 1 / (1 + np.exp(-delta)), A_WINS, B_WINS)
    votes = Votes(
        tuple(f"candidate {i}" for i in range(2 * QUERIES)), made.votes.annotators, 2 * query, 2 * query + 1, people,
        choice, first, gap,
    )  # fmt: skip
    return true, votes


def adaptive(seed: int) -> dict[str, Any]:
    """Votes and accuracy of fixed overlap, and of adaptive overlap at every threshold; without and with a reward model.

    The reward model sees the true difference with a noise of 1 logit, and says so.
    """
    made = simulate(seed)
    fit = fit_jointly(made.votes)
    true, votes = asked(made, seed)
    evidence = fit.evidence(votes)
    scale = float(np.median(made.skill[made.skill > 0]))  # the fit's unit of utility
    noise = np.random.Generator(np.random.Philox(derive(seed, "reward model", QUERIES))).normal(0, 1.0, QUERIES)
    spread = float(np.sqrt(2)) * fit.utility_spread
    keep = spread**2 / (spread**2 + 1.0)  # a calibrated model: what it says is the mean of what it leaves possible
    row: dict[str, Any] = {"seed": seed}
    for name, prior, rules in (
        ("votes alone", np.zeros(QUERIES), OverlapRules.of(fit, most=MOST)),
        ("with a reward model", keep * (true * scale + noise), OverlapRules(most=MOST, spread=spread * keep**0.5)),
    ):
        better = np.stack([_after(n, votes, evidence, rules, prior) for n in range(MOST + 1)], 1)  # [Q, votes]
        error = np.minimum(better, 1 - better)
        right = np.where(better == 0.5, 0.5, (better > 0.5) == (true[:, None] > 0))
        stops = [(np.arange(QUERIES), _stops(error, threshold)) for threshold in THRESHOLDS]
        row[name] = {
            "fixed": [_outcome(error[:, m], right[:, m], m) for m in FIXED],
            "adaptive": [_outcome(error[at], right[at], float(at[1].mean())) for at in stops],
        }
    return row


def _outcome(error: Floats, right: Floats, votes: float) -> dict[str, float]:
    """``error`` is what the model expects; ``accuracy`` what is true."""
    return {"votes": votes, "error": round(float(error.mean()), 5), "accuracy": round(float(right.mean()), 5)}


def _after(n: int, votes: Votes, evidence: Evidence, rules: OverlapRules, prior: Floats) -> Floats:
    """P(a is better) of each query after its first ``n`` votes."""
    rows = np.flatnonzero(np.arange(len(votes)) % MOST < n)
    of_rows = Evidence(*(column[rows] for column in vars(evidence).values()))
    return decide(QUERIES, rows // MOST, votes.choice[rows], of_rows, rules, prior).a_better


def _stops(error: Floats, threshold: float) -> Integers:
    """After how many votes each query is settled."""
    enough = error <= threshold
    enough[:, 0] = False  # one vote at least, and MOST at most
    enough[:, -1] = True
    return enough.argmax(1)


@cache
def real_votes(folder: Path) -> tuple[Votes, Integers]:
    """The corpus in one orientation per pair, and each vote's topic."""
    judgements = to_judgements(read(folder / "ukp_convarg1", format="ukp").records, validation_share=0.0).judgements
    votes = votes_of(judgements).votes
    _, topic = np.unique([str(j.task.payload["group"]) for j in judgements], return_inverse=True)
    assert len(votes) == len(topic)  # the corpus holds comparisons alone
    turn = votes.a > votes.b
    sign = np.where(turn, -1.0, 1.0)
    turned = replace(
        votes, a=np.minimum(votes.a, votes.b), b=np.maximum(votes.a, votes.b), first=sign * votes.first,
        length=sign * votes.length, choice=np.where(turn & (votes.choice != TIE), 1 - votes.choice, votes.choice),
    )  # fmt: skip
    return turned, topic


def one_split(votes: Votes, seed: int) -> tuple[dict[str, Floats], Votes, Integers]:
    """P(vote) ``[held out, 3]`` of every method, the votes held out, and their rows."""
    _, pair = np.unique(votes.a * len(votes.items) + votes.b, return_inverse=True)
    order = np.lexsort((uniform(derive(seed, "votes held out"), np.arange(len(votes)), 0), pair))
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    place = np.empty(len(votes), np.int64)
    place[order] = np.arange(len(votes)) - np.repeat(starts, np.diff(np.append(starts, len(votes))))
    fitted, rows = place < 3, np.flatnonzero((place == 3) | (place == 4))
    held, known = votes.take(rows), votes.take(fitted)
    counts = np.ones((int(pair.max()) + 1, 3))
    np.add.at(counts, (pair[fitted], known.choice), 1)
    made = {"shares, one added to each": (counts / counts.sum(1, keepdims=True))[pair[rows]]}
    people = len(votes.annotators)
    accounts: tuple[tuple[str, Account, float], ...] = (
        ("uniform trust", "shared", 0.0), ("one coin each", "one-coin", 1.0), ("full confusion", "full", 1.0)
    )  # fmt: skip
    for name, account, smoothing in accounts:
        truth = fit_truth(
            pair[fitted], known.annotator, known.choice, 3, account=account, smoothing=smoothing, annotators=people,
            tolerance=1e-7,
        )  # fmt: skip
        made[f"{name}, posterior"] = truth.posterior[pair[rows]]
        made[f"{name}, votes"] = truth.predict(pair[rows], held.annotator)
    alike = Spreads(utility=1.5, skill=1e-3, position=1e-3, length=1e-3, tie=1e-3)
    for name, settings in (
        ("utilities alone", JointSettings(length=False, rounds=0, spreads=alike)),
        ("joint fit without length", JointSettings(length=False)), ("joint fit", JointSettings()),
    ):  # fmt: skip
        made[name] = fit_jointly(known, settings).predict(held)
    return made, held, rows


def score(chance: Floats, held: Votes) -> tuple[Floats, Floats]:
    """Right or wrong and −log P of each vote; a probability of 0 counts as 1e-6, or one vote would be infinite."""
    said = chance[np.arange(len(held)), held.choice]
    return (chance.argmax(1) == held.choice).astype(np.float64), -np.log(np.maximum(said, 1e-6))


def real(folder: Path, seed: int) -> dict[str, Any]:
    """Accuracy and nats of every method on one split; on the first, differences with intervals over topics."""
    votes, topic = real_votes(folder)
    started = time.perf_counter()
    made, held, rows = one_split(votes, seed)
    each = {name: score(chance, held) for name, chance in made.items()}
    differences = {}
    for against in ("uniform trust, posterior", "uniform trust, votes", "shares, one added to each"):
        for i, what in ((0, "accuracy"), (1, "nats")):
            found = bootstrap_paired(each["joint fit"][i], each[against][i], clusters=topic[rows])
            differences[f"{what}, joint fit less {against}"] = found.as_json()
    return {
        "seed": seed, "votes": len(votes), "annotators": len(votes.annotators), "items": len(votes.items),
        "held_out": len(held), "topics": int(topic.max()) + 1, "seconds": round(time.perf_counter() - started, 1),
        "accuracy": {name: float(right.mean()) for name, (right, _) in each.items()},
        "nats": {name: float(nats.mean()) for name, (_, nats) in each.items()}, "over_topics": differences,
    }  # fmt: skip


def summary(splits: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Means over splits with their intervals, and the first split's intervals over topics."""
    if not splits:
        return None
    over = {
        what: {name: interval([split[what][name] for split in splits]) for name in splits[0][what]}
        for what in ("accuracy", "nats")
    }
    return {**splits[0], **over}


def at_equal_accuracy(rows: list[dict[str, Any]], which: int) -> tuple[list[float], list[float]]:
    """Share of votes saved and accuracy gained, of each seed, at the one threshold that over all seeds takes the fewest
    votes among those whose mean accuracy is not below that of the ``which``-th fixed overlap."""
    fixed = [row["fixed"][which] for row in rows]
    accuracy = np.array([[case["accuracy"] for case in row["adaptive"]] for row in rows])
    votes = np.array([[case["votes"] for case in row["adaptive"]] for row in rows])
    enough = accuracy.mean(0) >= np.mean([case["accuracy"] for case in fixed])
    at = int(np.where(enough, votes.mean(0), np.inf).argmin())
    saved = [1 - float(n) / case["votes"] for n, case in zip(votes[:, at], fixed, strict=True)]
    return saved, [float(a) - case["accuracy"] for a, case in zip(accuracy[:, at], fixed, strict=True)]


def curves(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fixed overlap by seed, and adaptive overlap's means over seeds at each threshold."""
    found: dict[str, Any] = {}
    for name in (name for name in rows[0] if name != "seed"):
        table = np.array([[list(case.values()) for case in row[name]["adaptive"]] for row in rows]).mean(0)
        adaptive = [
            {"threshold": float(threshold), "votes": votes, "error": error, "accuracy": accuracy}
            for threshold, (votes, error, accuracy) in zip(THRESHOLDS, table.round(5).tolist(), strict=True)
        ]
        found[name] = {"fixed": [row[name]["fixed"] for row in rows], "adaptive": adaptive}
    return found


def claims_of(rows: list[dict[str, Any]], overlap: list[dict[str, Any]], found: dict[str, Any] | None) -> list[Claim]:
    """What is held of all this."""
    claims = []
    ranked, few = ([row for row in rows if (row["setting"] == FEW) == is_few] for is_few in (False, True))
    for name in dict.fromkeys(row["setting"] for row in ranked):
        value, low, high = interval([row["correlation"] for row in ranked if row["setting"] == name])
        claims.append(Claim(f"correlation, {name}", value, low, high, "low end >= 0.97", low >= 0.97))

    def of_all(name: str, hits: int, n: int, target: str, least: float, most: float = 1.0) -> None:
        found_of = wilson(hits, n)
        held = least <= found_of.value <= most
        claims.append(Claim(name, found_of.value, found_of.low, found_of.high, target, held))

    for kind, (hits, n) in kinds_found(ranked).items():
        least = 0.99 if kind == "good" else 0.85
        of_all(f"{kind} found", hits, n, f">= {least}", least)
    for name, group in (("", ranked), (f", {FEW}", few)):
        each = kinds_found(group).values()
        of_all(f"kinds found{name}", sum(hits for hits, _ in each), sum(n for _, n in each), ">= 0.9", 0.9)
        of_all(f"good ones named otherwise{name}", *wrongly_named(group), "0", 0.0, 0.0)
    slowest, usual = max(row["cpu_seconds"] for row in ranked), float(np.median([row["seconds"] for row in ranked]))
    claims.append(Claim("CPU seconds of the slowest fit of 4,000 votes", slowest, slowest, slowest, "< 1", slowest < 1))
    claims.append(Claim("seconds of the median fit of 4,000 votes", usual, usual, usual, "< 1", usual < 1))
    for name in ("votes alone", "with a reward model"):
        for which, m in enumerate(FIXED):
            saved, gain = at_equal_accuracy([row[name] for row in overlap], which)
            value, low, high = interval(saved)
            claims.append(Claim(f"votes saved against {m}, {name}", value, low, high, "low end > 0", low > 0))
            value, low, high = interval(gain)
            claims.append(Claim(f"accuracy over that of {m}, {name}", value, low, high, ">= 0", value >= 0))
    for key, difference in (found or {"over_topics": {}})["over_topics"].items():
        better = difference["low"] > 0 if key.startswith("accuracy") else difference["high"] < 0
        target = "> 0" if key.startswith("accuracy") else "< 0"
        claims.append(Claim(key, difference["value"], difference["low"], difference["high"], target, better))
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with ukp_convarg1")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--work", type=Path, help="folder for what is finished; it is not measured again")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    seeds, splits = (2, 1) if options.quick else (options.seeds, SPLITS)
    work = None if options.quick else options.work
    rows = [
        kept(work, f"{name}-{seed}", repr(settings), partial(simulated, name, seed))
        for name, settings in SETTINGS.items()
        for seed in range(seeds)
    ]
    overlap = [kept(work, f"overlap-{seed}", [QUERIES, MOST, FIXED], partial(adaptive, seed)) for seed in range(seeds)]
    numbers = range(splits if options.data else 0)
    found = summary([kept(work, f"real-{seed}", SPLITS, partial(real, options.data, seed)) for seed in numbers])
    claims = claims_of(rows, overlap, found)
    for claim in claims:
        print(f"{claim.name}: {claim.value:.4f} [{claim.low:.4f}, {claim.high:.4f}] {claim.target} {claim.holds}")
    extra = {"seeds": seeds, "simulated": rows, "overlap": curves(overlap), "real_votes": found}
    write_result("annotators", claims, extra, options.quick)


if __name__ == "__main__":
    main()
