"""The judge of backflips, on poses written by hand, and on the real simulator."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

from tropism.environments import tricks
from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.tricks import Flight, HopperBackflip, Pose, flights, hopper_pose

DT = 0.008
STANDING = Pose(0.0, 1.2, False, False)
TURN = 2 * math.pi
SETTLED, RISE = round(tricks.SETTLED_S / DT), round(tricks.RISE_S / DT)


def flown(turned: float, steps: int = 40) -> list[Pose]:
    """In the air, turning backwards evenly."""
    return [Pose(-turned * (n + 1) / steps, 1.4, True, False) for n in range(steps)]


def after(turned: float, sprawled: bool = False, height: float = 1.2, steps: int = SETTLED) -> list[Pose]:
    """On the ground with the pitch that the flight left."""
    return [Pose(-turned, height, False, sprawled)] * steps


def test_a_full_turn_in_the_air_that_ends_on_the_foot():
    assert flights([STANDING, *flown(TURN), *after(TURN)], DT) == [Flight(pytest.approx(TURN), True)]
    # forwards counts as negative, half a turn as half
    assert flights([STANDING, *flown(-TURN), *after(-TURN)], DT)[0].turned == pytest.approx(-TURN)
    assert flights([STANDING, *flown(TURN / 2), *after(TURN / 2)], DT)[0].turned == pytest.approx(TURN / 2)


def test_who_gets_up_from_a_crouch_has_landed():
    crouched = after(TURN, height=0.55, steps=RISE)
    assert flights([STANDING, *flown(TURN), *crouched, *after(TURN)], DT)[0].landed
    assert not flights([STANDING, *flown(TURN), *crouched, *crouched[:1], *after(TURN)], DT)[0].landed  # too late


@pytest.mark.parametrize(
    "landing",
    [
        after(TURN, sprawled=True),
        after(TURN, height=0.6, steps=4) + after(TURN, height=0.6, sprawled=True, steps=1) + after(TURN),
        after(TURN, height=0.6, steps=2 * SETTLED),
        after(TURN, steps=SETTLED - 1) + after(TURN, height=0.6),
        after(TURN, steps=SETTLED - 1),
        after(TURN, height=0.6, steps=4) + after(TURN, steps=SETTLED - 1),
        [],
    ],
    ids=["on the back", "by the hand", "collapsed", "stands too briefly", "cut off on the ground", "cut off standing",
         "cut off in the air"],
)  # fmt: skip
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


def test_a_made_hopper_is_paid_for_turning_backwards_in_the_air():
    spec = EnvironmentSpec("Hopper-v5", horizon="fixed", reward="tropism.environments.tricks:HopperBackflip")
    env = make(spec).env
    env.reset(seed=0)

    def paid(rate: float) -> float:
        """Of the second step of a flight; the first says where it began."""
        env.unwrapped.set_state(np.array([0, 3.0, 0, 0, 0, 0]), np.array([0, 0, rate, 0, 0, 0]))
        return [float(env.step(np.zeros(3))[1]) for _ in range(2)][1]

    env.reset(seed=0)
    assert paid(-5.0) > 0.003
    env.reset(seed=0)
    assert paid(5.0) < -0.003


class Posed:
    """A bare environment that is in whatever pose it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tricks, "hopper_pose", lambda env: env.pose)
        self.pose = STANDING

    def paid(self, judge: HopperBackflip, poses: list[Pose]) -> list[float]:
        """What every pose is paid."""
        found = []
        for self.pose in poses:
            found.append(judge(self, None, None))
        return found


def test_what_is_paid_is_the_flight_and_who_stands_after_it(monkeypatch):
    env, judge = Posed(monkeypatch), HopperBackflip()
    air = env.paid(judge, [STANDING, *flown(TURN)])
    assert air == pytest.approx([0, *((n + 1) / 40 for n in range(40))])
    assert env.paid(judge, after(TURN, steps=3)) == [pytest.approx(3)] * 3
    # a hop after it is no flip, and does not undo it; sprawling does
    assert env.paid(judge, [Pose(-TURN - 0.2, 1.3, True, False)]) == [pytest.approx(0.2 / TURN)]
    assert env.paid(judge, after(TURN, steps=1)) == [pytest.approx(3)]
    assert env.paid(judge, [*after(TURN, sprawled=True, steps=1), *after(TURN, steps=1)]) == [0, 0]
    # and the next flight counts from where it begins
    again = [Pose(-TURN - turn * TURN, 1.4, True, False) for turn in (0.1, 0.6, 1.2, -0.5)]
    assert env.paid(judge, again) == pytest.approx([0.1, 0.6, 1.1, -0.2])


def test_bouncing_off_the_back_pays_nothing(monkeypatch):
    """Put back (every flight pays): hoppers fall on their back and bounce from there, and never try to stand."""
    env, judge = Posed(monkeypatch), HopperBackflip()
    env.paid(judge, [STANDING, *flown(0.9 * TURN), *after(0.9 * TURN, sprawled=True, steps=2)])
    bounce = [Pose(-(0.9 + turn) * TURN, 0.8, True, False) for turn in (0.2, 0.6, 1.1)]
    assert env.paid(judge, bounce) == [0, 0, 0]
    assert env.paid(judge, [Pose(-2 * TURN, 1.2, False, False)]) == [pytest.approx(4 * 11 / 12)]  # it came to stand
    assert env.paid(judge, [Pose(-2.3 * TURN, 1.2, True, False)]) == [pytest.approx(0.3)]  # off the foot again


@pytest.mark.parametrize(("turned", "share"), [(0.5, 0), (0.85, 0.5), (1.15, 1), (1.3, 1), (-1.03, 0)], ids=str)
def test_less_of_a_turn_is_worth_less(monkeypatch, turned, share):
    """All end upright; the turn that is not flown is leant into before."""
    env, judge = Posed(monkeypatch), HopperBackflip()
    lean = -(1 - turned) * TURN
    env.paid(judge, [Pose(lean, 1.2, False, False), Pose(lean - 0.1, 1.4, True, False)])
    assert env.paid(judge, [Pose(-TURN, 1.2, False, False)]) == [pytest.approx(4 * share)]


def test_leaning_and_crouched_hoppers_are_paid_less_and_another_episode_nothing(monkeypatch):
    env, judge = Posed(monkeypatch), HopperBackflip()
    env.paid(judge, [STANDING, *flown(1.2 * TURN), *after(1.2 * TURN, steps=1)])
    assert env.paid(judge, [Pose(-TURN - math.pi / 3, 1.2, False, False)]) == [pytest.approx(2)]
    assert env.paid(judge, [Pose(-TURN, 0.7, False, False)]) == [pytest.approx(2)]
    assert env.paid(judge, [Pose(-1.5 * TURN, 1.2, False, False), Pose(-TURN, 0.4, False, False)]) == [0, 0]
    judge.reset()
    assert env.paid(judge, after(TURN, steps=1)) == [0]


def test_the_sense_shows_what_a_flip_is_judged_by(monkeypatch):
    """Behind the hopper's own eleven numbers, and nothing of the episode before."""
    tricks_ = "tropism.environments.tricks"
    made = make(EnvironmentSpec("Hopper-v5", horizon="fixed", wrapper=f"{tricks_}:FlightSense"))
    assert made.observation_size == 17
    poses = [STANDING, STANDING, *flown(1.5 * TURN, 3), *after(1.5 * TURN, steps=1), *after(TURN, True, steps=1)]
    told = iter(poses)
    monkeypatch.setattr(tricks, "hopper_pose", lambda env: next(told, STANDING))
    first, _ = made.env.reset(seed=0)
    seen = [made.env.step(np.zeros(3))[0] for _ in range(6)]
    assert all(made.env.observation_space.contains(row) for row in [first, *seen])
    shown = np.array([row[11:] for row in [first, *seen]])
    air = [[1, 0, turn, 0] for turn in (0.5, 1.0, 1.25)]  # more than pays is not told apart
    np.testing.assert_allclose(shown[:, :4], [[0] * 4, [0] * 4, *air, [0, 0, 0, 1.25], [0, 1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(shown[:, 4], [math.cos(pose.pitch) for pose in poses])
    np.testing.assert_allclose(shown[:, 5], [math.sin(pose.pitch) for pose in poses], atol=1e-12)
    again, _ = made.env.reset(seed=0)
    np.testing.assert_array_equal(again, first)
