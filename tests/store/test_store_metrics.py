"""Metrics: replayed steps replace, NaN survives, resumed stages forget."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tropism.errors import StoreError
from tropism.runtime.stage import MetricSink
from tropism.store.metrics import MetricStore


@pytest.fixture
def metrics(tmp_path: Path) -> MetricStore:
    return MetricStore(tmp_path / "metrics.db")


def test_writing_a_step_again_replaces_it(metrics: MetricStore) -> None:
    sink: MetricSink = metrics
    for value in (0.5, 0.25):
        sink.write("improve-1", 1, {"kl/ref_k1": value, "reward/mean": 2})
    assert metrics.series("kl/ref_k1") == [("improve-1", 1, 0.25)]
    assert metrics.names() == ["kl/ref_k1", "reward/mean"]


def test_series_tables_and_last_values(metrics: MetricStore) -> None:
    for step in (2, 1, 10):
        metrics.write("improve-1", step, {"loss": step / 10})
    metrics.write("improve-2", 1, {"loss": 7.0, "kl": 1.0})
    assert metrics.series("loss") == [("improve-1", 1, 0.1), ("improve-1", 2, 0.2), ("improve-1", 10, 1.0),
                                      ("improve-2", 1, 7.0)]  # fmt: skip
    assert metrics.series("loss", "improve-2") == [("improve-2", 1, 7.0)]
    assert metrics.table("improve-1") == {"loss": [(1, 0.1), (2, 0.2), (10, 1.0)]}
    assert metrics.last("improve-1") == {"loss": 1.0}
    assert metrics.names("improve-1") == ["loss"]
    assert metrics.stages() == ["improve-1", "improve-2"]


def test_nan_and_infinity_come_back(metrics: MetricStore) -> None:
    metrics.write("s", 1, {"nan": math.nan, "inf": math.inf})
    assert math.isnan(metrics.last("s")["nan"])
    assert metrics.last("s")["inf"] == math.inf


def test_forget_drops_only_later_steps_of_the_stage(metrics: MetricStore) -> None:
    for stage in ("a", "b"):
        for step in (1, 2, 3):
            metrics.write(stage, step, {"x": step})
    metrics.forget("a", 1)
    assert metrics.table("a") == {"x": [(1, 1.0)]}
    assert len(metrics.table("b")["x"]) == 3


def test_it_is_there_after_opening_again(tmp_path: Path) -> None:
    first = MetricStore(tmp_path / "metrics.db")
    first.write("s", 1, {"x": 1.5})
    first.close()
    assert MetricStore(tmp_path / "metrics.db").last("s") == {"x": 1.5}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.db").write_text("no database " * 100)
    with pytest.raises(StoreError, match=r"metrics\.db"):
        MetricStore(tmp_path / "metrics.db")
