"""Learning from compared segments: that it learns, what it charges, what it remembers, that it goes on bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CORRIDOR, FALLS, REACH

from tropism.control.evaluate import evaluate, random_returns
from tropism.control.fit_reward import RewardSection
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
from tropism.control.reward_network import load_reward
from tropism.control.schedule import LabelSchedule
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, DataError
from tropism.feedback.asking import MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Answer, Judgement, Query
from tropism.feedback.teachers import QueryContext
from tropism.runtime.checkpoints import load_state, save_state

ASKED = PreferenceSection(segment_length=5, sessions=4)
FITTED = RewardSection(hidden=(32, 32), learning_rate=5e-3)
AGENT = PpoSettings(steps_per_environment=64, gamma=0.9, learning_rate=2e-3, hidden=(32,))


def learner(
    total: int = 8_000, asking: Asking | None = None, asker: Any = None, seed: int = 0, spec: EnvironmentSpec = REACH,
    preferences: PreferenceSection = ASKED, reward: RewardSection = FITTED,
) -> PreferenceLearner:  # fmt: skip
    agent = Ppo(Environments(spec, 8, seed), AGENT, seed)
    asking = asking or Asking(labels=80, validation_share=0.125)
    return PreferenceLearner(agent, asking, preferences, reward, asker or MemoryAsker(Oracle(seed=seed)), total, seed)


def train(made: PreferenceLearner) -> PreferenceLearner:
    while not made.finished:
        made.step()
    return made


def share_of_optimum(made: PreferenceLearner) -> float:
    """0: as random actions; 1: nothing better is known (straight to the goal)."""
    played = evaluate(made.agent, REACH, 20, 1).mean
    chance = random_returns(REACH, 20, 1).mean
    return (played - chance) / (-1.2 - chance)


def at_length(selection: str = "random", reward: RewardSection = FITTED) -> PreferenceLearner:
    """With labels and steps enough that what is learned hardly hangs on the seed (0.9 to 1.0 over five)."""
    return train(learner(12_000, Asking(160, "comparison", selection, 0.125), reward=reward))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> PreferenceLearner:
    return at_length()


def test_it_learns_what_the_teacher_wants(trained: PreferenceLearner) -> None:
    assert share_of_optimum(trained) > 0.8
    assert trained.answered == 160


def test_a_teacher_with_the_opposite_taste_gets_the_opposite() -> None:
    class Contrary(Oracle):
        def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
            other = {"a": "b", "b": "a", "tie": "tie"}
            found = super().answer(queries, context)
            return [Answer({**a.value, "choice": other[a.value["choice"]]}) if a.value else a for a in found]

    assert share_of_optimum(train(learner(asker=MemoryAsker(Contrary())))) < 0.2


def test_a_myopic_teacher_looks_at_the_end() -> None:
    class Seen(Oracle):
        def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
            for query in queries:
                last = [slot[-1] for slot in context.step_utilities[query.id]]
                choice = super().answer([query], context)[0].value["choice"]  # type: ignore[index]
                agreed.append(choice == "ab"[int(last[1] > last[0])])
            return super().answer(queries, context)

    agreed: list[bool] = []
    train(learner(total=3000, asker=MemoryAsker(Seen(discount=1e-6))))
    assert all(agreed)


def test_ratings_of_single_steps_teach_too() -> None:
    made = learner(
        asking=Asking(labels=120, kind="rating", validation_share=0.125),
        preferences=ASKED.model_copy(update={"segment_length": 1}),
    )
    assert share_of_optimum(train(made)) > 0.8


@pytest.mark.parametrize("selection", ["disagreement", "entropy", "k_centre"])
def test_chosen_questions(selection: str) -> None:
    assert share_of_optimum(at_length(selection)) > 0.6


def test_the_regret_form_is_taken_where_it_predicts_better() -> None:
    made = at_length(reward=FITTED.model_copy(update={"form": "auto"}))
    assert made.reward is not None
    assert made.reward.ensemble.form in ("partial_return", "regret")
    assert share_of_optimum(made) > 0.4


def test_steps_are_counted_at_the_environment(trained: PreferenceLearner) -> None:
    asked_about = 256 * 8  # the untrained policy's steps count as well
    assert trained.agent.environments.steps == asked_about + trained.turns * 64 * 8
    assert trained.agent.environments.steps - trained.total < 64 * 8


def test_a_skip_is_not_charged() -> None:
    made = train(learner(asker=MemoryAsker(Oracle(skip_below=0.0)), total=4000))
    assert made.answered == 80
    assert len(made.questions.queries) > 85


def test_a_teacher_who_skips_everything_is_told_of() -> None:
    with pytest.raises(DataError, match=r"none of .* questions was answered"):
        learner(asker=MemoryAsker(Oracle(skip_below=50.0))).step()


class Slowly(MemoryAsker):
    """People who have given the first ``shown`` of an oracle's answers, and will give the others but those ``passed``
    over. Counts how often the work rested."""

    answers_at_once = False

    def __init__(self, teacher: Oracle, shown: int = 0) -> None:
        super().__init__(teacher)
        self.shown, self.rests, self.passed = shown, 0, set[str]()

    def judgements(self) -> list[Judgement]:
        return super().judgements()[: self.shown]

    def open(self) -> Collection[str]:
        return set(self._found) - {j.query.id for j in self.judgements()} - self.passed

    def rest(self, news: Callable[[], bool]) -> None:
        self.rests += not news()


def test_people_are_not_fitted_on_one_by_one() -> None:
    asker = Slowly(Oracle())
    quick = FITTED.model_copy(update={"fit_steps": 20, "fit_steps_again": 10, "least_steps": 1})
    made, fits = learner(total=20_000, asker=asker, reward=quick), []
    while asker.shown < 60:
        asker.shown += bool(asker.open())
        _, metrics = made.step()
        if "reward/version" in metrics:
            fits.append(int(metrics["preferences/labels"]))
    assert fits[:3] == [1, 2, 3]
    late = np.diff([labels for labels in fits if labels > 40])
    assert len(late)
    assert set(late) == {2}


def test_segments_do_not_cross_an_episode(trained: PreferenceLearner) -> None:
    for environments in (range(7), range(7, 8)):
        places = trained.pool.places(environments)
        assert len(places)
        for chunk, first, env in places.tolist():
            ends = trained.pool.chunks[chunk].steps.ends[first : first + 4, env]
            assert not ends.any()
    cut = trained.pool.rows(trained.pool.places(range(8)))
    assert np.array_equal(cut.observations[:, 1:], cut.successors[:, :-1])


def test_held_out_questions_are_of_held_out_environments(trained: PreferenceLearner) -> None:
    judgements = trained.questions.known()
    splits = [j.task.split for j in judgements]
    assert splits.count("validation") == 20
    assert len(splits) == 160


def test_the_held_out_share_is_not_lost_to_rounding() -> None:
    """Put back (rounded in every session by itself): 2 of 60 are held out, those of the first session."""
    asked = ASKED.model_copy(update={"sessions": 20})
    made = train(learner(asking=Asking(labels=60, validation_share=0.125), preferences=asked))
    splits = [j.task.split for j in made.questions.known()]
    assert (splits.count("validation"), len(splits)) == (8, 60)
    for labels, sessions, share in itertools.product((1, 2, 5, 61, 700), (0, 3, 20), (0.0, 0.1, 0.5)):
        due = LabelSchedule(labels, 0.25, sessions, "hyperbolic", share)
        parts = [due.by_split(due.due(passed)) for passed in range(sessions + 1)]
        for split in ("train", "validation"):
            assert all(b[split] >= a[split] >= 0 for a, b in itertools.pairwise(parts))
        last = due.due(sessions)
        assert last == (labels if sessions else max(1, round(0.25 * labels)))
        assert abs(parts[-1]["validation"] - share * last) <= 1
        assert all(part["train"] >= 1 for part in parts)


@pytest.mark.parametrize("labels", [1, 2, 3, 5])
def test_the_first_question_is_one_to_fit_on(labels: int) -> None:
    """Put back (the only question that is due is held out): nothing can be fitted, and the loop has no end."""
    made = learner(total=4000, asking=Asking(labels=labels, validation_share=0.125))
    for _ in range(20):
        if not made.finished:
            made.step()
    assert made.finished
    assert made.answered == labels
    assert made.reward is not None


def test_a_teacher_who_answers_held_out_questions_only_is_told_of() -> None:
    """Put back (any answer will do): nothing can be fitted, no step is charged, and the loop has no end."""

    class HalfBlind(Oracle):
        def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
            held_out = {t.id for t in context.tasks.values() if t.split == "validation"}
            found = super().answer(queries, context)
            return [a if q.task_id in held_out else Answer(None) for q, a in zip(queries, found, strict=True)]

    with pytest.raises(DataError, match=r"none of .* train questions was answered"):
        learner(asker=MemoryAsker(HalfBlind())).step()


def test_the_scale_stands_still_within_a_version(trained: PreferenceLearner) -> None:
    reward = trained.reward
    assert reward is not None
    states = np.linspace(-1, 1, 7, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    actions, alone = np.zeros((7, 1), np.float32), []
    together = reward(states, actions, states)
    for i in range(7):
        alone.append(reward(states[i : i + 1], actions[i : i + 1], states[i : i + 1])[0])
    assert np.allclose(together, alone, atol=1e-5)
    scored = reward.members(states, actions, states)
    each = reward.scale.members(scored)
    steps = trained.questions.steps()
    with torch.no_grad():
        reference = reward.scale.members(reward.ensemble.steps(steps))
    assert torch.allclose(reference.mean(1), torch.zeros(3), atol=1e-4)
    assert torch.allclose(reference.std(1, correction=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(each.mean(0) / reward.scale.combined_std, torch.from_numpy(together), atol=1e-5)


def test_a_reward_comes_back_from_its_folder(trained: PreferenceLearner, tmp_path: Path) -> None:
    assert trained.reward is not None
    trained.reward.save(tmp_path)
    again = load_reward(tmp_path)
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    a = np.random.default_rng(1).normal(size=(9, 1)).astype(np.float32)
    assert np.array_equal(trained.reward(x, a, x), again(x, a, x))


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, half = learner(total=5000), learner(total=5000)
    asker = half.asker
    for _ in range(5):
        half.step()
    tensors, meta = half.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    for _ in range(3):  # what is asked after the checkpoint stays in the log, and must not be seen too early
        half.step()
    resumed = learner(total=5000, asker=asker)
    resumed.restore(*load_state(tmp_path))
    train(resumed)
    train(whole)
    assert torch.equal(whole.agent.actor.params, resumed.agent.actor.params)  # type: ignore[attr-defined]
    assert whole.episodes == resumed.episodes
    assert [j.event_id for j in whole.questions.known()] == [j.event_id for j in resumed.questions.known()]
    for mine, theirs in zip(
        whole.reward.ensemble.parameters(),  # type: ignore[union-attr]
        resumed.reward.ensemble.parameters(),  # type: ignore[union-attr]
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_pretraining_spreads_the_first_questions() -> None:
    def spread(steps: int) -> float:
        made = learner(total=20_000, preferences=ASKED.model_copy(update={"pretrain_steps": steps}), spec=CORRIDOR)
        while not made.sessions:
            made.step()
        return float(made.questions.observations()[:, 0].std())

    assert spread(8000) > 1.5 * spread(0)


def test_a_fixed_horizon_hides_the_falls() -> None:
    made = learner(total=4000, spec=FALLS)
    train(made)
    assert {length for _, _, length in made.episodes} == {25}


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("segments of 26 steps", {"preferences": ASKED.model_copy(update={"segment_length": 26})}),
        ("held out", {"asking": Asking(validation_share=0.99)}),
    ],
)
def test_what_cannot_be_asked(problem: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=problem):
        learner(**change)
