"""When how many labels are due: a first part about the untrained policy, then sessions while the agent trains.

The label rate falls over the training or stays (Christiano et al. 2017, section 2.2; PEBBLE, Lee et al. 2021). Of all
that is due a share is held out to measure by. Left out: rates that follow what the reward still gets wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tropism.feedback.records import Split


@dataclass(frozen=True)
class LabelSchedule:
    """``labels`` in all, ``initial`` (a share) of them at once, the others in ``sessions``; ``held_out`` is the share
    of them that no reward is fitted on."""

    labels: int
    initial: float
    sessions: int
    form: Literal["hyperbolic", "constant"]
    held_out: float

    def passed(self, done: float) -> int:
        """How many sessions should have been, by the share of the training that is done."""
        if not self.sessions:
            return 0
        share = done if self.form == "constant" else math.log1p(done / 0.2) / math.log1p(1 / 0.2)
        # in whole sessions, the last of which still leaves time to learn from it
        return min(self.sessions, math.floor(share * (self.sessions + 1)))

    def due(self, passed: int) -> int:
        """Labels that should have been given after ``passed`` sessions: one at least, so that there is a reward."""
        first = max(1, round(self.initial * self.labels))
        return first + (round((self.labels - first) * passed / self.sessions) if self.sessions else 0)

    def by_split(self, due: int) -> dict[Split, int]:
        """The same on train and held-out tasks. What rounding leaves of the held-out share is owed to the next session;
        it is one at least, but the very first label is to be fitted on."""
        aside = min(due - 1, max(1, round(due * self.held_out))) if self.held_out else 0
        return {"train": due - aside, "validation": aside}

    def behind(self, done: float, enough: float) -> int:
        """Labels without which training on would leave its teacher behind: ``enough`` (a share) of those due a session
        ago, which leaves people the newest session's questions while the agent trains. After the last session it is
        the share of all."""
        passed = self.passed(done)
        before = passed - 1 if passed < self.sessions else passed
        return math.ceil(enough * self.due(before)) if before >= 0 else 0
