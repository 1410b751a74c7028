"""One side of ``generation_speed.py``: loads its model once, then answers each line ``WORK STEP`` with one JSON line.

    python generation_speed_side.py --models FOLDER --engine tropism|hf --precision fp32|autocast|bf16 [--threads 2]

``hf`` is ``model.generate`` of transformers with its own defaults, left as it comes; in bf16 its weights are bf16.
Lengths are prescribed on both sides and asserted. What is timed: from lists of prompt ids to lists of new ids, with
ours also the taking over of weights, as once in every training step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

import tropism
from peers.prescribed_lengths import WORKS, PrescribedLengths, lengths_made, lengths_of
from speed_models import EOS, PAD, read_prompts
from tropism.engine.generation import LocalGenerator, Sampling
from tropism.engine.models import load_policy
from tropism.engine.working import Working
from tropism.monitoring.phases import peak_rss_mib
from tropism.runtime.memory import tune
from tropism.runtime.precision import PrecisionName, resolve_precision

Ids = list[list[int]]
Engine = Callable[[Ids, str, list[int], int], list[int]]
"""(prompts, work, lengths, step) -> lengths that were generated."""


def ours(models: Path, precision: PrecisionName) -> Engine:
    """The engine's generator, as a trainer calls it."""
    model, _ = load_policy(models / "lm")
    generator = LocalGenerator(Working(model, resolve_precision(precision)))

    def run(prompts: Ids, work: str, lengths: list[int], step: int) -> list[int]:
        generator.update_weights(str(step))
        sampling = Sampling(max(lengths), frozenset(), limits=tuple(lengths) if work == "eos" else None)
        made = generator.generate(prompts, sampling, seed=step, sequence_ids=range(len(prompts)))
        return [len(c) for c in made.completions]

    return run


def theirs(models: Path, precision: str) -> Engine:
    """``generate`` of transformers."""
    model = AutoModelForCausalLM.from_pretrained(
        models / "lm", dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(models / "lm")
    if (tokenizer.eos_token_id, tokenizer.pad_token_id) != (EOS, PAD):
        raise ValueError(f"{models}: EOS and pad are {tokenizer.eos_token_id}, {tokenizer.pad_token_id}")
    model.generation_config.eos_token_id = None  # else it stands in for a configuration that has none

    def run(prompts: Ids, work: str, lengths: list[int], step: int) -> list[int]:
        torch.manual_seed(step)
        ids, uneven = torch.tensor(prompts), work == "eos"
        config = GenerationConfig(
            max_new_tokens=max(lengths), do_sample=True, top_k=0, pad_token_id=PAD,
            eos_token_id=EOS if uneven else None,
        )  # fmt: skip
        ends = [PrescribedLengths(lengths, ids.shape[1], EOS, PAD)] if uneven else []
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config,
            logits_processor=LogitsProcessorList(ends),
        )  # fmt: skip
        return lengths_made(out[:, ids.shape[1] :], EOS if uneven else -1)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--engine", choices=("tropism", "hf"), required=True)
    parser.add_argument("--precision", choices=[n for n in get_args(PrecisionName) if n != "auto"], required=True)
    for name, default in {"threads": 2, "prompts": 64, "new-tokens": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if given.engine == "tropism":
        tune(given.threads)
    torch.set_num_threads(given.threads)
    run = (ours if given.engine == "tropism" else theirs)(given.models, given.precision)
    prompts = [row["ids"] for row in read_prompts(given.models)][: given.prompts]
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tropism)}
    for line in sys.stdin:
        work, number = line.split()
        if work not in WORKS:
            raise ValueError(f"no work {work!r}: {', '.join(WORKS)}")
        lengths = lengths_of(work, int(number), len(prompts), given.new_tokens)
        wall, cpu = time.perf_counter(), time.process_time()
        made = run(prompts, work, lengths, int(number))
        took: dict[str, Any] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        if made != lengths:
            raise ValueError(f"{given.engine} generated {made} tokens, not {lengths}")
        steps = [took | {"tokens": sum(made)}]
        print(json.dumps({"steps": steps, "peak_rss_mib": peak_rss_mib(), "versions": versions}), flush=True)


if __name__ == "__main__":
    main()
