"""The state of a training step as files: tensors in safetensors, the rest in JSON, restored bit for bit.

For use inside ``StageRun.checkpoint(activity, step, save)``, which makes the folder durable and atomic. Tensors go from
where they are into the file, without a copy in between: a replay buffer may take most of the memory that there is.

Left out: generators' states (random numbers come from counters, see ``seeding.py``), sharded state, checkpoints that
hold only what is new since the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_EMPTY: Mapping[str, Any] = {}
RARER = 20
"""Times as long as saving took, at least, until the next checkpoint."""


class Pace:
    """When the next checkpoint is due: every ``seconds``, or more rarely where saving takes so long that it would eat
    more than a twentieth of the run."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seconds = clock, seconds
        self._saved, self._took = clock(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return self._clock() - self._saved > max(self._seconds, RARER * self._took)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the saving of one: how long it takes is measured."""
        began = self._clock()
        yield
        self._saved = self._clock()
        self._took = self._saved - began


def save_state(
    folder: Path,
    *,
    models: Mapping[str, nn.Module] = _EMPTY,
    optimizers: Mapping[str, Optimizer] = _EMPTY,
    tensors: Mapping[str, Tensor] = _EMPTY,
    meta: Mapping[str, Any] = _EMPTY,
) -> None:
    """Write models, optimisers, loose tensors (any shapes and dtypes) and JSON values into an existing folder.

    Tied weights are written once per name. Floats in ``meta`` and in parameter groups come back exactly.
    """
    state: dict[str, Any] = {"meta": dict(meta), "optimizers": {}}
    for name, model in models.items():
        save_tensors(folder / f"model-{name}.safetensors", model.state_dict())
    for name, optimizer in optimizers.items():
        loose, rest = _split_optimizer(optimizer.state_dict())
        save_tensors(folder / f"optimizer-{name}.safetensors", loose)
        state["optimizers"][name] = rest
    save_tensors(folder / "tensors.safetensors", tensors)
    (folder / "state.json").write_text(json.dumps(state, sort_keys=True))


def load_state(
    folder: Path,
    *,
    models: Mapping[str, nn.Module] = _EMPTY,
    optimizers: Mapping[str, Optimizer] = _EMPTY,
    mapped: Callable[[str], bool] = lambda name: False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore models and optimisers in place; returns (loose tensors, meta). StoreError if the folder lacks one.

    Loose tensors for whose name ``mapped`` says so are the file's own pages, for whoever copies them to their place:
    they take no memory that another process could not have.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        for name, model in models.items():
            model.load_state_dict(load_tensors(folder / f"model-{name}.safetensors"))
        for name, optimizer in optimizers.items():
            loose = load_tensors(folder / f"optimizer-{name}.safetensors")
            optimizer.load_state_dict(_join_optimizer(loose, state["optimizers"][name]))
        return load_tensors(folder / "tensors.safetensors", mapped), state["meta"]
    except (FileNotFoundError, KeyError) as error:
        fix = "delete the stage's scratch folder: the stage then starts again from its beginning"
        raise StoreError(f"checkpoint {folder} lacks {error}", fix) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors. Copied are those alone that the format would refuse: views with gaps, and tensors whose
    memory is another's, too (tied weights are written once per name)."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name in sorted(whole, key=lambda n: whole[n].data_ptr()):
        tensor, begin = whole[name], whole[name].data_ptr()
        if begin < end:
            whole[name] = tensor.clone()
        end = max(end, begin + tensor.nbytes)
    save_file(whole, path)


def load_tensors(path: Path, mapped: Callable[[str], bool] = lambda name: False) -> dict[str, Tensor]:
    """Read named tensors into freshly allocated memory: a mapped file's alignment would change kernels' last bits.
    ``mapped``: those that are to stay the file's pages, see ``load_state``."""
    from safetensors.torch import load_file

    return {name: tensor if mapped(name) else tensor.clone() for name, tensor in load_file(path).items()}


def _split_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state dict as (tensors by ``index.key``, JSON: groups, and the state's plain numbers)."""
    import torch

    loose: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        numbers[str(index)] = {}
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                loose[f"{index}.{key}"] = value
            else:
                numbers[str(index)][key] = value
    groups = [{k: v.item() if isinstance(v, torch.Tensor) else v for k, v in g.items()} for g in state["param_groups"]]
    return loose, {"groups": groups, "numbers": numbers}


def _join_optimizer(loose: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``_split_optimizer``."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["numbers"].items()}
    for name, tensor in loose.items():
        index, _, key = name.partition(".")
        state[int(index)][key] = tensor
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in rest["groups"]]
    return {"state": state, "param_groups": groups}
