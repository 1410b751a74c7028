"""Rollouts: KL estimators against exact numbers, storage, task order, candidates."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from fixtures import EOS, FP32, PRECISIONS, llama, policy_of, some_tasks
from tropism.digests import digest
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, Sampling
from tropism.engine.scoring import completion_scores, hidden_states
from tropism.language.rollouts import Rollout, sample_candidates, tasks_of_step, write_rows

SAMPLING = Sampling(6, frozenset({EOS}))


def rollout() -> Rollout:
    generation = Generation(
        [[1, 5], [1]], [[6, 7, 2], [8, 9]], [[-1.0, -2.0, -0.5], [-1.0, -1.0]], ["eos", "length"], "v"
    )
    return Rollout.empty(3, some_tasks(2), generation, ["w2 w3", "w4 w5"])


def test_kl_estimates_are_sums_over_the_completions_tokens() -> None:
    made = rollout()
    old = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 0.0]])
    ref = torch.tensor([[-1.5, -1.0, -0.5], [-3.0, -1.0, 0.0]])
    made.fill(torch.arange(2), old_logprobs=old, ref_logprobs=ref)
    assert made.kl_ref.tolist() == pytest.approx([0.5 - 1.0, 2.0])
    expected = [math.exp(-0.5) - 1 + 0.5 + math.exp(1) - 1 - 1, math.exp(-2) - 1 + 2]
    assert made.kl_ref_k3().tolist() == pytest.approx(expected)
    assert (made.kl_ref_k3() >= 0).all()


def test_fill_takes_narrower_rows_of_a_sub_batch() -> None:
    made = rollout()
    narrow = torch.full((1, 2), -2.0)
    made.fill(torch.tensor([1]), old_logprobs=narrow, values=narrow - 1)
    assert made.old_logprobs.tolist() == [[0, 0, 0], [-2, -2, 0]]
    assert made.values.tolist() == [[0, 0, 0], [-3, -3, 0]]
    assert not made.ref_logprobs.any()


def test_rows_are_whole_json_lines(tmp_path: Path) -> None:
    made = rollout()
    write_rows(tmp_path / "a" / "step.jsonl", made.rows({"gold": [1.0, 2.0]}))
    rows = [json.loads(line) for line in (tmp_path / "a" / "step.jsonl").read_text().splitlines()]
    assert [r["tokens"] for r in rows] == [[6, 7, 2], [8, 9]]
    assert [r["stop"] for r in rows] == ["eos", "length"]
    assert [r["gold"] for r in rows] == [1.0, 2.0]
    assert rows[0]["prompt"] == "w0"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["step.jsonl"]


@pytest.mark.parametrize(("tasks", "count"), [(10, 4), (7, 7), (3, 8)])
def test_every_task_is_used_once_an_epoch_in_another_order(tasks: int, count: int) -> None:
    all_tasks = some_tasks(tasks)
    seen = [t.id for step in range(tasks * 2) for t in tasks_of_step(all_tasks, count, 5, step)]
    epochs = [seen[i : i + tasks] for i in range(0, len(seen), tasks)]
    assert all(Counter(e) == Counter(t.id for t in all_tasks) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1
    assert [t.id for t in tasks_of_step(all_tasks, count, 5, 2)] == seen[2 * count : 3 * count]
    assert seen != [t.id for step in range(tasks * 2) for t in tasks_of_step(all_tasks, count, 6, step)]


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
def test_candidates_say_what_made_them_and_can_be_made_again(precision: object) -> None:
    policy, tasks = policy_of(llama()), some_tasks(3)
    rows = sample_candidates(policy, "policy-1", tasks, 4, SAMPLING, 9, precision)  # type: ignore[arg-type]
    assert [len(r) for r in rows] == [4, 4, 4]
    assert len({c.id for r in rows for c in r}) == 12
    for task, row in zip(tasks, rows, strict=True):
        for candidate in row:
            assert candidate.task_id == task.id
            assert candidate.provenance.policy_id == "policy-1"
            assert candidate.provenance.seed == 9
            assert candidate.provenance.sampling["temperature"] == 1.0
            assert candidate.content["text"] == policy.decode(candidate.content["tokens"])
            assert (candidate.content["stop"] == "eos") == (candidate.content["tokens"][-1] == EOS)
            digest(dict(candidate.content))  # plain JSON
    again = sample_candidates(policy, "policy-1", tasks, 4, SAMPLING, 9, precision)  # type: ignore[arg-type]
    assert [[c.id for c in r] for r in again] == [[c.id for c in r] for r in rows]


def test_a_candidates_tokens_are_the_policys_own() -> None:
    """Scored by the policy that made them, sampled tokens are likely; under another policy less so."""
    policy, other = policy_of(llama(0)), policy_of(llama(1))
    rows = sample_candidates(policy, "p", some_tasks(20), 1, SAMPLING, 1, FP32)
    prompts = [policy.encode_prompt(t.payload["prompt"]) for t in some_tasks(20)]
    batch = TokenBatch.of(prompts, [r[0].content["tokens"] for r in rows])
    with torch.no_grad():
        own, theirs = (
            completion_scores(p.model, batch, hidden_states(p.model, batch)).logprobs.sum() for p in (policy, other)
        )
    assert own > theirs + 20
