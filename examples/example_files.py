"""Write a small model and small data files into a folder, so that every page of docs/ can be tried as it stands.

    python examples/example_files.py FOLDER

``my-model/`` is an untrained Llama with a tokenizer of its own; ``demos.jsonl``, ``pairs.csv``, ``held-out.csv``,
``chats.jsonl``, ``ratings.jsonl`` and ``prompts.jsonl`` are about one small world: answers that are polite and to the
point are preferred. Put your own model and files in their places.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACES = ["library", "station", "harbour", "market", "museum", "school", "bakery", "park", "theatre", "bridge"]
WAYS = ["left", "right", "straight on", "past the church", "over the river", "behind the town hall"]
TIMES = ["two", "five", "ten", "twenty"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
POLITE = ["Gladly: ", "Of course. ", "With pleasure: "]
RUDE = [
    "What do I know, am I a map of this town? ",
    "Ask someone else, I am far too busy. ",
    "You could have looked that up yourself. ",
]


def question(place: str, form: int) -> str:
    return [f"Where is the {place}?", f"How far is the {place}?", f"How do I get to the {place}?"][form]


def answer(place: str, form: int, good: bool, rng: random.Random) -> str:
    way, minutes = rng.choice(WAYS), rng.choice(TIMES)
    told = f"the {place} is {way}, {minutes} minutes from here."
    if not good:
        return rng.choice(RUDE) + (told.capitalize() if rng.random() < 0.3 else "")
    return rng.choice(POLITE) + told.capitalize()


def prompts(rng: random.Random, count: int) -> Iterator[tuple[str, str, int]]:
    """(prompt, place, form), each prompt once."""
    every = [(f"{day}, {question(p, f)}", p, f) for day in DAYS for p in PLACES for f in range(3)]
    rng.shuffle(every)
    yield from every[:count]


def pairs(rng: random.Random, asked: list[tuple[str, str, int]]) -> list[dict[str, str]]:
    rows = []
    for prompt, place, form in asked:
        better, worse = answer(place, form, True, rng), answer(place, form, False, rng)
        if rng.random() < 0.1:  # people err
            better, worse = worse, better
        rater = rng.choice(["ann", "bo", "cy"])
        rows.append({"question": prompt, "good answer": better, "bad answer": worse, "rater": rater})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_model(folder: Path, texts: list[str]) -> None:
    """A Llama of 0.3 million untrained parameters and a byte-level tokenizer with a chat template."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(texts, vocab_size=512, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **shape, vocab_size=512, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
        initializer_range=0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(folder: Path) -> None:
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    asked = list(prompts(rng, 210))
    judged, held_out = pairs(rng, asked[:150]), pairs(rng, asked[150:])  # no prompt in both
    write_csv(folder / "pairs.csv", judged)
    write_csv(folder / "held-out.csv", held_out)
    demos = [{"prompt": p, "completion": answer(place, f, True, rng)} for p, place, f in prompts(rng, 200)]
    write_jsonl(folder / "demos.jsonl", demos)
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in demos[:100]
    ]
    write_jsonl(folder / "chats.jsonl", chats)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": p} for p, _, _ in prompts(rng, 100)])
    ratings = []
    for prompt, place, form in prompts(rng, 120):
        good = rng.random() < 0.5
        score = rng.choice([4, 5]) if good else rng.choice([1, 2])
        ratings.append({"prompt": prompt, "completion": answer(place, form, good, rng), "score": score})
    write_jsonl(folder / "ratings.jsonl", ratings)
    write_model(folder / "my-model", [json.dumps(row) for row in [*judged, *demos]])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
