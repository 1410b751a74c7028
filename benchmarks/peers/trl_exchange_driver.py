"""TRL's side of the exchange of data; runs in an environment of its own, which has TRL and not tropism.

    python trl_exchange_driver.py train FOLDER       one step of each trainer on what FOLDER/exports.json lists
    python trl_exchange_driver.py write FOLDER       the rows below in every form that TRL documents, and a tiny model

Either writes FOLDER/trl.json. The models are made from configurations: nothing is fetched. Left out: training that
learns something (one step shows that a trainer takes the data).
"""

from __future__ import annotations

import json
import math
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.data_utils import extract_prompt, unpair_preference_dataset

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
ROWS = 4
"""Rows of a step."""
CONTEXT = 4096
"""Tokens, which are bytes here. TRL leaves longer rows out: they are in ``rows`` and not in ``rows_kept``."""

QUESTIONS = [
    ("Name a colour of the sky.", "Blue, on a clear day.", "Gravel."),
    ("How many legs has a spider?", "A spider has eight legs.", "It has six, like all insects."),
    ("Say thank you in French.", "Merci.", "Danke."),
    ("What melts: ice or stone?", "Ice melts first.", "Stone, at room temperature."),
    ("Is seven an even number?", "No, seven is odd.", "Yes, it can be halved."),
    ("Which animal barks?", "A dog barks.", "The teapot barks."),
]
"""(question, good answer, bad answer)."""


def main(command: str, folder: Path) -> None:
    """Run one command and write its result."""
    result = train(folder) if command == "train" else write(folder)
    result["versions"] = {name: version(name) for name in ("trl", "torch", "transformers", "datasets")}
    (folder / "trl.json").write_text(json.dumps(result, indent=1, allow_nan=False))


def train(folder: Path) -> dict[str, Any]:
    """One optimiser step on each export: its loss, and how many rows the trainer kept."""
    listed = json.loads((folder / "exports.json").read_text())
    return {"steps": [one_step(folder, entry["file"], entry["trainer"]) for entry in listed]}


def one_step(folder: Path, name: str, trainer_name: str) -> dict[str, Any]:
    """One step of one trainer on one file; a failure is a result too."""
    done: dict[str, Any] = {"file": name, "trainer": trainer_name}
    try:
        rows = loaded(folder / name)
        done["rows"] = len(rows)
        made = trainer(trainer_name, rows, folder / "trl_output")
        done["rows_kept"] = len(made.train_dataset)
        before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
        made.train()
        losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
        done["steps"] = made.state.global_step
        done["loss"] = losses[0] if losses and math.isfinite(losses[0]) else None
        done["changed"] = any(not torch.equal(p, before[n]) for n, p in made.model.named_parameters())
        done["ok"] = done["loss"] is not None and done["steps"] == 1 and done["changed"] and done["rows_kept"] > 0
    except Exception as error:  # noqa: BLE001 - whatever TRL raises is the result
        done.update(ok=False, error=f"{type(error).__name__}: {error}"[:500])
    return done


def loaded(path: Path) -> Dataset:
    """The train rows of an export."""
    if path.is_dir():
        found = load_from_disk(str(path))
        return found["train"] if isinstance(found, DatasetDict) else found
    kind = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}[path.suffix]
    return load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "trl_cache"))


def trainer(name: str, rows: Dataset, output: Path) -> Any:
    """A trainer of a tiny model on these rows."""
    tokenizer = byte_tokenizer()
    shared = {
        "output_dir": str(output), "max_steps": 1, "per_device_train_batch_size": ROWS, "logging_steps": 1,
        "report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "learning_rate": 1e-3,
        "gradient_checkpointing": False, "max_length": CONTEXT, "disable_tqdm": True,
    }  # fmt: skip
    if name == "RewardTrainer":
        model = LlamaForSequenceClassification(tiny(tokenizer, num_labels=1))
        return trl.RewardTrainer(model, trl.RewardConfig(**shared), train_dataset=rows, processing_class=tokenizer)
    # TRL reads the reference of DPO and KTO from the model's own path again: it needs one
    LlamaForCausalLM(tiny(tokenizer)).save_pretrained(output / "base")
    model = LlamaForCausalLM.from_pretrained(output / "base")
    classes = {
        "DPOTrainer": (trl.DPOTrainer, trl.DPOConfig),
        "KTOTrainer": (trl.KTOTrainer, trl.KTOConfig),
        "SFTTrainer": (trl.SFTTrainer, trl.SFTConfig),
    }
    trainer_class, config_class = classes[name]
    return trainer_class(model, args=config_class(**shared), train_dataset=rows, processing_class=tokenizer)


def tiny(tokenizer: PreTrainedTokenizerFast, **more: Any) -> LlamaConfig:
    """Two layers of width 32."""
    torch.manual_seed(0)
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **more,
    )  # fmt: skip


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def write(folder: Path) -> dict[str, Any]:
    """The rows above in TRL's forms: JSONL, and a ``datasets`` folder of each. Unpairing and taking the common prompt
    off are TRL's own functions."""
    said = [{"prompt": f"{q} ", "chosen": good, "rejected": bad} for q, good, bad in QUESTIONS]
    chats = [
        {
            "prompt": [{"role": "user", "content": q}],
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": bad}],
        }
        for q, good, bad in QUESTIONS
    ]
    both = ("chosen", "rejected")
    forms = {
        "preference": said,
        "preference_implicit": [{side: row["prompt"] + row[side] for side in both} for row in said],
        "preference_conversational": chats,
        "preference_conversational_implicit": [{side: row["prompt"] + row[side] for side in both} for row in chats],
        "completion": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in said],
        "completion_conversational": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in chats],
        "language_modelling": [{"messages": row["prompt"] + row["chosen"]} for row in chats],
        "prompts": [{"prompt": row["prompt"]} for row in said],
        "prompts_conversational": [{"prompt": row["prompt"]} for row in chats],
    }
    sets = {name: Dataset.from_list(rows) for name, rows in forms.items()}
    sets["unpaired"] = unpair_preference_dataset(sets["preference"])
    sets["unpaired_conversational"] = unpair_preference_dataset(sets["preference_conversational"])
    sets["preference_extracted"] = sets["preference_conversational_implicit"].map(extract_prompt)
    for name, rows in sets.items():
        rows.to_json(str(folder / f"{name}.jsonl"), lines=True, force_ascii=False)
        rows.save_to_disk(str(folder / name))
    tokenizer = byte_tokenizer()
    LlamaForCausalLM(tiny(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {"forms": {name: len(rows) for name, rows in sets.items()}, "questions": len(QUESTIONS)}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
