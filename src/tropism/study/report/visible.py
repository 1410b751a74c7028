"""Model text made safe to look at: nothing hidden, nothing that steers a terminal or the reading direction.

HTML escaping is not done here: the report's template escapes everything, and terminals need none.
"""

from __future__ import annotations

import unicodedata

_NAMES = {
    "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM", "\u202a": "LRE",
    "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u2060": "WJ", "\u2066": "LRI",
    "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM", "\u00ad": "SHY", "\u2028": "LSEP",
    "\u2029": "PSEP", "\u061c": "ALM", "\x7f": "DEL",
}  # fmt: skip
_CONTROLS = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF",
    "VT", "FF", "CR", "SO", "SI", "DLE", "DC1", "DC2", "DC3", "DC4", "NAK",
    "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)  # fmt: skip
# not format characters by category, yet they draw nothing
_BLANK = {"\u115f", "\u1160", "\u3164", "\uffa0", "\u034f", "\u180e", "\u17b4", "\u17b5"}


def visible(text: object) -> str:
    """``text`` with every control, format, bidi, zero-width and unassigned character written out.

    Line feeds and tabs stay. The rest becomes ``⟨NAME⟩`` (ESC is ``⟨ESC⟩``, so ANSI sequences cannot act) or
    ``⟨U+XXXX⟩``. Anything that is no string is shown by ``str`` first.
    """
    return "".join(_show(character) for character in str(text))


def _show(character: str) -> str:
    if character in "\n\t":
        return character
    if character < " ":
        return f"⟨{_CONTROLS[ord(character)]}⟩"
    if character in _NAMES:
        return f"⟨{_NAMES[character]}⟩"
    code = ord(character)
    # variation selectors and tag characters are category Mn or Cf and can carry hidden text
    hidden = character in _BLANK or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    if hidden or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f"⟨U+{code:04X}⟩"
    return character
