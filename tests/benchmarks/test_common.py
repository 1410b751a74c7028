"""The result-file writer of the benchmarks."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def common() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "common.py"
    spec = importlib.util.spec_from_file_location("benchmarks_common", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_last_line_printed_is_what_the_file_holds(
    common: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    claim = common.Claim("share", 0.81, 0.78, 0.84, ">= 0.80", True)
    common.write_result("thing", [claim], {"seeds": [0, 1]}, quick=False, folder=tmp_path)
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert printed == json.loads((tmp_path / "thing.json").read_text())
    assert printed["claims"] == [
        {"name": "share", "value": 0.81, "low": 0.78, "high": 0.84, "target": ">= 0.80", "holds": True}
    ]
    assert printed["seeds"] == [0, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["thing.json"]


def test_quick_writes_nothing(common: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common.write_result("thing", [], {}, quick=True, folder=tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert json.loads(capsys.readouterr().out)["quick"] is True


def test_a_failed_claim_and_nan_do_not_pass(common: ModuleType, tmp_path: Path) -> None:
    failed = common.Claim("share", 0.5, 0.4, 0.6, ">= 0.80", False)
    assert common.write_result("thing", [failed], {}, quick=True)["holds"] is False
    (tmp_path / "thing.json").write_text("old")
    with pytest.raises(ValueError):
        common.write_result("thing", [], {"share": float("nan")}, quick=False, folder=tmp_path)
    assert (tmp_path / "thing.json").read_text() == "old"


def test_machine_names_no_host_and_no_path(common: ModuleType) -> None:
    text = json.dumps(common.machine())
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert {"cpu", "cores", "memory_gib", "bf16", "os", "python", "versions"} == set(common.machine())


def test_interval_is_the_t_interval(common: ModuleType) -> None:
    mean, low, high = common.interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert high - mean == pytest.approx(4.302653 * 1.0 / 3**0.5, rel=1e-6)  # t of 2 degrees at 97.5 %
    assert mean - low == pytest.approx(high - mean)
    assert common.interval([0.7]) == (0.7, 0.7, 0.7)
