"""The start of ``learning_speed.py``: model S after a short SFT on running text, and prompts of exact length.

    python learning_start.py --texts TEXT… --out FOLDER [--steps 200] [--threads 2]

Takes three to six CPU minutes. The text has no end-of-sequence tokens, so that the model learns none: every completion
of the task is cut at its length. Left out: packing across documents' borders is what there is, with no mask between.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learning_meter import PROMPT_TOKENS
from speed_models import make
from tropism.engine.models import load_policy
from tropism.language.sft import Example, SftSettings, fine_tune
from tropism.runtime.memory import tune
from tropism.runtime.stage import StageRun

PROMPTS = 2048
WINDOW_TOKENS, WINDOWS, BATCH = 96, 6400, 32


def make_start(folder: Path, texts: Sequence[Path], steps: int, size: str = "S") -> Path:
    """Write ``folder`` (model, tokenizer, ``prompts.jsonl``) unless it is there; returns it."""
    if (folder / "prompts.jsonl").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        models = make(Path(scratch), texts, size, PROMPTS, PROMPT_TOKENS)
        model, tokenizer = load_policy(models / "lm")
        text = "\n".join(_read(path) for path in texts)
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
        begins = np.random.RandomState(0).randint(0, len(ids) - WINDOW_TOKENS, WINDOWS)
        windows = [tuple(ids[i : i + WINDOW_TOKENS].tolist()) for i in begins]
        settings = SftSettings(
            steps=steps, batch_size=BATCH, learning_rate=1e-3, warmup_steps=max(1, steps // 20),
            max_length=WINDOW_TOKENS, precision="auto", checkpoint_every=steps,
        )  # fmt: skip
        # the first piece is the prompt: one token, which nothing predicts
        examples = [Example(((w[:1], False), (w[1:], True))) for w in windows]
        summary = fine_tune(model, tokenizer, examples, settings, StageRun("sft", Path(scratch) / "run", 0))
        print(f"start: loss {summary['loss']:.3f} nats a token after {steps} steps", file=sys.stderr)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        # last, by a rename: a folder with prompts is a whole one
        shutil.copyfile(models / "prompts.jsonl", folder / "prompts.partial")
        (folder / "prompts.partial").rename(folder / "prompts.jsonl")
    return folder


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    tune(given.threads)
    make_start(given.out, given.texts, given.steps)


if __name__ == "__main__":
    main()
