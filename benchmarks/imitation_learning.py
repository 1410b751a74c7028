"""Learning from demonstrations: exact inverse RL on gridworlds, and GAIL beside behaviour cloning on CartPole.

Gridworlds: maximum causal entropy with one-hot features from an expert's exact feature expectations. The expert is
soft-optimal or optimal for a random or a sparse reward. Measured is the L1 distance between the distributions of states
(and of state-action pairs) over an episode, the learned policy's and the expert's, both exact; it lies in [0, 2].

CartPole: in every seed a fresh expert is trained by PPO on the true reward and shows ONE episode, of which every 20th
step is kept (25 pairs). From them learn behaviour cloning and GAIL. GAIL acts in a fixed horizon, where the length of
an episode says nothing: CartPole's own true reward is a constant 1, so in its own, variable horizon any positive reward
would do without a demonstration. That the fixed horizon closes this leak is measured too: the arm ``constant`` is the
same PPO on a constant reward there. Beside them stand behaviour cloning on all 500 pairs of the episode, and DAgger,
which asks the expert for as many labels wherever its learner goes. All arms are evaluated in the true environment, by
modes, on episodes that nothing else has seen.

    python benchmarks/imitation_learning.py [--seeds 10] [--steps 400000] [--work FOLDER]
    python benchmarks/imitation_learning.py --quick     small gridworlds, one seed of few steps; no result file

What is finished of a full run lies in ``--work`` and is not measured again. Left out: continuous actions, several
demonstrations, AIRL.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from common import Claim, interval, kept, write_result
from tropism.control.adversarial import Adversarial, AdversarialSettings
from tropism.control.agent import Actor
from tropism.control.behaviour_cloning import CloningSettings, behaviour_cloning
from tropism.control.dagger import Dagger, DaggerSettings
from tropism.control.demonstrations import Demonstrations, demonstrate
from tropism.control.evaluate import evaluate
from tropism.control.maximum_causal_entropy import (
    CausalEntropySettings,
    infer,
    occupancy,
    one_hot,
    optimal_policy,
    soft_policy,
)
from tropism.control.networks import Floats
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.rollouts import RewardFunction
from tropism.environments.gridworld import Doubles, TabularMdp, gridworld
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.runtime.seeding import derive

CARTPOLE = EnvironmentSpec("CartPole-v1")
FIXED = replace(CARTPOLE, horizon="fixed")
EVERY, WANTED, NEAR = 20, 475.0, 0.02
EVALUATED = 100
"""Episodes of each evaluation."""
GRID_SEEDS = 5
ENVIRONMENTS = 8
EXPERT_STEPS = 65536
EXPERT = PpoSettings(steps_per_environment=128, batch_size=128, learning_rate=1e-3, learning_rate_end=0.1)
IMITATOR = PpoSettings(
    steps_per_environment=64, batch_size=128, learning_rate=1e-3, learning_rate_end=0.0, gamma=0.98, gae_lambda=0.9,
    entropy_coef=0.03,
)  # fmt: skip
"""The entropy bonus was chosen on seeds below 209: without it 3 of 7 ended in a policy that was sure too early, with
0.01 one of 9. So were the steps and the end of the rate, after 4 of seeds 100 to 109 had not learned it in 150,000
steps."""
GAIL = AdversarialSettings()
CLONING = CloningSettings(updates=1000)
GRIDS: dict[str, Callable[[], TabularMdp]] = {
    "5x5": lambda: gridworld(5, 5, horizon=20),
    "8x8 with walls": lambda: gridworld(8, 8, 30, walls=[(1, 1), (1, 2), (2, 1), (4, 4), (4, 5), (5, 4), (6, 2)]),
    "10x10, slip 0.3": lambda: gridworld(10, 10, 40, slip=0.3),
    "6x6, one start, no slip": lambda: gridworld(6, 6, 20, slip=0.0, start=[(0, 0)]),
}


def grid_rewards(mdp: TabularMdp, kind: str, seed: int) -> Doubles:
    """A reward ``[S, A]`` that depends on the state: Gaussian, or 2 in one state in ten and 0 elsewhere."""
    chance = np.random.default_rng(derive(seed, kind))
    states, actions = mdp.shape
    drawn = chance.normal(size=states) if kind == "random" else 2.0 * (chance.random(states) < 0.1)
    return np.repeat(drawn[:, None], actions, 1)


def distances(mdp: TabularMdp, learned: Doubles, expert: Doubles) -> tuple[float, float]:
    """L1 between two policies' distributions: of states, and of state-action pairs."""
    one, other = (occupancy(mdp, policy) for policy in (learned, expert))
    one, other = one / one.sum(), other / other.sum()
    return float(np.abs(one.sum(1) - other.sum(1)).sum()), float(np.abs(one - other).sum())


def gridworlds(seeds: int, names: list[str]) -> list[dict[str, Any]]:
    """One row for each grid, reward, expert and seed."""
    found = []
    for name in names:
        mdp = GRIDS[name]()
        nothing = soft_policy(mdp, np.zeros(mdp.shape))[0]
        for kind in ("random", "sparse"):
            for seed in range(seeds):
                rewards = grid_rewards(mdp, kind, seed)
                for who, solve in (("soft", soft_policy), ("optimal", optimal_policy)):
                    expert = solve(mdp, rewards)[0]
                    started = time.process_time()
                    # an optimal expert is reached at infinite weights only: there one stops short of the last digits
                    settings = CausalEntropySettings(tolerance=1e-6 if who == "soft" else 1e-3)
                    learned = infer(mdp, one_hot(mdp), occupancy(mdp, expert).sum(1), settings)
                    states, pairs = distances(mdp, learned.policy, expert)
                    found.append({
                        "grid": name, "rewards": kind, "seed": seed, "expert": who, "states_l1": states,
                        "pairs_l1": pairs, "untrained_states_l1": distances(mdp, nothing, expert)[0],
                        "gap_visits": learned.gap, "iterations": learned.iterations, "converged": learned.converged,
                        "cpu_s": round(time.process_time() - started, 3),
                    })  # fmt: skip
    return found


def expert_of(seed: int, steps: int) -> Ppo:
    """PPO on the true reward."""
    agent = Ppo(Environments(CARTPOLE, ENVIRONMENTS, derive(seed, "expert")), EXPERT, derive(seed, "expert"))
    while agent.environments.steps < steps:
        agent.advance(None, agent.environments.steps / steps)
    return agent


def gail(shown: Demonstrations, seed: int, steps: int) -> tuple[Adversarial, list[tuple[int, float]]]:
    """GAIL in the fixed horizon, and (steps, true return) on the way, measured on 20 episodes and used for nothing."""
    environments = Environments(FIXED, ENVIRONMENTS, derive(seed, "gail"))
    trainer = Adversarial(shown, Ppo(environments, IMITATOR, derive(seed, "gail")), GAIL, derive(seed, "gail"))
    curve: list[tuple[int, float]] = []
    while environments.steps < steps:
        trainer.advance(environments.steps / steps)
        if environments.steps >= (len(curve) + 1) * steps / 10:
            mean = evaluate(trainer, CARTPOLE, 20, derive(seed, "curve")).mean
            curve.append((environments.steps, mean))
    return trainer, curve


def constant(seed: int, steps: int) -> Ppo:
    """The same PPO in the same fixed horizon on a reward of 1 everywhere."""

    def one(observations: Floats, actions: Floats, successors: Floats) -> Floats:
        return np.ones(len(observations), np.float32)

    reward: RewardFunction = one
    agent = Ppo(Environments(FIXED, ENVIRONMENTS, derive(seed, "constant")), IMITATOR, derive(seed, "constant"))
    while agent.environments.steps < steps:
        agent.advance(reward, agent.environments.steps / steps)
    return agent


def dagger(expert: Actor, seed: int, labels: int) -> Dagger:
    """A hundred labels at a time."""
    settings = DaggerSettings(steps_per_environment=20, cloning=CLONING)
    trainer = Dagger(expert, Environments(CARTPOLE, 5, derive(seed, "dagger")), settings, derive(seed, "dagger"))
    while len(trainer.labels) < labels:
        trainer.advance()
    return trainer


def cloned(shown: Demonstrations, seed: int) -> Actor:
    """Behaviour cloning."""
    return behaviour_cloning(shown, Environments(CARTPOLE, 1, 0), CLONING, derive(seed, "cloning")).policy


def one_seed(seed: int, expert_steps: int, steps: int) -> dict[str, Any]:
    """All arms on CartPole: mean true return of each, and what it cost."""
    row: dict[str, Any] = {"seed": seed}
    arms: dict[str, Callable[[], Actor]] = {}
    expert = expert_of(seed, expert_steps)
    whole = demonstrate(expert, CARTPOLE, 1, derive(seed, "shown"))
    shown = whole.subsampled(EVERY, derive(seed, "offset") % EVERY)
    row |= {"demonstrated_return": whole.returns[0], "pairs": shown.steps}

    def imitate() -> Actor:
        trainer, row["gail_curve"] = gail(shown, seed, steps)
        return trainer

    arms["expert"] = lambda: expert
    arms["behaviour_cloning"] = lambda: cloned(shown, seed)
    arms["behaviour_cloning_all"] = lambda: cloned(whole, seed)
    arms["dagger"] = lambda: dagger(expert, seed, whole.steps)
    arms["constant"] = lambda: constant(seed, steps)
    arms["gail"] = imitate
    for name, make in arms.items():
        started = time.process_time()
        actor = make()
        row[f"{name}_cpu_s"] = round(time.process_time() - started, 2)
        row[name] = evaluate(actor, CARTPOLE, EVALUATED, derive(seed, "test")).mean
    print(" ".join(f"{k}={row[k]:.1f}" for k in ("seed", "demonstrated_return", *arms)), flush=True)
    return row


def share(hits: int, n: int) -> tuple[float, float, float]:
    """(share, low, high): Clopper and Pearson's interval of a binomial share."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return hits / n, low, high


def claims_of(grids: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Claim]:
    """The acceptance's two lines, by expert and as a mean and a share of seeds."""
    claims = []
    for who in ("soft", "optimal"):
        values = [row["states_l1"] for row in grids if row["expert"] == who]
        name = f"gridworlds, {who} expert: largest L1 between state occupancies"
        claims.append(Claim(name, max(values), min(values), max(values), f"<= {NEAR}", max(values) <= NEAR))
    mean, low, high = interval([row["gail"] for row in rows])
    name = f"CartPole, GAIL from one demonstration, every {EVERY}th step: mean true return"
    claims.append(Claim(name, mean, low, high, f">= {WANTED:g}", mean >= WANTED))
    reached, low, high = share(sum(row["gail"] >= WANTED for row in rows), len(rows))
    name = f"CartPole, GAIL: share of seeds that reach {WANTED:g}"
    claims.append(Claim(name, reached, low, high, ">= 0.9", reached >= 0.9))
    return claims


def settings_of(steps: int) -> dict[str, Any]:
    """Everything that CartPole's rows depend on."""
    return {
        "expert": EXPERT.model_dump(), "expert_steps": EXPERT_STEPS, "imitator": IMITATOR.model_dump(),
        "gail": GAIL.model_dump(), "gail_steps": steps, "cloning": CLONING.model_dump(),
        "environments": ENVIRONMENTS, "evaluated_episodes": EVALUATED,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=300, help="seeds below 300 were used to choose settings")
    parser.add_argument("--steps", type=int, default=400_000, help="environment steps of GAIL and of the constant arm")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / ".cache" / "imitation_learning")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a second thread costs small networks more than it gives
    settings = settings_of(given.steps)
    if given.quick:
        grids, rows = gridworlds(1, ["5x5"]), [one_seed(0, 16384, 20_000)]
    else:
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        rows = [
            kept(given.work, f"seed-{seed}", settings, lambda seed=seed: one_seed(seed, EXPERT_STEPS, given.steps))
            for seed in seeds
        ]
        grids = [
            row
            for number, name in enumerate(GRIDS)
            for row in kept(
                given.work, f"grid-{number}", [GRID_SEEDS, name], lambda name=name: gridworlds(GRID_SEEDS, [name])
            )
        ]
    arms = [name for name in rows[0] if f"{name}_cpu_s" in rows[0]]
    extra = {
        "returns": {arm: interval([row[arm] for row in rows]) for arm in arms},
        "reached": {arm: share(sum(row[arm] >= WANTED for row in rows), len(rows)) for arm in arms},
        "cartpole": rows,
        "gridworlds": grids,
        "settings": settings,
    }
    write_result("imitation_learning", claims_of(grids, rows), extra, given.quick)


if __name__ == "__main__":
    main()
