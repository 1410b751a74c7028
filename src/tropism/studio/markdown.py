"""Text of models and people as HTML that cannot do anything: Markdown through an allow-list, and nothing unseen.

Three walls, each enough by itself against script: the parser knows no raw HTML, the cleaner lets through a list of tags
and attributes, the page's policy runs no inline code. No picture is loaded from anywhere. Characters that nobody sees
(bidirectional controls, zero-width, terminal escapes) are shown by their numbers, since a text that looks like another
would be judged for what it is not. Left out: mathematics and code colours.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

LONGEST: Final = 20_000
"""Characters beyond which a text is shown as it is: parsing must not take long, whatever somebody wrote."""
SHOWN: Final = 200_000
"""Characters of one text that are sent to a browser at all."""

_TAGS: Final = frozenset(
    {"a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"}
    | {"s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
)
_ATTRIBUTES: Final = {"a": {"href"}, "ol": {"start"}, "*": set[str]()}  # "*": or titles and languages would do

_SCHEMES: Final = frozenset({"http", "https", "mailto"})
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls (but tab and newline), soft hyphens, fillers, zero-width and bidirectional characters, tags."""
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9 ,.;:?()'%/$=+-]*[A-Za-z0-9,.;:?)%]")
"""One paragraph in which nothing is Markdown, nothing unseen and nothing to be escaped: it need not be parsed."""
_JOINERS: Final = "\u200c\u200d"
_TAG: Final = re.compile(r"(<[^>]*>)")


@lru_cache(maxsize=2048)
def render(text: str) -> str:
    """A text's HTML, safe to put into a page. Beyond ``SHOWN`` characters it is cut; see ``cut``."""
    shown = text[:SHOWN]
    if _PLAIN.fullmatch(shown):
        return f"<p>{shown}</p>\n"
    if len(shown) > LONGEST:
        return _reveal(f"<pre>{html.escape(shown)}</pre>")
    return _reveal(nh3.clean(
        _parser().render(shown),
        tags=set(_TAGS),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        url_schemes=set(_SCHEMES),
        link_rel="nofollow noopener noreferrer",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    ))  # fmt: skip


def cut(text: str) -> int | None:
    """How many characters a text has, where it is too long to be sent whole; else None."""
    return len(text) if len(text) > SHOWN else None


def plain(text: str) -> str:
    """A text for a terminal or a table cell: what is unseen as ⟦XXXX⟧."""
    return _UNSEEN.sub(lambda found: f"⟦{ord(found[0]):04X}⟧", text)


class _Parser(MarkdownIt):
    """Links lead to the web or to mail, and say so: no script, no file, no address that hangs on this page's own."""

    def validateLink(self, url: str) -> bool:
        return re.match(r"(?:https?://|mailto:)\S", url, re.IGNORECASE) is not None


@cache
def _parser() -> MarkdownIt:
    made = _Parser("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])
    made.disable(["image", "html_block", "html_inline"])
    made.add_render_rule("link_close", _link_close)
    return made


def _link_close(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """After a link's words, where it leads, unless the words say so themselves."""
    depth, opened = 1, index
    while depth and opened > 0:
        opened -= 1
        depth += {"link_close": 1, "link_open": -1}.get(tokens[opened].type, 0)
    target = str(tokens[opened].attrGet("href") or "")
    words = "".join(token.content for token in tokens[opened:index])
    return "</a>" if words == target else f"</a> <code>{html.escape(target)}</code>"


def _reveal(markup: str) -> str:
    """Unseen characters of clean HTML as marks. Tags stay as they are: the cleaner has written them."""
    if not _UNSEEN.search(markup):
        return markup
    parts = _TAG.split(markup)
    return "".join(part if i % 2 else _UNSEEN.sub(_mark, part) for i, part in enumerate(parts))


def _mark(found: re.Match[str]) -> str:
    character = found[0]
    if character in _JOINERS and _joins(found.string, found.start()):
        return character
    number = f"{ord(character):04X}"
    return f'<span class="unseen" title="U+{number}">⟦{number}⟧</span>'


def _joins(text: str, at: int) -> bool:
    """Whether a joiner does its work: between parts of one emoji, or between letters of a script that is written with
    it (Arabic to Sinhala, Mongolian)."""
    if not 0 < at < len(text) - 1:
        return False
    before, after = text[at - 1], text[at + 1]
    if text[at] == "\u200d" and unicodedata.category(after) == "So":
        return unicodedata.category(before) in ("So", "Sk") or before == "\ufe0f"
    return all("\u0600" <= c <= "\u0dff" or "\u1800" <= c <= "\u18af" for c in (before, after))
