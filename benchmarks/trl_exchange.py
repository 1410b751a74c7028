"""Data both ways between tropism and TRL: each trains a step on what the other wrote.

Out: real comparisons, rankings, labels and demonstrations, exported to every kind of file, go into TRL's RewardTrainer,
DPOTrainer, KTOTrainer and SFTTrainer, one step each with a tiny model. In: TRL writes rows in every form that its page
of formats documents, as JSONL and as ``datasets`` folders; we read them, every row accounted for, and train a step of
SFT or of a reward model on them. TRL runs in an environment of its own (``scripts/trl_environment.sh FOLDER``).

Left out: whether anything is learned; one step shows that a trainer takes the data and moves the weights.

    python benchmarks/trl_exchange.py --data FOLDER --trl-python FOLDER/bin/python [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Claim, write_result
from tropism.data import read
from tropism.data.exporting import export
from tropism.data.exporting_rows import ExportOptions
from tropism.jobs import reward_fit, sft
from tropism.jobs.config import resolve

DRIVER = Path(__file__).resolve().parent / "peers" / "trl_exchange_driver.py"
TIMEOUT_S = 900


@dataclass(frozen=True)
class Out:
    """One export: what it is called there, the trainer that takes it, and what it is made of."""

    file: str
    trainer: str
    source: str
    format: str
    options: ExportOptions = field(default_factory=ExportOptions)


EXPORTS = (
    Out("pairs.jsonl", "RewardTrainer", "pandalm_testset", "pairs"),
    Out("pairs.csv", "DPOTrainer", "pandalm_testset", "pairs"),
    Out("pairs.parquet", "RewardTrainer", "hh_harmless_test", "pairs"),
    Out("pairs_folder", "DPOTrainer", "hh_harmless_test", "pairs"),
    Out("pairs_flat.jsonl", "DPOTrainer", "hh_harmless_test", "pairs", ExportOptions(conversational="never")),
    Out("arguments.jsonl", "RewardTrainer", "ukp_convarg1", "pairs"),
    Out("unpaired.jsonl", "KTOTrainer", "pandalm_testset", "unpaired"),
    Out("unpaired.parquet", "KTOTrainer", "hh_harmless_test", "unpaired"),
    Out("labels.jsonl", "KTOTrainer", "instructions/kto_en_demo.json.gz", "unpaired"),
    Out("seeds.csv", "SFTTrainer", "instructions/seed_tasks.jsonl", "demonstrations"),
    Out("best.jsonl", "SFTTrainer", "oasst_100_trees", "demonstrations", ExportOptions(chosen=True)),
    Out("prompts_and_answers", "SFTTrainer", "instructions/alpaca_zh_demo.json.gz", "demonstrations"),
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run both directions and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of public data sets")
    parser.add_argument("--trl-python", type=Path, required=True, help="the interpreter of TRL's environment")
    parser.add_argument("--quick", action="store_true", help="fewer rows and exports; writes no result file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        outward = exports(folder / "out", given.data, 24 if given.quick else 400, given.quick)
        taken = trl(given.trl_python, "train", folder / "out")
        wrote = trl(given.trl_python, "write", made(folder / "in"))
        inward = [steps for name, rows in wrote["forms"].items() for steps in our_step(folder / "in", name, rows)]
    return write_result("trl_exchange", claims(taken["steps"], inward), {
        "trl_versions": taken["versions"],
        "exports": [entry | step for entry, step in zip(outward, taken["steps"], strict=True)],
        "imports": inward,
    }, given.quick)  # fmt: skip


def exports(folder: Path, data: Path, limit: int, quick: bool) -> list[dict[str, Any]]:
    """Write the exports and their list for TRL; returns what was written, and what was not and why. Columns that TRL
    does not know (annotators, groups, the source's own) are written too."""
    made(folder)
    listed, described = EXPORTS[:: 4 if quick else 1], []
    for out in listed:
        reading = read(data / out.source, limit=limit)
        report = export(reading.records, folder / out.file, out.format, options=out.options, sources=[reading.source])
        described.append({
            "source": out.source, "format": out.format, "kind": report.kind, "records": report.records,
            "held": report.held, "left_out": dict(report.left_out), "lost": dict(report.lost),
        })  # fmt: skip
    (folder / "exports.json").write_text(json.dumps([{"file": o.file, "trainer": o.trainer} for o in listed]))
    return described


def trl(python: Path, command: str, folder: Path) -> dict[str, Any]:
    """Run TRL's side. It may neither fetch anything nor show bars."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(python), "-W", "ignore", str(DRIVER), command, str(folder)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **quiet},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"error: TRL's side failed\n{done.stderr[-3000:]}\nfix: make its environment anew: trl_environment.sh")
    return json.loads((folder / "trl.json").read_text())


def our_step(folder: Path, name: str, rows: int) -> list[dict[str, Any]]:
    """Read a form that TRL wrote, as JSONL and as a folder, and train a step on it."""
    steps = []
    for file in (f"{name}.jsonl", name):
        reading = read(folder / file)
        kinds = {record.kind for record in reading.records}
        entry: dict[str, Any] = {
            "form": name, "kind": "jsonl" if file != name else "datasets", "format": reading.source["format"],
            "rows": reading.rows, "records": len(reading.records), "rejected": len(reading.rejected),
        }  # fmt: skip
        loss: float | None = None
        if kinds == {"demonstration"}:
            loss = tuned(folder, file)
        elif kinds <= {"comparison", "label"}:
            loss = fitted(folder, file)
        entry["loss"] = loss
        complete = (entry["rows"], entry["records"], entry["rejected"]) == (rows, rows, 0)
        entry["ok"] = complete and (kinds == {"prompt"} or (loss is not None and math.isfinite(loss)))
        steps.append(entry)
    return steps


def tuned(folder: Path, file: str) -> float:
    """The held-out loss after a step of SFT on a file."""
    flags = {"model.path": str(folder / "model"), "data.source": str(folder / file)}
    settings = ["sft.epochs=1", "sft.batch_size=4", "data.validation_share=0.4"]
    values = sft.run(resolve(sft.SftConfig, flags, settings), folder / f"sft-{file}")
    return float(values["loss_after"])


def fitted(folder: Path, file: str) -> float:
    """The negative log-likelihood of held-out judgements after an epoch of a classifier on a file."""
    flags = {"model.path": str(folder / "model"), "data.source": str(folder / file)}
    settings = ["reward.epochs=1", "data.validation_share=0.4"]
    values = reward_fit.run(resolve(reward_fit.RewardFitConfig, flags, settings), folder / f"reward-{file}")
    return float(values["fit"]["nll_validation"])


def claims(taken: Sequence[dict[str, Any]], inward: Sequence[dict[str, Any]]) -> list[Claim]:
    """Every export was trained on, every form was read and trained on."""
    made = []
    for name, steps in (("TRL trains a step on our exports", taken), ("we train a step on TRL's forms", inward)):
        share = sum(step["ok"] for step in steps) / len(steps)
        made.append(Claim(name, share, share, share, f"all {len(steps)}", share == 1))
    return made


def made(folder: Path) -> Path:
    """The folder, which is there now."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(0 if main()["holds"] else 1)
