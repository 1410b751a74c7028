"""TRL's PPO on the work of ``ppo_speed.py``; runs where TRL 1.12 is, the last release that has PPO.

    python trl_ppo_driver.py --models FOLDER --precision fp32|bf16 [--steps 3] [--skip 1] [--threads 2] …

Prints one JSON line: seconds, CPU seconds and phases of every step after the first ``--skip``, and the peak memory.
Policy, value, reward and reference are models of their own, as TRL has them. bf16 is autocast, set as ``accelerate
launch`` sets it: the trainer's own option does not reach it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Clock:
    """Wall and process CPU seconds of steps, and of phases inside them."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.phases: list[dict[str, float]] = []
        self.current: dict[str, float] = {}

    def mark(self) -> None:
        """The end of a step (or, first, the beginning of training)."""
        if self.marks:
            self.phases.append(self.current)
        self.current = {}
        self.marks.append((time.perf_counter(), time.process_time()))

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """``function``, its CPU seconds added to ``phase``."""

        def run(*arguments: Any, **named: Any) -> Any:
            before = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.current[phase] = self.current.get(phase, 0.0) + time.process_time() - before

        return run

    def steps(self, skip: int) -> list[dict[str, Any]]:
        """Each step behind the first ``skip``."""
        pairs = zip(self.marks, self.marks[1:], self.phases, strict=False)
        made = [{"wall_s": b[0] - a[0], "cpu_s": b[1] - a[1], "phases_cpu_s": phases} for a, b, phases in pairs]
        return made[skip:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    for name, default in {"steps": 3, "skip": 1, "threads": 2, "batch": 64, "new-tokens": 64, "epochs": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if given.precision == "bf16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"

    import torch
    import transformers
    import trl
    import trl.experimental.ppo.ppo_trainer as module
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(given.threads)
    transformers.set_seed(0)
    transformers.logging.set_verbosity_error()
    clock = Clock()

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark()

    module.batch_generation = clock.timed(module.batch_generation, "generation")
    prompts = [json.loads(line)["ids"] for line in (given.models / "prompts.jsonl").read_text().splitlines()]
    data = Dataset.from_dict({"input_ids": prompts})
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(), report_to="none", save_strategy="no", use_cpu=True, seed=0, learning_rate=1e-5,
        lr_scheduler_type="constant", logging_steps=1, disable_tqdm=True, bf16=given.precision == "bf16",
        gradient_checkpointing=False, per_device_train_batch_size=given.batch, gradient_accumulation_steps=1,
        num_ppo_epochs=given.epochs, num_mini_batches=1, local_rollout_forward_batch_size=given.batch,
        response_length=given.new_tokens, temperature=1.0, total_episodes=given.batch * given.steps,
        num_sample_generations=0, kl_coef=0.05, stop_token=None,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(given.models / "lm", padding_side="left")

    def lm() -> Any:
        return AutoModelForCausalLM.from_pretrained(given.models / "lm", dtype=torch.float32)

    def rm() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(given.models / "rm", dtype=torch.float32)

    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its metrics
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer, model=lm(), ref_model=lm(), reward_model=rm(), value_model=rm(),
            train_dataset=data, eval_dataset=data.select(range(4)), callbacks=[Steps()],
        )  # fmt: skip
        trainer.train()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": clock.steps(given.skip), "peak_rss_mib": peak, "versions": versions}))


if __name__ == "__main__":
    main()
