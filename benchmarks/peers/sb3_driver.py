"""Stable-Baselines3 on the work of ``control_speed.py``; runs where SB3 is.

    python sb3_driver.py --algorithm ppo|a2c|dqn|sac --environment ID --count N --settings JSON --steps N [--skip N] …

Prints one JSON line: CPU and wall seconds of 100,000 environment steps, learning included, measured behind the first
``--skip``, and with ``--episodes`` the true returns of that many episodes of the trained policy's best actions. One
thread, environments in a plain loop (DummyVecEnv, SB3's fastest on few cores), torch on the CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import gymnasium
import numpy
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

PER = 100_000
NAMES = {
    "steps_per_environment": "n_steps", "epochs": "n_epochs", "value_coef": "vf_coef", "entropy_coef": "ent_coef",
    "buffer": "buffer_size", "train_every": "train_freq", "updates": "gradient_steps",
    "target_every": "target_update_interval", "exploration_start": "exploration_initial_eps",
    "exploration_end": "exploration_final_eps",
}  # fmt: skip
"""What SB3 calls a setting."""


class Clock(BaseCallback):
    """Starts with the first rollout that begins behind ``skip`` steps."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip
        self.began: tuple[float, float, int] | None = None

    def _on_rollout_start(self) -> None:
        if self.began is None and self.num_timesteps >= self.skip:
            self.began = time.process_time(), time.perf_counter(), self.num_timesteps

    def _on_step(self) -> bool:
        return True


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings by SB3's names."""
    told = json.loads(given.settings)
    hidden = told.pop("hidden")
    found = {NAMES.get(name, name): value for name, value in told.items()}
    if found.get("gradient_steps") == 0:
        found["gradient_steps"] = -1  # as many as steps were taken
    return found | {"policy_kwargs": {"net_arch": list(hidden)}}


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Train for the steps asked for; seconds of those behind the first ``skip``."""
    environments = make_vec_env(given.environment, n_envs=given.count, seed=given.seed)
    method = getattr(stable_baselines3, given.algorithm.upper())
    model = method("MlpPolicy", environments, seed=given.seed, device="cpu", **settings_of(given))
    clock = Clock(given.skip)
    model.learn(given.steps, callback=clock)
    if clock.began is None:
        raise ValueError(f"all of {given.steps} steps were taken before step {given.skip} was left behind")
    cpu, wall, first = clock.began
    timed = model.num_timesteps - first
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    found: dict[str, Any] = {"steps": [{k: v * PER / timed for k, v in took.items()}]}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found |= {"timed_steps": timed, "taken_steps": model.num_timesteps, "peak_rss_mib": rss}
    if given.episodes:
        test = make_vec_env(
            given.environment, n_envs=min(10, given.episodes), seed=given.seed + 10_000, wrapper_class=Monitor
        )
        returns, _ = evaluate_policy(model, test, given.episodes, deterministic=True, return_episode_rewards=True)
        found["returns"] = [float(x) for x in returns]
    return found


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--algorithm", choices=("ppo", "a2c", "dqn", "sac"), required=True)
    parser.add_argument("--environment", required=True)
    parser.add_argument("--settings", required=True, help="JSON, named as tropism's")
    for name, default in {"count": 8, "steps": 20_000, "skip": 0, "seed": 0, "episodes": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = train(given)
    versions = {m.__name__: m.__version__ for m in (stable_baselines3, torch, gymnasium, numpy)}
    print(json.dumps(found | {"versions": versions}))


if __name__ == "__main__":
    main()
