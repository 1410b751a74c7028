"""The hopper's backflip from ratings by a program (after Christiano et al. 2017, section 3.2, who compared).

No reward of the environment asks for it. The teacher rates segments of 25 steps (0.4 s) by how far the hopper turns
backwards in the air, and dearer by how upright it then stands (``environments/tricks.py``); the agent sees its ratings
alone, 900 or fewer. Whether the flip is done is judged by the simulator's state on episodes that nothing has learned
from, on modes of actions: in one flight the pitch turns backwards by 2 pi or more, and the hopper comes down on its
foot and stands. A seed counts if that happens in at least half of its episodes. Beside it stands the same PPO paid by
the teacher's own measure, where it is asked for.

The task is Gymnasium's but for this: a step is 16 ms (``frame_skip`` of 8 in place of 4), an episode 1.8 s, and to what
the hopper observes, a sense of contact and of balance is added (``FlightSense``). What the teacher pays for would show
in the observation in part alone otherwise.

    python benchmarks/backflip.py --folder RUNS [--seeds 0 1 2 3 4] [--arms 900 [true]] [--jobs 2]
    python benchmarks/backflip.py --quick         one short run; no result file

Runs of some five CPU minutes, kept in RUNS (``control_runs.py``). The clip is what a study shows:
``tropism new DIR --recipe control/hopper-backflip``. Left out: real people, how pretty it is.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import Claim, write_result
from control_runs import Cell, play, read, run_all
from tropism.evaluation.intervals import wilson

LABELS, STEPS, HORIZON, SEEDS = 900, 600_000, 110, (0, 1, 2, 3, 4)
EPISODES, SHARE, WANTED_SEEDS = 20, 0.5, 3
PPO = {"normalise_observations": True, "normalise_rewards": True, "learning_rate_end": 0.0}
ASKED = {
    "segment_length": 25, "pretrain_steps": 60_000, "initial_share": 0.1, "sessions": 80, "schedule": "constant",
    "pool_chunks": 2,
}  # fmt: skip
"""A segment holds a flight and what becomes of it. Before the first questions the policy explores, so that there is
something to rate; then it asks often, about what of its last steps the ensemble disagrees on: what matters comes late
and is rare."""
REWARD = {
    "early_stopping": False, "fit_steps": 600, "fit_steps_again": 300, "successors": True,
    "combination": "optimistic", "optimism": 1.0,
}  # fmt: skip
"""What the ensemble disagrees on is paid for: else the agent settles on leaps that end on its back, its teacher sees
nothing but those, and the reward never learns of a landing."""
RATER = {"scale": (1, 100), "anchors": (0.0, 100.0)}
"""The scale's ends are returns of a segment: a flip in the air is 10 to 27, a segment of standing after one 100."""
WANTED = "tropism.environments.tricks:HopperBackflip"
SENSE = "tropism.environments.tricks:FlightSense"


def cell_of(arm: str, seed: int, steps: int = STEPS) -> Cell:
    """A run: ``arm`` is the number of labels, or ``true``."""
    labels = 0 if arm == "true" else int(arm)
    return Cell(
        f"backflip-{arm}-{seed}", "Hopper-v5", steps, seed, PPO, labels, "rating", "disagreement", ASKED, REWARD, RATER,
        WANTED, horizon=HORIZON, staggered=True, arguments={"frame_skip": 8}, wrapper=SENSE,
    )  # fmt: skip


def judged(cell: Cell, folder: Path, episodes: int = EPISODES) -> dict[str, Any]:
    """By episode: the farthest turn of a flight that landed, in turns (0 without one), and of any flight."""
    from tropism.control.policy import load_policy
    from tropism.environments.making import make
    from tropism.environments.tricks import flights, hopper_pose

    policy, env = load_policy(folder / cell.name).actor, make(cell.spec).env
    bare, landed, any_flight = env.unwrapped, [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        poses = []
        for _ in range(HORIZON):
            action = policy.act(np.asarray(observation, np.float32)[None])[0]
            observation = env.step(np.clip(action, env.action_space.low, env.action_space.high))[0]
            poses.append(hopper_pose(bare))
        found = flights(poses, bare.dt)
        landed.append(max([f.turned for f in found if f.landed], default=0.0) / (2 * math.pi))
        any_flight.append(max([f.turned for f in found], default=0.0) / (2 * math.pi))
    return {"seed": cell.seed, "landed_turns": landed, "turns": any_flight,
            "share": float(np.mean([turn >= 1 for turn in landed]))}  # fmt: skip


def main() -> None:
    """Make the runs asked for; judge and write once all are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder that keeps the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="make these seeds' runs now")
    parser.add_argument("--arms", nargs="+", choices=[str(LABELS), "true"], default=[str(LABELS)])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        with tempfile.TemporaryDirectory() as place:
            cell = cell_of(str(LABELS), 0, 12_000)
            made = play(cell, Path(place)) | judged(cell, Path(place), 2)
        write_result("backflip", [], {"runs": [made]}, quick=True)
        return
    if given.folder is None:
        parser.error("--folder: where are the runs kept?")
    run_all([cell_of(arm, seed) for seed in given.seeds for arm in given.arms], given.folder, given.jobs)
    arms = dict.fromkeys([str(LABELS), *given.arms])
    cells = {arm: [cell_of(arm, seed) for seed in SEEDS] for arm in arms}
    runs = read([cell for of in cells.values() for cell in of], given.folder)
    if runs is None:
        return
    extra: dict[str, Any] = {"seeds": list(SEEDS), "steps": STEPS}
    for arm, of in cells.items():
        extra[arm] = [judged(cell, given.folder) | {"labels": runs[cell.name]["labels"],
                      "cpu_s": runs[cell.name]["cpu_s"]} for cell in of]  # fmt: skip
    done = sum(row["share"] >= SHARE for row in extra[str(LABELS)])
    spread = wilson(done, len(SEEDS))
    name = f"seeds of {len(SEEDS)} whose hopper lands a backflip in half of its episodes, {LABELS} labels"
    low, high = (end * len(SEEDS) for end in (spread.low, spread.high))
    claims = [Claim(name, done, low, high, f">= {WANTED_SEEDS}", done >= WANTED_SEEDS)]
    write_result("backflip", claims, extra, quick=False)


if __name__ == "__main__":
    main()
