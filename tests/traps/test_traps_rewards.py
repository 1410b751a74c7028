"""One test for each trap between policy and reward model; each one puts the trap back and sees it caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from fixtures import (
    EOS,
    FP32,
    llama,
    policy_of,
    scored_rollout,
    some_prompts,
    trainer_of,
)
from tropism.engine.generation import Generation
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task
from tropism.language.frozen_reward import OPINIONS, FrozenNetwork, TokenEnsemble
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import LearnedReward
from tropism.language.reward_text import Answered, TurnReader
from tropism.language.rewards import RewardSum
from tropism.language.rollouts import Rollout
from tropism.reward.assessment import assess
from tropism.reward.dataset import RewardData

SEVERAL = frozenset({EOS, 9, 21})


def reward_of(policy: LanguagePolicy, seed: int = 0) -> LearnedReward:
    """A reward model with random heads on a frozen scale."""
    network = TokenEnsemble(2 * 32 + OPINIONS, 2, 8, 0.0, seed)
    network.out.data = torch.randn(network.out.shape, generator=torch.Generator().manual_seed(seed))
    prompts = some_prompts(32)
    made = LearnedReward(FrozenNetwork(policy, network, FP32, 64), None, exact=True)
    return made.frozen_on(by_ids(prompts, [[*p[::-1], EOS] for p in prompts]), "random")


def by_ids(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Answered]:
    """Rows of nothing but ids."""
    return [Answered({"prompt": ""}, "", True, p, c) for p, c in zip(prompts, completions, strict=True)]


def paid_by(reward: LearnedReward) -> Callable[..., list[float]]:
    return lambda tasks, generation, texts: reward(tasks, generation, texts).tolist()


def test_trap_13_the_reward_model_is_fed_the_sampled_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In PPO no text is tokenised on the way to the reward. Put back: decode and retokenise gives other scores."""
    reward = reward_of(policy_of(llama()))
    trainer = trainer_of(tmp_path, model=llama(scale=0.3), reward=paid_by(reward), eos=SEVERAL, penalty=0.0)
    rollout = trainer.sample([trainer.tasks[i] for i in range(16)])
    seen: list[str] = []
    own = LanguagePolicy.encode_completion
    monkeypatch.setattr(
        LanguagePolicy, "encode_completion", lambda self, text, *a, **k: seen.append(text) or own(self, text, *a, **k)
    )
    paid = trainer.rewards(rollout.tasks, rollout.generation, rollout.texts).total
    assert seen == []
    exact = by_ids(rollout.generation.prompts, rollout.generation.completions)
    torch.testing.assert_close(paid, reward.combine(reward.member_scores(exact)))
    again = by_ids(rollout.generation.prompts, [trainer.policy.encode_completion(x) for x in rollout.texts])
    assert (reward.combine(reward.member_scores(again)) - paid).abs().max() > 0.1


def test_trap_14_long_rows_are_cut_from_the_left_and_counted() -> None:
    """Put back: a cut from the right loses the question's end; a dropped row is a row missing from the count."""
    policy = policy_of(llama())
    tasks = [Task("train", {"prompt": " ".join(f"w{i}" for i in range(n))}) for n in (3, 9, 20, 40)]
    answers = [Candidate(t.id, "text", {"text": "w1", "tokens": [5, EOS]}, Provenance("p")) for t in tasks]
    rows = [Answered.of(t, a) for t, a in zip(tasks, answers, strict=True)]
    encoded = TurnReader(policy).read(rows, context=12, exact=True)
    assert len(encoded) == 4
    assert encoded.cut == 2
    for task, prompt in zip(tasks, encoded.prompts, strict=True):
        full = policy.encode_prompt(task.payload["prompt"])
        assert prompt == full[-10:]
    assert encoded.prompts[3] != policy.encode_prompt(tasks[3].payload["prompt"])[:10]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer that merges "a" and "b" to "ab": text does not determine the ids it was sampled as."""
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<bos>", "<eos>", "a", "b", "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def test_trap_20_the_token_boundary_is_the_sampled_one() -> None:
    """Put back: prompt and completion joined as text are one token "ab", and the boundary is gone."""
    policy = LanguagePolicy(llama(vocab_size=6), merging_tokenizer(), frozenset({EOS}))
    prompt, completion = policy.encode_prompt("a"), [4, 3, 4]
    assert (prompt, policy.decode(completion)) == ([3], "bab")
    generation = Generation([prompt], [completion], [[0.0] * 3], ["length"], "v")
    task = Task("train", {"prompt": "a"})
    rollout = Rollout.empty(0, [task], generation, [policy.decode(completion)])
    assert rollout.batch.ids.tolist() == [[3, 4, 3, 4]]
    assert rollout.batch.prompt_lengths.tolist() == [1]
    assert next(rollout.rows())["tokens"] == completion
    candidate = Candidate(task.id, "text", {"text": "bab", "tokens": completion, "stop": "length"}, Provenance("p"))
    encoded = TurnReader(policy).read([Answered.of(task, candidate)], 64, exact=True)
    assert (encoded.prompts, encoded.completions) == ([[3]], [[4, 3, 4]])
    assert policy.encode_prompt("a" + "bab") == [5, 5]
    assert policy.encode_completion("bab", ended=False) == [4, 5]


def test_trap_26_the_scale_is_frozen(tmp_path: Path) -> None:
    """One completion earns the same before, after and beside any other rollout. Put back: a running normaliser."""
    policy = policy_of(llama())
    reward = reward_of(policy)
    probe = by_ids([[1, 5, 6]], [[7, 8, EOS]])
    first = reward.combine(reward.member_scores(probe))
    trainer = trainer_of(tmp_path, model=llama(scale=0.3), reward=paid_by(reward), steps=3)
    trainer.train()
    assert torch.equal(reward.combine(reward.member_scores(probe)), first)
    with pytest.raises(dataclasses.FrozenInstanceError):
        reward.scale.mean = (1.0, 1.0)  # type: ignore[misc, union-attr]

    history: list[float] = []

    def running(tasks: Any, generation: Any, texts: Any) -> list[float]:
        scores = reward.member_scores(by_ids(generation.prompts, generation.completions)).mean(0)
        history.extend(scores.tolist())
        return ((scores - np.mean(history)) / np.std(history)).tolist()

    one = Generation(
        [[1, 5, 6]] * 3, [[7, 8, EOS], [9], [11, 12]], [[0.0] * 3, [0.0], [0.0] * 2], ["eos", "length", "length"], "v"
    )
    two = Generation(
        [[1, 5, 6]] * 3, [[7, 8, EOS], [13], [40, 41]], [[0.0] * 3, [0.0], [0.0] * 2], ["eos", "length", "length"], "v"
    )
    task = Task("train", {"prompt": "w1"})
    assert running([task] * 3, one, [""] * 3)[0] != pytest.approx(running([task] * 3, two, [""] * 3)[0])
    frozen = [float(reward([task] * 3, g, [""] * 3)[0]) for g in (one, two)]
    assert frozen[0] == pytest.approx(frozen[1], abs=1e-6)


def test_trap_27_a_new_reward_leaves_nothing_of_the_old_one_in_the_scores(tmp_path: Path) -> None:
    """A rollout is scored by the reward model of its own round: nothing is kept by candidate, text or task.

    Put back: scores remembered by completion. The same completions under a new version would earn the old scores.
    """
    policy = policy_of(llama())
    old, new = reward_of(policy, seed=0), reward_of(policy, seed=1)
    old.save(tmp_path / "old", {})
    new.save(tmp_path / "new", {})
    loaded = {name: LearnedReward.load(tmp_path / name) for name in ("old", "new")}
    rollout = trainer_of(tmp_path / "t", model=llama(scale=0.3)).sample([Task("train", {"prompt": "w1 w2"})] * 8)
    remembered: dict[tuple[int, ...], float] = {}
    paid: dict[str, torch.Tensor] = {}
    kept: dict[str, torch.Tensor] = {}
    for name in ("old", "new", "old"):
        paid[name] = RewardSum([loaded[name]])(rollout.tasks, rollout.generation, rollout.texts).total
        pairs = zip(rollout.generation.completions, paid[name].tolist(), strict=True)
        kept[name] = torch.tensor([remembered.setdefault(tuple(c), s) for c, s in pairs])
    exact = by_ids(rollout.generation.prompts, rollout.generation.completions)
    assert torch.equal(paid["old"], old.combine(old.member_scores(exact)))
    assert torch.equal(paid["new"], new.combine(new.member_scores(exact)))
    assert (paid["new"] - paid["old"]).abs().max() > 0.1
    assert not torch.allclose(kept["new"], paid["new"])


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_trap_27_the_old_rewards_critic_does_not_outlive_its_round(tmp_path: Path, trunk: str) -> None:
    """A policy folder carries no critic, so that the next round's reward is valued afresh, from 0.

    Put back: the value head is handed on, and values of the old reward enter the new one's advantages.
    """
    trainer = trainer_of(tmp_path / "t", value_trunk=trunk, critic_learning_rate=1e-2, steps=3)
    trainer.train()
    trainer.policy.save(tmp_path / "policy", {"stage": "improve-1"})
    assert not [p.name for p in (tmp_path / "policy").rglob("*critic*")]
    again = trainer_of(tmp_path / "u", model=LanguagePolicy.load(tmp_path / "policy").model, value_trunk=trunk)
    assert float(scored_rollout(again).values.abs().max()) == 0.0
    again.actor.value_head.load_state_dict(trainer.actor.value_head.state_dict())
    assert float(scored_rollout(again).values.abs().max()) > 0.01


def judgement(number: int, split: Any, values: Mapping[str, Any], lengths: tuple[int, int]) -> Judgement:
    task = Task(split, {"prompt": f"question {number}"})
    made = tuple(
        Candidate(task.id, "text", {"text": " ".join(["w1"] * n), "number": i}, Provenance("p"))
        for i, n in enumerate(lengths)
    )
    query = Query(task.id, "comparison", tuple(c.id for c in made), (0, 1), 0)
    return Judgement(f"event-{number}", "oracle", query, task, made, values)


def test_trap_31_the_length_only_baseline_stands_beside_every_accuracy() -> None:
    """Feedback that only rewards length: a reward model that is right every time has learned nothing, and it shows.

    Put back: without lengths there is no baseline, and accuracy 1.0 stands alone.
    """
    votes = []
    for n in range(60):
        longer_first = n % 2 == 0
        lengths = (9, 3) if longer_first else (3, 9)
        choice = {"choice": "a" if longer_first else "b", "strength": 1}
        votes.append(judgement(n, "train" if n < 40 else "validation", choice, lengths))
    data = RewardData.from_judgements(votes)
    lengths = np.array([len(str(c.content["text"]).split()) for c in data.candidates])
    report = assess(lengths.astype(float), data, lengths).as_json()["validation"]
    assert report["accuracy"]["value"] == 1.0
    assert report["length_only"]["value"] == 1.0
    assert report["over_length_only"] == 0.0
    alone = assess(lengths.astype(float), data).as_json()["validation"]
    assert alone["length_only"] is None
