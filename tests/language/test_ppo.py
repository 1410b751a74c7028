"""PPO on a toy reward: it learns, its terms do what they say, and its contracts stop broken runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fixtures import AUTOCAST, BF16, EOS, FP32, equal, gpt2, llama, metrics, odd_tokens, trainer_of, weights
from tropism.engine.generation import Sampling
from tropism.errors import ConfigError, ContractError, DivergenceError, RewardError
from tropism.language.policy import copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.ppo_checks import rollout_metrics
from tropism.runtime.precision import Precision

LEARN = {
    "steps": 15, "batch_size": 64, "mini_batch_size": 16, "warmup_steps": 2, "critic_warmup_steps": 2,
    "learning_rate": 2e-3,
}  # fmt: skip

low = pytest.mark.parametrize("precision", [AUTOCAST, BF16], ids=lambda p: p.name)


def late(trainer: PpoTrainer, name: str, last: int = 3) -> float:
    rows = list(metrics(trainer).values())[-last:]
    return sum(r[name] for r in rows) / len(rows)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_it_learns_a_toy_reward(tmp_path: Path, trunk: str) -> None:
    """From 1.9 (chance) to more than 3 of 4 at a bounded KL; unpaid, the same run stays below 2.5 (next test)."""
    trainer = trainer_of(tmp_path, value_trunk=trunk, penalty=0.0, **LEARN)
    trainer.train()
    assert metrics(trainer)[0]["ppo/score_mean"] < 2.2
    assert late(trainer, "ppo/score_mean") > 3.0
    assert late(trainer, "kl/ref_k1") < 8
    assert late(trainer, "ppo/value_loss") < metrics(trainer)[0]["ppo/value_loss"]


def test_unpaid_it_learns_nothing(tmp_path: Path) -> None:
    """What the learning test asks for is out of reach for a policy whose reward is replaced by 0."""
    seen: list[float] = []

    def unpaid(tasks: Any, generation: Any, texts: Any) -> list[float]:
        seen.append(sum(odd_tokens(tasks, generation, texts)) / len(texts))
        return [0.0] * len(texts)

    trainer_of(tmp_path, reward=unpaid, penalty=0.0, **LEARN).train()
    assert max(seen) < 2.5


@low
def test_low_precision_ratios_start_at_one_in_micro_batches_too(tmp_path: Path, precision: Precision) -> None:
    """bf16 may round by the shape of its batch: old log-probabilities are scored in the micro-batches that train."""
    sizes = {"batch_size": 16, "mini_batch_size": 16, "micro_batch_tokens": 30, "epochs": 1, "critic_warmup_steps": 0}
    trainer = trainer_of(tmp_path, precision=precision, **(LEARN | sizes | {"steps": 1}))
    trainer.train()
    first = metrics(trainer)[0]
    assert first["ppo/ratio_mean"] == pytest.approx(1.0, abs=1e-7)
    assert first["check/ratio_max"] == 0.0


@low
def test_low_precision_learns_too_and_is_what_runs(tmp_path: Path, precision: Precision) -> None:
    trainer = trainer_of(tmp_path, precision=precision, **(LEARN | {"steps": 9}))
    trainer.train()
    assert late(trainer, "ppo/score_mean") > metrics(trainer)[0]["ppo/score_mean"] + 0.7
    assert {m["check/precision_bits"] for m in metrics(trainer).values()} == {16.0}


@pytest.mark.parametrize("where", ["reward", "loss"])
def test_the_leash_holds_in_both_forms(tmp_path: Path, where: str) -> None:
    """A stronger KL coefficient keeps the policy nearer, whether it is paid as reward or is a loss."""
    found = []
    for coef in (0.0, 2.0):
        trainer = trainer_of(
            tmp_path / f"{coef}", kl_ref_in=where, kl_ref_coef=coef, **(LEARN | {"steps": 8, "critic_warmup_steps": 0})
        )
        trainer.train()
        found.append(late(trainer, "kl/ref_k1"))
    assert found[1] < 0.5 * found[0]
    assert found[1] < 1.5


def test_the_adaptive_coefficient_follows_ziegler(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, kl_target=0.5, kl_rate=1.0, kl_ref_coef=0.1, **(LEARN | {"steps": 10}))
    trainer.train()
    rows, coef, rest = metrics(trainer), 0.1, trainer.settings.critic_warmup_steps
    for step in range(10):
        assert rows[step]["ppo/kl_coef"] == pytest.approx(coef)
        if step >= rest:  # while only the critic learns, nothing could answer to the leash
            coef *= 1 + max(-0.2, min(0.2, rows[step]["kl/ref_k1"] / 0.5 - 1))
    assert trainer.state.kl_coef == pytest.approx(coef)
    assert rows[rest + 1]["ppo/kl_coef"] < 0.1  # below the target: looser
    assert max(r["kl/ref_k1"] for r in rows.values()) > 0.5  # above it: tighter, so both branches ran


def test_the_pretraining_mix_holds_demonstrations_in_mind(tmp_path: Path) -> None:
    """With PPO-ptx the likelihood of demonstrations rises; without it, it does not."""
    demonstrations = [([1, 5, 6], [11, 13, 15, EOS]), ([1, 7], [17, 19, 21, EOS])] * 4
    losses = {}
    for coef in (0.0, 1.0):
        over = LEARN | {"steps": 6, "batch_size": 32, "ptx_coef": coef, "ptx_batch_size": 4}
        trainer = trainer_of(tmp_path / f"{coef}", demonstrations=demonstrations, **over)
        trainer.train()
        trainer.state.zero_grad()
        trainer.settings = trainer.settings.model_copy(update={"ptx_batch_size": 8})
        losses[coef] = trainer.pretraining_mix(0, 0)
        assert ("ppo/ptx_loss" in metrics(trainer)[5]) == (coef > 0)
        assert "ppo/ptx_loss" not in metrics(trainer)[0]  # the critic's warm-up leaves the policy alone
    assert losses[1.0] < losses[0.0] - 0.5


def test_the_pretraining_mix_without_demonstrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ptx_coef"):
        trainer_of(tmp_path, ptx_coef=0.5)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_critic_warm_up_does_not_move_the_policy(tmp_path: Path, trunk: str) -> None:
    trainer = trainer_of(
        tmp_path, value_trunk=trunk, steps=3, critic_warmup_steps=2, weight_decay=0.1, entropy_coef=0.1
    )
    before = {k: v.clone() for k, v in trainer.policy.model.state_dict().items()}
    head = trainer.actor.value_head.weight.clone()
    trainer.step()
    trainer.step()
    assert equal(before, trainer.policy.model.state_dict())
    assert not torch.equal(head, trainer.actor.value_head.weight)
    assert metrics(trainer)[1]["ppo/learning_rate"] == 0.0
    assert metrics(trainer)[1]["kl/ref_k1"] == pytest.approx(0.0, abs=1e-5)  # the sampler's own log-probabilities
    trainer.step()
    assert not equal(before, trainer.policy.model.state_dict())


def test_after_the_critics_warm_up_the_rate_rises_linearly(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=6, critic_warmup_steps=1, warmup_steps=4, learning_rate=4e-4, epochs=1)
    trainer.train()
    rates = [metrics(trainer)[s]["ppo/learning_rate"] for s in range(6)]
    assert rates == pytest.approx([0, 1e-4, 2e-4, 3e-4, 4e-4, 4e-4])


@pytest.mark.parametrize(
    "over",
    [
        {"kl_ref_in": "loss", "kl_old_coef": 0.3, "entropy_coef": 0.05},
        {"value_trunk": "separate", "value_clip_range": 0.2},
    ],
)
def test_the_size_of_micro_batches_does_not_change_the_result(tmp_path: Path, over: dict[str, Any]) -> None:
    """All losses divide by the mini-batch's own token count: weights after two steps agree within 1e-6 in fp32."""
    found = []
    for budget in (4096, 30):
        # SGD-like betas would hide nothing: AdamW's division blows rounding up, so the rate is small
        trainer = trainer_of(
            tmp_path / str(budget), micro_batch_tokens=budget, learning_rate=1e-4, critic_learning_rate=1e-4, **over
        )
        trainer.train()
        found.append(weights(trainer))
        assert metrics(trainer)[1]["ppo/rolled_back"] == 0
    for other in found[1:]:
        assert max(float((found[0][k] - other[k]).abs().max()) for k in other) < 1e-6


def test_step_zero_kl_is_exactly_zero_and_the_ratio_one(tmp_path: Path) -> None:
    for precision in (FP32, AUTOCAST, BF16):
        for trunk in ("shared", "separate"):
            over = {"value_trunk": trunk, "epochs": 1, "steps": 1}
            trainer = trainer_of(tmp_path / precision.name / trunk, precision=precision, **over)
            trainer.train()
            row = metrics(trainer)[0]
            assert row["kl/ref_k1"] == row["kl/ref_k3"] == 0.0
            assert row["check/ratio_max"] <= (1e-5 if precision is FP32 else 0.0)


def test_a_reference_of_equal_weights_that_scores_differently_is_refused(tmp_path: Path) -> None:
    """Equal weights, but dropout left on in the reference's own forward: KL is not 0, and the run says so."""
    model = gpt2(dropout=0.3)
    reference = copy_of(model)
    reference.eval = lambda: reference  # a module that ignores eval(): dropout stays on
    reference.train(True)
    trainer = trainer_of(tmp_path, model=model, reference=reference)
    with pytest.raises(ContractError, match="KL to a reference of equal weights"):
        trainer.train()


def test_a_reference_that_shares_tensors_is_refused(tmp_path: Path) -> None:
    model = llama()
    model.requires_grad_(False)
    with pytest.raises(ContractError, match="share tensors"):
        trainer_of(tmp_path, model=model, reference=model)


def test_a_reference_that_could_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="require gradients"):
        trainer_of(tmp_path, reference=llama(1))


class BatchNormed(nn.Module):
    """Mixes rows: the mean over the batch is taken off the first layer's output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 0.5 * x.mean((0, 1), keepdim=True)


def test_a_forward_that_depends_on_its_batch_is_refused(tmp_path: Path) -> None:
    """Rows scored in other company at the first mini-batch: the ratio is not 1, recomputing does not mend it."""
    model = llama(scale=0.3)
    model.model.layers[0].mlp.act_fn = nn.Sequential(model.model.layers[0].mlp.act_fn, BatchNormed())
    with pytest.raises(ContractError, match=r"π_θ/π_old|differ by") as caught:
        trainer_of(tmp_path, model=model, mini_batch_size=4).train()
    assert caught.value.fix


def test_old_logprobs_that_are_off_are_recomputed_before_they_train(tmp_path: Path) -> None:
    """Old log-probabilities disturbed after scoring (as if from another engine) are made again, and logged."""
    trainer = trainer_of(tmp_path, steps=1)
    rollout = trainer.sample([trainer.tasks[i] for i in range(16)])
    trainer.score(rollout)
    rollout.paid = trainer.rewards(rollout.tasks, rollout.generation, rollout.texts)
    good, targets = rollout.old_logprobs.clone(), trainer.targets(rollout)
    rollout.old_logprobs = torch.where(rollout.batch.mask, good + 0.03, good)
    out = trainer.optimise(rollout, targets)
    assert out["check/old_recomputed"] == 1.0
    assert out["check/ratio_max"] < 1e-4
    torch.testing.assert_close(rollout.old_logprobs, good, atol=1e-6, rtol=0)


def test_the_first_ratio_is_one_and_is_logged(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=3)
    trainer.train()
    for row in metrics(trainer).values():
        assert row["check/ratio_max"] < 1e-4
        assert row["check/old_recomputed"] == 0.0
        assert row["check/mismatch_max"] < 1e-4


def test_a_large_kl_to_the_old_policy_stops_the_steps_mini_batches(tmp_path: Path) -> None:
    common: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 4, "steps": 1, "divergence_kl": 1e6}
    free = trainer_of(tmp_path / "free", **common)
    free.train()
    stopped = trainer_of(tmp_path / "stopped", kl_old_stop=1e-3, **common)
    stopped.train()
    assert metrics(free)[0]["ppo/epochs_done"] == 4
    assert metrics(stopped)[0]["ppo/epochs_done"] == 0
    assert steps_taken(stopped) == 2  # the first has KL 0; the second sees the first's KL and is the last
    assert steps_taken(free) == 8


def steps_taken(trainer: PpoTrainer) -> int:
    state = trainer.state.optimiser.state[trainer.state.critic_parameters[0]]
    return int(state["step"])


def test_the_kl_limit_ends_the_round(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, kl_limit=0.3, **(LEARN | {"kl_ref_coef": 0.0}))
    trainer.train()
    rows = metrics(trainer)
    assert 3 < len(rows) < 15
    kls = [rows[s]["kl/ref_k1"] for s in sorted(rows)]
    assert kls[-1] > 0.3
    assert max(kls[:-1]) <= 0.3


def test_kl_to_the_old_policy_as_a_loss_slows_the_step(tmp_path: Path) -> None:
    found = []
    for coef in (0.0, 20.0):
        trainer = trainer_of(tmp_path / str(coef), kl_old_coef=coef, epochs=6, steps=1, learning_rate=3e-3)
        trainer.train()
        found.append(metrics(trainer)[0]["kl/old"])
    assert found[1] < 0.5 * found[0]


def test_the_entropy_bonus_raises_entropy(tmp_path: Path) -> None:
    found = []
    for coef in (0.0, 1.0):
        trainer = trainer_of(tmp_path / str(coef), model=llama(scale=0.3), entropy_coef=coef, steps=6)
        trainer.train()
        found.append(late(trainer, "ppo/entropy", 1))
    assert found[1] > found[0] + 0.1


def test_rollouts_are_stored_with_the_reward_by_component(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=2, penalty=0.5)
    trainer.probe = lambda tasks, texts: [float(i) for i in range(len(texts))]
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "step-00001.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    for i, row in enumerate(rows):
        assert row["reward_total"] == pytest.approx(row["reward"]["toy"] + row["reward"]["missing_end"])
        assert row["reward"]["missing_end"] == (-0.5 if row["stop"] == "length" else 0.0)
        assert row["reward"]["toy"] == pytest.approx(4 * sum(t % 2 for t in row["tokens"]) / len(row["tokens"]))
        assert row["gold"] == i
    assert metrics(trainer)[1]["ppo/gold_mean"] == 7.5


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "is nan for prompt 'w"), (float("inf"), "is inf for prompt 'w")]
)
def test_a_reward_that_is_not_finite_stops_the_run_and_names_the_prompt(
    tmp_path: Path, value: float, said: str
) -> None:
    trainer = trainer_of(tmp_path, reward=lambda t, g, x: [value if i == 3 else 0.0 for i in range(len(x))])
    before = weights(trainer)
    with pytest.raises(RewardError, match=said):
        trainer.train()
    assert equal(before, weights(trainer))


def huge(tasks: Any, generation: Any, texts: Any) -> list[float]:
    return [1e30 * (1 if i % 2 else -1) for i in range(len(texts))]


def test_divergence_rolls_back_lowers_the_rate_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Huge rewards at one step: weights and optimiser come back bit for bit, the rate is halved, training goes on."""
    calls = []

    def sometimes(tasks: Any, generation: Any, texts: Any) -> list[float]:
        calls.append(1)
        return huge(tasks, generation, texts) if len(calls) == 3 else odd_tokens(tasks, generation, texts)

    trainer = trainer_of(tmp_path, reward=sometimes, steps=4)
    trainer.step()
    trainer.step()
    good, moments = weights(trainer), optimiser_tensors(trainer)
    trainer.step()
    assert equal(good, weights(trainer))
    assert equal(moments, optimiser_tensors(trainer))
    assert trainer.state.rate_factor == 0.5
    assert trainer.state.rollbacks == 1
    assert metrics(trainer)[2]["ppo/rolled_back"] == 1.0
    assert all(map(math.isfinite, metrics(trainer)[2].values()))  # what was undone is not averaged in
    assert "rolled back" in caplog.text
    trainer.step()
    assert not equal(good, weights(trainer))
    assert metrics(trainer)[3]["ppo/rate_factor"] == 0.5
    assert metrics(trainer)[3]["ppo/learning_rate"] == pytest.approx(5e-4)


def optimiser_tensors(trainer: PpoTrainer) -> dict[str, torch.Tensor]:
    states = trainer.state.optimiser.state_dict()["state"]
    return {f"{i}.{k}": v.detach().clone() for i, entry in states.items() for k, v in entry.items()}


def test_an_absurd_learning_rate_is_caught_as_divergence(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, learning_rate=10.0, epochs=4, steps=1)
    before = weights(trainer)
    trainer.train()
    assert trainer.state.rollbacks == 1
    assert equal(before, weights(trainer))


def test_roll_backs_are_bounded(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, reward=huge, steps=10, max_rollbacks=2)
    with pytest.raises(DivergenceError, match="after 2 roll-backs") as caught:
        trainer.train()
    assert trainer.state.step == 2
    assert "learning_rate" in caught.value.fix


def test_several_completions_per_prompt(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=1, completions_per_prompt=4)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "step-00000.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert len({r["task_id"] for r in rows}) == 4
    assert len({tuple(r["tokens"]) for r in rows}) > 4


def test_a_sampler_that_is_not_the_policy_stops_the_run(tmp_path: Path) -> None:
    """Sampled at one temperature, scored at another: the mismatch is seen in the very first rollout."""
    trainer = trainer_of(tmp_path, model=llama(scale=0.3))
    rollout = trainer.sample([trainer.tasks[i] for i in range(16)])
    trainer.sampling = Sampling(8, frozenset({EOS}), temperature=1.5)
    trainer.score(rollout)
    rollout.paid = trainer.rewards(rollout.tasks, rollout.generation, rollout.texts)
    with pytest.raises(ContractError, match="rollout and trainer log-probabilities differ"):
        rollout_metrics(
            rollout, trainer.settings, trainer.state, trainer.actor, trainer.reference.model, trainer.precision
        )
