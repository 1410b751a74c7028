"""What PPO carries from step to step: kill and resume, snapshots, schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import PRECISIONS, Recorder, equal, odd_tokens, trainer_of, weights
from tropism.errors import InterruptedRun, StoreError
from tropism.language.ppo import PpoTrainer
from tropism.runtime.precision import Precision

RUN: dict[str, Any] = {
    "steps": 6, "checkpoint_every": 2, "critic_warmup_steps": 1, "warmup_steps": 3, "kl_target": 0.2,
    "ptx_coef": 0.1, "ptx_batch_size": 4, "demonstrations": [([1, 5], [7, 2]), ([1], [9, 11, 2])] * 3,
}  # fmt: skip


def after(calls: int) -> Callable[[], bool]:
    """A stop request that comes after so many finished steps."""
    asked = []
    return lambda: asked.append(1) or len(asked) >= calls


def recorded(trainer: PpoTrainer) -> dict[int, dict[str, float]]:
    assert isinstance(trainer.run.metrics, Recorder)
    return trainer.run.metrics.comparable()


def interrupted(folder: Path, at: int, **over: Any) -> tuple[PpoTrainer, dict[int, dict[str, float]]]:
    """Stopped after ``at`` steps and gone on with in a new trainer made from the same start."""
    first = trainer_of(folder, stop=after(at), **over)
    with pytest.raises(InterruptedRun):
        first.train()
    assert first.state.step == at
    second = trainer_of(folder, **over)
    second.train()
    return second, recorded(first) | recorded(second)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_interrupted_and_resumed_equals_undisturbed_bit_for_bit(
    tmp_path: Path, precision: Precision, trunk: str
) -> None:
    """Stopped after step 3 with a checkpoint at 2: step 3 is done again; weights, moments, metrics, rollouts agree."""
    over = RUN | {"precision": precision, "value_trunk": trunk}
    whole = trainer_of(tmp_path / "whole", **over)
    whole.train()
    resumed, metrics = interrupted(tmp_path / "parts", 3, **over)
    assert equal(weights(whole), weights(resumed))
    assert metrics == recorded(whole)
    assert sorted(recorded(resumed)) == [2, 3, 4, 5]
    assert resumed.state.kl_coef == whole.state.kl_coef != RUN.get("kl_ref_coef", 0.05)
    for step in range(6):
        name = f"rollouts/step-{step:05d}.jsonl"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_what_a_round_hands_over_is_equal_for_equal_runs(tmp_path: Path) -> None:
    first, second = (trainer_of(tmp_path / name, **RUN).train() for name in "ab")
    assert first == second  # no seconds, no memory: these values go into the lineage


def test_stopped_exactly_at_a_checkpoint_trains_the_remaining_steps(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "whole", **RUN)
    whole.train()
    resumed, metrics = interrupted(tmp_path / "parts", 4, **RUN)
    assert sorted(recorded(resumed)) == [4, 5]
    assert equal(weights(whole), weights(resumed))
    assert metrics == recorded(whole)


def test_a_finished_round_only_loads_its_result(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path, **RUN)
    last = whole.train()
    again = trainer_of(tmp_path, **RUN)
    assert again.train() == last
    assert recorded(again) == {}
    assert equal(weights(whole), weights(again))


def test_a_round_ended_by_the_kl_limit_stays_ended_on_resume(tmp_path: Path) -> None:
    over: dict[str, Any] = {
        "steps": 8, "checkpoint_every": 1, "kl_limit": 1e-3, "learning_rate": 3e-3, "kl_ref_coef": 0.0,
    }  # fmt: skip
    first = trainer_of(tmp_path, **over)
    first.train()
    assert 1 < first.state.step < 8
    again = trainer_of(tmp_path, **over)
    again.train()
    assert recorded(again) == {}
    assert equal(weights(first), weights(again))


def test_roll_backs_survive_a_resume(tmp_path: Path) -> None:
    """Rate factor and count are part of the state: an interrupted diverging run equals the undisturbed one."""

    def diverges_at_step_one() -> Callable[..., list[float]]:
        def reward(tasks: Any, generation: Any, texts: Any) -> list[float]:
            scores = odd_tokens(tasks, generation, texts)
            return [s * 1e30 for s in scores] if generation.policy_version.endswith(":1") else scores

        return reward

    over: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "reward": diverges_at_step_one()}
    whole = trainer_of(tmp_path / "whole", **over)
    whole.train()
    resumed, metrics = interrupted(tmp_path / "parts", 3, **over)
    assert whole.state.rollbacks == resumed.state.rollbacks == 1
    assert resumed.state.rate_factor == 0.5
    assert equal(weights(whole), weights(resumed))
    assert metrics == recorded(whole)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trainer_of(tmp_path, steps=1, checkpoint_every=1).train()
    (tmp_path / "checkpoints" / "ppo-00000001" / "tensors.safetensors").unlink()
    with pytest.raises(StoreError, match="ppo-00000001"):
        trainer_of(tmp_path, steps=1, checkpoint_every=1).train()


def test_gradient_clipping_bounds_the_gradient_and_logs_the_norm_before(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_grad_norm=0.01)
    for parameter in trainer.state.policy_parameters + trainer.state.critic_parameters:
        parameter.grad = torch.ones_like(parameter)
    count = sum(p.numel() for p in trainer.state.policy_parameters + trainer.state.critic_parameters)
    logged = trainer.state.optimiser_step()
    assert logged["ppo/grad_norm"] == pytest.approx(count**0.5, rel=1e-5)
    left = torch.cat([p.grad.flatten() for p in trainer.actor.parameters() if p.grad is not None])
    assert float(left.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_gradient_that_is_not_finite_steps_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    before = weights(trainer)
    for parameter in trainer.state.policy_parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    logged = trainer.state.optimiser_step()
    assert logged["ppo/grad_norm"] != logged["ppo/grad_norm"]
    assert equal(before, weights(trainer))


def test_the_critic_has_its_own_rate(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, learning_rate=1e-4, critic_learning_rate=3e-3, steps=1)
    trainer.train()
    assert [g["lr"] for g in trainer.state.optimiser.param_groups] == pytest.approx([1e-4, 3e-3])
    same = trainer_of(tmp_path / "b", learning_rate=1e-4, critic_learning_rate=None, steps=1)
    same.train()
    assert [g["lr"] for g in same.state.optimiser.param_groups] == pytest.approx([1e-4, 1e-4])


def test_the_leash_does_not_move_while_only_the_critic_learns(tmp_path: Path) -> None:
    """The policy cannot answer yet: a coefficient adapted to a KL near 0 would have fallen for nothing."""
    trainer = trainer_of(tmp_path, steps=5, critic_warmup_steps=3, kl_target=0.2, kl_ref_coef=0.05)
    coefficients = []
    for _ in range(5):
        trainer.step()
        coefficients.append(trainer.state.kl_coef)
    assert coefficients[:3] == [0.05] * 3
    assert coefficients[3] == pytest.approx(0.05 * (1 - 0.1 * 0.2))  # the first step that counts, KL still near 0
    assert coefficients[4] != coefficients[3]


def test_the_proxy_of_over_optimisation_is_the_learned_score(tmp_path: Path) -> None:
    """Penalties and other rewards are no part of what a reward model may be fooled about."""
    trainer = trainer_of(tmp_path)
    metrics = {"kl/ref_k1": 1.0, "ppo/score_mean": -3.0, "ppo/gold_mean": 0.5}
    trainer.state.advance(metrics | {"reward/learned_mean": 2.0}, None)
    trainer.state.advance(metrics, None)
    assert trainer.state.history == [[1.0, 2.0, 0.5], [1.0, -3.0, 0.5]]
