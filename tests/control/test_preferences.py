"""Learning from compared segments: that it learns, what it charges, what it remembers, that it goes on bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reaching import ASKED, FITTED, learner, train, turns
from tiny import CORRIDOR, FALLS, REACH

from tropism.control.config import ControlConfig
from tropism.control.domain import ControlDomain
from tropism.control.evaluate import evaluate, random_returns
from tropism.control.fit_reward import RewardSection
from tropism.control.policy import save_policy
from tropism.control.preferences import Asking, PreferenceLearner
from tropism.control.queries import choose
from tropism.control.reward_network import WEIGHTS, load_reward
from tropism.control.schedule import LabelSchedule
from tropism.control.state_entropy import StateEntropy
from tropism.errors import ConfigError, DataError
from tropism.feedback.asking import MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Answer, Query
from tropism.feedback.teachers import QueryContext
from tropism.runtime.checkpoints import load_state, load_tensors, save_state, save_tensors
from tropism.runtime.stage import StageRun


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


class Contrary(Oracle):
    """Wants the opposite of the true reward."""

    def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
        other = {"a": "b", "b": "a", "tie": "tie"}
        found = super().answer(queries, context)
        return [Answer({**a.value, "choice": other[a.value["choice"]]}) if a.value else a for a in found]


@pytest.fixture(scope="module")
def contrary() -> PreferenceLearner:
    return train(learner(asker=MemoryAsker(Contrary())))


def test_a_teacher_with_the_opposite_taste_gets_the_opposite(contrary: PreferenceLearner) -> None:
    assert share_of_optimum(contrary) < 0.2


def own_reward(env: Any, action: Any, observation: Any) -> float:
    """What somebody wrote down that they want."""
    return -abs(float(observation[0]) - 0.5)


def test_people_are_not_overruled_by_the_environments_own_reward(contrary: PreferenceLearner, tmp_path: Path) -> None:
    """Put back (the true return decides, whoever taught): who wants something else is rolled back for ever."""
    for name in ("policy", "reference", "reward"):
        (tmp_path / name).mkdir()
    assert contrary.reward is not None
    contrary.reward.save(tmp_path / "reward")
    save_policy(tmp_path / "policy", contrary.agent.policy(), REACH, {})
    save_policy(tmp_path / "reference", train(learner()).agent.policy(), REACH, {})

    def verdict(teacher: str, own: str = "") -> dict[str, Any]:
        sections = {"environment": {"id": REACH.id, "reward": own}, "feedback": {"teacher": teacher}}
        domain = ControlDomain(ControlConfig(**sections, evaluation={"episodes": 4, "clips": 0}))  # type: ignore[arg-type]
        run = StageRun("evaluate-1", tmp_path / f"{teacher}{len(own)}", 0)
        folders = [tmp_path / name for name in ("policy", "reference", "reward")]
        return domain.evaluate(folders[0], "p", folders[1], None, folders[2], run).values

    by_people, by_oracle, as_written = verdict("person"), verdict("oracle"), verdict("person", f"{__file__}:own_reward")
    assert by_people["promote"]
    assert by_people["kept"]["learned_return"]["value"] == by_people["metrics"]["learned_return"]
    assert by_people["metrics"]["learned_return"] > by_people["metrics"]["reference_learned_return"]
    assert by_people["metrics"]["true_return"] < by_people["metrics"]["reference_true_return"]
    assert list(by_oracle["kept"]) == list(as_written["kept"]) == ["true_return"]
    assert not by_oracle["promote"]
    assert not as_written["promote"]


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


@pytest.mark.parametrize("turns_left", [1, 4])
def test_all_labels_are_asked_for_in_however_few_turns(turns_left: int) -> None:
    """Sessions that would fall into the last turn come before it; of a single turn nobody knows that it is the last."""
    often = ASKED.model_copy(update={"sessions": 40})
    made = train(learner(total=2048 + 512 * turns_left, preferences=often))
    assert made.turns == turns_left
    assert (made.answered == 80) == (turns_left > 1)


def test_a_teacher_who_skips_everything_is_told_of() -> None:
    with pytest.raises(DataError, match=r"none of .* questions was answered"):
        learner(asker=MemoryAsker(Oracle(skip_below=50.0))).step()


def test_ratings_are_asked_of_single_segments_that_members_disagree_on() -> None:
    """Put back (the first of pairs chosen by what both are): no better than chance."""
    made = turns(learner(), 3)
    assert made.reward is not None
    choices: dict[str, Any] = {}
    for how in ("random", "disagreement", "k_centre"):
        stream = np.random.default_rng(0)
        chosen = choose(made.pool, range(7), 12, 1, how, 10, made.reward, made.shape, stream)  # type: ignore[arg-type]
        assert (len(chosen), len(chosen.sides)) == (12, 1)
        members = made.reward.segment_members(made.pool.rows(chosen.sides[0]).features(made.shape))
        choices[how] = members
    scale = choices["random"].std(1, keepdim=True)
    apart = {how: float((members / scale).var(0).mean()) for how, members in choices.items()}
    assert apart["disagreement"] > 2 * apart["random"]
    with pytest.raises(ConfigError, match="no two sides"):
        choose(made.pool, range(7), 12, 1, "entropy", 10, made.reward, made.shape, np.random.default_rng(0))


def test_states_visited_are_those_of_every_environment() -> None:
    """Put back (every 128th row, every second row): environment 0 alone, the even ones alone."""
    made = turns(learner(), 1)
    steps = made.pool.chunks[-1].steps
    steps.observations[..., 0] = np.arange(8)
    made.visited = made.visited[:0]
    made._remember(steps)
    numbers_, counts = np.unique(made.visited[:, 0], return_counts=True)
    assert numbers_.tolist() == list(range(8))
    assert set(counts) == {2}
    memory = StateEntropy(2)
    memory.add(np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (256, 8, 2)))
    assert np.unique(memory.state()["seen"][:, 0]).tolist() == list(range(8))


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
    judgements = trained.questions.known().judgements
    splits = [j.task.split for j in judgements]
    assert splits.count("validation") == 20
    assert len(splits) == 160


def test_the_held_out_share_is_not_lost_to_rounding() -> None:
    """Put back (rounded in every session by itself): 2 of 60 are held out, those of the first session."""
    asked = ASKED.model_copy(update={"sessions": 20})
    quick = FITTED.model_copy(update={"fit_steps": 20, "fit_steps_again": 5, "least_steps": 1})
    made = train(learner(asking=Asking(labels=60, validation_share=0.125), preferences=asked, reward=quick))
    splits = [j.task.split for j in made.questions.known().judgements]
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


def test_a_reward_that_was_written_without_a_linear_part_has_none(trained: PreferenceLearner, tmp_path: Path) -> None:
    assert trained.reward is not None
    trained.reward.save(tmp_path)
    held = load_tensors(tmp_path / WEIGHTS)
    assert held.pop("reward.linear").abs().max() > 0  # it is learned
    save_tensors(tmp_path / WEIGHTS, held)
    assert load_reward(tmp_path).ensemble.reward.linear.abs().max() == 0


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_it_goes_on_bit_for_bit(kind: Any, tmp_path: Path) -> None:
    """Put back (what ratings and skips are measured against is not in the checkpoint): measured anew, on the questions
    of a better policy."""

    def made(known: MemoryAsker | None = None) -> PreferenceLearner:
        asker = MemoryAsker(Oracle(rationality=2.0, skip_below=-0.3))
        if known is not None:
            asker._found = known._found
        return learner(total=8000, asking=Asking(80, kind, "random", 0.125), asker=asker)

    whole, half = made(), made()
    tensors, meta = turns(half, 2).state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    known = len(half.questions.queries)
    turns(half, 4)  # what is asked after the checkpoint stays in the log, and must not be seen too early
    assert len(half.questions.queries) > known
    resumed = made(half.asker)  # type: ignore[arg-type]
    resumed.restore(*load_state(tmp_path))
    train(resumed)
    train(whole)
    assert torch.equal(whole.agent.actor.params, resumed.agent.actor.params)  # type: ignore[attr-defined]
    assert whole.episodes == resumed.episodes
    assert whole.questions.known().digest == resumed.questions.known().digest
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
        return float(made.questions.judged()[:, 0].std())

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
