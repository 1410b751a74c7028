"""The work of ``control_speed.py``: tasks and settings, the same for ours and for Stable-Baselines3 (SB3).

Settings are named as ours are; ``peers/sb3_driver.py`` says what SB3 calls them. PPO's and SAC's are SB3's defaults
(but for SAC's 1,000 steps before learning, and Pendulum's rate, which RL Baselines3 Zoo tuned), with 8 environments.
What SB3 does without being asked, ours is told (``Work.own``): PPO whitens the advantages of each mini-batch.
DQN, with one environment, is timed with SB3's defaults, with the Zoo's settings for CartPole and with those at which
SB3 best keeps what it has learned (``control_tuning.py``). Returns on CartPole are claimed of the last: the Zoo's are
made for half as many steps, and after twice as many both sides have mostly forgotten; theirs are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PPO: Mapping[str, Any] = {
    "steps_per_environment": 256, "epochs": 10, "batch_size": 64, "learning_rate": 3e-4, "gamma": 0.99,
    "gae_lambda": 0.95, "clip_range": 0.2, "value_coef": 0.5, "entropy_coef": 0.0, "max_grad_norm": 0.5,
    "hidden": [64, 64],
}  # fmt: skip
SAC: Mapping[str, Any] = {
    "learning_rate": 3e-4, "buffer": 1_000_000, "learning_starts": 1000, "batch_size": 256, "tau": 0.005,
    "gamma": 0.99, "train_every": 1, "updates": 0, "hidden": [256, 256],
}  # fmt: skip
DQN: Mapping[str, Any] = {
    "learning_rate": 1e-4, "buffer": 1_000_000, "learning_starts": 100, "batch_size": 32, "gamma": 0.99,
    "train_every": 4, "updates": 1, "target_every": 10_000, "exploration_fraction": 0.1, "exploration_start": 1.0,
    "exploration_end": 0.05, "max_grad_norm": 10.0, "hidden": [64, 64],
}  # fmt: skip
ZOO_CARTPOLE: Mapping[str, Any] = {
    **DQN, "learning_rate": 2.3e-3, "buffer": 100_000, "learning_starts": 1000, "batch_size": 64, "target_every": 10,
    "train_every": 256, "updates": 128, "exploration_fraction": 0.16, "exploration_end": 0.04, "hidden": [256, 256],
}  # fmt: skip
TUNED_CARTPOLE: Mapping[str, Any] = {
    **ZOO_CARTPOLE, "learning_rate": 5e-4, "train_every": 4, "updates": 1, "target_every": 500,
}  # fmt: skip
ZOO_ACROBOT: Mapping[str, Any] = {
    **DQN, "learning_rate": 6.3e-4, "buffer": 50_000, "learning_starts": 1, "batch_size": 128, "target_every": 250,
    "train_every": 4, "updates": 0, "exploration_fraction": 0.12, "exploration_end": 0.1, "hidden": [256, 256],
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One algorithm on one task."""

    name: str
    algorithm: str
    environment: str
    settings: Mapping[str, Any]
    gate: float = 0.0
    """How many times fewer CPU seconds ours must take per step; 0: nothing is claimed of its speed."""
    speed_steps: int = 0
    """Steps of a run that is timed, of which the first ``skip`` are not counted; 0: not timed."""
    skip: int = 0
    learning_steps: int = 0
    """Steps after which returns are compared; 0: they are not."""
    claimed: bool = True
    """Whether the comparison of returns is part of what is claimed; False: it is shown alone."""
    seeds: int = 5
    count: int = 8
    """Environments."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """What ours has to be told beyond: that it is the other's algorithm."""

    def arguments(self) -> list[str]:
        """What a driver needs to know of it, but for the number of steps and the seed."""
        told = ["--algorithm", self.algorithm, "--environment", self.environment, "--count", str(self.count)]
        return [*told, "--settings", json.dumps(dict(self.settings))]


SPREAD = 15
"""Seeds where luck decides between two gaits (Hopper ends with some 1,000 or some 2,500): five may all be of one kind.
Twice as many where it decides whether a pendulum's return takes off before the last of the steps, and which runs of DQN
have forgotten CartPole by then."""
PLAIN, WHITENED = {"double": False}, {"whiten": "mini_batch"}
"""DQN's and PPO's, as SB3 has them."""


def _ppo(environment: str, gate: float, seeds: int = 5) -> Work:
    name = f"ppo {environment}"
    return Work(
        name, "ppo", environment, PPO, gate, speed_steps=24_576, skip=4096, learning_steps=200_000, seeds=seeds,
        own=WHITENED,
    )  # fmt: skip


def _sac(environment: str, learning_steps: int, settings: Mapping[str, Any] = SAC) -> Work:
    name = f"sac {environment}"
    return Work(name, "sac", environment, settings, 1.3, 3000, 1400, learning_steps, seeds=3)


def _dqn(name: str, settings: Mapping[str, Any], speed_steps: int = 0, skip: int = 0, **more: Any) -> Work:
    gate, environment = 1.5 if speed_steps else 0.0, name.split()[0]
    return Work(f"dqn {name}", "dqn", environment, settings, gate, speed_steps, skip, count=1, own=PLAIN, **more)


WORKS: tuple[Work, ...] = (
    _ppo("HalfCheetah-v5", 3.7),
    _ppo("Hopper-v5", 2.3, SPREAD),
    _ppo("Walker2d-v5", 2.3, SPREAD),
    _ppo("CartPole-v1", 9.0),
    _ppo("Pendulum-v1", 5.5, 2 * SPREAD),
    _sac("HalfCheetah-v5", 50_000),
    _sac("Pendulum-v1", 20_000, {**SAC, "learning_rate": 1e-3}),
    _dqn("CartPole-v1 defaults", DQN, 24_000, 4000),
    _dqn("CartPole-v1", ZOO_CARTPOLE, 12_800, 2560, learning_steps=100_000, seeds=25, claimed=False),
    _dqn("CartPole-v1 tuned", TUNED_CARTPOLE, 24_000, 4000, learning_steps=100_000, seeds=2 * SPREAD),
    _dqn("Acrobot-v1", ZOO_ACROBOT, learning_steps=100_000),
)
