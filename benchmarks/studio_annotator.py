"""Somebody who judges tinytalk in a browser: reads the words on the screen, presses keys, nothing else.

The world's rule of what is a good answer is known to them, as an instruction to annotators would say it; what they
apply it to is the prompt and the two answers as the page shows them. No id, score, slot or policy is in that page.
Left out: mistakes. The oracle of the `tinytalk` recipe makes them; this is about the way from the screen to the policy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tropism.language.worlds.tinytalk.rubric import judge
from tropism.language.worlds.tinytalk.tasks import END, HARM_ASKS, TELL_ASKS
from tropism.language.worlds.tinytalk.words import ATTRIBUTES

TIE = 1e-9
MUCH, CLEARLY = 3.5, 1.0
"""Differences of utility from which an answer is much, or clearly, better: a right one against a wrong one is much."""
KEYS = {True: "123", False: "ewq"}
"""Much, clearly and slightly better: the first, or the second."""
PATIENCE_MS = 60_000
MEASURE = """
window.calls = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const kind = /\\/queue\\/claim$/.test(entry.name) ? 'claim' : /\\/submit$/.test(entry.name) ? 'submit' : null;
    if (kind !== null) window.calls.push([kind, performance.timeOrigin + entry.startTime, entry.duration]);
  }
}).observe({ type: 'resource', buffered: true });
"""
"""In the page: when each claim and each submit began (ms since 1970), and how long it took until it was answered."""
UNSENT = "Object.keys(localStorage).filter((key) => key.startsWith('tropism.outbox.')).length"

_STATEMENTS = [(a.key, re.compile(rf"(\w+) {a.said} (\w+)\.\s*")) for a in ATTRIBUTES]
_QUESTIONS = [(a.key, re.compile(re.escape(a.question).replace(r"\{name\}", r"(\w+)"))) for a in ATTRIBUTES]
_CLAUSES = [(a.key, re.compile(re.escape(a.clause).replace(r"\{name\}", r"(\w+)"))) for a in ATTRIBUTES]
_TELLS = [re.compile(re.escape(ask).replace(r"\{what\}", "(.+)")) for ask in TELL_ASKS]
_HARMS = [re.compile(re.escape(ask).replace(r"\{what\}", r"(\w+) the (\w+) of (\w+)")) for ask in HARM_ASKS]


def read_prompt(words: str) -> dict[str, Any]:
    """What a prompt says and asks, as the rubric wants it. ValueError for words that are no prompt of tinytalk."""
    rest = " ".join(words.split()).removesuffix(END).strip()
    facts: list[tuple[str, str, str]] = []
    while (found := _statement(rest)) is not None:
        fact, rest = found
        facts.append(fact)
    known = {(name, key): (name, key, value) for name, key, value in facts}
    for pattern in _HARMS:
        if asked := pattern.fullmatch(rest):
            return {"kind": "request", "asked": [], "harm": list(asked.groups())}
    for key, pattern in _QUESTIONS:
        if asked := pattern.fullmatch(rest):
            return {"kind": "question", "asked": [known[asked[1], key]], "harm": None}
    for pattern in _TELLS:
        if asked := pattern.fullmatch(rest):
            clauses = [_clause(part) for part in asked[1].split(" and ")]
            return {"kind": "instruction", "asked": [known[clause] for clause in clauses], "harm": None}
    raise ValueError(f"no question of tinytalk: {rest!r} in {words!r}")


def _statement(words: str) -> tuple[tuple[str, str, str], str] | None:
    """The fact that the words begin with, and the words after it."""
    for key, pattern in _STATEMENTS:
        if found := pattern.match(words):
            return (found[1], key, found[2]), words[found.end() :]
    return None


def _clause(words: str) -> tuple[str, str]:
    """(name, attribute) that a clause asks for."""
    for key, pattern in _CLAUSES:
        if found := pattern.fullmatch(words):
            return found[1], key
    raise ValueError(f"no clause of tinytalk: {words!r}")


def key_for(prompt: str, first: str, second: str) -> str:
    """The key of the seven grades for two answers to a prompt, all of them as words."""
    asked = read_prompt(prompt)
    gap = judge(asked, first)[1] - judge(asked, second)[1]
    if abs(gap) < TIE:
        return "4"
    size = 0 if abs(gap) >= MUCH else 1 if abs(gap) >= CLEARLY else 2
    return KEYS[gap > 0][size]


@dataclass
class Annotator:
    """Judges whatever a page of the studio shows, one answer every ``pace_s`` seconds at most."""

    page: Any
    pace_s: float
    keys: list[str] = field(default_factory=list)
    calls: list[tuple[str, float, float]] = field(default_factory=list)
    """("claim" or "submit", seconds since 1970, seconds it took), as the browser saw them."""
    unsent: int = 0
    """Answers that were still in the browser when the studio ended with the run."""

    def work(self, going: Callable[[], bool]) -> None:
        """Judge until ``going`` says no. An empty queue is looked at until there is something."""
        from playwright.sync_api import Error

        while going():
            try:
                self._answer()
            except Error:
                if going():  # else the studio has ended
                    raise
        self.unsent = self.page.evaluate(UNSENT)

    def _answer(self) -> None:
        page, began = self.page, time.monotonic()
        item = page.get_attribute(".judge", "data-item")
        if item is None:
            page.wait_for_timeout(250)
            self._note()
            return
        prompt = page.inner_text(".task .prose")
        first, second = (page.inner_text(f"[data-key='{place}'] .prose") for place in "12")
        key = key_for(prompt, first, second)
        page.keyboard.press(key)
        self.keys.append(key)
        page.wait_for_selector(f".judge:not([data-item='{item}'])", timeout=PATIENCE_MS)
        self._note()
        page.wait_for_timeout(max(0.0, 1000 * (self.pace_s - (time.monotonic() - began))))

    def _note(self) -> None:
        """Take over what the page has measured."""
        self.calls += [(kind, at / 1000, took / 1000) for kind, at, took in self.page.evaluate("calls.splice(0)")]


def pairs_of(calls: list[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """(when, seconds) of each submit together with the claim that followed it."""
    ordered, found = sorted(calls, key=lambda call: call[1]), []
    for i, (kind, at, took) in enumerate(ordered):
        if kind != "submit":
            continue
        after = next((call for call in ordered[i + 1 :] if call[0] == "claim"), None)
        if after is not None:
            found.append((at, took + after[2]))
    return found
