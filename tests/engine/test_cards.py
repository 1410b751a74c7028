"""Model cards: complete, the same for equal runs, and deaf to what stands in data."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tropism.engine.cards import Card, render, write_card

HOSTILE = "evil | `code`\n\n# Heading\n---\n<script>alert(1)</script> [link](http://x)"


def front_matter(text: str) -> dict[str, object]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.S)
    assert found
    return yaml.safe_load(found[1])  # type: ignore[no-any-return]


def test_a_card_has_every_section_and_says_what_was_not_measured() -> None:
    card = Card(
        "my-policy", "policy", "owner/base@abc", "PPO.", data=[{"name": "p.jsonl", "rows": 3, "licence": "MIT"}]
    )
    text = render(card)
    for heading in ("Data", "Reward", "KL to the reference", "Evaluation", "Limits", "Versions"):
        assert f"## {heading}\n" in text
    assert text.count("Not measured.") == 3
    assert "`MIT`" in text
    assert front_matter(text)["base_model"] == "owner/base"
    assert front_matter(text)["pipeline_tag"] == "text-generation"


def test_intervals_and_numbers_read_well() -> None:
    evaluation = {"win_rate": {"value": 0.61234, "low": 0.5, "high": 0.7}, "kl_nats": 1.23456789, "rows": 12}
    text = render(Card("rm", "reward model", "folder", "Fitted.", evaluation=evaluation))
    assert "| win\\_rate | 0.612 (0.500 – 0.700) |" in text
    assert "| kl\\_nats | 1.235 |" in text
    assert "base_model" not in front_matter(text)


def test_text_from_data_cannot_act(tmp_path: Path) -> None:
    card = Card(
        HOSTILE, "policy", HOSTILE, "SFT.", data=[{"name": HOSTILE, HOSTILE: 1}], settings={"a": {"b": HOSTILE}}
    )
    write_card(tmp_path, card)
    text = (tmp_path / "README.md").read_text()
    body = text.split("---\n", 2)[2]
    assert "\n# Heading" not in body
    assert not re.search(r"(?<![`\\])<script>(?![^`\n]*`)", body)
    assert front_matter(text)["library_name"] == "transformers"
    assert render(card) == text  # equal runs, equal cards
