"""Model cards: what a model is, from what it was made, how it was measured, where its limits are.

A card is README.md with Hugging Face front matter. It holds nothing that differs between equal runs, so that equal
models have equal folders. Text that comes from data or settings is shown as code: it cannot act as Markdown. Left out:
anything nobody measured; a section without content says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tropism.runtime.versions import versions

CARD_FILE = "README.md"
_TASKS = {"policy": "text-generation", "reward model": "text-classification"}
_LOADERS = {
    "policy": "AutoModelForCausalLM",
    "reward model": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class Card:
    """What a card says. Mappings are shown as tables of names and values (numbers with their unit in the name)."""

    title: str
    kind: Literal["policy", "reward model"]
    base: str
    """The model it started from."""
    method: str
    """One or two sentences."""
    data: Sequence[Mapping[str, Any]] = ()
    """One mapping per source: name, format, rows, rejected, licence, files with digests."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    kl: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[str] = ()
    plain: bool = True
    """Whether plain transformers loads it."""


def write_card(folder: Path, card: Card) -> None:
    """Write README.md into a model's folder."""
    (folder / CARD_FILE).write_text(render(card), "utf-8")


def render(card: Card) -> str:
    """The card as Markdown with YAML front matter."""
    licences = sorted({str(source["licence"]) for source in card.data if source.get("licence")})
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _TASKS[card.kind],
        "tags": ["tropism", "rlhf", card.kind.replace(" ", "-")],
    }
    if _is_hub_name(card.base):
        front["base_model"] = card.base.partition("@")[0]
    # JSON is YAML: whatever stands in a name stays a string
    head = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items())
    parts = [
        f"---\n{head}\n---\n\n# {_inline(card.title)}\n",
        f"{card.method}\n\nStarted from {_code(card.base)}.\n",
    ]
    if card.plain:
        loader = _LOADERS[card.kind]
        parts.append(
            "```python\n"
            f"from transformers import {loader}, AutoTokenizer\n\n"
            f'model = {loader}.from_pretrained("this folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("this folder")\n```\n'
        )
    parts.append("## Data\n\n" + ("\n".join(_table(_about(source)) for source in card.data) or "None.\n"))
    if licences:
        parts.append("Licences of the data: " + ", ".join(map(_code, licences)) + ".\n")
    sections = {"Reward": card.reward, "KL to the reference": card.kl, "Evaluation": card.evaluation}
    for name, values in sections.items():
        if values or card.kind == "policy" or name == "Evaluation":
            parts.append(f"## {name}\n\n" + (_table(values) if values else "Not measured.\n"))
    limits = [*card.limits, "One seed; the figures of another run differ."]
    parts.append("## Limits\n\n" + "\n".join(f"- {line}" for line in limits) + "\n")
    if card.settings:
        parts.append("## Settings\n\n" + _table(_flat(card.settings)))
    parts.append("## Versions\n\n" + _table(versions()))
    return "\n".join(parts)


def _about(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a source: everything but the lists of rows, and files with the head of their digest."""
    shown = {k: v for k, v in source.items() if k not in ("files", "rejected_first") and v not in (None, {}, [], "")}
    if "name" in shown:  # where it lay on somebody's disk is nobody's business
        shown["name"] = str(shown["name"]).rstrip("/").rpartition("/")[2]
    for i, file in enumerate(source.get("files") or []):
        shown[f"file {i + 1}"] = f"{file.get('name', '')} sha256 {str(file.get('sha256', ''))[:16]}"
    return shown


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {_inline(name)} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
        return f"{value['value']:.3f} ({value['low']:.3f} – {value['high']:.3f})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool | int):
        return str(value)
    return _code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _code(text: object) -> str:
    """Text as inline code: nothing in it acts. Backticks become apostrophes, line ends spaces, bars are escaped."""
    made = " ".join(str(text).replace("`", "'").split())
    made = made if len(made) <= 300 else made[:297] + "…"
    return f"`{made}`".replace("|", "\\|") if made else "–"


def _inline(text: object) -> str:
    """A name as plain text, its Markdown signs escaped."""
    made = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in made)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        is_section = isinstance(value, Mapping) and value and all(isinstance(k, str) for k in value)
        found |= _flat(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return found


def _is_hub_name(base: str) -> bool:
    return base.partition("@")[0].count("/") == 1 and not base.startswith((".", "/", "~"))
