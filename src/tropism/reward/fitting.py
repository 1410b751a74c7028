"""Fitting a reward model: AdamW on mini-batches of evidence, bootstrap ensembles, early stopping, exact resume.

Every random choice (order, bootstrap weights, dropout) is a function of (seed, epoch, position), so that what is done
again after a kill gives the same bits. A long epoch is checkpointed on its way. Left out: distributed fitting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tropism.errors import DataError
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import combine
from tropism.reward.likelihood import (
    Links,
    RatingLoss,
    Scores,
    ScoreTable,
    candidates_of,
    evidence_nll,
    needed_by,
    parts,
    take_rows,
    total_weight,
)
from tropism.reward.pairs import Pairs, pair_accuracy
from tropism.runtime.checkpoints import load_state, save_state
from tropism.runtime.seeding import derive, generator, permutation, uniform
from tropism.runtime.stage import StageRun

ACTIVITY = "reward-fit"
POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
"""The distribution function of Poisson(1)."""


class ScoreModel(Protocol):
    """An ``nn.Module`` that scores the candidates of one ``RewardData`` by their number (see ``likelihood.Scores``)."""

    members: int

    def score(self, index: Tensor) -> Tensor:
        """Raw scores ``[members, n]`` of candidates ``index`` (long ``[n]``), with gradients in train mode."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As in ``nn.Module``; parameters that require no gradient are neither fitted nor checkpointed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As in ``nn.Module``."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As in ``nn.Module``."""
        ...


@dataclass(frozen=True)
class FitSettings:
    """How to fit."""

    epochs: int = 30
    batch_size: int = 64
    """Rows of evidence per optimiser step."""
    learning_rate: float = 2e-3
    head_learning_rate: float | None = None
    """Rate of the parameters that the model names in ``heads``, and of the links to ratings and labels; None: the
    same."""
    warmup: float = 0.0
    """Share of all steps over which rates rise from 0."""
    decay: bool = False
    """Whether rates then fall linearly to 0 at the last epoch's end."""
    weight_decay: float = 0.01
    """Of matrices; vectors (biases, norms) are not decayed."""
    max_grad_norm: float = 1.0
    patience: int = 6
    """Epochs without a better validation likelihood before stopping."""
    least_epochs: int = 1
    """Epochs before which no weights count as the best."""
    bootstrap: bool = True
    """Each member of an ensemble weighs every task by its own Poisson(1) draw, a function of the task's id; a single
    member weighs all by 1."""
    bag_seed: int | None = None
    """Seed of those draws, to be the same wherever a fit goes on from the weights of another; None: the fit's own."""
    out_of_bag: bool = False
    """Without validation rows, stop on what each member's draws left out (about 1/e of the tasks)."""
    rating_loss: RatingLoss = "regression"
    rating_weight: float = 1.0
    label_weight: float = 1.0
    lapse: float = 0.0
    """Share of choices that are taken to be random, in [0, 1)."""
    center_coef: float = 0.0
    """Weight of the squared sum of each comparison's scores (``objectives.centering``), while fitting only."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    checkpoint_seconds: float = 120.0
    """And within an epoch that takes longer than this."""


@dataclass
class FitResult:
    """What fitting did; JSON-able with ``asdict``."""

    best_epoch: int = 0
    """Epochs done when the restored weights were the best (1-based)."""
    epochs: int = 0
    nll_validation: float | None = None
    """Negative log-likelihood per vote of the restored weights on the validation rows, or out of bag, mean over
    members; None: neither was asked for."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch."""


def fit(
    model: ScoreModel, data: RewardData, settings: FitSettings, seed: int, run: StageRun | None = None
) -> FitResult:
    """Fit ``model`` on the train rows of ``data``; it ends in eval mode with the weights best on the validation rows.

    Without validation rows the last weights stay, or those best out of bag (``FitSettings.out_of_bag``). The loss is
    evidence per vote, summed over members, which share no gradient unless they share parameters. Deterministic given
    ``seed``; with ``run`` it logs metrics, checkpoints, and goes on from the newest checkpoint, to the same bits. A
    model may have ``heads``, the names of parameters that learn at ``head_learning_rate``. DataError without train
    rows, RewardError for NaN scores.
    """
    fitting = _Fitting(model, data, settings, seed)
    if run is not None:
        fitting.resume(run)
    while not fitting.finished:
        metrics = fitting.epoch(run)
        if run is None:
            continue
        done = fitting.result.epochs
        run.log(done, metrics)
        run.progress.update("reward model", done, settings.epochs, f"NLL {metrics['reward/nll_train']:.3f}")
        stop = run.stop_requested()
        if stop or done % settings.checkpoint_every == 0 or fitting.finished:
            run.checkpoint(ACTIVITY, fitting.steps, fitting.save)
        if stop:  # asked once: a stop that comes only now finds its next step
            run.check_stop()
    fitting.restore_best()
    model.train(False)
    return fitting.result


@dataclass
class _Epoch:
    """What an epoch has done so far: rows passed, and by step the loss, the votes behind it and the gradient's norm."""

    rows: int = 0
    losses: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Means over what was done."""
        mean = sum(x * n for x, n in zip(self.losses, self.sizes, strict=True)) / sum(self.sizes)
        return {"reward/nll_train": mean, "reward/grad_norm": sum(self.norms) / len(self.norms)}


class _Fitting:
    """The state of a fit between steps."""

    def __init__(self, model: ScoreModel, data: RewardData, settings: FitSettings, seed: int) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self.train, self.validation = data.fold(True), data.fold(False)
        if not len(self.train):
            raise DataError(
                f"no evidence to fit on: used {dict(data.used)}, dropped {dict(data.dropped)}",
                "collect comparisons, rankings, ratings or labels on train tasks",
            )
        self.links = Links(model.members, self.train)
        self.bags = self._bags()
        self.left_out = self._left_out()
        self.fitted = [p for _, p in model.named_parameters() if p.requires_grad]
        self.frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        self.optimizer = torch.optim.AdamW(self._groups(), lr=settings.learning_rate, fused=True)
        self.pairs = Pairs.of(self.validation)
        self.best: dict[str, Tensor] = {}
        self.result, self.now, self.steps = FitResult(), _Epoch(), 0
        self.dropout: Tensor | None = None  # the generator's state within an epoch
        self.saved, self.saving = time.monotonic(), 0.0

    def _groups(self) -> list[dict[str, Any]]:
        """Trunk and head, each with what is decayed apart; the links learn with the head."""
        heads: Collection[str] = getattr(self.model, "heads", ())
        rate = self.settings.learning_rate
        own = rate if self.settings.head_learning_rate is None else self.settings.head_learning_rate
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                decay = self.settings.weight_decay if parameter.dim() > 1 else 0.0
                found.setdefault((own if name in heads else rate, decay), []).append(parameter)
        groups: list[dict[str, Any]] = [{"params": p, "lr": lr, "weight_decay": d} for (lr, d), p in found.items()]
        groups.append({"params": list(self.links.parameters()), "lr": own, "weight_decay": 0.0})
        return [group | {"full_lr": group["lr"]} for group in groups]

    def _set_rates(self) -> None:
        """Every group's rate for the coming step."""
        total = self.settings.epochs * -(-len(self.train) // self.settings.batch_size)
        rising = self.settings.warmup * total
        factor = min(1.0, (self.steps + 1) / rising) if rising >= 1 else 1.0
        if self.settings.decay:
            factor *= 1 - self.steps / total
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor

    @property
    def finished(self) -> bool:
        """All epochs are done, or validation has not improved for ``patience`` of them."""
        done = self.result.epochs
        return done >= self.settings.epochs or (
            self.result.nll_validation is not None and done - self.result.best_epoch >= self.settings.patience
        )

    def _bags(self) -> Tensor | None:
        """Bootstrap weights ``[E, tasks]``: by task, because votes on one task are not independent."""
        if not self.settings.bootstrap or self.model.members == 1:
            return None
        # by id: a task that was left out of a member's bag is left out of its later fits, too
        ids = np.array([derive(0, task.id) for task in self.train.tasks])
        seed = self.seed if self.settings.bag_seed is None else self.settings.bag_seed
        drawn = uniform(derive(seed, "reward-bootstrap"), ids, np.arange(self.model.members)[:, None])
        return torch.from_numpy(np.searchsorted(POISSON, drawn)).float()

    def _left_out(self) -> Tensor | None:
        """Weights ``[E, tasks]`` of what is not in a member's bag, as means; None where it is not asked for."""
        if not self.settings.out_of_bag or self.bags is None:
            return None
        outside = (self.bags == 0).float()
        tasks = torch.cat([part.task for part in parts(self.train)])
        votes = torch.cat([part.weight for part in parts(self.train)])
        left = (outside[:, tasks] * votes).sum(1, keepdim=True)
        return outside * total_weight(self.train) / left if left.all() else None

    def nll(self, model: Scores, data: RewardData, task_weights: Tensor | None, center_coef: float = 0.0) -> Tensor:
        """Negative log-likelihood per vote ``[E]``."""
        return evidence_nll(
            model,
            self.links,
            data,
            total_weight(data),
            task_weights=task_weights,
            rating_loss=self.settings.rating_loss,
            rating_weight=self.settings.rating_weight,
            label_weight=self.settings.label_weight,
            lapse=self.settings.lapse,
            center_coef=center_coef,
        )

    def epoch(self, run: StageRun | None = None) -> dict[str, float]:
        """One pass over the train rows (what is left of it, after a kill), then validation. Returns its metrics."""
        number, weights = self.result.epochs, self.bags
        order = torch.from_numpy(permutation(len(self.train), self.seed, number))
        self.model.train(True)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(generator(self.seed, "reward-dropout", number).initial_seed())
            if self.dropout is not None:
                torch.random.set_rng_state(self.dropout)
            for rows in order[self.now.rows :].split(self.settings.batch_size):
                self.step(take_rows(self.train, rows), weights)
                self.now.rows += len(rows)
                if run is not None and self.now.rows < len(order):
                    self.pause(run)
        metrics = self.now.metrics()
        self.result.epochs += 1
        self.now, self.dropout = _Epoch(), None
        metrics |= self.validate()
        self.result.history.append(metrics)
        return metrics

    def step(self, batch: RewardData, weights: Tensor | None) -> None:
        """One step of the optimiser."""
        self._set_rates()
        loss = self.nll(self.model, batch, weights, self.settings.center_coef)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        everything = [*self.fitted, *self.links.parameters()]
        self.now.norms.append(float(nn.utils.clip_grad_norm_(everything, self.settings.max_grad_norm)))
        self.optimizer.step()
        self.now.losses.append(float(loss.detach().mean()))
        self.now.sizes.append(total_weight(batch))
        self.steps += 1

    def pause(self, run: StageRun) -> None:
        """Within an epoch: a checkpoint if the last one is long ago, or if the process is asked to stop."""
        stop, now = run.stop_requested(), time.monotonic()
        if stop or now - self.saved > max(self.settings.checkpoint_seconds, 20 * self.saving):
            self.dropout = torch.random.get_rng_state()
            run.checkpoint(ACTIVITY, self.steps, self.save)
            self.saved = time.monotonic()
            self.saving = self.saved - now
        if stop:
            run.check_stop()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Validation likelihood and accuracy; remembers the weights if they are the best so far."""
        self.model.train(False)
        if len(self.validation):
            rows, weights, name = self.validation, None, "reward/nll_validation"
        elif self.left_out is not None:
            rows, weights, name = self.train, self.left_out, "reward/nll_out_of_bag"
        else:
            return {}
        early = self.result.epochs < min(self.settings.least_epochs, self.settings.epochs)
        if early and weights is not None:
            return {}  # a fit has many short epochs, and nothing would be done with it
        wanted = candidates_of(rows)
        needed = needed_by(rows, wanted, weights)
        table = ScoreTable.of(self.model, wanted, len(rows.candidates), 2 * self.settings.batch_size, needed)
        nll = float(self.nll(table, rows, weights).mean())
        if not early and (self.result.nll_validation is None or nll < self.result.nll_validation):
            self.result.nll_validation, self.result.best_epoch = nll, self.result.epochs
            self.best = {key: tensor.detach().clone() for key, tensor in self.weights().items()}
        metrics = {name: nll}
        if len(self.pairs):
            wanted = self.pairs.candidates()
            scores = table.score(wanted)
            spread = scores.std(1, correction=0, keepdim=True).clamp(min=1e-9)
            everyone = torch.zeros(len(self.train.candidates))
            everyone[wanted] = combine((scores - scores.mean(1, keepdim=True)) / spread).float()
            metrics["reward/accuracy_validation"] = pair_accuracy(everyone.numpy(), self.pairs)
        return metrics

    def weights(self) -> dict[str, Tensor]:
        """The live tensors of model and links that fitting changes."""
        own = {f"model.{k}": v for k, v in self.model.state_dict().items() if k not in self.frozen}
        return own | {f"links.{k}": v for k, v in self.links.state_dict().items()}

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Copy stored weights into the live tensors."""
        for name, tensor in self.weights().items():
            tensor.copy_(weights[name])

    def restore_best(self) -> None:
        """Put the best weights back; the last ones stay where there was no validation."""
        if self.best:
            self.put(self.best)
        else:
            self.result.best_epoch = self.result.epochs

    def save(self, folder: Path) -> None:
        """Write everything the next step depends on."""
        tensors = {f"now.{k}": v for k, v in self.weights().items()} | {f"best.{k}": v for k, v in self.best.items()}
        if self.dropout is not None:
            tensors["dropout"] = self.dropout
        meta = {"result": asdict(self.result), "epoch": asdict(self.now), "steps": self.steps}
        save_state(folder, optimizers={"adamw": self.optimizer}, tensors=tensors, meta=meta)

    def resume(self, run: StageRun) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = run.latest_checkpoint(ACTIVITY)
        if found is None:
            return
        tensors, meta = load_state(found[1], optimizers={"adamw": self.optimizer})
        self.put({k.removeprefix("now."): v for k, v in tensors.items() if k.startswith("now.")})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.dropout = tensors.get("dropout")
        self.result, self.now, self.steps = FitResult(**meta["result"]), _Epoch(**meta["epoch"]), meta["steps"]
