"""Fitting a reward model: AdamW on mini-batches of evidence, bootstrap ensembles, early stopping, exact resume.

Every random choice (order, bootstrap weights, dropout) is a function of (seed, epoch), so that an epoch done again
after a kill gives the same bits. Left out: learning-rate schedules (early stopping decides), and distributed fitting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
    take_rows,
    total_weight,
)
from tropism.reward.pairs import Pairs, pair_accuracy
from tropism.runtime.checkpoints import load_state, save_state
from tropism.runtime.seeding import generator, permutation
from tropism.runtime.stage import StageRun

ACTIVITY = "reward-fit"


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
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    patience: int = 6
    """Epochs without a better validation likelihood before stopping."""
    bootstrap: bool = True
    """Each member of an ensemble weighs every task by its own Poisson(1) draw; a single member weighs all by 1."""
    rating_loss: RatingLoss = "regression"
    rating_weight: float = 1.0
    label_weight: float = 1.0
    checkpoint_every: int = 1
    """Epochs between checkpoints."""


@dataclass
class FitResult:
    """What fitting did; JSON-able with ``asdict``."""

    best_epoch: int = 0
    """Epochs done when the restored weights were the best (1-based)."""
    epochs: int = 0
    nll_validation: float | None = None
    """Validation negative log-likelihood per vote of the restored weights, mean over members; None: no validation."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch."""


def fit(
    model: ScoreModel, data: RewardData, settings: FitSettings, seed: int, run: StageRun | None = None
) -> FitResult:
    """Fit ``model`` on the train rows of ``data``; it ends in eval mode with the weights best on the validation rows.

    Without validation rows the last weights stay. The loss is evidence per vote, summed over members, which share no
    gradient unless they share parameters. Deterministic given ``seed``; with ``run`` it logs metrics, checkpoints, and
    goes on from the newest checkpoint, to the same bits. DataError without train rows, RewardError for NaN scores.
    """
    fitting = _Fitting(model, data, settings, seed)
    if run is not None:
        fitting.resume(run)
    while not fitting.finished:
        metrics = fitting.epoch()
        if run is None:
            continue
        done = fitting.result.epochs
        run.log(done, metrics)
        run.progress.update("reward model", done, settings.epochs, f"NLL {metrics['reward/nll_train']:.3f}")
        if done % settings.checkpoint_every == 0 or fitting.finished:
            run.checkpoint(ACTIVITY, done, fitting.save)
        run.check_stop()
    fitting.restore_best()
    model.train(False)
    return fitting.result


class _Fitting:
    """The state of a fit between epochs."""

    def __init__(self, model: ScoreModel, data: RewardData, settings: FitSettings, seed: int) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self.train, self.validation = data.fold(True), data.fold(False)
        if not len(self.train):
            raise DataError(
                f"no evidence to fit on: used {dict(data.used)}, dropped {dict(data.dropped)}",
                "collect comparisons, rankings, ratings or labels on train tasks",
            )
        self.links = Links(model.members, self.train)
        self.fitted = [p for _, p in model.named_parameters() if p.requires_grad]
        self.frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        groups = [
            {"params": self.fitted, "weight_decay": settings.weight_decay},
            {"params": list(self.links.parameters()), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.pairs = Pairs.of(self.validation)
        self.best: dict[str, Tensor] = {}
        self.result = FitResult()

    @property
    def finished(self) -> bool:
        """All epochs are done, or validation has not improved for ``patience`` of them."""
        done = self.result.epochs
        return done >= self.settings.epochs or (
            self.result.nll_validation is not None and done - self.result.best_epoch >= self.settings.patience
        )

    def task_weights(self) -> Tensor | None:
        """Bootstrap weights ``[E, tasks]``: by task, because votes on one task are not independent."""
        if not self.settings.bootstrap or self.model.members == 1:
            return None
        rates = torch.ones(self.model.members, len(self.train.tasks))
        return torch.poisson(rates, generator=generator(self.seed, "reward-bootstrap"))

    def nll(self, model: Scores, data: RewardData, task_weights: Tensor | None) -> Tensor:
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
        )

    def epoch(self) -> dict[str, float]:
        """One pass over the train rows, then validation. Returns its metrics."""
        number, weights = self.result.epochs, self.task_weights()
        order = torch.from_numpy(permutation(len(self.train), self.seed, number))
        losses: list[float] = []
        norms: list[float] = []
        sizes: list[float] = []
        self.model.train(True)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(generator(self.seed, "reward-dropout", number).initial_seed())
            for rows in order.split(self.settings.batch_size):
                batch = take_rows(self.train, rows)
                loss = self.nll(self.model, batch, weights)
                self.optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
                everything = [*self.fitted, *self.links.parameters()]
                norms.append(float(nn.utils.clip_grad_norm_(everything, self.settings.max_grad_norm)))
                self.optimizer.step()
                losses.append(float(loss.detach().mean()))
                sizes.append(total_weight(batch))
        mean = sum(x * n for x, n in zip(losses, sizes, strict=True)) / sum(sizes)
        metrics = {"reward/nll_train": mean, "reward/grad_norm": sum(norms) / len(norms)}
        self.result.epochs += 1
        metrics |= self.validate()
        self.result.history.append(metrics)
        return metrics

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Validation likelihood and accuracy; remembers the weights if they are the best so far."""
        self.model.train(False)
        if not len(self.validation):
            return {}
        table = ScoreTable.of(
            self.model, candidates_of(self.validation), len(self.train.candidates), 2 * self.settings.batch_size
        )
        nll = float(self.nll(table, self.validation, None).mean())
        if self.result.nll_validation is None or nll < self.result.nll_validation:
            self.result.nll_validation, self.result.best_epoch = nll, self.result.epochs
            self.best = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
        metrics = {"reward/nll_validation": nll}
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
        """Write everything the next epoch depends on."""
        now = {f"now.{k}": v for k, v in self.weights().items()}
        best = {f"best.{k}": v for k, v in self.best.items()}
        save_state(
            folder, optimizers={"adamw": self.optimizer}, tensors=now | best, meta={"result": asdict(self.result)}
        )

    def resume(self, run: StageRun) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = run.latest_checkpoint(ACTIVITY)
        if found is None:
            return
        tensors, meta = load_state(found[1], optimizers={"adamw": self.optimizer})
        self.put({k.removeprefix("now."): v for k, v in tensors.items() if k.startswith("now.")})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.result = FitResult(**meta["result"])
