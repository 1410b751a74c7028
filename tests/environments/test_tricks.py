"""The judge of backflips, on poses written by hand, and on the real simulator."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

from tropism.environments.tricks import Flight, Pose, flights, hopper_backflip, hopper_pose

DT = 0.008
STANDING = Pose(0.0, 1.2, False, False)
TURN = 2 * math.pi


def flown(turned: float, steps: int = 40) -> list[Pose]:
    """In the air, turning backwards evenly."""
    return [Pose(-turned * (n + 1) / steps, 1.4, True, False) for n in range(steps)]


def after(turned: float, sprawled: bool = False, height: float = 1.2, steps: int = 15) -> list[Pose]:
    """On the ground with the pitch that the flight left."""
    return [Pose(-turned, height, False, sprawled)] * steps


def test_a_full_turn_in_the_air_that_ends_on_the_foot():
    assert flights([STANDING, *flown(TURN), *after(TURN)], DT) == [Flight(pytest.approx(TURN), True)]
    # forwards counts as negative, half a turn as half
    assert flights([STANDING, *flown(-TURN), *after(-TURN)], DT)[0].turned == pytest.approx(-TURN)
    assert flights([STANDING, *flown(TURN / 2), *after(TURN / 2)], DT)[0].turned == pytest.approx(TURN / 2)


@pytest.mark.parametrize(
    "landing",
    [after(TURN, sprawled=True), after(TURN, height=0.6), after(TURN, steps=14), []],
    ids=["on the back", "collapsed", "cut off on the ground", "cut off in the air"],
)
def test_who_does_not_stand_has_not_landed(landing):
    assert [f.landed for f in flights([STANDING, *flown(TURN), *landing], DT)] == [False]


def test_turning_on_the_ground_is_no_flight():
    rolled = [Pose(-TURN * n / 40, 0.3, False, True) for n in range(40)]
    assert flights(rolled, DT) == []
    # and two hops of half a turn are not one flip
    hop = [STANDING, *flown(TURN / 2), *after(TURN / 2)]
    second = [Pose(p.pitch - TURN / 2, p.height, p.airborne, p.sprawled) for p in hop]
    assert [f.turned for f in flights([*hop, *second], DT)] == [pytest.approx(TURN / 2)] * 2


def test_the_simulator_says_what_touches_the_ground():
    env = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False).unwrapped
    env.reset(seed=0)

    def put(height: float, pitch: float) -> Pose:
        at = np.zeros(6)
        at[1:3] = height, pitch
        env.set_state(at, np.zeros(6))
        return hopper_pose(env)

    assert put(2.0, -7.0) == Pose(-7.0, 2.0, True, False)
    standing = put(1.2, 0.0)
    assert not standing.airborne
    assert not standing.sprawled
    lying = put(0.05, math.pi / 2)
    assert not lying.airborne
    assert lying.sprawled
    env.set_state(np.array([0, 2.0, 0, 0, 0, 0]), np.array([0, 0, -3.0, 0, 0, 0]))
    assert hopper_backflip(env, None, None) == pytest.approx(3.0 * env.dt)
