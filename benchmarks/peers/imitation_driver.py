"""The preference loop of `imitation` (PPO of Stable-Baselines3 underneath) with its synthetic teacher: one JSON line.

Run by ``control_preferences.py`` in an environment of its own (``scripts/sb3_environment.sh``). Counts the environment
steps that are really made, at the vector environment; asked for S steps, the library makes more, because it samples
anew for its questions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import time
import warnings


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def networks(venv, members: int, normalise: bool, choose: bool):
    """A reward network, or an ensemble; one that chooses by disagreement is wrapped, as the library's examples do."""
    from imitation.rewards import reward_nets
    from imitation.util import networks as layers

    how = {"normalize_input_layer": layers.RunningNorm} if normalise else {}
    nets = [reward_nets.BasicRewardNet(venv.observation_space, venv.action_space, **how) for _ in range(members)]
    if members == 1:
        return nets[0]
    ensemble = reward_nets.RewardEnsemble(venv.observation_space, venv.action_space, nets)
    return reward_nets.AddSTDRewardWrapper(ensemble) if choose else ensemble


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--environment", default="HalfCheetah-v5")
    parser.add_argument("--comparisons", type=int, default=300)
    parser.add_argument("--steps", type=int, default=61_440)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--fragment", type=int, default=50)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--choose", type=int, default=1, help="questions, by an ensemble's disagreement")
    parser.add_argument("--normalise", type=int, default=1, help="running statistics of the reward's inputs")
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--decay", type=int, default=0, help="let the rate fall to nothing over the steps asked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    """One run: learn, then evaluate on the true reward."""
    given = arguments()
    warnings.filterwarnings("ignore")
    import gymnasium
    import imitation
    import numpy as np
    import stable_baselines3 as sb3
    import torch
    from imitation.algorithms import preference_comparisons as pc
    from imitation.util import util
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    torch.manual_seed(given.seed)
    venv = util.make_vec_env(given.environment, rng=rng, n_envs=8)
    made, inner = {"steps": 0}, venv.step_wait

    def step_wait():
        made["steps"] += 8
        return inner()

    venv.step_wait = step_wait
    agent: sb3.PPO | None = None

    def rate(_: float) -> float:  # SB3's own share of what is left begins anew with every session of questions
        left = 1 - (agent.num_timesteps / given.steps if given.decay and agent else 0)
        return given.learning_rate * max(0.0, left)

    agent = sb3.PPO(
        "MlpPolicy", venv, n_steps=256, batch_size=64, n_epochs=10, learning_rate=rate, gamma=given.gamma,
        seed=given.seed, device="cpu",
    )  # fmt: skip
    began, spent = time.perf_counter(), cpu()
    net = networks(venv, given.members, bool(given.normalise), bool(given.choose))
    model = pc.PreferenceModel(net)
    fragments = pc.RandomFragmenter(rng=rng, warning_threshold=0)
    if given.members > 1 and given.choose:
        fragments = pc.ActiveSelectionFragmenter(model, fragments, 2)
    if given.members > 1:
        trainer = pc.EnsembleTrainer(model, pc.CrossEntropyRewardLoss(), rng=rng, epochs=3)
    else:
        trainer = pc.BasicRewardTrainer(model, pc.CrossEntropyRewardLoss(), rng=rng, epochs=3)
    loop = pc.PreferenceComparisons(
        pc.AgentTrainer(agent, net, venv, rng, exploration_frac=0.05), net, num_iterations=given.iterations,
        fragmenter=fragments, preference_gatherer=pc.SyntheticGatherer(rng=rng), reward_trainer=trainer,
        fragment_length=given.fragment, initial_epoch_multiplier=4, allow_variable_horizon=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loop.train(given.steps, given.comparisons)
    took = {"cpu_s": cpu() - spent, "wall_s": time.perf_counter() - began}
    test = util.make_vec_env(given.environment, rng=np.random.default_rng(given.seed + 1), n_envs=10)
    returned, _ = evaluate_policy(agent.policy, test, given.episodes, deterministic=True)
    versions = {"stable-baselines3": sb3.__version__, "imitation": imitation.__version__}
    versions |= {"gymnasium": gymnasium.__version__, "torch": torch.__version__}
    per = {name: value * 100_000 / made["steps"] for name, value in took.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": [per], "taken_steps": made["steps"], "true_return": float(returned),
                      "peak_rss_mib": peak, "versions": versions}))  # fmt: skip


if __name__ == "__main__":
    main()
