"""Watching and feeding a run over HTTP: stream, curves, samples, lineage, tests by people, questions from outside."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from studio_cases import Caller, Running, ask, events, make_study, running

from tropism import client
from tropism.errors import StoreError
from tropism.feedback.records import Task
from tropism.store import lineage, schema
from tropism.store.metrics import MetricStore
from tropism.studio.ab import confidence_sequence
from tropism.studio.curves import thin
from tropism.studio.settings import StudioSettings


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(make_study(tmp_path / "s"), StudioSettings(undo_s=0.05)) as studio:
        yield studio


class Listener:
    """An event stream, read by hand."""

    def __init__(self, caller: Caller, last: str = "", types: str = "metric,stage,progress,queue") -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._context = caller.stream("GET", "stream", params={"types": types}, headers=headers, timeout=10)
        self._answer = self._context.__enter__()
        assert self._answer.status_code == 200
        self._lines = self._answer.iter_lines()
        self.last = last

    def next(self) -> tuple[str, Any]:
        event: dict[str, str] = {}
        for line in self._lines:
            if not line and "event" in event:
                self.last = event["id"]
                return event["event"], json.loads(event["data"])
            name, _, value = line.partition(": ")
            event[name] = value
        raise AssertionError("the stream ended")

    def until(self, kind: str) -> Any:
        while True:
            found, data = self.next()
            if found == kind:
                return data

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def test_the_stream_says_what_is_new_and_goes_on_where_it_was(here: Running) -> None:
    metrics = MetricStore(here.studio.facts.folder / "metrics.db")
    metrics.write("improve-1", 0, {"ppo/score_mean": 0.5})
    time.sleep(1.2)  # what was there before is fetched, not streamed
    listener = Listener(here.person("viewer"), types="metric")
    metrics.write("improve-1", 1, {"ppo/score_mean": 1.0, "kl/ref_k1": math.nan})
    assert listener.until("metric") == {
        "stage": "improve-1", "step": 1, "values": {"kl/ref_k1": None, "ppo/score_mean": 1.0},
    }  # fmt: skip
    metrics.write("improve-1", 1, {"time/step_s": 2.0})  # of a step that was told before
    assert listener.until("metric")["values"] == {"time/step_s": 2.0}
    listener.close()
    for step in range(2, 30):
        metrics.write("improve-1", step, {"ppo/score_mean": float(step)})
        time.sleep(0.02)
    back = Listener(here.person("viewer"), listener.last, types="metric")
    assert [back.until("metric")["step"] for _ in range(2, 30)] == list(range(2, 30))
    back.close()
    for unknown in ("nothing.1", "nothing", f"{listener.last.partition('.')[0]}.999999"):
        other = Listener(here.person("viewer"), unknown)
        assert other.next() == ("reset", {})
        other.close()
    metrics.close()


def test_many_listeners_lose_nothing(here: Running) -> None:
    metrics = MetricStore(here.studio.facts.folder / "metrics.db")
    metrics.write("improve-1", 0, {"x": 0.0})
    time.sleep(1.2)
    viewer = here.person("viewer")
    heard: dict[int, list[int]] = {}
    listeners = [_copy(viewer, here) for _ in range(40)]

    def listen(number: int) -> None:
        heard[number] = [listeners[number].until("metric")["step"] for _ in range(100)]

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(listeners))]
    for thread in threads:
        thread.start()
    for step in range(1, 101):
        metrics.write("improve-1", step, {"x": float(step)})
    for thread in threads:
        thread.join(timeout=20)
    assert heard == {number: list(range(1, 101)) for number in range(40)}
    for listener in listeners:
        listener.close()
    metrics.close()


def _copy(caller: Caller, here: Running) -> Listener:
    """Another browser of the same person."""
    other = Caller(here.base)
    other.cookies.update(dict(caller.cookies))
    return Listener(other, types="metric")


def test_progress_stages_and_the_queue_are_told(here: Running) -> None:
    listener = Listener(here.person("viewer"))
    mark = {"stage": "collect-1", "activity": "wait for people", "done": 3, "total": 9, "note": "", "seconds": 1.0}
    (here.studio.facts.folder / "scratch" / "status.json").write_text(json.dumps(mark))
    while (said := listener.until("progress")).get("activity") is None:
        pass
    assert (said["activity"], said["done"], said["total"]) == ("wait for people", 3, 9)
    stage(here, "collect", 1, "running", {}, {})
    assert listener.until("stage") == {"name": "collect-1", "round": 1, "status": "running"}
    ask(here.studio, "comparison", 3)
    here.person("annotator").claim(2)
    while (counts := listener.until("queue"))["open"] != 2:
        pass
    assert counts == {"queries": 3, "wanted": 3, "votes": 0, "open": 2}
    listener.close()


def test_curves_keep_their_extremes() -> None:
    curve: list[tuple[int, float | None]] = [(i, math.sin(i / 40)) for i in range(10_000)]
    curve[5003] = (5003, 99.0)
    curve[7001] = (7001, None)
    thinned = thin(curve, 200)
    assert len(thinned) <= 200
    assert (5003, 99.0) in thinned
    assert thinned[0] == curve[0]
    assert thinned[-1] == curve[-1]
    assert [step for step, _ in thinned] == sorted({step for step, _ in thinned})
    assert set(thinned) <= set(curve)
    assert thin(curve[:50], 50) == curve[:50]


def test_curves_over_http(here: Running) -> None:
    viewer = here.person("viewer")
    assert viewer.get("runs/improve-1/metrics").json() == {"stage": "improve-1", "names": [], "series": {}}
    with_nan = MetricStore(here.studio.facts.folder / "metrics.db")
    for step in range(1000):
        with_nan.write("improve-1", step, {"a": math.nan if step == 5 else float(step), "b": 1.0})
    found = viewer.get("runs/improve-1/metrics", params={"names": "a", "points": 100}).json()
    assert found["names"] == ["a", "b"]
    assert len(found["series"]["a"]) <= 100
    assert found["series"]["a"][-1] == [999, 999.0]
    assert viewer.get("runs/improve-1/metrics", params={"names": "zzz"}).status_code == 404
    assert viewer.get("runs/improve-1/metrics", params={"points": 10**9}).status_code == 422
    with_nan.close()


def stage(here: Running, kind: str, round_: int, status: str, folders: dict[str, str], values: dict[str, Any]) -> None:
    name = kind if kind == "base" else f"{kind}-{round_}"
    row = {"key": f"key-{name}", "name": name, "round": round_, "status": status, "seed": 0, "inputs": {}}
    outputs = {"folders": folders, "values": values}
    times = {"started_at": time.time(), "finished_at": time.time() if status == "done" else None}
    with here.studio.database.write() as connection:
        connection.execute(sa.insert(schema.stages).values(row | times | {"outputs": outputs, "seconds": 1.0}))


def evaluated(here: Running, tmp_path: Path, rows: int = 12) -> None:
    """A study with a reference, a policy, an evaluation of both, and rollouts of its training."""
    samples, rollouts = tmp_path / "samples", tmp_path / "rollouts"
    samples.mkdir()
    rollouts.mkdir()
    with (samples / "samples.jsonl").open("w") as file:
        for i in range(rows):
            outputs = {n: {"text": f"{n} says {i}", "tokens": 3, "gold": float(i)} for n in ("policy", "reference")}
            file.write(json.dumps({"task_id": f"test-{i}", "prompt": f"prompt {i}", "outputs": outputs}) + "\n")
    for step in range(3):
        with (rollouts / f"step-{step:05d}.jsonl").open("w") as file:
            for i in range(10):
                row = {"step": step, "task_id": f"t{i}", "prompt": f"p{i}", "completion": f"c {step} {i}"}
                file.write(json.dumps(row | {"tokens": [1] * i, "reward_total": i / 10, "kl_nats": step}) + "\n")
    store = here.studio.artifacts
    folders = {"samples": store.put(samples), "rollouts": store.put(rollouts)}
    with here.studio.database.write() as connection:
        lineage.record_policy(connection, "base", "a" * 64, 0, None, None, None, "reference", {})
        lineage.record_reward_model(connection, "reward-1", "b" * 64, 1, None, {"assessment": {"accuracy": 0.8}})
        lineage.record_policy(connection, "policy-1", "c" * 64, 1, "base", "base", "reward-1", "promoted", {})
        lineage.record_evaluation(connection, "evaluation-1", "policy-1", 1, {"metrics": {}})
    stage(here, "improve", 1, "done", {"rollouts": folders["rollouts"]}, {})
    stage(here, "evaluate", 1, "done", {"samples": folders["samples"]}, {"metrics": {"win_rate": 0.7}})


def test_samples_are_filtered_and_paged(here: Running, tmp_path: Path) -> None:
    evaluated(here, tmp_path)
    engineer = here.person("engineer")
    found: list[Any] = []
    after = None
    while True:
        params = {"reward_min": 0.5, "kl_max": 1, "limit": 3} | ({} if after is None else {"after": after})
        page = engineer.get("samples", params=params).json()
        found += page["items"]
        after = page["next"]
        if after is None:
            break
    assert [(row["step"], row["tokens"]) for row in found] == [(s, i) for s in (0, 1) for i in range(5, 10)]
    assert found[0]["html"] == "<p>c 0 5</p>\n"
    assert len(engineer.get("samples", params={"step": 2, "length_max": 1}).json()["items"]) == 2
    assert len(engineer.get("samples", params={"text": "C 1 3"}).json()["items"]) == 1
    assert engineer.get("samples", params={"round": 7}).status_code == 404
    assert engineer.get("samples", params={"reward_min": "nan"}).status_code == 422
    side = engineer.get("samples/side-by-side", params={"limit": 5}).json()
    assert [row["task_id"] for row in side["items"]] == [f"test-{i}" for i in range(5)]
    assert side["items"][0]["outputs"]["policy"]["text"] == "policy says 0"
    assert engineer.get("samples/side-by-side", params={"after": side["next"]}).json()["next"] is None
    assert engineer.get("reward-models/reward-1").json()["assessment"] == {"accuracy": 0.8}
    edges = {(e["source"], e["target"], e["kind"]) for e in engineer.get("lineage").json()["edges"]}
    assert ("base", "policy-1", "parent") in edges
    assert engineer.get("lineage/policy-1").json()["reward_models"][0]["id"] == "reward-1"
    assert engineer.get("lineage/zzz").status_code == 404


def test_people_compare_two_policies_blind(here: Running, tmp_path: Path) -> None:
    evaluated(here, tmp_path)
    engineer, judge = here.person("engineer"), here.person("annotator")
    assert {p["id"] for p in engineer.get("ab-tests").json()["policies"]} == {"base", "policy-1"}
    body = {"policy_a": "policy-1", "policy_b": "base", "name": "better?", "wanted": 10}
    test = engineer.post("ab-tests", json=body).json()
    assert (test["wanted"], test["votes"], test["low"], test["high"], test["stop"]) == (10, 0, 0.0, 1.0, False)
    hidden = engineer.get("samples/side-by-side").json()
    assert (len(hidden["items"]), hidden["hidden"]) == (2, 10)  # an engineer may judge them, too
    for number in range(10):
        (item,) = judge.claim()
        assert "policy-1" not in json.dumps(item)
        texts = {c["key"]: c["text"] for c in item["candidates"]}
        better = next(key for key, text in texts.items() if text.startswith("policy"))
        worse = next(key for key in texts if key != better)
        judge.submit(item["assignment"], {"choice": better if number != 3 else worse})
    test = engineer.get(f"ab-tests/{test['id']}").json()
    assert (test["wins"], test["losses"], test["ties"], test["stop"]) == (9, 1, 0, True)
    assert test["low"] < 0.9 < test["high"]
    assert not here.studio.log.judgements()  # test tasks are never trained on
    with pytest.raises(Exception, match="test split"):
        here.studio.log.freeze([event.id for event in events(here.studio)])
    assert engineer.post("ab-tests", json=body | {"policy_a": "base"}).status_code == 400
    assert engineer.post("ab-tests", json=body | {"policy_a": "zzz"}).status_code == 404


def test_who_has_seen_which_policy_wrote_what_is_not_asked_which_is_better(here: Running, tmp_path: Path) -> None:
    evaluated(here, tmp_path)
    curious, other = here.person("engineer", "Curious"), here.person("engineer", "Other")
    seen = [row["task_id"] for row in curious.get("samples/side-by-side", params={"limit": 5}).json()["items"]]
    assert seen == [f"test-{i}" for i in range(5)]
    body = {"policy_a": "policy-1", "policy_b": "base", "name": "n"}
    assert other.post("ab-tests", json=body | {"wanted": 7}).is_success
    asked: list[Any] = []
    while items := curious.post("queue/claim", json={}).json()["items"]:
        asked.append(here.studio.assignments.find(items[0]["assignment"], here.pseudonym("Curious")).query)
        assert curious.submit(items[0]["assignment"], {"choice": "tie"}).is_success
    of = {task.payload["of"] for task in here.studio.log.tasks([query.task_id for query in asked]).values()}
    assert of == {f"test-{i}" for i in range(5, 12)}  # what nobody has looked at is asked first
    assert other.post("ab-tests", json=body | {"wanted": 12}).is_success
    again = 0
    while items := curious.post("queue/claim", json={}).json()["items"]:
        assert curious.submit(items[0]["assignment"], {"choice": "tie"}).is_success
        again += 1
    assert again == 7
    assert len(other.claim()) == 1  # and whoever has not looked is asked about the rest


def test_what_was_sent_to_the_queue_from_the_samples_is_for_those_who_have_not_seen_them(
    here: Running, tmp_path: Path
) -> None:
    evaluated(here, tmp_path)
    task = Task("train", {"prompt": "p"})
    here.studio.log.add_tasks([task])
    with (tmp_path / "rollouts" / "step-00007.jsonl").open("w") as file:
        row = {"step": 7, "task_id": task.id, "prompt": "p", "completion": "c", "tokens": [1]}
        file.write(json.dumps(row | {"reward_total": 2.0, "kl_nats": 0.5}) + "\n")
    stage(here, "improve", 2, "done", {"rollouts": here.studio.artifacts.put(tmp_path / "rollouts")}, {})
    engineer, other = here.person("engineer", "Curious"), here.person("annotator", "Other")
    shown = engineer.get("samples", params={"step": 7}).json()["items"]
    assert [item["task_id"] for item in shown] == [task.id]
    body: dict[str, Any] = {"tasks": [], "candidates": [], "queries": []}
    body["candidates"].append({"task": task.id, "kind": "text", "content": {"text": "c"}, "source": "samples"})
    body["queries"].append({"task": task.id, "kind": "rating", "candidates": [0]})
    assert engineer.post("queries", json=body).is_success
    assert engineer.post("queue/claim", json={}).json()["items"] == []
    assert [item["kind"] for item in other.claim()] == ["rating"]


def test_a_test_that_nobody_could_answer_is_refused(here: Running, tmp_path: Path) -> None:
    evaluated(here, tmp_path)
    engineer, body = here.person("engineer"), {"policy_a": "policy-1", "policy_b": "base", "name": "n", "wanted": 5}
    assert len(engineer.get("samples/side-by-side").json()["items"]) == 12
    refused = engineer.post("ab-tests", json=body)
    assert refused.status_code == 409
    assert "nobody is left to ask" in refused.json()["error"]["message"]
    here.person("annotator")
    assert engineer.post("ab-tests", json=body).json()["wanted"] == 5


def test_whoever_is_alone_is_asked_about_what_they_looked_at(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings(solo=True)) as here:
        evaluated(here, tmp_path)
        me = here.nobody().enter()
        assert len(me.get("samples/side-by-side").json()["items"]) == 12
        body = {"policy_a": "policy-1", "policy_b": "base", "name": "n", "wanted": 5}
        assert me.post("ab-tests", json=body).is_success
        assert len(me.claim()) == 1


def test_a_test_that_is_closed_asks_no_more(here: Running, tmp_path: Path) -> None:
    evaluated(here, tmp_path)
    engineer, judge = here.person("engineer"), here.person("annotator")
    body = {"policy_a": "policy-1", "policy_b": "base", "name": "n", "wanted": 5}
    test = engineer.post("ab-tests", json=body).json()
    (held,) = judge.claim()
    assert engineer.post(f"ab-tests/{test['id']}/close", json={}).json()["stop"] is True
    assert judge.submit(held["assignment"], {"choice": "tie"}).json()["late"] is False
    assert judge.post("queue/claim", json={}).json()["items"] == []
    assert engineer.get(f"ab-tests/{test['id']}").json()["ties"] == 1


def test_the_interval_of_a_test_holds_at_all_times_at_once() -> None:
    """Of 150 tests of equal policies, looked at after every vote, at most 5 % (and noise) ever exclude one half."""
    import numpy as np

    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(150):
        wins = np.cumsum(random.random(120) < 0.5)
        wrong += any(
            not low <= 0.5 <= high
            for n in range(1, 121)
            for low, high in [confidence_sequence(int(wins[n - 1]), int(n - wins[n - 1]))]
            if abs(2 * wins[n - 1] - n) > 2 * math.sqrt(n)  # nearer to one half it cannot be excluded
        )
    assert wrong <= 13
    low, high = confidence_sequence(80, 20)
    assert 0.6 < low < 0.8 < high < 0.95
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    assert confidence_sequence(30, 0)[1] == 1.0


PUSH = {
    "tasks": [
        {"split": "train", "payload": {"prompt": "why?", "form": {"aspects": [{"name": "warm", "scale": [0, 2]}]}}}
    ],
    "candidates": [
        {"task": 0, "content": {"text": "because"}, "source": "elsewhere"},
        {"task": 0, "content": {"text": "why not"}, "source": "elsewhere"},
    ],
    "queries": [
        {"task": 0, "kind": "comparison", "candidates": [0, 1]},
        {"task": 0, "kind": "rating", "candidates": [1]},
        {"task": 0, "kind": "demonstration", "candidates": []},
    ],
}  # fmt: skip


def test_questions_from_outside_are_asked_and_their_answers_pulled(here: Running) -> None:
    engineer, judge = here.person("engineer"), here.person("annotator")
    token = engineer.post("tokens", json={"name": "loop", "scope": "write"}).json()["token"]
    with client.Studio(here.base, token) as studio:
        pushed = studio.push(**PUSH)
        assert (len(pushed.queries), pushed.new, studio.push(**PUSH).new) == (3, 3, 0)
        rated = {"ratings": [{"candidate": "1", "aspect": "warm", "score": 2}]}
        values = {"comparison": {"choice": "1"}, "rating": rated, "demonstration": {}}
        for item in judge.claim(3):
            assert judge.submit(item["assignment"], values[item["kind"]], text="so").status_code == 200
        found = list(studio.feedback())
        assert sorted(event.kind for event in found) == ["comparison", "demonstration", "rating"]
        assert {event.query for event in found} == set(pushed.queries)
        assert {event.text for event in found} == {"so"}
        assert not list(studio.feedback(after=found[-1].seq))
        assert studio.runs()["study"] == "small"
        with pytest.raises(client.StudioError, match="no policy") as refused:
            studio.lineage("zzz")
        assert (refused.value.status, refused.value.code) == (404, "not_found")
    with client.Studio(here.base, "x" * 43) as stranger, pytest.raises(client.StudioError) as refused:
        stranger.runs()
    assert refused.value.status == 401
    with client.Studio("http://127.0.0.1:9", token, retries=0) as nobody, pytest.raises(StoreError, match="no studio"):
        nobody.runs()


BAD_PUSHES: list[dict[str, Any]] = [
    {"tasks": [{"split": "test", "payload": {"prompt": "x"}}]},
    {"tasks": [{"split": "train", "payload": {}}]},
    {"tasks": [{"split": "train", "payload": {"prompt": "x", "messages": [{"role": 1}]}}]},
    {"tasks": [{"split": "train", "payload": {"prompt": "x", "form": {"aspects": [{"name": "a", "scale": [3, 1]}]}}}]},
    {"tasks": [{"split": "train", "payload": {"prompt": "x", "form": {"labels": []}}}]},
    {"candidates": [{"task": 0, "content": {"text": "x"}, "source": "s"}]},
    {"candidates": [{"task": "missing", "content": {"text": "x"}, "source": "s"}]},
    {**PUSH, "queries": [{"task": 0, "kind": "comparison", "candidates": [0]}]},
    {**PUSH, "queries": [{"task": 0, "kind": "comparison", "candidates": [0, 0]}]},
    {**PUSH, "queries": [{"task": 0, "kind": "comparison", "candidates": [0, 7]}]},
    {**PUSH, "queries": [{"task": 0, "kind": "demonstration", "candidates": [0]}]},
    {**PUSH, "queries": [{"task": 0, "kind": "nothing", "candidates": [0]}]},
]


def test_a_push_is_all_or_nothing(here: Running) -> None:
    engineer = here.person("engineer")
    for body in BAD_PUSHES:
        refused = engineer.post("queries", json=body)
        assert refused.status_code in (400, 422), body
        assert refused.json()["error"]["fix"]
    assert here.studio.log.counts()["tasks"] == 0
