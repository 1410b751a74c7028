"""TRL's SFTTrainer and RewardTrainer on the work of ``pairs_speed.py``; runs where TRL is.

    python trl_pairs_driver.py --models FOLDER --trainer sft|reward --precision fp32|bf16 [--steps 6] [--skip 2] …

Prints one JSON line. TRL at its best on this work: bf16 is autocast (its own default), the whole batch in one forward,
no recomputation of activations, fused AdamW, no padding (all rows are equally long), nothing logged or saved.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def trainer(given: argparse.Namespace, rows: Sequence[dict[str, Any]], callback: Any, scratch: str) -> Any:
    """The trainer that was asked for, on ids as they are."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(given.models / "lm")
    chosen, rejected = ([row["prompt"] + row[which] for row in rows] for which in ("chosen", "rejected"))
    shared: dict[str, Any] = {
        "output_dir": scratch, "report_to": "none", "save_strategy": "no", "use_cpu": True, "seed": 0,
        "learning_rate": 1e-5, "lr_scheduler_type": "constant", "logging_strategy": "no", "disable_tqdm": True,
        "bf16": given.precision == "bf16", "gradient_checkpointing": False, "optim": "adamw_torch_fused",
        "per_device_train_batch_size": given.batch, "gradient_accumulation_steps": 1, "max_steps": given.steps,
        "max_length": len(chosen[0]), "dataloader_num_workers": 0,
    }  # fmt: skip
    if given.trainer == "sft":
        lm = AutoModelForCausalLM.from_pretrained(given.models / "lm", dtype=torch.float32)
        return SFTTrainer(
            model=lm, args=SFTConfig(**shared), train_dataset=Dataset.from_dict({"input_ids": chosen}),
            processing_class=tokenizer, callbacks=[callback],
        )  # fmt: skip
    rm = AutoModelForSequenceClassification.from_pretrained(given.models / "rm", dtype=torch.float32)
    rm.config.pad_token_id = tokenizer.pad_token_id
    pairs = Dataset.from_dict({"chosen_ids": chosen, "rejected_ids": rejected})
    return RewardTrainer(
        model=rm, args=RewardConfig(**shared), train_dataset=pairs, processing_class=tokenizer, callbacks=[callback]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--trainer", choices=("sft", "reward"), required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    for name, default in {"steps": 6, "skip": 2, "threads": 2, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()

    import torch
    import transformers
    import trl

    torch.set_num_threads(given.threads)
    transformers.set_seed(0)
    transformers.logging.set_verbosity_error()
    marks: list[tuple[float, float]] = []
    shapes: list[list[int]] = []

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.perf_counter(), time.process_time()))

    rows = [json.loads(line) for line in (given.models / "pairs.jsonl").read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        trained = trainer(given, rows, Steps(), scratch)
        ran = {"no": "fp32"}.get(trained.accelerator.mixed_precision, trained.accelerator.mixed_precision)
        if ran != given.precision:
            raise ValueError(f"TRL runs in {ran}, not in {given.precision}")
        loss = trained.compute_loss

        def compute_loss(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            shapes.append(list(inputs["input_ids"].shape))
            return loss(model, inputs, *arguments, **named)

        trained.compute_loss = compute_loss
        trained.train()
    each = given.batch * (1 if given.trainer == "sft" else 2)
    wanted = [each, len(rows[0]["prompt"]) + len(rows[0]["chosen"])]
    if shapes != [wanted] * given.steps:
        raise ValueError(f"TRL trained on {shapes}, not on {given.steps} times {wanted}")
    steps = [{"wall_s": b[0] - a[0], "cpu_s": b[1] - a[1]} for a, b in itertools.pairwise(marks)]
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    made = {"steps": steps[given.skip - 1 :], "tokens": wanted[0] * wanted[1], "peak_rss_mib": peak}
    print(json.dumps(made | {"versions": versions}))


if __name__ == "__main__":
    main()
