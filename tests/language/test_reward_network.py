"""Reward networks over a language model: exact ids, padding, saving, scales, over-long prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures import EOS, FP32, llama, policy_of, some_tasks
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, Sampling, generate
from tropism.errors import StoreError
from tropism.feedback.records import Candidate, Provenance, Task
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import (
    OPINIONS,
    Encoded,
    FineTunedReward,
    FrozenScores,
    LearnedReward,
    TokenEnsemble,
    token_features,
)
from tropism.language.rollouts import sample_candidates
from tropism.reward.ensemble import FrozenScale

MEMBERS, CONTEXT = 3, 64
KINDS = pytest.mark.parametrize("kind", ["frozen", "full"])


def untrained(kind: str, policy: LanguagePolicy | None = None, seed: int = 0) -> LearnedReward:
    """A reward model with random heads, its members' scales frozen on samples of its own trunk."""
    policy = policy or policy_of(llama())
    network: TokenEnsemble | FineTunedReward
    if kind == "frozen":
        network = TokenEnsemble(2 * 32 + OPINIONS, MEMBERS, 16, 0.3, seed)
        random = torch.Generator().manual_seed(seed)
        network.out.data = torch.randn(network.out.shape, generator=random)
    else:
        network = FineTunedReward(policy, MEMBERS, seed, FP32)
    unit = FrozenScale((0.0,) * MEMBERS, (1.0,) * MEMBERS, 1.0, 0, "none")
    made = LearnedReward(kind, policy, network, unit, FP32, CONTEXT)  # type: ignore[arg-type]
    encoded = Encoded.of(policy, pairs(policy), CONTEXT)
    return replace(made, scale=FrozenScale.fit(made.member_scores(encoded), "the trunk's samples"))


def sampled(policy: LanguagePolicy, k: int = 2) -> tuple[list[Task], list[list[Candidate]]]:
    tasks = some_tasks(12)
    return tasks, sample_candidates(policy, "p", tasks, k, Sampling(6, frozenset({EOS})), 3, FP32)


def pairs(policy: LanguagePolicy) -> list[tuple[Task, Candidate]]:
    tasks, rows = sampled(policy)
    return [(t, c) for t, row in zip(tasks, rows, strict=True) for c in row]


def given(text: str, tokens: list[int] | None = None, **content: object) -> Candidate:
    ids = {} if tokens is None else {"tokens": tokens}
    return Candidate("t", "text", {"text": text, **ids, **content}, Provenance("p"))


def test_exact_ids_are_used_and_only_texts_without_ids_are_encoded() -> None:
    """Ids that would not survive decoding and encoding again (<unk>, <pad>, two EOS kinds) arrive as they were."""
    policy, task = policy_of(llama()), Task("train", {"prompt": "w1 w2"})
    strange = [3, 0, 7, EOS]
    chosen = [given(policy.decode(strange), strange), given("w3"), given("w3", stop="length")]
    encoded = Encoded.of(policy, [(task, c) for c in chosen], CONTEXT)
    assert encoded.completions == [strange, [7, EOS], [7]]
    assert encoded.prompts == [[5, 6]] * 3
    assert policy.encode_completion(policy.decode(strange)) != strange


@KINDS
def test_eos_counts_in_the_score(kind: str) -> None:
    reward, task = untrained(kind), Task("train", {"prompt": "w1 w2"})
    scores = reward.score_candidates([task], [[given("w3", [7]), given("w3", [7, EOS]), given("w3")]])[0]
    assert abs(float(scores[0] - scores[1])) > 1e-3
    assert float(scores[1]) == pytest.approx(float(scores[2]), abs=1e-5)


@KINDS
def test_ppo_and_the_scorer_of_candidates_agree(kind: str) -> None:
    """The same ids through both doors, in whatever order and company: the same score."""
    reward = untrained(kind)
    tasks, rows = sampled(reward.policy)
    table = reward.score_candidates(tasks, rows)
    prompts = [reward.policy.encode_prompt(str(t.payload["prompt"])) for t in tasks for _ in range(2)]
    completions = [list(c.content["tokens"]) for row in rows for c in row]
    generation = Generation(prompts, completions, [[0.0] * len(c) for c in completions], ["eos"] * 24, "v")
    doubled = [t for t in tasks for _ in range(2)]
    torch.testing.assert_close(reward(doubled, generation, [""] * 24), table.flatten(), atol=1e-5, rtol=1e-5)
    alone = torch.stack([reward.score_candidates([t], [r])[0] for t, r in zip(tasks, rows, strict=True)])
    torch.testing.assert_close(alone, table, atol=1e-5, rtol=1e-5)
    backwards = reward.score_candidates(tasks[::-1], rows[::-1])
    torch.testing.assert_close(backwards.flip(0), table, atol=1e-5, rtol=1e-5)


@KINDS
def test_saved_and_loaded_scores_are_identical(tmp_path: Path, kind: str) -> None:
    reward = replace(untrained(kind), pessimism=0.5)
    tasks, rows = sampled(reward.policy)
    before = reward.score_candidates(tasks, rows)
    reward.save(tmp_path, {"events": 7})
    loaded = LearnedReward.load(tmp_path, weight=2.0)
    assert torch.equal(loaded.score_candidates(tasks, rows), before)
    assert loaded.weight == 2.0
    assert loaded.pessimism == 0.5
    loaded.save(tmp_path / "again", {"events": 7})
    for name in ("reward.safetensors", "scale.json", "reward.json", "trunk/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_folder_that_is_no_reward_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no reward\.json"):
        LearnedReward.load(tmp_path)


def test_members_are_normalised_before_they_are_averaged() -> None:
    """One member's scores a thousand times larger, with an offset: the ensemble's score does not change."""
    plain = untrained("frozen")
    tasks, rows = sampled(plain.policy)
    encoded = Encoded.of(plain.policy, [(t, c) for t, r in zip(tasks, rows, strict=True) for c in r], CONTEXT)
    raw = plain.member_scores(encoded)
    loud = raw.clone()
    loud[1] = loud[1] * 1000 + 77
    rescaled = replace(plain, scale=FrozenScale.fit(loud, "loud"))
    torch.testing.assert_close(rescaled.combine(loud), plain.combine(raw), atol=1e-4, rtol=1e-3)
    standard = plain.combine(raw)
    assert float(standard.mean()) == pytest.approx(0, abs=1e-5)
    assert float(standard.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert (loud.mean(0) - loud[1] / MEMBERS).abs().max() < 0.01 * loud.mean(0).std()  # a raw mean is that member's


def test_pessimism_takes_off_disagreement() -> None:
    reward = untrained("frozen")
    raw = reward.member_scores(Encoded.of(reward.policy, pairs(reward.policy), CONTEXT))
    lower = replace(reward, pessimism=1.0).combine(raw)
    expected = reward.scale.members(raw).var(0, correction=0) / reward.scale.combined_std
    torch.testing.assert_close(reward.combine(raw) - lower, expected, atol=1e-5, rtol=1e-5)
    assert (lower < reward.combine(raw)).all()


def test_long_prompts_lose_their_left_end_and_are_counted() -> None:
    policy = policy_of(llama())
    long = Task("train", {"prompt": " ".join(f"w{i}" for i in range(20))})
    short = Task("train", {"prompt": "w1 w2"})
    answer = given("", [7, 8, EOS])
    encoded = Encoded.of(policy, [(long, answer), (short, answer)], context=10)
    assert encoded.cut == 1
    assert encoded.prompts == [[17, 18, 19, 20, 21, 22, 23], [5, 6]]
    assert encoded.completions == [[7, 8, EOS]] * 2


def test_a_completion_that_leaves_no_room_is_cut_and_counted() -> None:
    policy = policy_of(llama())
    encoded = Encoded.of(policy, [(Task("train", {"prompt": "w1"}), given("", list(range(4, 24))))], context=10)
    assert encoded.completions == [list(range(4, 13))]
    assert encoded.cut == 1


def test_padding_and_dropout_do_not_change_scores() -> None:
    """Scores of a short row beside a long one, with the network left in train mode: the same as alone."""
    reward = untrained("frozen")
    reward.network.train()
    short = Encoded([[1, 5]], [[7, EOS]])
    both = Encoded([[1, 5], [1] * 20], [[7, EOS], [9] * 30])
    torch.testing.assert_close(
        reward.member_scores(short)[:, 0], reward.member_scores(both)[:, 0], atol=1e-5, rtol=1e-5
    )
    assert torch.equal(reward.member_scores(both), reward.member_scores(both))


def test_stored_features_give_the_scores_of_a_full_forward() -> None:
    """What fitting sees is what scoring computes."""
    policy = policy_of(llama())
    reward = untrained("frozen", policy)
    assert isinstance(reward.network, TokenEnsemble)
    encoded = Encoded.of(policy, pairs(policy), CONTEXT)
    stored = FrozenScores(reward.network, policy, encoded, FP32)
    stored.standardise(torch.arange(10))
    stored.eval()
    index = torch.tensor([5, 0, 17, 23])
    with torch.no_grad():
        torch.testing.assert_close(stored.score(index), reward.member_scores(encoded)[:, index], atol=1e-4, rtol=1e-4)
    assert reward.network.feature_std.min() > 0


def test_features_are_states_before_and_at_each_token_and_its_logprob() -> None:
    policy = policy_of(llama())
    batch = TokenBatch.of([[1, 5]], [[7, 8]])
    features = token_features(policy, batch, FP32)
    with torch.no_grad():
        hidden = policy.model.model(input_ids=batch.ids).last_hidden_state
        logprob = policy.model(input_ids=batch.ids).logits.log_softmax(-1)[0, 1, 7]
    torch.testing.assert_close(features[0, 0, :32], hidden[0, 1])
    torch.testing.assert_close(features[0, 0, 32:64], hidden[0, 2])
    torch.testing.assert_close(features[0, 0, 64], logprob)


def test_the_trunk_of_a_frozen_reward_is_not_the_policy_that_learns(tmp_path: Path) -> None:
    """Loaded from its folder, the reward keeps its scores whatever happens to the policy afterwards."""
    policy = policy_of(llama())
    untrained("frozen", policy).save(tmp_path, {})
    reward = LearnedReward.load(tmp_path)
    tasks, rows = sampled(policy)
    before = reward.score_candidates(tasks, rows)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(reward.score_candidates(tasks, rows), before)


def test_a_rollout_is_scored_without_decoding() -> None:
    """Texts are not read: garbage texts give the same scores."""
    reward, tasks = untrained("frozen"), some_tasks(4)
    prompts = [reward.policy.encode_prompt(str(t.payload["prompt"])) for t in tasks]
    out = generate(
        reward.policy.model, prompts, Sampling(6, frozenset({EOS})), seed=1, sequence_ids=range(4), policy_version="v"
    )
    texts = [reward.policy.decode(c) for c in out.completions]
    assert torch.equal(reward(tasks, out, texts), reward(tasks, out, ["?"] * 4))


def test_empty_and_one_token_completions_get_ordinary_scores() -> None:
    """An empty completion (an imported text that was cut at once) pools to zero, not to the filler of the maximum."""
    reward = untrained("frozen")
    scores = reward.combine(reward.member_scores(Encoded([[1, 5], [1, 5]], [[], [7]])))
    assert torch.isfinite(scores).all()
    assert scores.abs().max() < 100
