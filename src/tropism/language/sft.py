"""Supervised fine-tuning on completions only; also the engine of a small model's pretraining.

The order of the data, the dropout and the schedule are functions of (seed, step), so a checkpoint holds weights and
optimiser state and nothing else, and a resumed run is bit for bit the undisturbed one. Rows are packed: no linear layer
sees padding. Left out: several devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tropism.engine.attention import PackedPlan, decoder_states
from tropism.engine.batch import Packed, by_tokens
from tropism.engine.floor import Arithmetic
from tropism.engine.models import context_length, eos_ids
from tropism.engine.optimisers import MuonAdamW
from tropism.engine.scoring import token_scores
from tropism.engine.working import Working
from tropism.errors import ConfigError, DataError, DivergenceError
from tropism.monitoring.phases import PhaseClock, peak_rss_mib
from tropism.runtime.precision import PrecisionName, resolve_precision
from tropism.runtime.seeding import derive, permutation
from tropism.runtime.stage import StageRun

POOL = 16  # batches whose rows are sorted by length together


class SftSettings(BaseModel):
    """Settings of one phase of supervised training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(300, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for hidden matrices, AdamW for the rest; learns faster from nothing."""
    learning_rate: float = Field(1e-3, gt=0)
    final_rate_fraction: float = Field(0.1, ge=0, le=1)
    """The cosine ends at this fraction of ``learning_rate``."""
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    beta2: float = Field(0.99, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=2)
    """Longer rows lose the left of their prompt; it never exceeds the model's context."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Most tokens of one forward; only memory depends on it."""
    precision: PrecisionName = "fp32"
    checkpoint_every: int = Field(200, ge=1)


@dataclass(frozen=True)
class Example:
    """A text in pieces ``(text, trained)``: only trained pieces count in the loss, each ended by EOS.

    The first piece is a prompt. Several trained pieces make one context serve several questions (pretraining). A piece
    given as token ids (a chat template's) is taken as it is, with no EOS added.
    """

    pieces: tuple[tuple[str | tuple[int, ...], bool], ...]

    @classmethod
    def of(cls, prompt: str, completion: str) -> Example:
        """One prompt, one completion."""
        return cls(((prompt, False), (completion, True)))


@dataclass(frozen=True)
class Rows:
    """Encoded examples. ``trained[i][t]`` says whether token t of row i is a target."""

    tokens: list[NDArray[np.int64]]
    trained: list[NDArray[np.bool_]]
    cut: int
    skipped: int


def fine_tune(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example | tuple[str, str]],
    settings: SftSettings,
    run: StageRun,
    activity: str = "sft",
) -> dict[str, float]:
    """Train ``model`` in place on the trained pieces of ``examples``; returns a summary.

    Loss: −Σ log π(token) over trained tokens / their count in the batch. AdamW, linear warm-up, cosine, gradient
    clipping. Metrics ``{activity}/loss`` (nats per token), ``…/learning_rate``, ``…/grad_norm`` (before clipping),
    ``…/tokens`` (trained tokens of the step), and of the step as a phase ``{activity}_step`` its seconds, CPU seconds,
    ``tokens/…`` (all of them), ``throughput/…_tokens_per_s`` and ``work/…_gflop``. Goes on from the newest checkpoint
    of ``activity`` in ``run``; a finished activity only loads its weights. The model is left in eval mode. Raises
    DataError if no row is usable, DivergenceError if the loss is not finite.
    """
    precision = resolve_precision(settings.precision)
    precision.check()
    limit = min(settings.max_length, context_length(model))
    rows = encode_examples(examples, tokenizer, min(eos_ids(model, tokenizer)), limit)
    optimizer = _optimizer(model, settings)
    start, meta = 0, {"tokens": 0, "loss": 0.0}
    found = run.latest_checkpoint(activity)
    if found is not None:
        start, folder, meta = found
        load_state(model, optimizer, folder)
    lengths = np.array([len(t) for t in rows.tokens])
    order = BatchOrder(lengths, settings.batch_size, derive(run.seed, activity, "order"))
    working = Working(model, precision)
    arithmetic, phase = Arithmetic.of(working.model), f"{activity}_step"
    working.model.train()
    for step in range(start, settings.steps):
        clock, chosen = PhaseClock(), order.batch(step)
        with clock(phase):
            optimizer.zero_grad(set_to_none=True)
            with torch.random.fork_rng(devices=[]):  # dropout is a function of the step
                torch.manual_seed(derive(run.seed, activity, "dropout", step))
                loss, count = _gradient(working, rows, chosen, settings.micro_batch_tokens)
            values = _update(model, optimizer, loss, settings, step)
            working.refresh()
        meta = {"tokens": int(meta["tokens"]) + count, "loss": values["loss"]}
        logged = {f"{activity}/{name}": value for name, value in (values | {"tokens": float(count)}).items()}
        all_tokens = torch.from_numpy(lengths[chosen])
        logged[f"tokens/{phase}"] = float(all_tokens.sum())
        logged[f"work/{phase}_gflop"] = arithmetic.trained(all_tokens, count) / 1e9
        seconds = clock.metrics()
        speed = logged[f"tokens/{phase}"] / max(seconds[f"time/{phase}_s"], 1e-9)
        run.log(
            step, logged | seconds | {f"throughput/{phase}_tokens_per_s": speed, "memory/peak_rss_mib": peak_rss_mib()}
        )
        run.progress.update(activity, step + 1, settings.steps, f"loss {values['loss']:.3f}")
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            run.checkpoint(activity, step + 1, lambda folder: save_state(model, optimizer, folder), meta)
        run.check_stop()
    model.eval()
    summary = {"steps": float(settings.steps), "rows": float(len(rows.tokens)), "rows_cut": float(rows.cut)}
    return summary | {"rows_skipped": float(rows.skipped), "tokens": float(meta["tokens"]), "loss": float(meta["loss"])}


def encode_examples(
    examples: Sequence[Example | tuple[str, str]], tokenizer: PreTrainedTokenizerBase, end: int, limit: int
) -> Rows:
    """Token rows with their target masks.

    The first piece is encoded with the tokenizer's own special tokens (BOS), the others without; trained pieces end
    with EOS (the tokenizer's, else ``end``). A row over ``limit`` tokens loses the left of its prompt (BOS stays) and
    counts as cut; one whose trained part does not fit is skipped and counted. DataError if nothing is left.
    """
    if not examples:
        raise DataError("there are no examples to train on", "give at least one (prompt, completion)")
    made = [e if isinstance(e, Example) else Example.of(*e) for e in examples]
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else end
    bos = tokenizer.bos_token_id
    tokens, trained, cut, skipped = [], [], 0, 0
    for example, pieces in zip(made, _piece_ids(made, tokenizer, eos), strict=True):
        ids = pieces[0] or [eos if bos is None else bos]
        mask = [example.pieces[0][1]] * len(ids)
        for piece, (_, is_trained) in zip(pieces[1:], example.pieces[1:], strict=True):
            ids, mask = ids + piece, mask + [is_trained] * len(piece)
        if len(ids) > limit:
            keep = limit - (1 if ids[0] == bos else 0)
            if not any(mask) or len(ids) - mask.index(True) > keep - 1:
                skipped += 1
                continue
            cut += 1
            head_kept = [bos] if ids[0] == bos else []
            ids, mask = head_kept + ids[-keep:], [False] * len(head_kept) + mask[-keep:]
        mask[0] = False  # nothing predicts the first token
        if not any(mask):
            skipped += 1
            continue
        tokens.append(np.array(ids, dtype=np.int64))
        trained.append(np.array(mask, dtype=np.bool_))
    if not tokens:
        raise DataError(
            f"none of {len(made)} examples fits into {limit} tokens", "raise max_length or shorten completions"
        )
    return Rows(tokens, trained, cut, skipped)


def _piece_ids(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, eos: int) -> Iterator[list[list[int]]]:
    """The ids of every example's pieces; texts go through the tokenizer together, which is much faster."""

    def encoded(texts: list[str], special: bool) -> Iterator[list[int]]:
        return iter(tokenizer(texts, add_special_tokens=special)["input_ids"] if texts else [])

    heads = encoded([e.pieces[0][0] for e in examples if isinstance(e.pieces[0][0], str)], True)
    tails = encoded([text for e in examples for text, _ in e.pieces[1:] if isinstance(text, str)], False)
    for example in examples:
        made: list[list[int]] = []
        for number, (piece, is_trained) in enumerate(example.pieces):
            if not isinstance(piece, str):
                made.append(list(piece))
            elif number == 0:
                head = next(heads)
                while head and head[-1] == eos:  # some tokenizers end every text; a prompt is not ended
                    head = head[:-1]
                made.append(head)
            else:
                made.append([*next(tails), eos] if is_trained else next(tails))
        yield made


class BatchOrder:
    """Which rows make up the batch of a step: a pure function of (lengths, batch size, seed, step).

    Each epoch is a fresh permutation, cut into pools of ``POOL`` batches; a pool is sorted by length (stable) and cut
    into batches, which are served in a random order: little padding, and every row once an epoch.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.lengths, self.seed = lengths, seed
        self.size = min(batch_size, len(lengths))
        self.per_epoch = len(lengths) // self.size
        self._epoch, self._batches = -1, [np.zeros(0, dtype=np.int64)]

    def batch(self, step: int) -> NDArray[np.int64]:
        """Row numbers of the step's batch."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._of_epoch(epoch)
        return self._batches[place]

    def _of_epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        order = permutation(len(self.lengths), self.seed, epoch)[: self.per_epoch * self.size]
        batches = []
        for pool, first in enumerate(range(0, len(order), POOL * self.size)):
            rows = order[first : first + POOL * self.size]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            cut = [rows[i : i + self.size] for i in range(0, len(rows), self.size)]
            batches += [cut[i] for i in permutation(len(cut), derive(self.seed, "pool", epoch), pool)]
        return batches


def batch_loss(model: Any, rows: Rows, chosen: NDArray[np.int64]) -> tuple[Tensor, int]:
    """(mean negative log-likelihood over the batch's trained tokens, their count).

    The rows are packed, and the head runs on what predicts a target only.
    """
    ids = torch.from_numpy(np.concatenate([rows.tokens[i] for i in chosen]))
    targets = torch.from_numpy(np.concatenate([rows.trained[i] for i in chosen])).nonzero()[:, 0]
    layout = Packed(torch.tensor([len(rows.tokens[i]) for i in chosen]))
    states = decoder_states(model, ids, layout.positions, PackedPlan(layout), targets - 1)
    logprobs, _, _ = token_scores(model, states, ids[targets])
    return -logprobs.sum() / len(targets), len(targets)


def _gradient(working: Working, rows: Rows, chosen: NDArray[np.int64], budget: int) -> tuple[float, int]:
    """Add the gradient of a batch's loss, in pieces of at most ``budget`` tokens; (loss, trained tokens)."""
    lengths = torch.tensor([len(t) for t in rows.tokens])
    count, total = sum(int(rows.trained[i].sum()) for i in chosen), 0.0
    for part in by_tokens(torch.from_numpy(chosen), lengths, budget):
        with working.running():
            loss, targets = batch_loss(working.model, rows, part.numpy())
        share = loss * (targets / count)
        share.backward()
        total += float(share.detach())
    return total, count


def learning_rate(settings: SftSettings, step: int) -> float:
    """Linear warm-up over ``warmup_steps``, then a cosine down to ``final_rate_fraction``; ``step`` counts from 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    low = settings.final_rate_fraction
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: nn.Module, settings: SftSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "muon":
        betas = (0.9, settings.beta2)
        return MuonAdamW.of(model, settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
    wide = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    flat = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]  # norms and biases do not decay
    if not wide:
        raise ConfigError("the model has no trainable weights", "leave requires_grad on")
    groups: list[dict[str, Any]] = [{"params": wide, "weight_decay": settings.weight_decay}]
    if flat:
        groups.append({"params": flat, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, value: float, settings: SftSettings, step: int
) -> dict[str, float]:
    """One step along the gradient that is there."""
    if not math.isfinite(value):
        raise DivergenceError(
            f"the training loss is {value} at step {step}", "lower learning_rate or raise warmup_steps"
        )
    rate = learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
    if not math.isfinite(norm):
        raise DivergenceError(
            f"the gradient norm is {norm} at step {step}", "lower learning_rate or raise warmup_steps"
        )
    optimizer.step()
    return {"loss": value, "learning_rate": rate, "grad_norm": norm}


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Weights and optimiser state of every parameter that learns (adapters alone, where there are some) as one
    safetensors file."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state[f"weight/{name}"] = parameter.detach().contiguous()
        for key, tensor in optimizer.state.get(parameter, {}).items():
            state[f"{key}/{name}"] = tensor.contiguous()
    save_file(state, folder / "training.safetensors")


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """The inverse of :func:`save_state`, into the memory that is there."""
    state = load_file(folder / "training.safetensors")
    by_name = dict(model.named_parameters())
    with torch.no_grad():
        for full, tensor in state.items():
            key, name = full.split("/", 1)
            if key == "weight":
                by_name[name].copy_(tensor)
            else:  # cloned: a mapped file's alignment must not show in the last bits
                optimizer.state[by_name[name]][key] = tensor.clone()
