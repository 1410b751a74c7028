"""From a browser's answer in keys ("1" is what was shown first) to answers in canonical slots.

Left out: whether a value makes sense for its kind, which ``feedback.values`` checks for every source of feedback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tropism.feedback.records import Answer, Query
from tropism.feedback.values import slot_names
from tropism.studio.problems import ApiError

REMARKS: Mapping[str, tuple[str, ...]] = {
    "comparison": ("critique", "correction", "demonstration"),
    "ranking": ("critique", "correction", "demonstration"),
    "best_of": ("critique", "correction", "demonstration"),
    "rating": ("critique", "correction", "demonstration"),
    "label": ("critique", "correction", "demonstration"),
    "approval": ("critique", "correction", "demonstration"),
    "critique": ("correction", "demonstration"),
    "correction": ("critique", "demonstration"),
    "demonstration": (),  # there is nothing on the screen to be criticised or corrected
}
"""By the kind that is asked for: what may come along with the answer. What is asked for is the answer, no remark."""


class Keys:
    """What the keys of one assignment mean."""

    def __init__(self, query: Query, shown_order: Sequence[int]) -> None:
        names = slot_names(query.kind, len(query.candidate_ids))
        self.kind = query.kind
        self._slots = {str(place + 1): names[slot] for place, slot in enumerate(shown_order)}

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, key: Any) -> str:
        """The slot of a key. Errors: ApiError for a key that was not shown."""
        if not isinstance(key, str) or key not in self._slots:
            raise ApiError(400, "bad_value", f"no candidate {key!r:.40}", f"name one of {', '.join(self._slots)}")
        return self._slots[key]

    def word(self, key: Any, words: Sequence[str]) -> str:
        """One of ``words`` as it is, or the slot of a key."""
        return key if isinstance(key, str) and key in words else self.slot(key)

    def only(self, value: Mapping[str, Any]) -> str:
        """The slot that ``candidate`` names; the only one where there is one and none is named."""
        if "candidate" not in value and len(self._slots) == 1:
            return next(iter(self._slots.values()))
        return self.slot(value.get("candidate"))


def answers(
    query: Query,
    shown_order: Sequence[int],
    form: Mapping[str, Any],
    value: Mapping[str, Any],
    text: str | None,
    extra: Sequence[Mapping[str, Any]],
    duration_ms: int | None,
) -> list[Answer]:
    """The answers in one submit: of the kind that was asked, and remarks. Errors: ApiError (400) for bad values."""
    keys = Keys(query, shown_order)
    values = _KINDS[query.kind](keys, value, form)
    made = [Answer({"kind": query.kind, **each}, text, duration_ms) for each in values]
    for remark in extra:
        kind = str(remark["kind"])
        if kind not in REMARKS[query.kind]:
            fix = f"use {', '.join(REMARKS[query.kind])}" if REMARKS[query.kind] else "leave extra out"
            raise ApiError(400, "bad_value", f"a {kind:.40} beside a {query.kind}", fix)
        (one,) = _KINDS[kind](keys, remark["value"], form)
        made.append(Answer({"kind": kind, **one}, str(remark["text"]), None))
    return made


def _comparison(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "choice", "strength")
    choice = keys.word(value.get("choice"), ("tie", "both_bad", "cannot_judge"))
    return [{"choice": choice, "strength": value.get("strength", 0)}]


def _ranking(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "rank", "unranked")
    groups = _list(value, "rank")
    if not all(isinstance(group, list) for group in groups):
        raise ApiError(400, "bad_value", "rank is not a list of lists", 'give {"rank": [["2"], ["1", "3"]]}')
    rank = [[keys.slot(key) for key in group] for group in groups]
    return [{"rank": rank, "unranked": [keys.slot(key) for key in _list(value, "unranked")]}]


def _best_of(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "best")
    return [{"best": keys.word(value.get("best"), ("tie", "all_bad", "cannot_judge"))}]


def _rating(keys: Keys, value: Mapping[str, Any], form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "ratings")
    scales = {aspect["name"]: aspect["scale"] for aspect in form.get("aspects", [])}
    made = []
    for rating in _list(value, "ratings"):
        given = _table(rating)
        _only(given, "candidate", "aspect", "score")
        aspect = given.get("aspect", next(iter(scales), "overall"))
        if not isinstance(aspect, str) or aspect not in scales:
            raise ApiError(400, "bad_value", f"no aspect {aspect!r:.40}", f"rate {', '.join(scales)}")
        made.append({"slot": keys.only(given), "aspect": aspect, "score": given.get("score"), "scale": scales[aspect]})
    if len(_some(made, "rating")) < len(keys) * len(scales):
        fix = f"rate {', '.join(scales)} of every candidate"
        raise ApiError(400, "bad_value", f"{len(made)} of {len(keys) * len(scales)} ratings", fix)
    return made


def _label(keys: Keys, value: Mapping[str, Any], form: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "labels" in value:
        _only(value, "labels")
        given = [_table(label) for label in _list(value, "labels")]
    else:
        _only(value, "label", "good", "candidate")
        renamed = {("name" if name == "label" else name): what for name, what in value.items()}
        given = [renamed]
    known = form.get("labels", ["good"])
    made = []
    for label in given:
        name = label.get("name", known[0])
        if name not in known:
            raise ApiError(400, "bad_value", f"no label {name!r:.40}", f"give one of {', '.join(known)}")
        made.append({"slot": keys.only(label), "name": name, "good": label.get("good")})
    return _some(made, "label")


def _correction(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "candidate")
    return [{"slot": keys.only(value)}]


def _critique(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "candidate", "span")
    span = value.get("span")
    return [{"slot": keys.only(value)} | ({} if span is None else {"span": span})]


def _demonstration(_keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value)
    return [{}]


def _approval(keys: Keys, value: Mapping[str, Any], _form: Mapping[str, Any]) -> list[dict[str, Any]]:
    _only(value, "thumb", "candidate")
    if value.get("thumb") not in ("up", "down"):
        raise ApiError(400, "bad_value", f"thumb {value.get('thumb')!r:.40}", 'give "up" or "down"')
    return [{"slot": keys.only(value), "approved": value["thumb"] == "up"}]


_KINDS: dict[str, Callable[[Keys, Mapping[str, Any], Mapping[str, Any]], list[dict[str, Any]]]] = {
    "comparison": _comparison,
    "ranking": _ranking,
    "best_of": _best_of,
    "rating": _rating,
    "label": _label,
    "correction": _correction,
    "critique": _critique,
    "demonstration": _demonstration,
    "approval": _approval,
}


def _only(value: Mapping[str, Any], *names: str) -> None:
    """Errors: ApiError for a key that this kind has not: a slip must not be stored as something else."""
    for name in value:
        if name not in names:
            raise ApiError(
                400, "bad_value", f"{name!r:.40} is no part of this value", f"give {', '.join(names) or '{}'}"
            )


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name, [])
    if not isinstance(found, list):
        raise ApiError(400, "bad_value", f"{name} is not a list", "see docs/studio-api.md for the values")
    return found


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ApiError(400, "bad_value", f"{value!r:.40} is not an object", "see docs/studio-api.md for the values")
    return value


def _some(made: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    if not made:
        raise ApiError(400, "bad_value", f"no {what} in the value", "answer, or skip the question")
    places = {(each["slot"], each.get("aspect"), each.get("name")) for each in made}
    if len(places) < len(made):
        raise ApiError(400, "bad_value", f"a candidate has two {what}s of one name", "give each once")
    return made
