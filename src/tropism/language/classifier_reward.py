"""The ``classifier`` reward network: a sequence classifier whose trunk learns too, as TRL's RewardTrainer makes them.

The head has one output; an ensemble of E heads on one trunk has E. A fitting batch is scored in micro-batches whose
activations are computed again in the backward pass, so that memory depends on the micro-batch alone and the gradient
on the batch alone.

Left out: ensembles of whole trunks (E times the memory; fit E models and average their scores), heads on every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tropism.engine.adapters import has_adapters, merged_copy
from tropism.engine.batch import TokenBatch
from tropism.engine.classifiers import Classifier, load_classifier
from tropism.engine.models import save_policy
from tropism.engine.working import Working
from tropism.errors import ModelError, StoreError
from tropism.language.reward_text import Answered, Encoded, Form, Reader, reader_of
from tropism.runtime.precision import Precision, resolve_precision

CHUNK = 4096
"""Most tokens of one forward when nothing is learned."""


class ClassifierNetwork:
    """A classifier as a reward network (see ``reward_network.RewardNetwork``).

    ``label``: the output that is the reward; None: every output is a member of an ensemble.
    """

    kind = "classifier"

    def __init__(
        self,
        classifier: Classifier,
        precision: Precision,
        *,
        form: Form | None = None,
        context: int | None = None,
        label: int | None = None,
        end: bool = True,
    ) -> None:
        self.classifier, self.precision, self.label, self.end = classifier, precision, label, end
        self.form: Form = form or ("turns" if classifier.is_decoder else "pair")
        self.context = min(context or classifier.context, classifier.context)
        self.members = classifier.labels if label is None else 1
        self.reader: Reader = reader_of(classifier, self.form, end)
        # an encoder runs as transformers has it, where autocast is all that is sure to fit; the head keeps its bits
        lowered = precision if classifier.is_decoder or precision.name != "bf16" else Precision("autocast")
        self.working = Working(classifier.model, lowered, exact=classifier.head)
        self.running = replace(classifier, model=self.working.model)

    @torch.no_grad()
    def raw(self, rows: Sequence[Answered], exact: bool) -> tuple[Tensor, int]:
        """Scores ``[E, n]``, fp32, in eval mode, and how many rows were cut."""
        self.working.model.eval()
        encoded = self.reader.read(rows, self.context, exact)
        return encoded.scores(self.score, CHUNK), encoded.cut

    def score(self, batch: TokenBatch) -> Tensor:
        """Scores ``[E, B]`` of one batch, differentiable."""
        with self.working.running():
            scores = self.running.scores(batch).T
        return scores if self.label is None else scores[self.label : self.label + 1]

    def merged(self) -> ClassifierNetwork:
        """The network with its adapters, if it has any, merged into the weights: as it will be saved."""
        if not has_adapters(self.classifier.model):
            return self
        plain = replace(self.classifier, model=merged_copy(self.classifier.model).requires_grad_(False))
        form, context, label, end = self.form, self.context, self.label, self.end
        return ClassifierNetwork(plain, self.precision, form=form, context=context, label=label, end=end)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write a plain Hugging Face folder; returns what else loading needs."""
        save_policy(self.classifier.model, self.classifier.tokenizer, folder)
        return {
            "form": self.form,
            "context": self.context,
            "label": self.label,
            "end": self.end,
            "precision": self.precision.name,
        }

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> ClassifierNetwork:
        """Read what :meth:`save` wrote; StoreError for a form of reading that this version does not know."""
        if config["form"] not in get_args(Form):
            raise StoreError(
                f"{folder} reads its texts as {config['form']!r}", "load it with the version that wrote it"
            )
        return cls(
            load_classifier(folder),
            resolve_precision(config["precision"]),
            form=config["form"],
            context=config["context"],
            label=config["label"],
            end=config["end"],
        )

    @classmethod
    def foreign(
        cls, path_or_name: str | Path, precision: Precision, label: int | str | None = None, end: bool = True
    ) -> ClassifierNetwork:
        """A classifier that was trained elsewhere, by folder or name, read as plain transformers users read it.

        ``label``: the output that is the reward, by number or name, where there are several. ``end``: whether an EOS
        stands behind a plain text (chat templates write their own). ModelError where there is no trained head, or
        several outputs and no choice.
        """
        classifier = load_classifier(path_or_name)
        if classifier.fresh:
            raise ModelError(
                f"{path_or_name} has no trained head ({', '.join(classifier.fresh)} are missing)",
                "fit one on judgements with this folder as its base (reward.base)",
            )
        form: Form = "whole" if classifier.is_decoder else "pair"
        return cls(classifier, precision, form=form, label=chosen_label(classifier, label, path_or_name), end=end)


def chosen_label(classifier: Classifier, label: int | str | None, source: str | Path) -> int:
    """The number of the output that is the reward; ModelError naming the outputs where ``label`` is none of them."""
    names = {int(i): str(name) for i, name in classifier.model.config.id2label.items()}
    if label is None and classifier.labels == 1:
        return 0
    found = [i for i, name in names.items() if label in (i, name)]
    if len(found) != 1:
        listed = ", ".join(f"{i} ({name})" for i, name in sorted(names.items()))
        said = "several outputs" if label is None else f"no output {label!r}"
        raise ModelError(f"{source} has {said}: {listed}", "choose the one that is the reward: label = NUMBER or NAME")
    return found[0]


class ClassifierScores(nn.Module):
    """A classifier over N encoded candidates: the ``ScoreModel`` that fitting sees."""

    def __init__(self, network: ClassifierNetwork, encoded: Encoded, budget: int) -> None:
        super().__init__()
        self.model = network.classifier.model
        self.network, self.encoded, self.budget = network, encoded, budget
        self.members = network.members

    def train(self, mode: bool = True) -> ClassifierScores:
        """The copy that runs is no submodule, and follows."""
        self.network.working.model.train(mode)
        super().train(mode)
        return self

    @property
    def heads(self) -> frozenset[str]:
        """Names of the head's parameters, which may learn at a rate of their own."""
        return frozenset(f"model.{name}" for name in self.network.classifier.head)

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` of candidates ``index`` ``[n]``."""
        rows = index.tolist()
        self.network.working.refresh()
        once = self.encoded.tokens(rows) <= self.budget or not torch.is_grad_enabled()
        return self.encoded.scores(self.network.score if once else self._again, self.budget, rows)

    def _again(self, batch: TokenBatch) -> Tensor:
        """Scores whose activations are dropped, and computed again (same dropout) when gradients are asked for."""
        scores: Tensor = checkpoint(self.network.score, batch, use_reentrant=False)
        return scores
