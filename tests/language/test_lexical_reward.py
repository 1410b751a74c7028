"""Lexical reward models: what is planted is learned and nothing else, any text has a score, folders are exact."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from fixtures import FP32
from tropism.errors import DataError, StoreError
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task
from tropism.language.config import RewardSection
from tropism.language.fit_reward import fit_learned_reward, train_candidates
from tropism.language.lexical_features import MOST_CHARACTERS
from tropism.language.lexical_fit import STRENGTHS, USUAL, chosen_strength, fit_lexical
from tropism.language.lexical_reward import LexicalNetwork, LexicalScores, count_rows, lexical_scores
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered
from tropism.reward.dataset import RewardData
from tropism.reward.fitting import FitSettings
from tropism.runtime.stage import Made, StageRun

WORDS = (
    "river", "stone", "cloud", "table", "garden", "window", "letter", "summer", "bridge", "candle", "forest", "market",
    "silver", "harbour", "meadow",
)  # fmt: skip
Pair = tuple[str, str]


def sentence(draw: random.Random, length: int, *extra: str) -> str:
    words = [draw.choice(WORDS) for _ in range(length)]
    for word in extra:
        words.insert(draw.randrange(len(words) + 1), word)
    return " ".join(words).capitalize() + "."


def polite(draw: random.Random) -> Pair:
    """Two texts alike but for one word: the liked one first."""
    return sentence(draw, 8, "kindly"), sentence(draw, 8, "grudge")


def longer(draw: random.Random) -> Pair:
    return sentence(draw, draw.randint(10, 20)), sentence(draw, draw.randint(3, 8))


def alike(draw: random.Random) -> Pair:
    return sentence(draw, draw.randint(5, 12)), sentence(draw, draw.randint(5, 12))


def votes(
    pair: Callable[[random.Random], Pair],
    tasks: int = 80,
    for_first: int = 1,
    of: int = 1,
    held: int = 4,
    seed: int = 0,
) -> list[Judgement]:
    """``of`` votes on each task's pair, ``for_first`` of them for its liked text; every ``held``-th task held out."""
    draw, made = random.Random(seed), []
    for number in range(tasks):
        task = Task(
            "validation" if number % held == held - 1 else "train",
            {"prompt": f"Tell me of {WORDS[number % 15]} number {number}."},
        )
        liked, other = pair(draw)
        texts = (liked, other) if number % 2 == 0 else (other, liked)
        candidates = tuple(Candidate(task.id, "text", {"text": t}, Provenance("p")) for t in texts)
        query = Query(task.id, "comparison", tuple(c.id for c in candidates), (0, 1), 0)
        for vote in range(of):
            choice = "a" if (number % 2 == 0) == (vote < for_first) else "b"
            about = (query, task, candidates, {"choice": choice})
            made.append(Judgement(f"e{number}-{vote}", f"t{vote}", *about, teacher_kind="person"))
    return made


def unfitted(judgements: Sequence[Judgement], members: int = 1) -> tuple[RewardData, LexicalScores, LexicalNetwork]:
    data = RewardData.from_judgements(judgements)
    rows = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    train = train_candidates(data).tolist()
    features, scores = lexical_scores(count_rows(rows), data.candidate_task.tolist(), train, members, 0)
    return data, scores, LexicalNetwork.of(features, scores)


def strength_of(judgements: Sequence[Judgement]) -> float:
    data, scores, _ = unfitted(judgements)
    return chosen_strength(scores, data.fold(True), FitSettings(), 0)


def fitted(folder: Path, judgements: Sequence[Judgement], seed: int = 5) -> Made:
    settings = RewardSection(network="lexical", judge=False)
    return fit_learned_reward("", judgements, settings, FP32, StageRun("reward", folder, seed))


def scores_of(reward: LearnedReward, texts: Sequence[str], prompt: str = "Tell me.") -> torch.Tensor:
    return reward.member_scores([Answered({"prompt": prompt}, text, True) for text in texts])


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> LearnedReward:
    """One that likes ``kindly``."""
    return LearnedReward.load(fitted(tmp_path_factory.mktemp("reward"), votes(polite)).folders["reward"])


@pytest.mark.parametrize("planted", [polite, longer])
def test_a_planted_preference_is_learned_from_texts_alone(
    planted: Callable[[random.Random], Pair], tmp_path: Path
) -> None:
    made = fitted(tmp_path, votes(planted, tasks=120))
    held = made.values["assessment"]["validation"]["accuracy"]
    assert held["pairs"] == 30
    assert held["value"] > 0.9
    assert made.values["fit"]["history"][0]["reward/grad_norm"] < 1e-2


def test_what_is_not_there_is_not_learned(tmp_path: Path) -> None:
    """Votes that no word explains: nearly always the least strength, and then scores that hardly differ."""
    chosen = [strength_of(votes(alike, tasks=120, seed=seed)) for seed in range(4)]
    assert chosen.count(min(STRENGTHS)) >= 3
    made = fitted(tmp_path, votes(alike, tasks=120, seed=1))
    loaded = LearnedReward.load(made.folders["reward"])
    assert float(scores_of(loaded, [sentence(random.Random(1), n) for n in (5, 7, 9, 11)]).std(1).max()) < 0.3
    assert abs(made.values["assessment"]["validation"]["accuracy"]["value"] - 0.5) < 0.3


def test_tasks_of_one_group_do_not_vouch_for_each_other() -> None:
    """A word that is liked in one group and disliked in the next says nothing of a third."""

    def in_groups(judgement: Judgement, number: int) -> Judgement:
        group = number // 12
        task = Task("train", judgement.task.payload | {"group": f"g{group}"})
        value = judgement.value if group % 2 == 0 else {"choice": "ab"[judgement.value["choice"] == "a"]}
        return replace(judgement, task=task, value=value)

    numbers = count()

    def signed(draw: random.Random) -> Pair:
        """Each group's own word; a dozen tasks share it."""
        first = next(numbers) // 12 * 3
        own = "".join(chr(97 + first + i % 3) for i in range(6))
        return sentence(draw, 8, own), sentence(draw, 8)

    grouped = [in_groups(j, i) for i, j in enumerate(votes(signed, tasks=96))]
    alone = [replace(j, task=Task("train", {"prompt": j.task.payload["prompt"]})) for j in grouped]
    assert strength_of(grouped) < strength_of(alone)


def test_too_little_to_choose_from_takes_the_usual_strength() -> None:
    assert strength_of(votes(polite, tasks=1)) == USUAL


def test_split_votes_pull_less_than_unanimous_ones(tmp_path: Path) -> None:
    gaps = []
    for name, liking in (("split", 4), ("unanimous", 5)):
        made = fitted(tmp_path / name, votes(polite, for_first=liking, of=5))
        loaded = LearnedReward.load(made.folders["reward"])
        liked, other = polite(random.Random(9))
        scores = scores_of(loaded, [liked, other]).mean(0)
        gaps.append(float(scores[0] - scores[1]))
    assert 0.2 < gaps[0] < 0.9 * gaps[1]
    # 4 of 5 is a logit of 1.39; the prior shrinks it and nothing makes it larger
    assert gaps[0] < 1.6


def test_what_is_fitted_is_what_scores_texts(tmp_path: Path) -> None:
    """The folded weights of the saved network against φ·w of the fit."""
    data, scores, _ = unfitted(votes(polite), members=3)
    fit_lexical(scores, data, FitSettings(), 0)
    rows = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    train = train_candidates(data).tolist()
    features, _ = lexical_scores(count_rows(rows), data.candidate_task.tolist(), train, 3, 0)
    network = LexicalNetwork.of(features, scores)
    raw, cut = network.raw(rows, exact=True)
    with torch.no_grad():
        torch.testing.assert_close(raw.double(), scores.score(torch.arange(len(rows))), atol=1e-5, rtol=1e-5)
    assert cut == 0
    assert float(raw.std(0).max()) > 1e-4  # members differ


def test_saved_twice_and_fitted_twice_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = (fitted(tmp_path / name, votes(polite)).folders["reward"] for name in ("one", "two"))
    loaded = LearnedReward.load(first)
    loaded.save(tmp_path / "again", json.loads((first / "reward.json").read_text())["about"])
    for name in ("lexical.safetensors", "lexical.json", "reward.json", "scale.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    other = fitted(tmp_path / "three", votes(polite), seed=6).folders["reward"]
    assert (first / "lexical.safetensors").read_bytes() != (other / "lexical.safetensors").read_bytes()


def test_a_score_does_not_depend_on_company_or_order(reward: LearnedReward) -> None:
    texts = [sentence(random.Random(i), 3 + i % 9, *["kindly"] * (i % 2)) for i in range(300)]
    together = scores_of(reward, texts)
    alone = torch.cat([scores_of(reward, [text]) for text in texts[:20]], 1)
    torch.testing.assert_close(together[:, :20], alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(scores_of(reward, texts[::-1]).flip(1), together, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\n", "\0", "kindly", "日本語の文。", "🙂" * 50, "e\u0301" * 9, "\ud800", "a" * 5, "." * 1000],
)
def test_any_text_has_a_finite_score(reward: LearnedReward, text: str) -> None:
    assert bool(scores_of(reward, [text]).isfinite().all())
    assert bool(scores_of(reward, ["kindly"], prompt=text).isfinite().all())


def test_what_is_beyond_the_limit_is_not_read_and_is_counted(reward: LearnedReward) -> None:
    before, base = reward.rows_cut, "kindly river. " * (MOST_CHARACTERS // 14 + 1)
    scores = scores_of(reward, [base, base + "grudge " * 20_000, "short"])
    assert torch.equal(scores[:, 0], scores[:, 1])
    assert reward.rows_cut - before == 2


def test_saying_the_liked_word_without_end_is_not_paid_without_end(reward: LearnedReward) -> None:
    """The best that repetition reaches is of the order of what judged texts reach."""
    draw = random.Random(3)
    judged = reward.combine(scores_of(reward, [text for _ in range(50) for text in polite(draw)]))
    spam = reward.combine(scores_of(reward, ["kindly " * n for n in (1, 10, 100, 1000, 2800)]))
    assert float(spam.max()) < 2.5 * float(judged.max())


def test_nothing_to_learn_from_is_an_error() -> None:
    data = RewardData.from_judgements(votes(polite, held=1))
    rows = [Answered.of(data.tasks[int(t)], c) for c, t in zip(data.candidates, data.candidate_task, strict=True)]
    with pytest.raises(DataError, match="none of the 160 candidates is of a train task"):
        lexical_scores(count_rows(rows), data.candidate_task.tolist(), train_candidates(data).tolist(), 1, 0)


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = fitted(tmp_path, votes(polite, tasks=20)).folders["reward"]
    (folder / "lexical.json").write_text(json.dumps({"lexical": 99, "surface": []}))
    with pytest.raises(StoreError, match="version 99"):
        LearnedReward.load(folder)
    (folder / "lexical.json").unlink()
    with pytest.raises(StoreError, match=r"has no lexical\.json"):
        LearnedReward.load(folder)
