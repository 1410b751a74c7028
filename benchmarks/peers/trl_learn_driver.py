"""TRL's PPO (1.12, the last release that has it) and GRPO (1.16) on the task of ``learning_speed.py``.

    python trl_learn_driver.py --algorithm ppo|grpo --start FOLDER [--kl-weight 0.05] [--seed 0] [--rollouts 16] …

Prints one JSON line: the policy's reward and KL at the start and after each rollout's updates, as the benchmark's own
meter has them, beside the CPU seconds that training took until then. bf16 is autocast: for PPO set as ``accelerate
launch`` sets it, since the trainer's own option does not reach it. PPO takes no reward function, so the scorer is
dressed up as a model; it costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the meter; nothing of the project's is imported


def common(given: argparse.Namespace) -> dict[str, Any]:
    """Settings that both trainers take."""
    return {
        "output_dir": tempfile.mkdtemp(), "report_to": "none", "save_strategy": "no", "use_cpu": True,
        "seed": given.seed, "learning_rate": given.lr, "lr_scheduler_type": "constant", "logging_steps": 1,
        "disable_tqdm": True, "bf16": given.precision == "bf16", "gradient_checkpointing": False,
        "per_device_train_batch_size": given.batch, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0,
    }  # fmt: skip


def course_callback(course: Any, policy: Any, every: int) -> Any:
    """A callback that adds a point to ``course`` when training begins and after every ``every`` optimiser steps."""
    from transformers import TrainerCallback

    class Points(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            course.begin()
            course.point(policy.state_dict())

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % every == 0:
                course.point(policy.state_dict())
                print(json.dumps(course.points[-1]), file=sys.stderr, flush=True)

    return Points()


def ppo(given: argparse.Namespace, course: Any, tokenizer: Any, train: Sequence[dict[str, Any]]) -> Any:
    """TRL's PPO trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from learning_meter import NEW_TOKENS, PROMPT_TOKENS

    earns = course.meter.earns

    class Backbone(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            counts = attention_mask[:, PROMPT_TOKENS:].bool()
            share = (earns[input_ids[:, PROMPT_TOKENS:]] & counts).float().sum(1) / counts.sum(1)
            hidden = share[:, None, None].expand(-1, input_ids.shape[1], 1)
            return types.SimpleNamespace(hidden_states=[hidden])

    class Scorer(torch.nn.Module):
        base_model_prefix = "model"

        def __init__(self) -> None:
            super().__init__()
            self.model, self.score = Backbone(), torch.nn.Identity()

    policy, reference = (AutoModelForCausalLM.from_pretrained(given.start, dtype=torch.float32) for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(given.start, num_labels=1, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": [row["ids"] for row in train]})
    config = PPOConfig(
        **common(given), num_ppo_epochs=given.epochs, num_mini_batches=1, response_length=NEW_TOKENS, temperature=1.0,
        total_episodes=given.batch * given.rollouts, num_sample_generations=0, kl_coef=given.kl_weight,
        local_rollout_forward_batch_size=given.batch, stop_token=None,
    )  # fmt: skip
    return PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=Scorer(),
        value_model=value, train_dataset=data, eval_dataset=data.select(range(4)),
        callbacks=[course_callback(course, policy, 1)],
    )  # fmt: skip


def grpo(given: argparse.Namespace, course: Any, tokenizer: Any, train: Sequence[dict[str, Any]]) -> Any:
    """TRL's GRPO trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from learning_meter import NEW_TOKENS, share

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return share(completion_ids, course.meter.earns)

    policy = AutoModelForCausalLM.from_pretrained(given.start, dtype=torch.float32)
    config = GRPOConfig(
        **common(given), num_generations=given.group, max_completion_length=NEW_TOKENS, beta=given.kl_weight,
        num_iterations=given.epochs, max_steps=given.rollouts * given.epochs, temperature=1.0,
        generation_kwargs={"min_new_tokens": NEW_TOKENS},
    )  # fmt: skip
    return GRPOTrainer(
        model=policy, args=config, reward_funcs=reward, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [row["text"] for row in train]}),
        callbacks=[course_callback(course, policy, given.epochs)],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--algorithm", choices=("ppo", "grpo"), required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--kl-weight", type=float, default=0.05)
    parser.add_argument("--lr", type=float, default=3e-4)
    whole = {"seed": 0, "rollouts": 16, "batch": 64, "epochs": 4, "threads": 2, "group": 4, "evaluated": 256}
    for name, default in whole.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if given.precision == "bf16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"

    import torch
    import transformers
    import trl

    from learning_meter import Course, Meter, read_prompts

    torch.set_num_threads(given.threads)
    transformers.set_seed(given.seed)
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.start, padding_side="left")
    course = Course(Meter(given.start, given.evaluated))
    train = read_prompts(given.start, given.evaluated)[0]
    with contextlib.redirect_stdout(sys.stderr):  # the trainers print their metrics
        made = (ppo if given.algorithm == "ppo" else grpo)(given, course, tokenizer, train)
        made.train()
    if len(course.points) != given.rollouts + 1:
        raise RuntimeError(f"{len(course.points)} points of {given.rollouts} rollouts: the callback missed some")
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    print(json.dumps({"curve": course.points, "versions": versions}))


if __name__ == "__main__":
    main()
