"""A run that is stopped, saved, and loaded by a fresh model and optimiser goes on bit for bit."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from tropism.errors import StoreError
from tropism.runtime.checkpoints import Pace, load_state, load_tensors, save_state, save_tensors


class Tied(nn.Module):
    """An embedding whose weight is also the head's, as in small language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


def make(seed: int, kind: str) -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Tied()
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=1 / 3, weight_decay=0.01, fused=kind == "fused")


def train(model: Tied, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        x = (torch.arange(6) * (step + 1)) % 11
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x + 1) % 11).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "fused", "sgd"])
def test_restored_training_is_bit_exact(tmp_path: Path, kind: str) -> None:
    model, optimizer = make(0, kind)
    train(model, optimizer, range(0, 5))
    meta = {"kl_coef": 0.1 + 0.2, "step": 5}
    extra = torch.tensor([float("nan"), -0.0, 1e-45], dtype=torch.float32)
    save_state(tmp_path, models={"policy": model}, optimizers={"adam": optimizer}, tensors={"extra": extra}, meta=meta)
    other, fresh = make(1, kind)
    tensors, loaded = load_state(tmp_path, models={"policy": other}, optimizers={"adam": fresh})
    assert loaded == meta
    assert tensors["extra"].view(torch.int32).equal(extra.view(torch.int32))
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert other.head.weight is other.embed.weight
    train(model, optimizer, range(5, 9))
    train(other, fresh, range(5, 9))
    assert torch.equal(model.embed.weight, other.embed.weight)


def test_loaded_tensors_share_nothing_with_the_file(tmp_path: Path) -> None:
    save_state(tmp_path, tensors={"a": torch.arange(5)})
    tensors, _ = load_state(tmp_path)
    tensors["a"].add_(1)
    assert torch.equal(load_state(tmp_path)[0]["a"], torch.arange(5))


def test_a_checkpoint_without_the_model_is_named(tmp_path: Path) -> None:
    save_state(tmp_path, tensors={})
    with pytest.raises(StoreError, match="model-policy"):
        load_state(tmp_path, models={"policy": Tied()})


def test_views_gaps_and_shared_memory_come_back_as_they_are(tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    tensors = {
        "tail": whole[12:], "head": whole[:12], "inside": whole[3:5], "tied": whole[:12], "turned": whole.view(4, 6).T,
        "strided": whole[::5], "spread": torch.tensor(3.0).expand(4), "none": torch.zeros(0, 3), "one": torch.tensor(7),
        "learned": nn.Parameter(torch.ones(2)), "bytes": torch.arange(5, dtype=torch.uint8)[1:],
    }  # fmt: skip
    save_tensors(tmp_path / "t.safetensors", tensors)
    for mapped in (False, True):
        found = load_tensors(tmp_path / "t.safetensors", lambda name, m=mapped: m)  # type: ignore[misc]
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor.detach()), name
    assert torch.equal(whole, torch.arange(24.0))


PEAKS = """
import resource, sys, torch
from pathlib import Path
from tropism.runtime.checkpoints import load_state, save_state
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
folder = Path(sys.argv[1])
save_state(folder, tensors={"small": torch.ones(1000)})  # whatever is loaded for it
ring = torch.ones(96 << 18)  # 96 MiB
before = peak()
save_state(folder, tensors={"ring": ring, "small": torch.ones(1000)})
print(peak() - before)
"""


def test_saving_copies_nothing_that_is_large(tmp_path: Path) -> None:
    """A replay buffer of pictures may take half of the memory that there is: its copy would end the run."""
    told = [sys.executable, "-c", PEAKS, str(tmp_path)]
    done = subprocess.run(told, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 48
    assert torch.equal(load_state(tmp_path)[0]["ring"], torch.ones(96 << 18))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
def test_tensors_that_are_copied_elsewhere_stay_in_the_file(tmp_path: Path) -> None:
    save_state(tmp_path, tensors={"agent.ring": torch.arange(1000.0), "kept": torch.arange(10.0)})
    found, _ = load_state(tmp_path, mapped=lambda name: name.startswith("agent."))
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "tensors.safetensors" in line]
    maps = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in lines]
    in_file = {name: any(a <= t.data_ptr() < b for a, b in maps) for name, t in found.items()}
    assert in_file == {"agent.ring": True, "kept": False}
    assert torch.equal(found["agent.ring"], torch.arange(1000.0))


def test_checkpoints_that_take_long_are_rarer() -> None:
    """What saving costs is at most a twentieth of the time."""
    now = [0.0]
    pace = Pace(20.0, clock=lambda: now[0])
    saves = []
    for took in (0.5, 6.0, 6.0, 0.1, 0.1):
        while not pace.due:
            now[0] += 1.0
        saves.append(now[0])
        with pace.saving():
            now[0] += took
    apart = [b - a for a, b in pairwise(saves)]
    assert apart[0] == pytest.approx(20, abs=2)
    assert apart[1] == pytest.approx(6 + 120, abs=2)
    assert apart[2] == pytest.approx(6 + 120, abs=2)
    assert apart[3] == pytest.approx(20, abs=2)
