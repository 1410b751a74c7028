"""Reward models, whatever their network: exact ids, padding, saving, scales, over-long prompts, rollouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reward_cases import CONTEXT, MEMBERS, by_ids, frozen_network, given, sampled, untrained

from fixtures import EOS, gpt2, llama, policy_of, some_tasks
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, Sampling, generate
from tropism.engine.working import Working
from tropism.errors import RewardError, StoreError
from tropism.feedback.records import Task
from tropism.language.frozen_reward import FrozenScores, token_features
from tropism.language.reward_network import LearnedReward, rows_of
from tropism.language.reward_text import Answered, TurnReader
from tropism.language.rewards import RewardSum
from tropism.reward.ensemble import FrozenScale

KINDS = pytest.mark.parametrize("kind", ["frozen", "classifier"])


def test_exact_ids_are_used_and_only_texts_without_ids_are_encoded() -> None:
    """Ids that would not survive decoding and encoding again (<unk>, <pad>, two EOS kinds) arrive as they were."""
    policy, task = policy_of(llama()), Task("train", {"prompt": "w1 w2"})
    strange = [3, 0, 7, EOS]
    chosen = [given(policy.decode(strange), strange), given("w3"), given("w3", stop="length")]
    encoded = TurnReader(policy).read([Answered.of(task, c) for c in chosen], CONTEXT, exact=True)
    assert encoded.completions == [strange, [7, EOS], [7]]
    assert encoded.prompts == [[5, 6]] * 3
    assert policy.encode_completion(policy.decode(strange)) != strange


@KINDS
def test_eos_counts_in_the_score(kind: str, tmp_path: Path) -> None:
    reward, task = untrained(kind, tmp_path), Task("train", {"prompt": "w1 w2"})
    scores = reward.score_candidates([task], [[given("w3", [7]), given("w3", [7, EOS]), given("w3")]])[0]
    assert abs(float(scores[0] - scores[1])) > 1e-3
    assert float(scores[1]) == pytest.approx(float(scores[2]), abs=1e-5)


@KINDS
def test_ppo_and_the_scorer_of_candidates_agree(kind: str, tmp_path: Path) -> None:
    """The same ids through both doors, in whatever order and company: the same score."""
    policy = policy_of(llama())
    reward = untrained(kind, tmp_path, policy)
    tasks, rows = sampled(policy)
    table = reward.score_candidates(tasks, rows)
    prompts = [policy.encode_prompt(str(t.payload["prompt"])) for t in tasks for _ in range(2)]
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
    reward = replace(untrained(kind, tmp_path), pessimism=0.5)
    tasks, rows = sampled(policy_of(llama()))
    before = reward.score_candidates(tasks, rows)
    reward.save(tmp_path / "one", {"events": 7})
    loaded = LearnedReward.load(tmp_path / "one", weight=2.0)
    assert torch.equal(loaded.score_candidates(tasks, rows), before)
    assert loaded.weight == 2.0
    assert loaded.pessimism == 0.5
    assert loaded.exact
    loaded.save(tmp_path / "again", {"events": 7})
    names = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert {"reward.json", "scale.json"} <= {n.name for n in names}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_folder_that_is_no_reward_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no reward\.json and no config\.json"):
        LearnedReward.load(tmp_path)
    untrained("frozen", tmp_path).save(tmp_path / "newer", {})
    config = json.loads((tmp_path / "newer" / "reward.json").read_text())
    (tmp_path / "newer" / "reward.json").write_text(json.dumps(config | {"network": "oracle"}))
    with pytest.raises(StoreError, match=r"kind 'oracle'"):
        LearnedReward.load(tmp_path / "newer")


def test_without_a_frozen_scale_nothing_is_paid(tmp_path: Path) -> None:
    """An ensemble cannot be averaged either; one member's raw scores may be looked at."""
    raw = replace(untrained("frozen", tmp_path), scale=None)
    with pytest.raises(RewardError, match="an ensemble of 3 has no frozen scale"):
        raw.score_candidates(*sampled(policy_of(llama())))
    generation = Generation([[1, 5]], [[7, EOS]], [[0.0] * 2], ["eos"], "v")
    with pytest.raises(RewardError, match="scale is not frozen"):
        raw([Task("train", {"prompt": "w1"})], generation, ["w3"])
    assert torch.equal(raw.combine(torch.tensor([[1.0, 5.0]])), torch.tensor([1.0, 5.0]))


def test_members_are_normalised_before_they_are_averaged(tmp_path: Path) -> None:
    """One member's scores a thousand times larger, with an offset: the ensemble's score does not change."""
    plain = untrained("frozen", tmp_path)
    raw = plain.member_scores(rows_of(*sampled(policy_of(llama()))))
    loud = raw.clone()
    loud[1] = loud[1] * 1000 + 77
    rescaled = replace(plain, scale=FrozenScale.fit(loud, "loud"))
    torch.testing.assert_close(rescaled.combine(loud), plain.combine(raw), atol=1e-4, rtol=1e-3)
    standard = plain.combine(raw)
    assert float(standard.mean()) == pytest.approx(0, abs=1e-5)
    assert float(standard.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert (loud.mean(0) - loud[1] / MEMBERS).abs().max() < 0.01 * loud.mean(0).std()  # a raw mean is that member's


def test_pessimism_takes_off_disagreement(tmp_path: Path) -> None:
    reward = untrained("frozen", tmp_path)
    assert reward.scale is not None
    raw = reward.member_scores(rows_of(*sampled(policy_of(llama()))))
    lower = replace(reward, pessimism=1.0).combine(raw)
    expected = reward.scale.members(raw).var(0, correction=0) / reward.scale.combined_std
    torch.testing.assert_close(reward.combine(raw) - lower, expected, atol=1e-5, rtol=1e-5)
    assert (lower < reward.combine(raw)).all()


def test_long_prompts_lose_their_left_end_and_are_counted() -> None:
    policy = policy_of(llama())
    long = Task("train", {"prompt": " ".join(f"w{i}" for i in range(20))})
    short = Task("train", {"prompt": "w1 w2"})
    answer = given("", [7, 8, EOS])
    encoded = TurnReader(policy).read([Answered.of(t, answer) for t in (long, short)], context=10, exact=True)
    assert encoded.cut == 1
    assert encoded.prompts == [[17, 18, 19, 20, 21, 22, 23], [5, 6]]
    assert encoded.completions == [[7, 8, EOS]] * 2


def test_a_completion_that_leaves_no_room_is_cut_and_counted() -> None:
    policy = policy_of(llama())
    row = Answered.of(Task("train", {"prompt": "w1"}), given("", list(range(4, 24))))
    encoded = TurnReader(policy).read([row], context=10, exact=True)
    assert encoded.completions == [list(range(4, 13))]
    assert encoded.cut == 1


@KINDS
def test_rows_that_were_cut_are_counted_wherever_they_are_scored(kind: str, tmp_path: Path) -> None:
    """As candidates and in a rollout; what a reward sum pays tells of it."""
    reward = untrained(kind, tmp_path)
    long, short = (Task("train", {"prompt": " ".join(f"w{i % 60}" for i in range(n))}) for n in (80, 3))
    reward.rows_cut = 0
    reward.score_candidates([long, short], [[given("w1"), given("w2")]] * 2)
    assert reward.rows_cut == 2
    generation = Generation([[5] * 80, [5] * 3], [[7, EOS]] * 2, [[0.0] * 2] * 2, ["eos"] * 2, "v")
    paid = RewardSum([reward])([long, short], generation, ["w3"] * 2)
    assert (paid.rows_cut, reward.rows_cut) == (1, 3)


@KINDS
def test_padding_and_dropout_do_not_change_scores(kind: str, tmp_path: Path) -> None:
    """Scores of a short row beside a long one, with the network left in train mode: the same as alone."""
    reward = untrained(kind, tmp_path, policy_of(gpt2(dropout=0.3)))
    for module in (getattr(reward.network, name, None) for name in ("ensemble", "classifier")):
        if module is not None:
            getattr(module, "model", module).train()
    short = by_ids([[1, 5]], [[7, EOS]])
    both = by_ids([[1, 5], [1] * 20], [[7, EOS], [9] * 30])
    torch.testing.assert_close(
        reward.member_scores(short)[:, 0], reward.member_scores(both)[:, 0], atol=1e-5, rtol=1e-5
    )
    assert torch.equal(reward.member_scores(both), reward.member_scores(both))


def test_stored_features_give_the_scores_of_a_full_forward() -> None:
    """What fitting sees is what scoring computes."""
    policy = policy_of(llama())
    network, rows = frozen_network(policy), rows_of(*sampled(policy))
    stored = FrozenScores(network.ensemble, network.trunk, network.reader.read(rows, CONTEXT, True))
    stored.standardise(torch.arange(10))
    stored.eval()
    index = torch.tensor([5, 0, 17, 23])
    with torch.no_grad():
        torch.testing.assert_close(stored.score(index), network.raw(rows, True)[0][:, index], atol=1e-4, rtol=1e-4)
    assert network.ensemble.feature_std.min() > 0


def test_features_are_states_before_and_at_each_token_and_its_logprob() -> None:
    policy = policy_of(llama())
    batch = TokenBatch.of([[1, 5]], [[7, 8]])
    features = token_features(Working(policy.model), batch)
    with torch.no_grad():
        hidden = policy.model.model(input_ids=batch.ids).last_hidden_state
        logprob = policy.model(input_ids=batch.ids).logits.log_softmax(-1)[0, 1, 7]
    assert features.shape == (2, 2 * 32 + 3)
    torch.testing.assert_close(features[:, :32], hidden[0, 1:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[:, 32:64], hidden[0, 2:4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[0, 64], logprob)


def test_the_trunk_of_a_frozen_reward_is_not_the_policy_that_learns(tmp_path: Path) -> None:
    """Loaded from its folder, the reward keeps its scores whatever happens to the policy afterwards."""
    policy = policy_of(llama())
    untrained("frozen", tmp_path, policy).save(tmp_path / "reward", {})
    reward = LearnedReward.load(tmp_path / "reward")
    tasks, rows = sampled(policy)
    before = reward.score_candidates(tasks, rows)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(reward.score_candidates(tasks, rows), before)


@KINDS
def test_a_rollout_is_scored_without_decoding(kind: str, tmp_path: Path) -> None:
    """Texts are not read: garbage texts give the same scores."""
    policy, tasks = policy_of(llama()), some_tasks(4)
    reward = untrained(kind, tmp_path, policy)
    prompts = [policy.encode_task(t.payload) for t in tasks]
    out = generate(
        policy.model, prompts, Sampling(6, frozenset({EOS})), seed=1, sequence_ids=range(4), policy_version="v"
    )
    texts = [policy.decode(c) for c in out.completions]
    assert torch.equal(reward(tasks, out, texts), reward(tasks, out, ["?"] * 4))


@KINDS
def test_empty_and_one_token_completions_get_ordinary_scores(kind: str, tmp_path: Path) -> None:
    """An empty completion (an imported text that was cut at once) pools to zero, not to the filler of the maximum."""
    reward = untrained(kind, tmp_path)
    scores = reward.combine(reward.member_scores(by_ids([[1, 5], [1, 5]], [[], [7]])))
    assert torch.isfinite(scores).all()
    assert scores.abs().max() < 100
