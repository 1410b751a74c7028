"""People are asked again where the reward model of the round before says otherwise than their votes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from bandit import BanditDomain
from bandit_studies import make
from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.expecting import expected, note_expected
from tropism.feedback.people import register_person
from tropism.feedback.records import Answer, Judgement
from tropism.feedback.teachers import pending
from tropism.runtime.stage import Made, StageRun
from tropism.store import schema
from tropism.studio.judged import report
from tropism.study.study import Study


class CalibratedDomain(BanditDomain):
    """A bandit whose reward models come with a temperature."""

    def fit_reward(self, policy: Path, reference: Path, judgements: Sequence[Judgement], run: StageRun) -> Made:
        made = super().fit_reward(policy, reference, judgements, run)
        return Made(made.folders, {"assessment": {**made.values["assessment"], "validation": {"temperature": 0.5}}})


def first_round(folder: Path, domain: str = "test_expectations:CalibratedDomain") -> Study:
    """A study whose second round waits for people."""
    people = {"feedback__teacher": "person", "feedback__wait_hours": 1e-4, "feedback__queries_per_round": 24}
    study = make(folder, study__domain=domain, **people)
    with pytest.raises(DataError, match="had no answer"):
        study.run()
    log, ada = FeedbackLog(study.database), register_person(study.database, "Ada")
    for query in pending(log, list(log.queries().values())):
        log.append(query, ada, Answer({"choice": "a"}))
    with pytest.raises(DataError, match="had no answer"):
        study.run()
    return study


def test_what_the_reward_model_expects_is_noted_when_people_are_asked(tmp_path: Path) -> None:
    study = first_round(tmp_path / "s")
    with study.database.read() as connection:
        chances = expected(connection)
        by = set(connection.execute(sa.select(schema.expectations.c.reward_model)).scalars())
        models = list(connection.execute(sa.select(schema.reward_models.c.id)).scalars())
    second = FeedbackLog(study.database).queries(round=2)
    assert set(chances) == set(second)  # in the first round there was none to ask
    assert by == set(models)
    assert all(0 <= chance <= 1 for chance in chances.values())
    assert len(set(chances.values())) > 3
    study.close()


def test_a_domain_that_does_not_calibrate_expects_nothing(tmp_path: Path) -> None:
    study = first_round(tmp_path / "s", "bandit:BanditDomain")
    with study.database.read() as connection:
        assert expected(connection) == {}
    study.close()


def test_a_vote_that_the_reward_model_contradicts_wants_another(tmp_path: Path) -> None:
    study = first_round(tmp_path / "s")
    log = FeedbackLog(study.database)
    bea = register_person(study.database, "Bea")
    second = sorted(log.queries(round=2))
    for query in log.queries(round=2).values():
        log.append(query, bea, Answer({"choice": "a"}))
    agrees, contradicts = second[: len(second) // 2], second[len(second) // 2 :]
    note_expected(study.database, dict.fromkeys(agrees, 0.97) | dict.fromkeys(contradicts, 0.1), "reward-1")
    place = study.database.path
    study.close()
    wanted = report(place, most_votes=5)["wanted"]
    assert {wanted[query] for query in contradicts} == {2}
    assert {wanted[query] for query in agrees} == {1}


def test_what_is_no_chance_is_refused(tmp_path: Path) -> None:
    study = make(tmp_path / "s")
    for chance in (1.5, -0.1, float("nan")):
        with pytest.raises(DataError, match="slot a of query q"):
            note_expected(study.database, {"q": chance}, "r")
    study.close()
