"""Every value kind: what is taken, what is refused and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from tropism.errors import DataError
from tropism.feedback.values import Ranking, dump_value, parse_value, slot_names

AB, ABCD = ("a", "b"), ("c1", "c2", "c3", "c4")

GOOD = [
    ("comparison", {"choice": "a", "strength": 3}, AB),
    ("comparison", {"choice": "both_bad"}, AB),
    ("ranking", {"rank": [["c2"], ["c1", "c3"]], "unranked": ["c4"]}, ABCD),
    ("best_of", {"best": "c4"}, ABCD),
    ("best_of", {"best": "tie"}, ABCD),
    ("rating", {"score": 4, "scale": [1, 5], "aspect": "helpful"}, ABCD),
    ("rating", {"score": 0.5, "scale": [0, 1], "slot": "c2", "segment": [0, 25]}, ABCD),
    ("rating", {"score": -1, "scale": [-1, 1], "step": 3}, ABCD),
    ("label", {"name": "safe", "good": False, "slot": "c3"}, ABCD),
    ("label", {"name": "good", "good": True, "slot": "b"}, AB),
    ("demonstration", {}, ()),
    ("correction", {"slot": "c2"}, ABCD),
    ("critique", {"slot": "c1", "span": [3, 9]}, ABCD),
    ("approval", {"approved": True}, ABCD),
]

BAD = [
    ("comparison", {"choice": "left"}, AB, "choice"),
    ("comparison", {"choice": "a", "strength": 4}, AB, "strength"),
    ("comparison", {"choice": "a", "strength": True}, AB, "strength"),
    ("comparison", {"choice": "tie", "strength": 1}, AB, "only a or b"),
    ("comparison", {"choice": "a", "side": "left"}, AB, "side"),
    ("comparison", {}, AB, "choice"),
    ("ranking", {"rank": [["c1"], ["c5"]]}, ABCD, "no slot 'c5'"),
    ("ranking", {"rank": [["c1"], ["c2", "c1"]]}, ABCD, "'c1' is named twice"),
    ("ranking", {"rank": [["c1"], ["c2"]], "unranked": ["c2"]}, ABCD, "'c2' is named twice"),
    ("ranking", {"rank": [["c1"], [], ["c2"]]}, ABCD, "empty group"),
    ("best_of", {"best": "c9"}, ABCD, "no slot 'c9'"),
    ("best_of", {"best": "a"}, ABCD, "no slot 'a'"),
    ("rating", {"score": 6, "scale": [1, 5]}, ABCD, "6 lies outside"),
    ("rating", {"score": 1, "scale": [5, 1]}, ABCD, "does not rise"),
    ("rating", {"score": float("nan"), "scale": [1, 5]}, ABCD, "score"),
    ("rating", {"score": "4", "scale": [1, 5]}, ABCD, "score"),
    ("rating", {"score": 4, "scale": [1, 5], "step": 1, "segment": [0, 2]}, ABCD, "one place"),
    ("rating", {"score": 4, "scale": [1, 5], "segment": [2, 2]}, ABCD, "empty"),
    ("label", {"name": "safe", "good": 1}, ABCD, "good"),
    ("critique", {"span": [9, 3]}, ABCD, "empty"),
    ("approval", {"approved": "yes"}, ABCD, "approved"),
    ("opinion", {}, ABCD, "kind"),
    ("comparison", {"kind": "label", "good": True}, AB, "is of kind 'label'"),
]


@pytest.mark.parametrize(("kind", "raw", "slots"), GOOD)
def test_good_values_come_back_as_they_were_said(kind: str, raw: dict[str, Any], slots: tuple[str, ...]) -> None:
    dumped = dump_value(parse_value(kind, raw, slots))
    assert {name: dumped[name] for name in raw} == raw
    assert dumped["kind"] == kind
    assert dump_value(parse_value(kind, dumped, slots)) == dumped


@pytest.mark.parametrize(("kind", "raw", "slots", "said"), BAD)
def test_bad_values_are_refused_by_name(kind: str, raw: dict[str, Any], slots: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_value(kind, raw, slots)
    assert said in caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize("raw", [{"rank": []}, {"rank": [], "unranked": list(ABCD)}, {"rank": [["c1"]]}])
def test_trap_44_an_untouched_ranking_is_no_ranking(raw: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="untouched ranking is no ranking"):
        parse_value("ranking", raw, ABCD)


def test_trap_44_a_ranking_may_be_partial_and_tied() -> None:
    value = parse_value("ranking", {"rank": [["c3", "c1"], ["c4"]]}, ABCD)
    assert isinstance(value, Ranking)
    assert value.rank == (("c3", "c1"), ("c4",))
    assert value.unranked == ("c2",)  # left aside, which is not the same as last
    all_equal = parse_value("ranking", {"rank": [["c1", "c2", "c3", "c4"]]}, ABCD)
    assert dump_value(all_equal)["rank"] == [["c1", "c2", "c3", "c4"]]


def test_trap_44_tie_both_bad_and_cannot_judge_are_three_values() -> None:
    choices = ("a", "b", "tie", "both_bad", "cannot_judge")
    dumped = [dump_value(parse_value("comparison", {"choice": choice}, AB)) for choice in choices]
    assert [value["choice"] for value in dumped] == list(choices)
    with pytest.raises(DataError):  # a skip is an assignment's state, not a value
        parse_value("comparison", {"choice": "skip"}, AB)


def test_slots_are_canonical() -> None:
    assert slot_names("comparison", 2) == ("a", "b")
    assert slot_names("ranking", 3) == ("c1", "c2", "c3")
    with pytest.raises(DataError, match="comparison of 3"):
        slot_names("comparison", 3)


def test_targets_tell_apart_what_may_be_said_side_by_side() -> None:
    base = {"score": 4, "scale": [1, 5]}
    variants = [
        base,
        base | {"slot": "c2"},
        base | {"aspect": "honest"},
        base | {"step": 2},
        base | {"segment": [0, 2]},
    ]
    targets = [parse_value("rating", raw, ABCD).target() for raw in variants]
    assert len(set(targets)) == len(targets)
    assert parse_value("rating", base | {"score": 5}, ABCD).target() == targets[0]
