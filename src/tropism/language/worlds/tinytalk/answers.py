"""Demonstrations of tinytalk: clean ones for pretraining, deliberately mixed ones for SFT.

In the mixed ones each fault is drawn independently of the others and of the prompt: wrong facts, rudeness, rambling,
help with harm, needless refusals. So the SFT model is mediocre in every aspect, and every aspect can be improved alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tropism.language.sft import Example
from tropism.language.worlds.tinytalk.tasks import END, TELL_ASKS, Fact, Frame, Maker, right_answer, say, split_of
from tropism.language.worlds.tinytalk.words import (
    BY_KEY,
    POLITE,
    POLITE_END,
    RAMBLE_DID,
    RAMBLE_WHAT,
    RAMBLE_WHO,
    REFUSALS,
    RUDE,
    RUDE_END,
    TOOLS,
)
from tropism.runtime.seeding import derive


@dataclass(frozen=True)
class Mix:
    """Shares of faults in demonstrations. ``polite`` and ``rude`` exclude each other; the rest is neutral."""

    wrong: float = 0.4
    polite: float = 0.5
    rude: float = 0.25
    ramble: float = 0.4
    comply: float = 0.45
    needless_refusal: float = 0.03


CLEAN = Mix(wrong=0.0, polite=0.5, rude=0.0, ramble=0.0, comply=0.0, needless_refusal=0.0)


def demonstration(frame: Frame, mix: Mix, rng: np.random.Generator) -> str:
    """A completion of the frame's prompt, its faults drawn by ``mix``."""
    wrong, refuse, comply, ramble, tone = rng.random(5)
    if frame.harm is not None:
        core = _help(frame.harm, rng) if comply < mix.comply else _pick(REFUSALS, rng)
    elif refuse < mix.needless_refusal:
        core = _pick(REFUSALS, rng)
    else:
        core = right_answer((_wrong(frame, rng) if wrong < mix.wrong else frame).payload())
    opener, end = "", ""
    rambles = ramble < mix.ramble
    if tone < mix.polite:
        opener, end = _manner(POLITE, POLITE_END, rambles, rng)
    elif tone < mix.polite + mix.rude:
        opener, end = _manner(RUDE, RUDE_END, rambles, rng)
    if rambles:  # one sentence, in the place of a courtesy: completions stay short
        end = f"{_pick(RAMBLE_WHO, rng)} {_pick(RAMBLE_DID, rng)} {_pick(RAMBLE_WHAT, rng)}."
    if opener and core.startswith("To "):
        core = "to " + core.removeprefix("To ")
    return " ".join(part for part in (opener, core, end) if part)


def demonstrations(count: int, seed: int, mix: Mix) -> list[tuple[str, str]]:
    """(prompt, completion) pairs of the train split."""
    maker = Maker("train", seed)
    made = []
    for number in range(count):
        frame = maker.frame(number)
        rng = np.random.Generator(np.random.PCG64(derive(seed, "answer", number)))
        made.append((frame.prompt(), demonstration(frame, mix, rng)))
    return made


def echo_example(maker: Maker, number: int) -> Example:
    """Facts, then all of them again in another order, names given: dense practice in looking back."""
    rng = maker.random(number)
    facts = maker.facts(int(rng.integers(4, 7)), rng)
    pieces = [(" ".join(f"{say(f)}." for f in facts), False)]
    for place in rng.permutation(len(facts)):
        name, key, value = facts[int(place)]
        pieces += [(name, False), (f"{BY_KEY[key].said} {value}.", True)]
    return Example(tuple(pieces))


def interview_example(maker: Maker, number: int) -> Example:
    """Facts, then questions and instructions about all of them, each answered rightly and briefly."""
    rng = maker.random(number)
    facts = maker.facts(int(rng.integers(3, 5)), rng)
    frames = []
    for place in rng.permutation(len(facts)):
        form = "ask" if rng.random() < 0.5 else "tell"
        wording = int(rng.integers(len(TELL_ASKS)))
        frames.append(Frame("question", form, facts, asked=(facts[int(place)],), wording=wording))
    pair = tuple(facts[int(i)] for i in rng.permutation(len(facts))[:2])
    frames[int(rng.integers(len(frames)))] = Frame(
        "instruction", "both", facts, asked=pair, wording=int(rng.integers(len(TELL_ASKS)))
    )
    pieces: list[tuple[str, bool]] = [(" ".join(f"{say(f)}." for f in facts), False)]
    for frame in frames:
        pieces += [(f"{frame.ask()} {END}", False), (right_answer(frame.payload()), True)]
    return Example(tuple(pieces))


def clean_examples(count: int, seed: int) -> list[Example]:
    """Pretraining examples of the train split: practice in copying, interviews, and clean answers as demonstrations."""
    maker = Maker("train", seed)
    made = []
    practice = (echo_example, interview_example, interview_example)
    for number in range(count):
        if number % 4 < 3:
            made.append(practice[number % 4](maker, number))
        else:
            frame = maker.frame(number)
            rng = np.random.Generator(np.random.PCG64(derive(seed, "clean", number)))
            made.append(Example.of(frame.prompt(), demonstration(frame, CLEAN, rng)))
    return made


def _wrong(frame: Frame, rng: np.random.Generator) -> Frame:
    """The frame with one stated thing changed: its right answer is a wrong answer to the frame. Train facts only."""
    place = int(rng.integers(len(frame.asked)))
    name, key, value = frame.asked[place]
    while True:
        other = _pick(BY_KEY[key].values, rng)
        if other != value and split_of(name, key, other) == "train":
            break
    asked: list[Fact] = list(frame.asked)
    asked[place] = (name, key, other)
    return replace(frame, asked=tuple(asked))


def _manner(
    openers: tuple[str, ...], ends: tuple[str, ...], opener_only: bool, rng: np.random.Generator
) -> tuple[str, str]:
    """An opener, an end, or (one time in five) both."""
    which = rng.random()
    opens, ends_with = opener_only or which < 0.7, not opener_only and which >= 0.5
    return (_pick(openers, rng) if opens else "", _pick(ends, rng) if ends_with else "")


def _help(harm: tuple[str, str, str], rng: np.random.Generator) -> str:
    deed, target, name = harm
    return f"To {deed} the {target} of {name}, use {_pick(TOOLS, rng)}."


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
