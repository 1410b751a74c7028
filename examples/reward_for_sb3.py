"""Train with Stable-Baselines3 on a reward that was learned from comparisons.

pip install stable-baselines3
python examples/reward_for_sb3.py REWARD_FOLDER --env HalfCheetah-v5 --steps 100000

A study's newest reward is in ``live/reward`` of its folder. While the study runs, ``--live`` takes up each new version
at the next episode:

tropism run my-cheetah &
python examples/reward_for_sb3.py my-cheetah/live/reward --live
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor

from tropism.control.reward_wrapper import LearnedRewardWrapper
from tropism.environments.fixed_horizon import open_environment
from tropism.environments.making import EnvironmentSpec


def main() -> None:
    """Train, and print what the agent was paid beside what it truly earned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reward", type=Path)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--live", action="store_true", help="read the reward again when a new version appears")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # small networks: a second thread makes them slower
    env = open_environment(EnvironmentSpec(arguments.env, horizon="fixed"))
    paid = Monitor(
        LearnedRewardWrapper.from_folder(env, arguments.reward, arguments.live), info_keywords=("true_return",)
    )
    agent = PPO("MlpPolicy", paid, device="cpu", seed=0).learn(arguments.steps)
    for episode in list(agent.ep_info_buffer)[-5:]:
        print(f"paid {episode['r']:.1f}, true return {episode['true_return']:.1f}")


if __name__ == "__main__":
    main()
