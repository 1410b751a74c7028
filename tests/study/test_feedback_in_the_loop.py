"""Teachers in the loop: oracles of every kind, people who are waited for, imported files."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bandit import BanditConfig, BanditDomain
from bandit_studies import make
from tropism.errors import ConfigError, DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.queue import Queue, QueueSettings
from tropism.feedback.records import Answer
from tropism.feedback.teachers import pending
from tropism.store import schema
from tropism.study.study import Study


@pytest.mark.parametrize(
    "settings",
    [
        {"feedback__kind": "ranking"},
        {"feedback__kind": "best_of", "feedback__candidates_per_query": 3},
        {"feedback__kind": "label"},
        {"feedback__kind": "rating", "feedback__queries_per_round": 60},
        {"feedback__oracle": {"discount": 0.95}},
        {"feedback__selection": "disagreement"},
        {"feedback__oracle": {"rationality": 1.0, "mistake": 0.1, "equal_within": 0.1}},
    ],
)
def test_other_feedback_works(tmp_path: Path, settings: dict[str, Any]) -> None:
    study = make(tmp_path / "s", **settings)
    study.run()
    kinds = {j.query.kind for j in FeedbackLog(study.database).judgements()}
    assert kinds == {settings.get("feedback__kind", "comparison")}
    gold = study.status().stages[-2].values["metrics"]
    assert gold["policy"] > gold["reference"] + 0.2


def test_an_oracle_rates_by_one_standard_in_all_rounds(tmp_path: Path) -> None:
    """The policies of round 2 are better, and get better ratings; one utility gets one score, whenever it is asked."""
    study = make(tmp_path / "s", feedback__kind="rating", feedback__queries_per_round=200, improve__learning_rate=2.0)
    study.run(until="collect-2")
    standards = [s.values["standard"] for s in study.status().stages if s.name.startswith("collect")]
    assert standards[0] == standards[1]
    assert standards[0]["spread"] > 0
    domain, scores, of_round = BanditDomain(BanditConfig()), {}, {1: [], 2: []}
    for j in FeedbackLog(study.database).judgements():
        of_round[j.query.round].append(j.value["score"])
        utility = float(domain.gold([j.task], [j.candidates])[0, 0])
        scores.setdefault(j.value["score"], []).append(utility)
    assert sum(of_round[2]) / len(of_round[2]) > sum(of_round[1]) / len(of_round[1]) + 0.5
    assert sorted(scores) == [1, 2, 3, 4, 5]
    for low in range(1, 5):
        assert max(scores[low]) <= min(scores[low + 1])


def test_what_an_oracle_cannot_be_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(BanditDomain, "step_gold")
    with pytest.raises(ConfigError, match=r"discount = 0\.9, but domain bandit knows no utilities by step"):
        make(tmp_path / "s", feedback__oracle={"discount": 0.9})
    assert not (tmp_path / "s").exists()
    make(tmp_path / "t", feedback__oracle={"discount": 0.9}, feedback__teacher="person").close()  # nobody is myopic


def test_several_people_may_be_wanted_for_each_query(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='votes_per_query = 2, but teacher = "oracle" votes once'):
        make(tmp_path / "r", feedback__votes_per_query=2)
    people = {"feedback__teacher": "person", "feedback__votes_per_query": 2, "feedback__wait_hours": 1e-4}
    study = make(tmp_path / "s", feedback__queries_per_round=4, **people)
    with pytest.raises(DataError, match="4 of 4 queries had no answer"):
        study.run()
    log = FeedbackLog(study.database)
    for name in ("Ada", "Bob"):
        person = register_person(study.database, name)
        for query in log.queries(round=1).values():
            log.append(query, person, Answer({"choice": "a"}))
        if name == "Ada":
            with pytest.raises(DataError, match="4 of 4 queries had no answer"):
                study.run()
    study.run(until="collect-1")
    assert study.status().stages[-1].values["answered"] == 4


def test_trap_29_a_skip_is_not_charged_to_the_budget(tmp_path: Path) -> None:
    """The budget counts labels, so skipped queries are replaced by others."""
    study = make(tmp_path / "s", feedback__oracle={"skip_below": 0.3}, study__rounds=1)
    study.run(until="collect-1")
    values = study.status().stages[-1].values
    assert values["answered"] == 30
    assert values["skipped"] > 0
    assert values["queries"] == values["answered"] + values["skipped"]


def test_an_oracle_that_skips_everything_is_named(tmp_path: Path) -> None:
    study = make(tmp_path / "s", feedback__oracle={"skip_below": 100.0})
    with pytest.raises(DataError, match="no feedback"):
        study.run()


def test_people_are_waited_for(tmp_path: Path) -> None:
    study = make(tmp_path / "s", feedback__teacher="person", feedback__queries_per_round=6, study__rounds=1)

    def vote() -> None:
        with Study.open(tmp_path / "s") as mine:
            log = FeedbackLog(mine.database)
            person = register_person(mine.database, "Ada")
            deadline = time.monotonic() + 30
            while len(queries := log.queries(round=1)) < 6 and time.monotonic() < deadline:
                time.sleep(0.05)
            for query in queries.values():
                log.append(query, person, Answer({"choice": "a"}))

    thread = threading.Thread(target=vote)
    cpu = time.process_time()
    thread.start()
    study.run(until="collect-1")
    thread.join(30)
    assert study.status().stages[-1].values["answered"] == 6
    assert time.process_time() - cpu < 5


def vote(study: Study, person: str, count: int) -> None:
    """Somebody answers ``count`` of the open queries, for the first candidate."""
    log = FeedbackLog(study.database)
    for query in pending(log, list(log.queries().values()))[:count]:
        log.append(query, person, Answer({"choice": "a"}))


def test_the_loop_goes_on_when_enough_is_answered_and_later_answers_count_in_the_next_round(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'enough = 0\.5, but nobody waits for teacher = "oracle"'):
        make(tmp_path / "r", feedback__enough=0.5)
    people = {"feedback__teacher": "person", "feedback__enough": 0.7, "feedback__wait_hours": 1e-4}
    study = make(tmp_path / "s", feedback__queries_per_round=9, **people)
    with pytest.raises(DataError, match="9 of 9 queries had no answer"):
        study.run()
    ada = register_person(study.database, "Ada")
    vote(study, ada, 6)
    with pytest.raises(DataError, match="3 of 9 queries had no answer"):
        study.run()
    vote(study, ada, 1)
    study.run(until="decide-1")
    values = {stage.name: stage.values for stage in study.status().stages}
    assert (values["collect-1"]["answered"], values["collect-1"]["events"]) == (7, 7)
    vote(study, ada, 2)  # those of round 1 that had stayed open
    with pytest.raises(DataError, match="queries had no answer"):
        study.run()
    enough = math.ceil(0.7 * len(FeedbackLog(study.database).queries(round=2)))
    vote(study, ada, enough)
    study.run(until="collect-2")
    values = {stage.name: stage.values for stage in study.status().stages}
    assert (values["collect-2"]["answered"], values["collect-2"]["events"]) == (enough, 9 + enough)


def test_what_everybody_has_skipped_is_not_waited_for(tmp_path: Path) -> None:
    people = {"feedback__teacher": "person", "feedback__queries_per_round": 4, "feedback__wait_hours": 1e-4}
    study = make(tmp_path / "s", feedback__votes_per_query=2, **people)
    with pytest.raises(DataError, match="4 of 4"):
        study.run()
    queue = Queue(study.database, QueueSettings(votes_per_query=2))
    accounts = []
    for name, role in (("ada", "admin"), ("bob", "annotator"), ("eve", "viewer")):
        person = register_person(study.database, name)
        row = {"id": name, "name": name, "role": role, "pseudonym": person, "settings": {}, "status": "active"}
        with study.database.write() as connection:
            connection.execute(sa.insert(schema.accounts).values(**row, created_at=0.0))
        accounts.append(person)
    ada, bob, _ = accounts
    passed, *claimed = queue.claim(ada, 4)[0]
    queue.skip(passed.assignment_id, ada, "ada passes")
    for one in claimed:
        queue.submit(one.assignment_id, ada, uuid.uuid4().hex, [Answer({"choice": "a"})])
    with pytest.raises(DataError, match="4 of 4"):
        study.run()  # bob may still answer all of them
    for one in queue.claim(bob, 4)[0]:
        if one.query.id == passed.query.id:
            queue.submit(one.assignment_id, bob, "bob answers", [Answer({"choice": "b"})])
        elif one.query.id != claimed[0].query.id:
            queue.submit(one.assignment_id, bob, uuid.uuid4().hex, [Answer({"choice": "a"})])
    with pytest.raises(DataError, match="1 of 4"):
        study.run()  # ada alone has answered it: bob, or whoever is invited, may still
    (last,) = queue.claim(bob)[0]
    queue.skip(last.assignment_id, bob, "bob passes")
    study.run(until="collect-1")
    values = study.status().stages[-1].values
    assert (values["answered"], values["skipped"], values["events"]) == (2, 2, 6)


def test_waiting_for_people_ends_in_time(tmp_path: Path) -> None:
    study = make(tmp_path / "s", feedback__teacher="person", feedback__wait_hours=1e-4)
    with pytest.raises(DataError, match="30 of 30 queries had no answer"):
        study.run()


def test_imported_pairs_are_the_feedback(tmp_path: Path) -> None:
    """Pairs from a file are taken in once; a bad row stops the run and leaves no event behind."""
    study = make(tmp_path / "s", feedback__teacher="import", feedback__file=str(tmp_path / "s" / "pairs.jsonl"))
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
    (study.folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"prompt": 3}\n')
    with pytest.raises(DataError, match="line 41"):
        study.run()
    assert study.status().feedback["events"] == 0
    (study.folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    study.run(until="collect-1")
    collected = study.status().stages[-1].values
    assert (collected["answered"], collected["events"]) == (40, 40)
    assert "feedback.file" in json.loads((study.folder / "resolved.json").read_text())["data"]


def test_a_missing_import_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no feedback of its own"):
        make(tmp_path / "s", feedback__teacher="import").run()
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        make(tmp_path / "t", feedback__teacher="import", feedback__file="nothing.jsonl").run()
