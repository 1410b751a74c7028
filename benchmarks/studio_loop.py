"""The loop closed through a browser: somebody judges on the screen while the policy learns from it.

    python benchmarks/studio_loop.py [--seeds 3] [--quick] [--pace 0.8] [--set a.b=c]

Each seed is one study of the `tinytalk` recipe whose teacher is a person, run by ``tropism run DIR --studio``: two
rounds of 300 questions, of which the loop waits for 70 %; the others are answered while the reward model is fitted and
PPO trains, on the same cores, and count in the next round. The only teacher is a program in a headless Chromium
(``studio_annotator.py``) that makes itself an account by the link which the studio prints, reads prompt and answers off
the page and presses keys.

Measured: how long the browser waited for a submit and the claim after it while PPO trained; labels, and whether each
press is one event in a log that verifies; and, on 1,000 held-out prompts that no stage of the study saw, the gold win
rate of the final policy over SFT. Needs Debian's Chromium and ``pip install playwright``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from common import Claim, interval, write_result
from studio_annotator import MEASURE, Annotator, pairs_of
from tinytalk import PROMPTS_SEED, folders_of
from tropism import Study
from tropism.digests import digest
from tropism.language.domain import LanguageDomain
from tropism.language.evaluate import Evaluator
from tropism.language.policy import LanguagePolicy
from tropism.runtime.stage import StageRun
from tropism.store import schema

MOST_LABELS, SLOWEST_S, LEAST_WIN_RATE = 600, 1.0, 0.65
NAME, PASSWORD = "annotator in a browser", "reads what is on the screen"
SETTINGS = [
    "feedback.teacher=person",
    "feedback.queries_per_round=300",
    "feedback.enough=0.7",
]
QUICK_SETTINGS = [
    "feedback.teacher=person",
    "feedback.queries_per_round=24",
    "feedback.enough=0.5",
    "study.rounds=1",
    "sft.steps=30",
    "ppo.steps=10",
    "evaluation.prompts=50",
    "world.options.pretrain.steps=30",
]
COMES_UP_S = 60
LINK, LISTENS = re.compile(r"(http://\S+/#/setup/\S+)"), re.compile(r"studio of .*: (http://\S+)")


def chromium() -> str:
    """Where the browser is."""
    found = os.environ.get("TROPISM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise SystemExit("needs Chromium (apt-get install chromium), or TROPISM_CHROMIUM with its path")
    return found


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str | None, str]]:
    """``tropism run FOLDER --studio``: the process, the link for its first account where it has none, its address."""
    log = folder.with_suffix(".log")
    with log.open("wb") as said:
        command = [sys.executable, "-m", "tropism", "run", str(folder), "--studio", "--port", "0"]
        run = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        until = time.monotonic() + COMES_UP_S
        while (found := LISTENS.search(text := log.read_text())) is None:
            if run.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the studio did not come up:\n{text}")
            time.sleep(0.2)
        link = LINK.search(text)
        yield run, link and link[1], found[1]
        if run.wait() != 0:
            raise SystemExit(f"the run failed:\n{log.read_text()[-4000:]}")
    finally:
        run.terminate()
        run.wait()


def judge_all(folder: Path, pace_s: float) -> Annotator:
    """Run a study to its end, with the annotator in the browser as its teacher."""
    from playwright.sync_api import sync_playwright

    with running(folder) as (run, link, address), sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(MEASURE)
        page.goto(link or address)
        page.fill("input[autocomplete=username]", NAME)
        page.fill("input[type=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("nav")
        page.goto(f"{address}/#/judge")
        page.wait_for_selector(".judge")
        annotator = Annotator(page, pace_s)
        annotator.work(lambda: run.poll() is None)
        browser.close()
    return annotator


def measure(seed: int, settings: Sequence[str], cache: Path, pace_s: float, prompts: int) -> dict[str, Any]:
    """One seed's row of results."""
    folder = cache / f"study-{digest(list(settings))[:8]}-{seed}"
    if not folder.exists():
        Study.create(folder, "tinytalk", [*settings, f"study.seed={seed}"]).close()
    began = time.perf_counter()
    annotator = judge_all(folder, pace_s)
    wall = time.perf_counter() - began
    with Study.open(folder) as study:
        spans = [span for name, *span in _stages(study) if name.startswith("improve")]
        pairs = pairs_of(annotator.calls)
        beside = [took for at, took in pairs if any(start <= at <= end for start, end in spans)]
        if not beside:
            raise SystemExit("no answer was given while PPO trained: raise --pace, or lower feedback.enough")
        return {
            "seed": seed,
            "wall_s": wall,
            "pairs_beside_ppo": len(beside),
            "seconds_beside_ppo": {f"p{p}": float(np.percentile(beside, p)) for p in (50, 95, 100)},
            "seconds_in_all": {f"p{p}": float(np.percentile([s for _, s in pairs], p)) for p in (50, 95, 100)},
            "presses": len(annotator.keys),
            "unsent": annotator.unsent,
            "keys": dict(sorted(Counter(annotator.keys).items())),
            "stage_seconds": {stage.name: stage.seconds for stage in study.status().stages},
            "collected": {s.name: s.values for s in study.status().stages if s.name.startswith("collect")},
            "promoted": [s.values["promoted"] for s in study.status().stages if s.name.startswith("decide")],
            **_log(study),
            "metrics": _evaluate(study, cache / f"measure-{folder.name}", prompts),
        }


def _stages(study: Study) -> list[tuple[str, float, float]]:
    """(name, began, ended) of every stage, in UTC seconds."""
    table = schema.stages
    with study.database.read() as connection:
        rows = connection.execute(sa.select(table.c.name, table.c.started_at, table.c.finished_at)).all()
    return [(row.name, row.started_at, row.finished_at) for row in rows]


def _log(study: Study) -> dict[str, Any]:
    """What the store has: labels (events that say something), and whether each is there once."""
    events, given = schema.events, schema.assignments
    with study.database.read() as connection:
        kinds = Counter(connection.execute(sa.select(events.c.kind)).scalars())
        rows = connection.execute(sa.select(given.c.event_ids).where(given.c.status == "submitted")).scalars().all()
    ids = [id_ for row in rows for id_ in row]
    return {
        "events": dict(kinds),
        "labels": kinds["comparison"],
        "assignments_submitted": len(rows),
        "events_of_assignments": len(set(ids)),
        "chain_verifies": study.verify().ok,
    }


def _evaluate(study: Study, scratch: Path, prompts: int) -> dict[str, float]:
    """The final policy against SFT on prompts that the study did not see, by gold."""
    domain, folders = LanguageDomain(study.config.domain), folders_of(study)
    tasks = domain.world.tasks("test", prompts, PROMPTS_SEED)
    loaded = {n: LanguagePolicy.load(folders[f]) for n, f in (("policy", "final"), ("reference", "sft"))}
    sampling = domain.sampling(loaded["policy"])
    run = StageRun("measure", scratch, 0)
    evaluator = Evaluator(domain.world, study.config.domain.evaluation, sampling, domain.precision, run)
    return dict(evaluator.compare(loaded, tasks, {}).values["metrics"])


def claims_of(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """The claims, each the mean over seeds with its t interval."""
    slow = interval([row["seconds_beside_ppo"]["p95"] for row in rows])
    win = interval([row["metrics"]["win_rate"] for row in rows])
    labels = [float(row["labels"]) for row in rows]
    doubtful = [_doubtful(row) for row in rows]
    whole = [float(row["chain_verifies"]) for row in rows]
    return [
        Claim("submit and claim while PPO trains, p95 in seconds", *slow, "< 1, every seed",
              all(row["seconds_beside_ppo"]["p95"] < SLOWEST_S for row in rows)),
        Claim("gold win rate over SFT", *win, ">= 0.65", win[0] >= LEAST_WIN_RATE),
        Claim("labels used", *interval(labels), "<= 600, every seed", max(labels) <= MOST_LABELS),
        Claim("answers sent that are not exactly one event", *interval(doubtful), "0", not any(doubtful)),
        Claim("share of seeds whose hash chain verifies", *interval(whole), "1", all(whole)),
    ]  # fmt: skip


def _doubtful(row: dict[str, Any]) -> float:
    """By how much the answers sent, the labels in the log and the events of assignments differ."""
    sent = row["presses"] - row["unsent"]
    return float(abs(sent - row["labels"]) + abs(sent - row["events_of_assignments"]))


def main() -> None:
    """Run the seeds that are not there yet, one after the other, then write and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pace", type=float, help="seconds between two answers")
    parser.add_argument("--cache", type=Path, default=Path(__file__).resolve().parent / ".cache" / "studio_loop")
    parser.add_argument("--set", action="append", metavar="a.b=c", help="settings laid over the recipe")
    parser.add_argument("--quick", action="store_true", help="one small seed; writes no result file")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    pace = options.pace or (1.0 if options.quick else 0.8)
    settings = [*(QUICK_SETTINGS if options.quick else SETTINGS), *(options.set or [])]
    seeds, rows = [0] if options.quick else list(range(options.seeds)), []
    for seed in seeds:
        place = options.cache / f"seed-{seed}-{digest([settings, pace])[:8]}.json"
        if options.quick or not place.is_file():
            if options.quick:
                shutil.rmtree(options.cache / f"study-{digest(settings)[:8]}-{seed}", ignore_errors=True)
            place.write_text(json.dumps(measure(seed, settings, options.cache, pace, 100 if options.quick else 1000)))
        rows.append(json.loads(place.read_text()))
    extra = {"seeds": seeds, "settings": settings, "pace_s": pace, "runs": rows}
    write_result("studio_loop", claims_of(rows), extra, options.quick)


if __name__ == "__main__":
    main()
