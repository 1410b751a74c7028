"""Running the stages of a study: each is done once, committed in one transaction, and found again by its key.

A stage's key is the digest of its name, its inputs' digests, the settings that concern it and its seed. Artifacts are
stored before the commit: a kill in between leaves only bytes that the next run stores again under the same address.

Left out: running stages side by side. One trainer holds the study, and one stage runs at a time.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import digest
from tropism.errors import ConfigError, ContractError
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.memory import peak_memory_bytes
from tropism.runtime.stage import Made, NoProgress, ProgressSink, StageRun
from tropism.settings.overrides import differences
from tropism.store import lineage, schema
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database
from tropism.store.lease import TrainerLease
from tropism.store.metrics import MetricStore

ORDER = ("base", "collect", "reward", "improve", "evaluate", "decide")
"""The kinds of stage, in the order in which a round runs them; ``base`` is round 0."""

Record = Callable[[Connection, "Done"], None]


@dataclass(frozen=True)
class Plan:
    """What a stage is: everything that its outputs depend on."""

    kind: str
    round: int
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """``base`` or ``KIND-ROUND``."""
        return self.kind if self.kind == "base" else f"{self.kind}-{self.round}"

    @property
    def key(self) -> str:
        """The digest under which the finished stage is found again."""
        return digest([self.name, dict(self.inputs), dict(self.settings), self.seed])


@dataclass(frozen=True)
class Done:
    """A committed stage: its folders as artifact digests, its values, and where the folders are."""

    name: str
    key: str
    folders: Mapping[str, str]
    values: Mapping[str, Any]
    artifacts: ArtifactStore = field(repr=False, compare=False)

    def path(self, name: str) -> Path:
        """The artifact folder of one output."""
        return self.artifacts.path(self.folders[name])


class Marker:
    """``scratch/status.json``: the stage and activity of this moment, and the time spent on the stage so far.

    Written often and cheaply (never synced): other processes read it, and a restarted stage adds to its times.
    """

    def __init__(self, path: Path, sink: ProgressSink, pause_s: float = 0.2) -> None:
        self.path, self._sink, self._pause = path, sink, pause_s
        self._written, self._shown = 0.0, ("", "")
        self._stage, self._before, self._start = "", (0.0, 0.0), (0.0, 0.0)

    def begin(self, stage: str, key: str) -> None:
        """Start counting for a stage, from what a killed process had already spent on it."""
        last = self.read()
        same = last.get("key") == key
        self._before = (float(last["seconds"]), float(last["cpu_seconds"])) if same else (0.0, 0.0)
        self._stage, self._key, self._start = stage, key, (time.monotonic(), time.process_time())
        self.update("begin", 0, 0)

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        """Pass progress on, and write it down if the activity changed or some time has passed."""
        if total:
            self._sink.update(f"{self._stage}: {activity}", done, total, note)
        now = time.monotonic()
        if (self._stage, activity) == self._shown and now - self._written < self._pause:
            return
        self._shown, self._written = (self._stage, activity), now
        seconds, cpu_seconds = self.spent()
        state = {"stage": self._stage, "key": self._key, "activity": activity, "done": done, "total": total}
        state |= {"note": note, "seconds": seconds, "cpu_seconds": cpu_seconds}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.rename(self.path)

    def end(self) -> None:
        """The study is at its end: nothing runs any more."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".partial").unlink(missing_ok=True)

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds on the present stage, killed attempts included up to their last mark."""
        wall, cpu = time.monotonic() - self._start[0], time.process_time() - self._start[1]
        return self._before[0] + wall, self._before[1] + cpu

    def read(self) -> dict[str, Any]:
        """The newest mark; empty where there is none."""
        try:
            state = json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            # not synced: after a power cut the file may be empty, and then only the time spent is unknown
            return {}
        return dict(state) if isinstance(state, dict) else {}


class StageRunner:
    """Runs stages of one study, for the process that holds its lease."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        metrics: MetricStore,
        scratch: Path,
        *,
        lease: TrainerLease,
        stop: StopRequest,
        progress: ProgressSink | None = None,
        keep_scratch: bool = False,
    ) -> None:
        self.database, self.artifacts, self.metrics, self.scratch = database, artifacts, metrics, scratch
        self._lease, self.stop, self._keep_scratch = lease, stop, keep_scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self.marker = Marker(scratch / "status.json", progress or NoProgress())

    def run(self, plan: Plan, work: Callable[[StageRun], Made], record: Record | None = None) -> Done:
        """The stage's outputs: stored ones if it is done, else made by ``work`` and committed with ``record``'s rows.

        Errors: ConfigError if settings of a finished stage changed and doing it again would not be safe;
        InterruptedRun if the process was asked to stop; whatever ``work`` raises.
        """
        folder = self.scratch / plan.name
        done = self._stored(plan, record)
        if done is not None:
            self._clean(folder)
            return done
        if self.stop.requested():
            raise self.stop.error(f"before stage {plan.name}")
        self._begin(plan, folder)
        run = StageRun(plan.name, folder, plan.seed, self.metrics, self.marker, self.stop.requested)
        made = work(run)
        run.log(0, {"memory/peak_rss_mib": peak_memory_bytes() / 2**20})
        self.marker.update("store", 0, 0)
        _check_values(plan.name, made.values)
        digests = {name: self.artifacts.put(path) for name, path in sorted(made.folders.items())}
        done = Done(plan.name, plan.key, digests, made.values, self.artifacts)
        self.marker.update("commit", 0, 0)
        self._commit(plan, done, record)
        self._clean(folder)
        return done

    def _stored(self, plan: Plan, record: Record | None) -> Done | None:
        """The finished stage, if there is one; one that was replaced and is wanted again is taken back as it was."""
        table = schema.stages
        with self.database.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.key == plan.key)).mappings().first()
        if row is None or row["outputs"] is None:
            return None
        done = Done(plan.name, plan.key, row["outputs"]["folders"], row["outputs"]["values"], self.artifacts)
        if row["status"] == "replaced":
            with self.database.write() as connection:
                self._lease.check(connection)
                _replace_older(connection, plan)
                if record is not None:
                    record(connection, done)
                connection.execute(table.update().where(table.c.key == plan.key).values(status="done"))
        return done

    def _begin(self, plan: Plan, folder: Path) -> None:
        """Note that the stage runs, after replacing what an earlier configuration made of it, if that is safe."""
        table = schema.stages
        with self.database.write() as connection:
            self._lease.check(connection)
            _replace_older(connection, plan)
            inputs = {"inputs": dict(plan.inputs), "settings": dict(plan.settings)}
            row = {"name": plan.name, "round": plan.round, "status": "running", "seed": plan.seed, "inputs": inputs}
            known = connection.execute(sa.select(table.c.status).where(table.c.key == plan.key)).scalar()
            if known is None:
                connection.execute(table.insert().values(key=plan.key, started_at=time.time(), **row))
            elif known != "running":
                connection.execute(table.update().where(table.c.key == plan.key).values(**row))
        key_file = folder / "key"
        if not key_file.is_file() or key_file.read_text() != plan.key:
            # scratch and curves of another configuration (or none): the stage starts from its beginning
            shutil.rmtree(folder, ignore_errors=True)
            self.metrics.forget(plan.name, -1)
            folder.mkdir(parents=True)
            key_file.write_text(plan.key)
        self.marker.begin(plan.name, plan.key)

    def _commit(self, plan: Plan, done: Done, record: Record | None) -> None:
        seconds, cpu_seconds = self.marker.spent()
        outputs = {"folders": dict(done.folders), "values": dict(done.values)}
        end = {"status": "done", "outputs": outputs, "finished_at": time.time()}
        sizes = {address: self.artifacts.size(address) for address in done.folders.values()}
        with self.database.write() as connection:
            self._lease.check(connection)
            for name, address in done.folders.items():
                _add_artifact(connection, address, name, sizes[address])
            if record is not None:
                record(connection, done)
            where = schema.stages.c.key == plan.key
            timed = {"seconds": seconds, "cpu_seconds": cpu_seconds}
            connection.execute(schema.stages.update().where(where).values(**end, **timed))

    def _clean(self, folder: Path) -> None:
        if not self._keep_scratch:
            shutil.rmtree(folder, ignore_errors=True)


def _add_artifact(connection: Connection, address: str, kind: str, size: int) -> None:
    """Note a stored folder, once: the same content may come again under another name."""
    known = sa.select(schema.artifacts.c.digest).where(schema.artifacts.c.digest == address)
    if connection.execute(known).first() is None:
        lineage.record_artifact(connection, address, kind, size)


def lineage_id(kind: str, key: str) -> str:
    """The lineage's id of the ``policy``, ``reward`` or ``evaluation`` that a stage makes: known before the bits, and
    equal in every replay."""
    return digest([kind, key])[:24]


def stage_place(name: str, round_: int) -> tuple[int, int]:
    """Where a stage stands in the study: sorts by round, then by kind."""
    return round_, ORDER.index(name.rpartition("-")[0] or name)


def _replace_older(connection: Connection, plan: Plan) -> None:
    """Give up finished stages of another configuration, from this one on; ConfigError where feedback hangs on them.

    Feedback is append-only, and people's time is not to be had again: once answers were asked for about what a stage
    led to, that stage stays.
    """
    table = schema.stages
    rows = connection.execute(sa.select(table).where(table.c.status != "replaced", table.c.key != plan.key)).mappings()
    others = [row for row in rows if stage_place(row["name"], row["round"]) >= stage_place(plan.name, plan.round)]
    if not others:
        return
    # what a stage makes is asked about from the next round on; only the base and a collection concern their own
    first = plan.round if plan.kind == "collect" else plan.round + 1
    answered = _answered_round(connection, first)
    if answered is not None:
        raise _changed(next((row for row in others if row["name"] == plan.name), None), plan, answered)
    connection.execute(table.update().where(table.c.key.in_([row["key"] for row in others])).values(status="replaced"))
    if plan.kind in ("base", "collect", "reward", "improve"):
        policies = schema.policies
        connection.execute(policies.update().where(policies.c.round >= plan.round).values(status="rejected"))


def _answered_round(connection: Connection, first: int) -> int | None:
    """The earliest round from ``first`` on whose queries have answers."""
    queries, events = schema.queries, schema.events
    joined = sa.select(sa.func.min(queries.c.round)).join(events, events.c.query_id == queries.c.id)
    return connection.execute(joined.where(queries.c.round >= first)).scalar()


def _changed(before: Any, plan: Plan, answered: int) -> ConfigError:
    """The error for a changed setting, naming the keys, their old values and what can be done."""
    old = before["inputs"] if before is not None else {"settings": {}, "inputs": {}}
    keys = differences(old["settings"], plan.settings)
    why = f"round {answered} has feedback that was asked for on what stage {plan.name} made"
    if not keys:
        names = ", ".join(differences(old["inputs"], plan.inputs)) or "study.seed"
        return ConfigError(
            f"the inputs of stage {plan.name} changed ({names}), but {why}",
            "put study.seed and the data files back as they were, or make a new study with `tropism new`",
        )
    shown = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, (old, new) in keys.items())
    return ConfigError(
        f"{shown}, but {why}", "set it back, or make a new study with `tropism new` (study.rounds may always be raised)"
    )


def _check_values(stage: str, values: Mapping[str, Any], path: str = "") -> None:
    """Values go into the database as JSON, which knows no NaN: name the one that is not finite."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            _check_values(stage, value, here)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ContractError(f"stage {stage} made {here} = {value}", "find out which computation was not finite")
