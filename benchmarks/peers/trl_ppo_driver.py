"""TRL's PPO on the work of ``ppo_speed.py``; runs where TRL 1.12 is, the last release that has PPO.

    python trl_ppo_driver.py --models FOLDER --precision fp32|bf16 [--work fixed|eos] [--steps 3] [--skip 1] …

Prints one JSON line: seconds, CPU seconds and phases of every step after the first ``--skip``, and the peak memory.
Policy, value, reward and reference are models of their own, as TRL has them. bf16 is autocast, set as ``accelerate
launch`` sets it: the trainer's own option does not reach it. ``eos``: the policy's ``generate`` ends each row where it
is prescribed, and the trainer cuts responses at EOS by its own option (``stop_token``).
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

from prescribed_lengths import LONGEST, WORKS, PrescribedLengths, lengths_made, lengths_of

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


class Prescribed:
    """The lengths of each step's completions: what ends rows, and the proof that they ended there."""

    def __init__(self, given: argparse.Namespace, tokenizer: Any) -> None:
        self.given, self.tokenizer, self.step = given, tokenizer, 0

    def next(self) -> list[int]:
        """Tokens of the completions of the step that begins; every call is a step."""
        self.step += 1
        return lengths_of(self.given.work, self.step - 1, self.given.prompts, self.given.new_tokens)

    def generate(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``model.generate`` with the processor that ends rows."""
        from transformers import LogitsProcessorList

        def run(*arguments: Any, input_ids: Any, **named: Any) -> Any:
            eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
            ends = LogitsProcessorList([PrescribedLengths(self.next(), input_ids.shape[1], eos, pad)])
            return function(*arguments, input_ids=input_ids, logits_processor=ends, **named)

        return run

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``batch_generation`` whose result is what was prescribed; ValueError where it is not."""

        def run(model: Any, queries: Any, *arguments: Any, **named: Any) -> Any:
            result, wanted = function(model, queries, *arguments, **named), self.next()
            # nothing ends a row of fixed length: an EOS in it is a token like others
            end = -1 if self.given.work == "fixed" else self.tokenizer.eos_token_id
            made = lengths_made(result[0][:, queries.shape[1] :], end)
            if made != wanted:
                raise ValueError(f"step {self.step} generated {made} tokens, not {wanted}")
            return result

        return run


def arguments() -> argparse.Namespace:
    """The options, which are those of our side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--work", choices=WORKS, default="fixed")
    for name, default in {"steps": 3, "skip": 1, "threads": 2, "prompts": 64, "new-tokens": 64, "epochs": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if given.work == "eos":
        given.new_tokens = LONGEST
    return given


def trainer(given: argparse.Namespace, tokenizer: Any, clock: Clock, scratch: str) -> Any:
    """TRL's trainer on four models of its own; no micro-batches, no recomputation: the fastest that fits."""
    import transformers
    from datasets import Dataset
    from torch import float32
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark()

    prompts = [json.loads(line)["ids"] for line in (given.models / "prompts.jsonl").read_text().splitlines()]
    data = Dataset.from_dict({"input_ids": prompts})
    config = PPOConfig(
        output_dir=scratch, report_to="none", save_strategy="no", use_cpu=True, seed=0, learning_rate=1e-5,
        lr_scheduler_type="constant", logging_steps=1, disable_tqdm=True, bf16=given.precision == "bf16",
        gradient_checkpointing=False, per_device_train_batch_size=given.prompts, gradient_accumulation_steps=1,
        num_ppo_epochs=given.epochs, num_mini_batches=1, local_rollout_forward_batch_size=given.prompts,
        response_length=given.new_tokens, temperature=1.0, total_episodes=given.prompts * given.steps,
        num_sample_generations=0, kl_coef=0.05, stop_token="eos" if given.work == "eos" else None,
    )  # fmt: skip

    def lm() -> Any:
        return AutoModelForCausalLM.from_pretrained(given.models / "lm", dtype=float32)

    def rm() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(given.models / "rm", dtype=float32)

    policy = lm()
    if given.work == "eos":
        policy.generate = Prescribed(given, tokenizer).generate(policy.generate)
    return PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=lm(), reward_model=rm(), value_model=rm(),
        train_dataset=data, eval_dataset=data.select(range(4)), callbacks=[Steps()],
    )  # fmt: skip


def main() -> None:
    given = arguments()
    if given.precision == "bf16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"

    import torch
    import transformers
    import trl
    import trl.experimental.ppo.ppo_trainer as module

    torch.set_num_threads(given.threads)
    transformers.set_seed(0)
    transformers.logging.set_verbosity_error()
    clock = Clock()
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.models / "lm", padding_side="left")
    checked = Prescribed(given, tokenizer).checked(module.batch_generation)
    module.batch_generation = clock.timed(checked, "generation")
    # the trainer prints its metrics
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        ppo = trainer(given, tokenizer, clock, scratch)
        ran = {"no": "fp32"}.get(ppo.accelerator.mixed_precision, ppo.accelerator.mixed_precision)
        if ran != given.precision:
            raise ValueError(f"TRL runs in {ran}, not in {given.precision}")
        ppo.train()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": clock.steps(given.skip), "peak_rss_mib": peak, "versions": versions}))


if __name__ == "__main__":
    main()
