"""Exact maximum-causal-entropy inverse reinforcement learning in finite decision processes (Ziebart 2010, chapters 5
and 6; Ziebart, Bagnell, Dey 2010).

Of all policies that visit the features as often as the expert does, it takes the one of greatest causal entropy. That
policy is the soft-optimal one for a reward linear in the features, whose weights θ minimise the convex dual

    L(θ) = E_start[V_0(s; θ)] - θ·μ_expert,        ∇L = μ_θ - μ_expert,

V_0 by a soft backup over the horizon, μ_θ by a forward pass. Everything is float64 and exact up to rounding.

Left out: unknown dynamics (``adversarial.py``), continuous states, reward networks, infinite horizons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import logsumexp

from tropism.environments.gridworld import Doubles, TabularMdp
from tropism.errors import DataError, DivergenceError
from tropism.settings.sections import Section


class CausalEntropySettings(Section):
    """How the dual is minimised."""

    tolerance: float = Field(1e-6, gt=0)
    """Done when no feature's expectation is further than this from the expert's, in visits."""
    max_iterations: int = Field(2000, ge=1)
    l2: float = Field(0.0, ge=0)
    """Weight of θ²/2. Expectations counted on few episodes may be out of every policy's reach; θ would grow for ever.
    With it they are matched up to ``l2 * θ``."""


@dataclass(frozen=True)
class LearnedReward:
    """What was inferred, and the policy that it makes."""

    weights: Doubles
    """θ ``[K]``."""
    rewards: Doubles
    """``[S, A]``: features times weights."""
    policy: Doubles
    """``[T, S, A]``: probabilities of actions at each step."""
    expectations: Doubles
    """``[K]``: feature expectations of ``policy``."""
    gap: float
    """The largest |expectation - expert's| over features, in visits."""
    iterations: int
    converged: bool
    """``gap`` (with ``l2``: the gradient) is within the tolerance."""


def soft_policy(mdp: TabularMdp, rewards: Doubles) -> tuple[Doubles, Doubles]:
    """The policy ``[T, S, A]`` that maximises return plus causal entropy under ``rewards`` ``[S, A]``, and the soft
    values ``[S]`` of the first step:

        Q_t = r + γ P V_{t+1},   V_t = log Σ_a exp Q_t,   π_t = exp(Q_t - V_t),   V_T = 0.
    """
    states, actions = mdp.shape
    dynamics = mdp.transitions.reshape(states * actions, states)
    policy, values = np.empty((mdp.horizon, states, actions)), np.zeros(states)
    for t in range(mdp.horizon - 1, -1, -1):
        q = rewards + mdp.discount * (dynamics @ values).reshape(states, actions)
        values = logsumexp(q, axis=1)
        policy[t] = np.exp(q - values[:, None])
    return policy, values


def optimal_policy(mdp: TabularMdp, rewards: Doubles) -> tuple[Doubles, Doubles]:
    """The policy ``[T, S, A]`` of greatest return under ``rewards`` ``[S, A]``, and its values ``[S]`` at the first
    step. Actions that are equally good share the probability."""
    states, actions = mdp.shape
    dynamics = mdp.transitions.reshape(states * actions, states)
    policy, values = np.empty((mdp.horizon, states, actions)), np.zeros(states)
    for t in range(mdp.horizon - 1, -1, -1):
        q = rewards + mdp.discount * (dynamics @ values).reshape(states, actions)
        values = q.max(1)
        best = q >= values[:, None] - 1e-12 * (1 + np.abs(values[:, None]))
        policy[t] = best / best.sum(1, keepdims=True)
    return policy, values


def occupancy(mdp: TabularMdp, policy: Doubles) -> Doubles:
    """Expected (discounted) visits ``[S, A]`` in an episode of ``policy`` ``[T, S, A]``: without discount they sum to
    the horizon."""
    states, actions = mdp.shape
    dynamics = mdp.transitions.reshape(states * actions, states)
    here, found, weight = mdp.start, np.zeros((states, actions)), 1.0
    for step in policy:
        both = here[:, None] * step
        found += weight * both
        here, weight = both.reshape(-1) @ dynamics, weight * mdp.discount
    return found


def one_hot(mdp: TabularMdp) -> Doubles:
    """Features ``[S, S]``: which state it is."""
    return np.eye(mdp.shape[0])


def expectations_of(
    features: Doubles, states: NDArray[np.int64], actions: NDArray[np.int64], discount: float = 1.0
) -> Doubles:
    """Feature expectations ``[K]`` counted on demonstrated episodes: ``states`` and ``actions`` ``[N, T]``.

    ``features`` are ``[S, K]`` or ``[S, A, K]``. Errors: DataError for episodes that are empty or do not match.
    """
    if states.shape != actions.shape or states.ndim != 2 or not states.size:
        raise DataError(f"states {states.shape} and actions {actions.shape}", "give both [episodes, steps], not empty")
    seen = features[states] if features.ndim == 2 else features[states, actions]
    weights = discount ** np.arange(states.shape[1])
    expected: Doubles = np.einsum("ntk,t->k", seen, weights) / len(states)
    return expected


def dual(
    mdp: TabularMdp, features: Doubles, expert: Doubles, weights: Doubles, l2: float = 0.0
) -> tuple[float, Doubles]:
    """L(θ) and its gradient ``[K]`` (see the head of this file); ``l2`` adds ``l2 θ²/2``."""
    wide = _by_action(mdp, features)
    policy, values = soft_policy(mdp, wide @ weights)
    learner = np.einsum("sa,sak->k", occupancy(mdp, policy), wide)
    loss = float(mdp.start @ values - weights @ expert + 0.5 * l2 * weights @ weights)
    return loss, learner - expert + l2 * weights


def infer(
    mdp: TabularMdp, features: Doubles, expert: Doubles, settings: CausalEntropySettings | None = None
) -> LearnedReward:
    """The reward whose soft-optimal policy has the expert's feature expectations, by L-BFGS on the dual from θ = 0.

    ``features``: ``[S, K]`` or ``[S, A, K]``; ``expert``: ``[K]``, exact or from ``expectations_of``. A deterministic
    expert is matched only in the limit of large weights: the result then says how near it came. Errors: DataError for
    shapes that do not match or numbers that are not finite; DivergenceError.
    """
    s, wide = settings or CausalEntropySettings(), _by_action(mdp, features)
    if expert.shape != wide.shape[-1:] or not np.isfinite(expert).all() or not np.isfinite(wide).all():
        raise DataError(
            f"feature expectations {expert.shape} for features {features.shape}, or numbers that are not finite",
            "give one finite expectation for each feature",
        )
    done = minimize(
        lambda weights: dual(mdp, wide, expert, weights, s.l2),
        np.zeros(len(expert)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": s.max_iterations, "maxfun": 4 * s.max_iterations, "gtol": s.tolerance, "ftol": 0.0,
                 "maxcor": 30},
    )  # fmt: skip
    if not np.isfinite(done.x).all():
        raise DivergenceError("the dual's weights are not finite", "set l2 above 0, or scale the features down")
    policy, _ = soft_policy(mdp, wide @ done.x)
    expectations = np.einsum("sa,sak->k", occupancy(mdp, policy), wide)
    slope = np.abs(expectations - expert + s.l2 * done.x).max()
    gap = float(np.abs(expectations - expert).max())
    # the flag is ours: L-BFGS also ends where rounding leaves no descent
    return LearnedReward(done.x, wide @ done.x, policy, expectations, gap, int(done.nit), bool(slope <= s.tolerance))


def _by_action(mdp: TabularMdp, features: Doubles) -> Doubles:
    """Features as ``[S, A, K]``."""
    states, actions = mdp.shape
    if features.ndim == 2 and len(features) == states:
        return np.broadcast_to(features[:, None], (states, actions, features.shape[1]))
    if features.ndim == 3 and features.shape[:2] == (states, actions):
        return features
    raise DataError(
        f"features {features.shape} for {states} states and {actions} actions", "give them as [S, K] or [S, A, K]"
    )
