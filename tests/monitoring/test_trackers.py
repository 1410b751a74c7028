"""Trackers mirror the metrics; TensorBoard's files are read back, the others where they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tropism.errors import ConfigError
from tropism.monitoring.trackers import Mirrors, check_installed, open_trackers
from tropism.store.metrics import MetricStore


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_holds_what_the_record_holds_after_a_resumed_run_too(tmp_path: Path) -> None:
    record = MetricStore(tmp_path / "metrics.db")
    sink = Mirrors(record, open_trackers(["tensorboard"], tmp_path, "sft x", {}))
    for step in range(4):
        sink.write("sft", step, {"sft/loss": 4.0 - step})
    sink.close()
    record = MetricStore(tmp_path / "metrics.db")
    sink = Mirrors(record, open_trackers(["tensorboard"], tmp_path, "sft x", {}))
    for step in (2, 3, 4):  # killed behind step 3, the last checkpoint was behind step 1
        sink.write("sft", step, {"sft/loss": 4.0 - step})
    kept = [(step, value) for _, step, value in record.series("sft/loss")]
    sink.close()
    assert kept == [(step, 4.0 - step) for step in range(5)]
    assert scalars(tmp_path / "tensorboard" / "sft", "sft/loss") == kept


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_named_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match="wandb") as caught:
        check_installed(["tensorboard", "wandb"])
    assert "pip install wandb" in caught.value.fix


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_takes_every_stage_on_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):  # the second time it goes on in the same run
        (tracker,) = open_trackers(["wandb"], tmp_path, "sft x", {"sft": {"steps": 3}})
        tracker.write("sft", 0, {"sft/loss": 1.0})
        tracker.write("ppo", 0, {"ppo/score_mean": 1.0})
        tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_keeps_curves_and_settings_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in range(2):
        (tracker,) = open_trackers(["mlflow"], tmp_path, "sft x", {"sft": {"steps": 3}})
        tracker.write("sft", step, {"sft/loss": 1.0 - step, "sft/never": float("nan")})
        tracker.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tropism").experiment_id])
    assert run.data.params == {"sft.steps": "3"}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "sft/sft/loss")] == [(0, 1), (1, 0)]
