"""Gridworlds with known dynamics: as arrays for exact methods, and as a Gymnasium environment for sampled ones.

Importing this file registers ``tropism/Gridworld-v0``; its id with the module's name in front (``ID``) imports it where
needed. Observation and action are Discrete; ``environment.steps`` is the horizon. Both forms are made of the same
arguments, so what was solved exactly can be played.

Left out: rewards that depend on the successor, terminal states (an absorbing cell is one whose walls leave no way out),
partial observability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tropism.errors import ConfigError

Doubles = NDArray[np.float64]
Cell = tuple[int, int]
NAME = "tropism/Gridworld-v0"
ID = f"{__name__}:{NAME}"
MOVES: tuple[Cell, ...] = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))
"""(row, column) of the actions up, right, down, left, stay."""


@dataclass(frozen=True)
class TabularMdp:
    """A finite decision process without its reward: S states, A actions, ``horizon`` decisions in every episode."""

    transitions: Doubles
    """``[S, A, S]``: P(successor | state, action)."""
    start: Doubles
    """``[S]``: the distribution of the first state."""
    horizon: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        states, actions = self.transitions.shape[:2]
        if self.transitions.shape != (states, actions, states) or self.start.shape != (states,):
            raise ConfigError(
                f"transitions {self.transitions.shape} with a start of {self.start.shape}",
                "give transitions [S, A, S] and a start [S]",
            )
        for name, table in (("transitions", self.transitions), ("start", self.start)):
            if not (table >= 0).all() or not np.allclose(table.sum(-1), 1, atol=1e-9):
                raise ConfigError(f"{name} that are no probabilities", "every distribution is positive and sums to 1")
        if self.horizon < 1 or not 0 < self.discount <= 1:
            raise ConfigError(
                f"horizon {self.horizon}, discount {self.discount}", "give at least 1 step and a discount in (0, 1]"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(S, A)."""
        return self.transitions.shape[0], self.transitions.shape[1]


def gridworld(
    rows: int,
    columns: int,
    horizon: int,
    slip: float = 0.1,
    walls: Sequence[Cell] = (),
    start: Sequence[Cell] = (),
    discount: float = 1.0,
) -> TabularMdp:
    """A grid whose state ``row * columns + column`` moves as ``MOVES`` say; borders and ``walls`` leave it in place.

    ``slip``: the probability that a move drawn from all five happens instead of the chosen one. ``start``: the cells of
    the first state, each as likely; empty for every cell that is no wall. Errors: ConfigError.
    """
    if min(rows, columns) < 1 or not 0 <= slip <= 1:
        raise ConfigError(f"a grid of {rows} x {columns} with slip {slip}", "give positive sizes and a slip in [0, 1]")
    inside = {(r, c) for r in range(rows) for c in range(columns)}
    blocked = {(int(r), int(c)) for r, c in walls}
    free = sorted(inside - blocked)
    begins = [(int(r), int(c)) for r, c in start] or free
    for cell in (*blocked, *begins):
        if cell not in inside or (cell in blocked and cell in begins):
            raise ConfigError(f"cell {cell} lies outside the grid, or is both wall and start", "name another cell")
    if not begins:
        raise ConfigError(f"a grid of {rows} x {columns} where all is wall", "leave a free cell")
    size, actions = rows * columns, len(MOVES)
    moved = np.zeros((size, actions, size))
    for row, column in sorted(inside):
        for action, (down, right) in enumerate(MOVES):
            there = (row + down, column + right)
            if there not in inside or there in blocked:
                there = (row, column)
            moved[row * columns + column, action, there[0] * columns + there[1]] = 1
    transitions = (1 - slip) * moved + slip * moved.mean(1, keepdims=True)
    first = np.zeros(size)
    for row, column in begins:
        first[row * columns + column] += 1 / len(begins)
    return TabularMdp(transitions, first, horizon, discount)


class Gridworld(gymnasium.Env[int, int]):
    """``gridworld`` as an environment. ``rewards`` ``[S]``: what acting in a state pays. It never terminates."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(
        self,
        rows: int = 5,
        columns: int = 5,
        slip: float = 0.1,
        walls: Sequence[Cell] = (),
        start: Sequence[Cell] = (),
        rewards: Sequence[float] | None = None,
    ) -> None:
        self.mdp = gridworld(rows, columns, 1, slip, walls, start)
        states, actions = self.mdp.shape
        self.rewards = np.zeros(states) if rewards is None else np.asarray(rewards, np.float64)
        if self.rewards.shape != (states,):
            raise ConfigError(f"{self.rewards.size} rewards for {states} states", "give one for each cell")
        self.observation_space, self.action_space = spaces.Discrete(states), spaces.Discrete(actions)
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """A first state, drawn from the start."""
        super().reset(seed=seed)
        self.state = self._draw(self.mdp.start)
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Pay the present state's reward and move."""
        paid = float(self.rewards[self.state])
        self.state = self._draw(self.mdp.transitions[self.state, action])
        return self.state, paid, False, False, {}

    def _draw(self, probabilities: Doubles) -> int:
        found = int(np.searchsorted(probabilities.cumsum(), self.np_random.random(), side="right"))
        return min(found, int(np.flatnonzero(probabilities)[-1]))  # the sum may end a rounding below 1


if NAME not in gymnasium.registry:
    gymnasium.register(NAME, entry_point=Gridworld)
