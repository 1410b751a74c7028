"""LoRA adapters (Hu et al. 2022) on any model here, through peft: added in place, switched off, merged, saved, loaded.

A layer computes W x + (alpha / rank) · B A x with W frozen; B starts at 0, so a model with fresh adapters says exactly
what it said without. The object stays the model it was: its decoder, head and config are where they were.

Left out: adapters of the embedding and the output head (with tied weights a merge would change both), peft's other
methods, adapters whose folder stands on the hub, quantised bases.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tropism.errors import ConfigError, ModelError
from tropism.runtime.seeding import derive
from tropism.settings.sections import Section, nearest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"  # peft's own name for the only adapter
_PREFIX = "base_model.model."  # what a PeftModel's weights are called by
_Model = TypeVar("_Model", bound=nn.Module)


class LoraSettings(Section):
    """``[lora]``: train low-rank adapters instead of all weights."""

    rank: int = Field(0, ge=0)
    """Rank of the adapters; 0: full fine-tuning."""
    alpha: float = Field(16.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' inputs in supervised training (PPO runs without)."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules to adapt, by the last part of their names (``["q_proj", "v_proj"]``), or all linear ones but the head."""
    save: Literal["merged", "adapter"] = "merged"
    """``merged``: a plain model folder; ``adapter``: a small peft folder that names its base model."""


def add_lora(
    model: nn.Module, settings: LoraSettings, seed: int, *, train: Sequence[str] = (), base: str | None = None
) -> None:
    """Add adapters to ``model`` in place; only they, and the modules named in ``train`` (a fresh head), are trainable.

    A rank of 0 changes nothing. The adapters' first weights are a function of ``seed``. ``base`` is what a saved
    adapter names as its base model; None: where the model was loaded from. Errors: ConfigError for targets that are
    not there or are the embedding or head; ModelError where there are adapters already.
    """
    if settings.rank == 0:
        return
    if has_adapters(model):
        raise ModelError("the model has adapters already", "merge them first (merged_copy), or train those")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # peft only ever divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings.targets, train),
        exclude_modules=[*train, *_seeing(model)] or None,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        base_model_name_or_path=base if base is not None else str(getattr(model, "name_or_path", "") or ""),
        task_type="CAUSAL_LM" if not train else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "lora"))
        inject_adapter_in_model(config, model, _NAME)
    for name in train:
        model.get_submodule(name).requires_grad_(True)


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters were added to the model."""
    return any(True for _ in _layers(model))


def settings_of(model: nn.Module) -> tuple[int, float]:
    """(rank, alpha) of the model's adapters."""
    config = _config(model)
    return int(config.r), float(config.lora_alpha)


def adds_nothing(model: nn.Module) -> bool:
    """Whether the adapters, if there are any, leave the model's function as it is: every B is 0."""
    return all(not bool(p.any()) for name, p in model.named_parameters() if ".lora_B." in name) and not any(
        ".lora_magnitude_vector." in name for name, _ in model.named_parameters()
    )


@contextmanager
def adapters_off(model: _Model) -> Iterator[_Model]:
    """The model without what its adapters add, for the time of the block; what is trainable stays so afterwards."""
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    for layer in _layers(model):
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in _layers(model):
            layer.enable_adapters(True)
        for parameter, was in trainable:  # peft ties the two together
            parameter.requires_grad_(was)


def base_parameters(model: nn.Module, *, off: bool = False) -> dict[str, Tensor]:
    """What the model computes with, by plain names; adapters are left out where they add nothing, or if ``off``."""
    plain = off or adds_nothing(model)
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if not (plain and ".lora_" in name)
    }


def copy_sharing_frozen(model: _Model) -> _Model:
    """A copy in memory of what can learn; frozen tensors, which never change, are shared with the original."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def merged_copy(model: _Model) -> _Model:
    """A plain model, all weights trainable, that computes what the adapted one does; the original stays as it is."""
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if _is_layer(module):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(merged.get_submodule(parent), child, module.get_base_layer())
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    return merged.requires_grad_(True)


def save_adapters(model: nn.Module, folder: Path) -> None:
    """Write the adapters as a peft folder, the base model by its name alone. ModelError where nothing names it."""
    config = _config(model).to_dict()
    if not config["base_model_name_or_path"]:
        raise ModelError(
            "adapters cannot be saved alone: nothing says what their base model is",
            'set lora.save = "merged", or start from a model folder (model.path)',
        )
    config |= {"inference_mode": True}
    # sets have another order in every process, and equal adapters shall make equal files
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")
    state = {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter.detach().clone().contiguous()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def base_of(folder: Path) -> str | None:
    """The base model that a folder's adapters name: a hub name or a path (seen from the working directory, else from
    the folder). None for a folder that holds no adapters; ModelError for adapters that name nothing."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is no JSON object: {error}", "save the adapters again") from error
    if not base:
        raise ModelError(f"{path} names no base model", "set base_model_name_or_path in it")
    beside = folder / str(base)
    return str(beside) if not Path(base).expanduser().exists() and beside.is_dir() else str(base)


def load_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Add a folder's adapters to its base model, in place; they are trainable, the base is frozen.

    ModelError for another method than LoRA, for whole modules saved beside the adapters, for an adapted head that is
    tied to the embedding, for weights that are missing, do not fit, or are pickled.
    """
    from peft import LoraConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    merge = "merge them where they were made: PeftModel.merge_and_unload(), then save_pretrained"
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
            kind = f"{config.peft_type}" if not isinstance(config, LoraConfig) else "LoRA with whole modules or biases"
            raise ModelError(f"the adapters in {folder} are {kind}; only plain LoRA can be loaded", merge)
        if not (folder / WEIGHTS).is_file():
            raise ModelError(f"{folder} has no {WEIGHTS}", "save the adapters with save_pretrained (no pickle is read)")
        config.inference_mode = False
        state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, model, _NAME)
        plain = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
        result = set_peft_model_state_dict(model, plain, _NAME)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the adapters in {folder} do not fit their base model: {first}", "name the base they were trained on"
        ) from error
    outer = [model.get_input_embeddings(), model.get_output_embeddings()]
    if any(map(_is_layer, outer)) and outer[0].weight is outer[1].weight:
        raise ModelError(f"the adapters in {folder} adapt a head that is tied to the embedding", merge)
    missing = [k for k in result.missing_keys if ".lora_" in k]
    if missing or result.unexpected_keys:
        named = ", ".join([*missing, *result.unexpected_keys][:3])
        raise ModelError(f"the adapters in {folder} do not fill their base model ({named}, …)", merge)


def _targets(model: nn.Module, wanted: Literal["all-linear"] | Sequence[str], train: Sequence[str]) -> list[str]:
    """The last parts of the names of the modules to adapt, sorted."""
    outer = [getattr(model, f"get_{side}_embeddings", lambda: None)() for side in ("input", "output")]
    own = {name for name, module in model.named_modules() if any(module is o for o in outer) or name in train}
    own |= set(_seeing(model))
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and n not in own]
    leaves = {n.rpartition(".")[2] for n in linear if not any(n.startswith(f"{t}.") for t in train)}
    if wanted == "all-linear":
        return sorted(leaves)
    for name in wanted:
        if name not in leaves:
            is_outer = name in {o.rpartition(".")[2] for o in own}
            problem = "the embedding or head, which have no adapters here" if is_outer else "no linear module's name"
            fix = nearest(name, leaves, f"name some of {', '.join(sorted(leaves))}")
            raise ConfigError(f"lora.targets names {name!r}: {problem}", fix)
    return sorted(set(wanted))


def _seeing(model: nn.Module) -> list[str]:
    """The linear modules of a multimodal model that no text goes through: its vision or audio tower, its projector."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return []
    inner = {id(m) for m in cast(PreTrainedModel, model).get_decoder().modules()}
    head = cast(PreTrainedModel, model).get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    return [name for name, module in linear if id(module) not in inner and module is not head]


def _config(model: nn.Module) -> Any:
    """The LoraConfig of the model's adapters, which peft keeps on the model."""
    return cast(Any, model).peft_config[_NAME]


def _layers(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if _is_layer(module))


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one that peft put in place of another; asked without importing peft, which takes a second."""
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")
