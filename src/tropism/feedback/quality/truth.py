"""The hidden true class of each item from several annotators' classes (Dawid and Skene 1979), by EM.

Three accounts of an annotator: a full confusion matrix; one coin (right with probability p_k, else any other class
alike); one coin shared by all, which trusts everybody alike. With ``smoothing`` 0 this is plain maximum likelihood.

Left out: difficulty of items (the joint fit has it, as utilities), and priors that are learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.special import logsumexp, xlogy

from tropism.errors import ContractError, DataError
from tropism.feedback.quality.votes import Floats, Integers

Account = Literal["full", "one-coin", "shared"]


@dataclass(frozen=True)
class Truth:
    """``posterior [I, C]`` of each item's class, ``prior [C]``, ``confusion [K, true C, said C]``, and how EM ended.

    ``log_likelihood``: of all votes, in nats, with the true classes summed out (without the smoothing's prior).
    """

    posterior: Floats
    prior: Floats
    confusion: Floats
    log_likelihood: float
    steps: int

    def predict(self, item: Integers, annotator: Integers) -> Floats:
        """P(class said) ``[N, C]`` of further votes by these annotators on these items."""
        return np.einsum("nt,nts->ns", self.posterior[item], self.confusion[annotator])


def fit_truth(
    item: Integers,
    annotator: Integers,
    said: Integers,
    classes: int,
    *,
    account: Account = "full",
    smoothing: float = 0.0,
    annotators: int = 0,
    tolerance: float = 1e-9,
    steps: int = 20_000,
) -> Truth:
    """EM from the shares of votes, until the log-likelihood moves by less than ``tolerance`` · votes in a step.

    ``item``, ``annotator``, ``said``: integers from 0, ``[V]``. ``smoothing``: pseudo-votes added to every cell of the
    confusion matrices (for coins: to right and to wrong). ``annotators``: how many there are, if the last ones have no
    vote here. Errors: DataError for unusable votes, ContractError if ``steps`` do not suffice.
    """  # fmt: skip
    if not len(item) or classes < 2:
        raise DataError(f"{len(item)} votes in {classes} classes", "give at least one vote and two classes")
    if min(item.min(), annotator.min(), said.min()) < 0 or said.max() >= classes:
        raise DataError(
            f"class {said.max()} of {classes}", f"number items and annotators from 0, classes 0 … {classes - 1}"
        )
    items, people = int(item.max()) + 1, max(annotators, int(annotator.max()) + 1)
    cast = sparse.csr_matrix((np.ones(len(item)), (item, annotator * classes + said)), shape=(items, people * classes))
    votes = np.asarray(cast.sum(1)).ravel()
    posterior = (
        np.stack([np.bincount(item, said == c, items) for c in range(classes)], 1) / np.maximum(votes, 1)[:, None]
    )
    posterior[votes == 0] = 1 / classes
    before = -np.inf
    for step in range(1, steps + 1):
        prior = posterior[votes > 0].mean(0)
        confusion = _confusion((cast.T @ posterior).reshape(people, classes, classes), account, smoothing)
        with np.errstate(divide="ignore"):  # a class that nobody ever says has probability 0, its logarithm is −inf
            table = np.log(confusion).transpose(0, 2, 1).reshape(people * classes, classes)
            joint = np.asarray(cast @ table) + np.log(prior)
        total = logsumexp(joint, axis=1)
        posterior = np.exp(joint - total[:, None])
        now = float(total[votes > 0].sum())
        if now - before < tolerance * len(item):
            return Truth(posterior, prior, confusion, now, step)
        before = now
    raise ContractError(f"EM still moves after {steps} steps", "raise `steps` or `tolerance`, or smooth")


def _confusion(counts: Floats, account: Account, smoothing: float) -> Floats:
    """Confusion matrices ``[K, true, said]`` from expected counts ``[K, said, true]``."""
    classes = counts.shape[1]
    if account == "full":
        smoothed = counts.transpose(0, 2, 1) + smoothing
        total = smoothed.sum(2, keepdims=True)
        # a true class that this annotator was never asked about says nothing of them: uniform
        return np.where(total > 0, smoothed / np.where(total > 0, total, 1), 1 / classes)
    right = np.trace(counts, axis1=1, axis2=2) + smoothing
    every = counts.sum((1, 2)) + 2 * smoothing
    if account == "shared":
        right, every = np.full_like(right, right.sum()), np.full_like(every, every.sum())
    accuracy = np.where(every > 0, right / np.where(every > 0, every, 1), 1 / classes)
    found = np.repeat(((1 - accuracy) / (classes - 1))[:, None], classes * classes, 1).reshape(-1, classes, classes)
    found[:, np.arange(classes), np.arange(classes)] = accuracy[:, None]
    return found


def entropy(posterior: Floats) -> Floats:
    """Entropy in nats ``[I]`` of each item's class: where one more vote would tell most."""
    return -xlogy(posterior, posterior).sum(1)
