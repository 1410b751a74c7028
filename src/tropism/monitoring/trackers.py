"""Curves for other people's tools: TensorBoard, Weights & Biases, MLflow, beside our own metrics.

A tracker is a mirror: metrics.db stays the record, and a run without any tracker is the same run. Each is opened only
when it is asked for; one that is asked for and not installed is an error that says what to install. A resumed run goes
on in the same tracker run. Left out: uploading models and tables.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from tropism.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
_MODULES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """A ``runtime.stage.MetricSink`` that can be closed."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Mirrors:
    """A metric sink that writes to ``record`` and to every tracker."""

    def __init__(self, record: Tracker, trackers: Sequence[Tracker]) -> None:
        self._all = [record, *trackers]

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write one step's values everywhere, the record first."""
        for sink in self._all:
            sink.write(stage, step, values)

    def close(self) -> None:
        """Close all."""
        for sink in self._all:
            sink.close()


def check_installed(names: Sequence[TrackerName]) -> None:
    """ConfigError for a tracker whose package is not installed."""
    for name in names:
        if find_spec(_MODULES[name]) is None:
            raise ConfigError(
                f"run.trackers names {name}, and the package {_PACKAGES[name]} is not installed",
                f"pip install {_PACKAGES[name]}, or take {name} out of run.trackers",
            )


def open_trackers(names: Sequence[TrackerName], folder: Path, run: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of one run. ``folder`` is the run's own (ids of remote runs are kept there, so that a resumed run
    goes on in them); ``run`` its name; ``settings`` are shown beside the curves. Errors: as ``check_installed``."""
    check_installed(names)
    makers: dict[TrackerName, type[Any]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
    return [makers[name](folder, run, settings) for name in dict.fromkeys(names)]


class TensorBoard:
    """Event files in ``folder/tensorboard``, one TensorBoard run per stage name."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step. A step that is done again after a kill replaces what was written at and after it."""
        from tensorboardX import SummaryWriter

        if stage not in self._writers:
            folder = self._folder / stage.replace(":", "-")
            # numbered: files of one second must neither be one file nor be read in another order
            number = f".{len(list(folder.glob('events.*'))):04d}"
            self._writers[stage] = SummaryWriter(str(folder), purge_step=step, filename_suffix=number)
        for name, value in values.items():
            self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close every file."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One run per folder; WANDB_MODE=offline and the other variables of wandb are heeded."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project="tropism",
            name=run,
            id=_kept_id(folder / "wandb.id", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            config=dict(settings),
            dir=str(folder),
        )
        self._steps: set[str] = set()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step, each on its stage's own step axis: stages count from 0 again."""
        axis = f"{stage}/step"
        if axis not in self._steps:
            self._steps.add(axis)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=axis)
        self._run.log({f"{stage}/{name}": value for name, value in values.items()} | {axis: step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """One run of experiment ``tropism`` per folder, where MLFLOW_TRACKING_URI says (``folder/mlflow.db`` otherwise)."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import os

        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{folder.absolute() / 'mlflow.db'}")
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name("tropism")
        experiment = found.experiment_id if found is not None else self._client.create_experiment("tropism")
        self._id = _kept_id(
            folder / "mlflow.id", lambda: str(self._client.create_run(experiment, run_name=run).info.run_id)
        )
        for name, value in _flat(settings).items():
            self._client.log_param(self._id, name, str(value)[:500])

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step; MLflow takes no NaN, so those are left to the record."""
        for name, value in values.items():
            if not math.isnan(value):
                self._client.log_metric(self._id, f"{stage}/{name}".replace(":", "-"), value, step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


def _kept_id(path: Path, make: Any) -> str:
    """The id in a file, or a new one that is written there."""
    if not path.is_file():
        path.write_text(str(make()))
    return path.read_text().strip()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
