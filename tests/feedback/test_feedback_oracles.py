"""Oracles: each of B-Pref's six does what its name says, alike in any order and company."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from feedback_cases import new_log

from tropism.errors import ConfigError, DataError
from tropism.feedback.oracles import NAMES, Oracle, oracle
from tropism.feedback.records import Candidate, Provenance, Query, Task
from tropism.feedback.selection import single
from tropism.feedback.teachers import QueryContext, Standard, Teacher
from tropism.runtime.seeding import derive


def ask(
    kind: str, utilities: Sequence[Sequence[float]], steps: Sequence[Sequence[Sequence[float]]] | None = None
) -> tuple[list[Query], QueryContext]:
    tasks = [Task("train", {"prompt": str(i)}) for i in range(len(utilities))]
    rows = [
        [Candidate(t.id, "text", {"text": str(slot)}, Provenance("sft")) for slot in range(len(u))]
        for t, u in zip(tasks, utilities, strict=True)
    ]
    queries = [single(row, kind, seed=0, round=1) for row in rows]
    gold = {q.id: list(u) for q, u in zip(queries, utilities, strict=True)}
    by_step = None if steps is None else {q.id: s for q, s in zip(queries, steps, strict=True)}
    return queries, QueryContext.build(tasks, [c for row in rows for c in row], gold, by_step)


def values(teacher: Teacher, queries: list[Query], context: QueryContext) -> list[Any]:
    return [answer.value for answer in teacher.answer(queries, context)]


def test_exact_oracle_answers_every_kind() -> None:
    u = [[0.0, 3.0, 1.0, 3.0]]
    assert values(Oracle(), *ask("ranking", u))[0]["rank"] == [["c2", "c4"], ["c3"], ["c1"]]
    assert values(Oracle(), *ask("best_of", u))[0]["best"] == "tie"
    assert values(Oracle(), *ask("best_of", [[0.0, 3.0, 1.0]]))[0]["best"] == "c2"
    assert [v["choice"] for v in values(Oracle(), *ask("comparison", [[1, 0], [0, 1], [1, 1]]))] == ["a", "b", "tie"]
    scores = [v["score"] for v in values(Oracle(), *ask("rating", [[x] for x in (-9.0, -0.5, 0.0, 0.5, 9.0)]))]
    assert scores == sorted(scores)
    assert (scores[0], scores[2], scores[-1]) == (1, 3, 5)
    assert [v["good"] for v in values(Oracle(), *ask("label", [[-1.0], [1.0]]))] == [False, True]


def test_answers_are_stored_by_the_log(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    log.register_teacher("oracle", "oracle")
    for kind, u in (("comparison", [[1.0, 0.0]]), ("ranking", [[1.0, 1.0, 2.0]]), ("best_of", [[1.0, 2.0, 3.0]]),
                    ("rating", [[1.0]]), ("label", [[1.0]])):  # fmt: skip
        queries, context = ask(kind, u)
        log.add_tasks(context.tasks.values())
        log.add_candidates(context.candidates.values())
        log.add_queries(queries)
        answers = Oracle().answer(queries, context)
        log.append_many([(query, "oracle", answer) for query, answer in zip(queries, answers, strict=True)])
    assert sorted(j.value["kind"] for j in log.judgements()) == ["best_of", "comparison", "label", "ranking", "rating"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_one_query_is_always_answered_alike(name: str) -> None:
    u = [[i % 7, (3 * i) % 5] for i in range(60)]
    queries, context = ask("comparison", u, [[[x, 0.0], [y, 0.0]] for x, y in u])
    teacher = oracle(name, seed=3)
    whole = values(teacher, queries, context)
    backwards = values(teacher, queries[::-1], context)[::-1]
    alone = [values(teacher, [query], context)[0] for query in queries]
    assert whole == backwards == alone


@pytest.mark.parametrize("gap", [0.5, 1.5])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_trap_28_boltzmann_noise_is_in_units_of_the_spread(gap: float, scale: float) -> None:
    n, beta = 4000, 2.0
    queries, context = ask("comparison", [[gap * scale, 0.0]] * n)
    context = replace(context, spread=scale)
    share = sum(v["choice"] == "a" for v in values(Oracle(rationality=beta, seed=1), queries, context)) / n
    expected = 1 / (1 + math.exp(-beta * gap))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_spread_is_measured_within_queries() -> None:
    _, context = ask("comparison", [[100.0, 102.0], [-50.0, -48.0], [0.0, 2.0]])
    assert context.spread == pytest.approx(math.sqrt(2))  # deviation of 0 and 2, whatever the tasks' own level
    assert ask("comparison", [[1.0, 1.0]])[1].spread == 1.0
    assert ask("rating", [[0.0], [2.0]])[1].spread == pytest.approx(math.sqrt(2))


def test_boltzmann_best_of_is_the_softmax() -> None:
    n, u = 6000, [0.0, 1.0, 2.0]
    queries, context = ask("best_of", [u] * n)
    best = [v["best"] for v in values(Oracle(rationality=1.0), queries, replace(context, spread=1.0))]
    total = sum(math.exp(x) for x in u)
    for slot, x in enumerate(u):
        p = math.exp(x) / total
        assert abs(best.count(f"c{slot + 1}") / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_boltzmann_ranking_is_plackett_luce() -> None:
    n, u = 6000, [0.0, 1.0, 2.0]
    queries, context = ask("ranking", [u] * n)
    ranks = [v["rank"] for v in values(Oracle(rationality=1.0), queries, replace(context, spread=1.0))]
    e = [math.exp(x) for x in u]
    p = e[0] / sum(e) * e[2] / (e[1] + e[2])
    assert abs(ranks.count([["c1"], ["c3"], ["c2"]]) / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_mistaken_oracle_errs_at_its_rate_and_never_on_ties() -> None:
    n = 4000
    queries, context = ask("comparison", [[1.0, 0.0]] * n + [[1.0, 1.0]] * 50)
    choices = [v["choice"] for v in values(Oracle(mistake=0.1), queries, context)]
    assert abs(choices[:n].count("b") / n - 0.1) < 4 * math.sqrt(0.09 / n)
    assert set(choices[n:]) == {"tie"}
    assert values(Oracle(mistake=1.0), *ask("ranking", [[0.0, 1.0, 2.0]]))[0]["rank"] == [["c1"], ["c2"], ["c3"]]
    assert {v["best"] for v in values(Oracle(mistake=1.0), *ask("best_of", [[0.0, 1.0, 2.0]] * 40))} == {"c1", "c2"}


def test_trap_29_thresholds_are_applied_once() -> None:
    queries, context = ask("comparison", [[0.0, 0.3], [0.0, 0.7], [-3.0, -2.0], [-3.0, 0.5]])
    context = replace(context, center=0.0, spread=1.0)
    assert [v and v["choice"] for v in values(Oracle(equal_within=0.5), queries, context)] == ["tie", "b", "b", "b"]
    skipping = values(Oracle(skip_below=-1.0), queries, context)
    assert [v and v["choice"] for v in skipping] == ["b", "b", None, "b"]  # the best of the two decides
    close, context = ask("comparison", [[0.0, 0.3]] * 100 + [[0.0, 0.7]] * 100)
    noisy = values(Oracle(equal_within=0.5, rationality=0.1), close, replace(context, spread=1.0))
    assert {v["choice"] for v in noisy[:100]} == {"tie"}  # equality is seen before the noise …
    assert {v["choice"] for v in noisy[100:]} == {"a", "b"}  # … and not looked for again after it
    low, context = ask("comparison", [[-0.9, -0.9]] * 100)
    blurred = Oracle(skip_below=-1.0, rationality=0.1)
    assert None not in values(blurred, low, replace(context, center=0.0, spread=1.0))


def test_equal_ranking_groups_by_the_groups_best() -> None:
    queries, context = ask("ranking", [[1.0, 0.8, 0.6, 0.0]])
    ranked = values(Oracle(equal_within=0.3), queries, replace(context, spread=1.0))[0]
    assert ranked["rank"] == [["c1", "c2"], ["c3"], ["c4"]]


def test_myopic_oracle_weighs_what_comes_last() -> None:
    steps = [[[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]]]
    queries, context = ask("comparison", [[3.0, 2.0]], steps)
    assert values(Oracle(), queries, context)[0]["choice"] == "a"
    assert values(Oracle(discount=0.9), queries, context)[0]["choice"] == "a"  # 3 · 0.81 > 2
    assert values(Oracle(discount=0.8), queries, context)[0]["choice"] == "b"  # 3 · 0.64 < 2
    with pytest.raises(DataError, match="utilities by step"):
        values(Oracle(discount=0.9), *ask("comparison", [[3.0, 2.0]]))


def test_comparisons_keep_their_answers() -> None:
    """Pinned: a study that goes on after an upgrade must meet the teacher that it began with."""
    u = [[(i * 7 % 11) / 3, (i * 5 % 7) / 2] for i in range(40)]
    queries, context = ask("comparison", u)
    for beta, pinned in (
        (4.0, "tababbaabaabatabbabbaabaaatbabbabbaaaaat"),
        (1.0, "tababbaababbataababaaabaaatbabaaabaaaaat"),
    ):
        teacher = Oracle(rationality=beta, seed=derive(0, "oracle"))
        for standard in (None, Standard(-3.0, 0.1)):
            answers = values(teacher, queries, replace(context, standard=standard))
            assert "".join(answer["choice"][0] for answer in answers) == pinned


def test_ratings_labels_and_skips_go_by_the_standard() -> None:
    for level in (0.0, 100.0):  # in whatever company
        queries, context = ask("rating", [[2.0], [level], [level + 1.0]])
        measured = replace(context, standard=Standard(1.0, 2.0))
        assert values(Oracle(), queries, measured)[0]["score"] == 4  # half a spread above the center
        assert values(Oracle(skip_below=1.0), queries, measured)[0] is None
        queries, context = ask("label", [[2.0], [level], [level + 1.0]])
        assert values(Oracle(), queries, replace(context, standard=Standard(1.0, 2.0)))[0]["good"]
        assert not values(Oracle(), queries, replace(context, standard=Standard(3.0, 2.0)))[0]["good"]
    assert values(Oracle(), *ask("rating", [[2.0], [100.0], [101.0]]))[0]["score"] != 4  # its own company's, if none
    with pytest.raises(DataError, match="spread 0"):
        Standard(1.0, 0.0)


def test_an_anchored_scale_tells_apart_what_is_far_better_than_the_first_candidates() -> None:
    """Put back (quantiles of the first candidates alone): the best of a better policy is rated like its worst."""
    queries, context = ask("rating", [[-5.0], [0.0], [2.4], [2.6], [6.0], [10.0], [99.0]])
    measured = replace(context, standard=Standard(0.0, 0.5))  # the first ones were all near 0
    scores = [value["score"] for value in values(Oracle(anchors=(0.0, 10.0), scale=(1, 11)), queries, measured)]
    assert scores == [1, 1, 3, 4, 7, 11, 11]
    assert [value["score"] for value in values(Oracle(), queries, measured)] == [1, 3, 5, 5, 5, 5, 5]
    noisy = values(Oracle(anchors=(0.0, 10.0), scale=(1, 11), rationality=0.5), queries, measured)
    assert scores != [value["score"] for value in noisy]
    assert all(abs(value["score"] - score) <= 6 for value, score in zip(noisy, scores, strict=True))
    for bad in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ConfigError, match="oracle anchors"):
            Oracle(anchors=bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_gold_is_named(bad: float) -> None:
    with pytest.raises(DataError, match=f"gold utility {bad} "):
        ask("comparison", [[bad, 0.0]])


def test_what_an_oracle_cannot_answer_is_refused() -> None:
    queries, context = ask("comparison", [[1.0, 0.0]])
    with pytest.raises(DataError, match="no gold utilities"):
        values(Oracle(), queries, QueryContext.build([], []))
    with pytest.raises(DataError, match="cannot answer a critique"):
        values(Oracle(), *ask("critique", [[1.0]]))
    with pytest.raises(DataError, match="rating of 2 candidates"):
        values(Oracle(), *ask("rating", [[1.0, 2.0]]))
    with pytest.raises(DataError, match="for the 2 slots"):
        values(Oracle(), queries, replace(context, utilities={queries[0].id: [1.0]}))


def test_unknown_oracles_and_settings_are_refused() -> None:
    assert oracle("equal", id="judge-me", equal_within=0.2) == Oracle(id="judge-me", equal_within=0.2)
    with pytest.raises(ConfigError, match="no oracle 'wise'"):
        oracle("wise")
    with pytest.raises(ConfigError, match="no oracle setting 'wisdom'"):
        oracle("exact", wisdom=1.0)
    with pytest.raises(ConfigError, match=r"mistake = 1\.5"):
        Oracle(mistake=1.5)
