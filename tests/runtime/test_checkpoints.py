"""A run that is stopped, saved, and loaded by a fresh model and optimiser goes on bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tropism.errors import StoreError
from tropism.runtime.checkpoints import load_state, save_state


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
