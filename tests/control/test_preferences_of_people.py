"""Learning while people answer, or do not: what is charged, what is asked again, what is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from reaching import ASKED, FITTED, Slowly, learner, train, turns

from tropism.control.preferences import Asking
from tropism.errors import DataError
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Answer, Judgement, Query
from tropism.feedback.teachers import QueryContext
from tropism.runtime.checkpoints import load_state, save_state

QUICK = FITTED.model_copy(update={"fit_steps": 20, "fit_steps_again": 10, "least_steps": 1})
CANNOT = {"kind": "comparison", "choice": "cannot_judge"}


def test_people_are_not_fitted_on_one_by_one() -> None:
    asker = Slowly(Oracle())
    made, fits = learner(total=20_000, asker=asker, reward=QUICK), []
    while asker.shown < 60:
        asker.shown += bool(asker.open())
        _, metrics = made.step()
        if "reward/version" in metrics:
            fits.append(int(metrics["preferences/labels"]))
    assert fits[:3] == [1, 2, 3]
    late = np.diff([labels for labels in fits if labels > 40])
    assert len(late)
    assert set(late) == {2}


def test_training_is_not_charged_while_people_have_yet_to_answer() -> None:
    """Put back (every step is charged once there is one answer): the round is over after three answers."""
    asker = Slowly(Oracle(), shown=3)
    made = turns(learner(total=10_000, asker=asker, reward=QUICK), 10)
    done, steps = made.done, made.agent.environments.steps
    turns(made, 20)
    assert made.reward is not None
    assert made.answered == 3
    assert made.done == done < 0.5
    assert made.agent.environments.steps == steps + 20 * 64 * 8 > made.total
    assert asker.rests >= 20
    while not made.finished:
        asker.shown += 6 * bool(asker.open())
        made.step()
    assert made.answered == len(asker.put) == 80


def test_half_of_the_answers_can_be_enough() -> None:
    asker = Slowly(Oracle())
    asking = Asking(labels=80, validation_share=0.125, enough=0.5)
    made = learner(total=10_000, asking=asking, asker=asker, reward=QUICK)
    while not made.finished:
        if made.ahead or not made.answered:
            asker.shown += 5
        made.step()
    assert made.answered == 40
    assert len(asker.put) == 80


def test_what_people_pass_over_or_cannot_judge_is_asked_elsewhere() -> None:
    """Trap 29. Put back (charged, and not replaced): 20 questions, of which ten are for nothing."""

    class Unsure(Oracle):
        def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
            found = super().answer(queries, context)
            return [Answer(CANNOT) if len(asker.put) <= 18 and i < 5 else a for i, a in enumerate(found)]

    asker = Slowly(Unsure(), shown=8)
    made = turns(learner(total=60_000, asker=asker, reward=QUICK), 1)
    assert len(asker.put) == 20
    turns(made, 1)
    assert (len(asker.put), made.answered) == (25, 3)  # five of eight could not be judged
    asker.passed = {*sorted(asker.open())[:5]}
    assert len(asker.open()) == 12
    turns(made, 1)
    assert len(asker.put) == 30
    assert len(asker.open()) + made.answered == 20


@pytest.mark.parametrize("wait", [True, False])
def test_people_who_can_judge_nothing_are_told_of(wait: bool) -> None:
    """Put back (any answer will do): no step is charged, nothing is fitted, and the loop has no end."""

    class Lost(Oracle):
        def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
            return [Answer(CANNOT) for _ in queries]

    asker = Slowly(Lost(), shown=10_000)
    made = learner(total=60_000, asker=asker, preferences=ASKED.model_copy(update={"wait": wait}))
    with pytest.raises(DataError, match=r"none of .* train questions was answered"):
        turns(made, 40)
    train = [task for _, task in asker.put.values() if task.split == "train"]
    assert len(train) == pytest.approx(18 * 8, abs=3)


def test_answers_that_nothing_can_be_fitted_on_are_rested_on() -> None:
    """Put back (an answer is an answer): the agent works on for ever, without a rest."""

    class HeldOutOnly(Slowly):
        def judgements(self) -> list[Judgement]:
            return [j for j in super().judgements() if j.task.split == "validation"]

    asker = HeldOutOnly(Oracle(), shown=1000)
    made = turns(learner(total=4000, asker=asker), 6)
    assert made.reward is None
    assert made.waited == 6 * 64 * 8
    assert asker.rests >= 5


def test_questions_put_after_the_last_checkpoint_are_not_put_again(tmp_path: Path) -> None:
    """Put back (only what the checkpoint knows was asked): another session's questions are put on top."""
    (tmp_path / "kept").mkdir()
    asker = Slowly(Oracle(), shown=1000, place=tmp_path / "kept")
    made = learner(total=20_000, asker=asker, reward=QUICK)
    made.step()
    first = asker.shown = len(asker.put)
    while len(asker.put) == first:
        save_state(tmp_path, tensors=made.state()[0], meta=made.state()[1])
        made.step()
    due = len(asker.put)
    asker.shown = first + 6  # some of the new ones are answered at once, so what is done again differs
    resumed = learner(total=20_000, asker=asker, reward=QUICK)
    resumed.restore(*load_state(tmp_path))
    turns(resumed, 3)
    assert len(asker.put) == due == len(resumed.questions.queries)
    for _ in range(20):
        resumed.step()
        assert len(asker.put) <= resumed.schedule.due(resumed.schedule.passed(resumed.done))
    asker.shown = 1000
    train(resumed)
    assert resumed.answered == len(asker.put) == 80


def test_who_waits_for_people_fits_on_whole_sessions(tmp_path: Path) -> None:
    """Put back (answers seen too early after a stop, no checkpoint before the waiting): fitted on parts of them."""
    asker, saved = Slowly(Oracle()), list[Path]()
    waits = ASKED.model_copy(update={"wait": True})
    made, fits = learner(total=20_000, asker=asker, preferences=waits, reward=QUICK), list[int]()

    def save() -> None:
        saved.append(tmp_path / str(len(saved)))
        saved[-1].mkdir()
        save_state(saved[-1], tensors=made.state()[0], meta=made.state()[1])

    made.before_waiting = save
    while not made.finished:
        _, metrics = made.step()
        if "reward/version" in metrics:
            fits.append(int(metrics["preferences/labels"]))
    assert fits == [35, 50, 65, 80]
    assert (asker.rests, made.waited, asker.waits) == (0, 0, 4)
    stopped = Slowly(Oracle())
    stopped.put, stopped._found = dict(list(asker.put.items())[:50]), dict(list(asker._found.items())[:50])
    stopped.shown = 42  # stopped while the second session was waited for
    resumed = learner(total=20_000, asker=stopped, preferences=waits, reward=QUICK)
    resumed.restore(*load_state(saved[1]))
    train(resumed)
    assert len(stopped.put) == 80
    assert torch.equal(made.agent.actor.params, resumed.agent.actor.params)  # type: ignore[attr-defined]


def test_segments_that_nobody_judged_are_not_covered() -> None:
    """Put back (everything that was asked about): ten times as many."""
    made = turns(learner(asker=Slowly(Oracle(), shown=3), reward=QUICK), 2)
    assert made.questions.judged().shape == (3 * 2 * 5, 2)
    assert len(made.questions.steps()) == len(made.questions.queries) * 2 * 5 > 200
