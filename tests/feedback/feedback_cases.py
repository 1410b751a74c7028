"""A small study to judge: tasks, candidates and queries; also the writer process of the concurrency tests."""

from __future__ import annotations

import sys
from pathlib import Path

from tropism.feedback.events import FeedbackLog
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Split, Task
from tropism.store.database import Database


def task(name: str = "0", split: Split = "train") -> Task:
    return Task(split, {"prompt": f"prompt {name}"})


def candidates(of: Task, k: int = 2) -> list[Candidate]:
    made_by = Provenance("sft", {"temperature": 1.0}, "engine 1", 7)
    return [Candidate(of.id, "text", {"text": f"answer {i}", "tokens": [i]}, made_by) for i in range(k)]


def query(of: Task, kind: str = "comparison", k: int = 2, round: int = 1) -> Query:
    shown = tuple(reversed(range(k)))
    return Query(of.id, kind, tuple(c.id for c in candidates(of, k)), shown, round)  # type: ignore[arg-type]


def fill(log: FeedbackLog, n: int = 4, k: int = 2, kind: str = "comparison", split: Split = "train") -> list[Query]:
    """Add n tasks with K candidates and one query each; teacher ``o`` is known."""
    tasks = [task(str(i), split) for i in range(n)]
    log.add_tasks(tasks)
    log.add_candidates([c for t in tasks for c in candidates(t, k)])
    made = [query(t, kind, k) for t in tasks]
    log.add_queries(made)
    log.register_teacher("o", "oracle")
    return made


def new_log(folder: Path) -> FeedbackLog:
    return FeedbackLog(Database.create(folder / "study.db"))


def write_forever(path: Path, writer: str, count: int) -> None:
    """Append ``count`` events, each in a transaction of its own, and say after each which one is durable."""
    log = FeedbackLog(Database.open(path), seal_every=16, seal_after_s=0.05)
    log.register_teacher(writer, "oracle")
    asked = sorted(log.queries().values(), key=lambda q: q.id)
    for i in range(count):
        choice = ("a", "b", "tie")[i % 3]
        print(log.append(asked[i], writer, Answer({"choice": choice}, text=f"{writer} {i}")), flush=True)


if __name__ == "__main__":
    write_forever(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
