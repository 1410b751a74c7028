"""Records of every kind: some written out, and hypothesis strategies for all others."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tropism.data.records import Message, Record


def pair(prompt: str = "p", first: str = "good", second: str = "bad", choice: str = "a", **more: Any) -> Record:
    """A comparison of two texts."""
    value = {"kind": "comparison", "choice": choice, "strength": more.pop("strength", 0)}
    answers = ({"text": first}, {"text": second})
    return Record(prompt, answers, value, more.pop("text", None), "comparison", **more)


def ranking(prompt: str, texts: list[str], rank: list[list[str]], **more: Any) -> Record:
    """A ranking, best first."""
    value = {"kind": "ranking", "rank": rank}
    return Record(prompt, tuple({"text": t} for t in texts), value, more.pop("text", None), "ranking", **more)


def single(prompt: str, text: str, value: dict[str, Any], said: str | None = None, **more: Any) -> Record:
    """A rating, label, approval, critique or correction of one answer."""
    return Record(prompt, ({"text": text},), value, said, value["kind"], **more)


def demonstration(prompt: Any, text: str, **more: Any) -> Record:
    """A demonstration."""
    return Record(prompt, (), {"kind": "demonstration"}, text, "demonstration", **more)


CHAT: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "=1+1?"},
)

# characters that files get wrong: quotes, separators, formulae, line ends, escapes, other scripts
_AWKWARD = "=+-@'\"\\,;\t\r\n |#%{}[]:0\u00e9\u4e2d\u202e\U0001f600\u2028\x1b\x85\u00a0ab"
texts = st.text(st.sampled_from(_AWKWARD), min_size=1, max_size=12).filter(lambda t: bool(t.strip()))
names = st.sampled_from(
    ["ab", "\u00e9='\"", "-x", "=z\t1", "'q", "@", "[{}]", "5"]
)  # none like another but for case or blanks
messages = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "system"]), texts
)
prompts = st.one_of(
    texts,
    st.builds(lambda head, last: (*head, {"role": "user", "content": last}), st.lists(messages, max_size=2), texts),
)
scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-2, 2), texts)


@st.composite
def records(
    draw: st.DrawFn, kinds: tuple[str, ...], prompts: st.SearchStrategy[Any] = prompts, meta: Any = None
) -> Record:
    """A valid record of one of ``kinds``, with every field that may be set."""
    kind = draw(st.sampled_from(kinds))
    more: dict[str, Any] = {
        "teacher": draw(st.none() | names),
        "split": draw(st.none() | st.sampled_from(["train", "validation", "test"])),
        "group": draw(st.just("") | names),
        "source_id": draw(st.none() | names),
        "meta": draw(st.just({}) if meta is None else meta),
    }
    prompt = draw(prompts)
    reason = draw(st.none() | texts)
    if kind == "prompt":
        return Record(prompt, **more | {"teacher": None})
    if kind == "demonstration":
        return demonstration(prompt, draw(texts), **more)
    if kind == "comparison":
        first, second = draw(st.lists(texts, min_size=2, max_size=2, unique=True))
        choice = draw(st.sampled_from(["a", "b", "tie", "both_bad", "cannot_judge"]))
        strength = draw(st.integers(0, 3)) if choice in ("a", "b") else 0
        shown = draw(st.none() | st.sampled_from([(0, 1), (1, 0)]))
        return pair(prompt, first, second, choice, strength=strength, shown=shown, text=reason, **more)
    if kind == "ranking":
        return _ranking(draw, prompt, reason, more)
    return single(prompt, "x" * 9 + draw(texts), _value(draw, kind), _said(draw, kind, reason), **more)


def _ranking(draw: st.DrawFn, prompt: Any, reason: str | None, more: dict[str, Any]) -> Record:
    answers = draw(st.lists(texts, min_size=2, max_size=5, unique=True))
    slots = draw(st.permutations([f"c{i + 1}" for i in range(len(answers))]))
    ranked = draw(st.integers(2, len(slots)))
    groups: list[list[str]] = []
    for slot in slots[:ranked]:
        if groups and draw(st.booleans()):
            groups[-1].append(slot)
        else:
            groups.append([slot])
    shown = draw(st.none() | st.permutations(range(len(answers))).map(tuple))
    return ranking(prompt, answers, groups, shown=shown, text=reason, **more)


def _value(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    if kind == "rating":
        low, high = draw(st.sampled_from([(1, 5), (0, 1), (-2.5, 2.5)]))
        score = draw(st.integers(low, high) if isinstance(low, int) else st.floats(low, high))
        return {"kind": kind, "score": score, "scale": [low, high], "aspect": draw(st.sampled_from(["overall", "x"]))}
    if kind == "label":
        return {"kind": kind, "name": draw(st.sampled_from(["good", "safe"])), "good": draw(st.booleans())}
    if kind == "approval":
        return {"kind": kind, "approved": draw(st.booleans())}
    if kind == "critique":
        span = draw(st.none() | st.tuples(st.integers(0, 3), st.integers(4, 9)).map(list))
        return {"kind": kind} | ({} if span is None else {"span": span})
    return {"kind": kind}


def _said(draw: st.DrawFn, kind: str, reason: str | None) -> str | None:
    return draw(texts) if kind in ("critique", "correction") else reason
