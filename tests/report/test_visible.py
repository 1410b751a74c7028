"""Trap 50: model output is hostile. Nothing hidden, nothing that acts, in a terminal or on a page."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tropism.study.report.visible import visible


def test_trap_50_ansi_and_controls_cannot_act() -> None:
    assert visible("\x1b[31mred\x1b[0m\x07\x7f\x9b2J") == "⟨ESC⟩[31mred⟨ESC⟩[0m⟨BEL⟩⟨DEL⟩⟨U+009B⟩2J"


def test_trap_50_bidi_and_zero_width_are_written_out() -> None:
    assert visible("a\u202eb\u200bc\ufeffd\u2066e\u2069") == "a⟨RLO⟩b⟨ZWSP⟩c⟨BOM⟩d⟨LRI⟩e⟨PDI⟩"


@pytest.mark.parametrize(
    "character", ["\u3164", "\ufe0f", "\U000e0041", "\U000e0100", "\ue000", "\u2028", "\u034f", "\ud800"]
)
def test_characters_that_draw_nothing_are_written_out(character: str) -> None:
    assert visible(character).startswith("⟨")


def test_ordinary_text_stays() -> None:
    text = "Grüße,\n\t日本語 עברית é 😀 — “ok”"
    assert visible(text) == text


@given(st.text(st.characters()))
def test_no_control_or_format_character_survives(text: str) -> None:
    left = {unicodedata.category(c) for c in visible(text) if c not in "\n\t"}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
