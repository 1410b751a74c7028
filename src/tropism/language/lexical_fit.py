"""Fitting a lexical reward model: the most probable weights under all evidence, by L-BFGS (Liu and Nocedal 1989).

The problem is convex for comparisons and rankings, so it is solved and not trained: no epochs, no early stopping, no
rate. What texts cannot explain goes into one effect per candidate, N(0, ``EFFECT``): without it the many pairs of one
candidate would count as many texts. How far scores may spread is chosen by cross-validation over train tasks.

A fit takes seconds and draws nothing but the ensemble's bootstrap weights, so that one done again after a kill gives
the same bits and there are no checkpoints. Left out: learning a₁ … a₄, and Laplace's variance.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

from tropism.errors import DataError
from tropism.language.lexical_reward import LexicalScores
from tropism.reward.dataset import RewardData
from tropism.reward.fitting import FitResult, FitSettings
from tropism.reward.likelihood import Links, ScoreTable, evidence_nll, total_weight
from tropism.reward.pairs import Pairs, pair_accuracy
from tropism.runtime.seeding import generator, permutation
from tropism.runtime.stage import StageRun

EFFECT = 0.3
"""Variance of what a text's features do not say about its score, in squared logits."""
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Prior variances of scores, as multiples of k, that cross-validation chooses from."""
USUAL = 0.3
"""The strength where there are too few tasks to choose one."""
FOLDS = 4
BUCKETS = 16
"""Groups of a fold are put together into at most so many, for the error of its likelihood."""
MOST_STEPS = 200
SHRINK = 1 / math.sqrt(1 + math.pi / 8 * 2 * EFFECT)
"""Of a difference of two scores whose effects are unknown: E σ(z + noise) ≈ σ(z · SHRINK) (MacKay 1992)."""


def fit_lexical(
    model: LexicalScores, data: RewardData, settings: FitSettings, seed: int, run: StageRun | None = None
) -> FitResult:
    """Fit ``model`` on the train rows of ``data``; the drop-in for ``reward.fitting.fit`` that knows the prior.

    Of ``settings`` count ``bootstrap`` and what weighs ratings and labels; epochs, rates and decay have no meaning
    here, and validation rows only measure. DataError without train rows, RewardError for scores that are not finite.
    """
    train = data.fold(True)
    if not len(train):
        raise DataError(
            f"no evidence to fit on: used {dict(data.used)}, dropped {dict(data.dropped)}",
            "collect comparisons, rankings, ratings or labels on train tasks",
        )
    strength = chosen_strength(model, train, settings, seed, run)
    solution = _Solution(model, train, settings, strength, model.members)
    steps, norm = solution.solve(_bootstrap(train, model.members, settings, seed))
    with torch.no_grad():
        model.w.copy_(solution.weights())
    model.train(False)
    metrics = {"reward/strength": strength, "reward/grad_norm": norm} | _measure(solution, data)
    if run is not None:
        run.log(steps, metrics)
        run.progress.update("reward model", steps, steps, f"NLL {metrics['reward/nll_train']:.3f}")
        run.check_stop()
    return FitResult(steps, steps, metrics.get("reward/nll_validation"), [metrics])


def chosen_strength(
    model: LexicalScores, train: RewardData, settings: FitSettings, seed: int, run: StageRun | None = None
) -> float:
    """By cross-validation over train tasks, the least strength that is within one standard error of the likeliest
    (Breiman et al. 1984); ``USUAL`` below two groups.

    Tasks with a ``group`` (a topic, a conversation) stay together: their answers share words, and would vouch for each
    other. The error is over groups.
    """
    group = _groups(train)
    labels = group[_judged(train)].unique()
    if len(labels) < 2:
        return USUAL
    order = labels[torch.from_numpy(permutation(len(labels), seed, 0))]
    folds = [order[i::FOLDS] for i in range(min(FOLDS, len(order)))]
    lost: dict[float, list[Tensor]] = {strength: [] for strength in STRENGTHS}
    for done, (fold, strength) in enumerate(product(folds, STRENGTHS)):
        held = torch.isin(group, fold)
        solution = _Solution(model, train.of_tasks(~held), settings, strength, 1)
        solution.solve(None)
        # one row per bucket of groups, which weighs its own tasks alone
        buckets = torch.stack([torch.isin(group, fold[i::BUCKETS]) for i in range(min(BUCKETS, len(fold)))])
        scores = ScoreTable(solution.fitted().scores.expand(len(buckets), -1))
        lost[strength].append(solution.nll(scores, train.of_tasks(held), buckets.float()).detach())
        if run is not None:
            run.progress.update("reward model: strength", done + 1, len(folds) * len(STRENGTHS))
            run.check_stop()
    return _least_within_error({strength: torch.cat(parts) for strength, parts in lost.items()})


def _least_within_error(lost: dict[float, Tensor]) -> float:
    """The first strength whose losses ``[n]`` exceed the best ones by no more than the standard error of the excess."""
    best = min(lost.values(), key=lambda each: float(each.sum()))
    for strength, each in lost.items():
        excess = each - best
        if float(excess.sum()) <= math.sqrt(len(excess)) * float(excess.std()):
            return strength
    raise AssertionError("the best exceeds itself by nothing")


def _groups(data: RewardData) -> Tensor:
    """The group of each task, numbered, long ``[tasks]``; a task without one is its own."""
    numbers: dict[tuple[str, object], int] = {}
    keys = [("group", t.payload["group"]) if "group" in t.payload else ("task", t.id) for t in data.tasks]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.long)


def _judged(data: RewardData) -> Tensor:
    """Numbers of the tasks that the evidence is about, sorted."""
    return torch.cat([p.task for p in (data.choices, data.rankings, data.ratings, data.labels)]).unique()


class _Solution(nn.Module):
    """The unknowns of E members: weights and effects, both with standard normal priors, and the links."""

    def __init__(
        self, model: LexicalScores, train: RewardData, settings: FitSettings, strength: float, members: int
    ) -> None:
        super().__init__()
        self.phi, self.train_data, self.settings = model.phi, train, settings
        self.spread = self.phi.new_full((self.phi.shape[1],), math.sqrt(strength))
        self.spread[-1] = 1.0  # the length's own weight
        self.w = nn.Parameter(model.phi.new_zeros(members, model.phi.shape[1]))
        self.effects = nn.Parameter(model.phi.new_zeros(members, model.phi.shape[0]))
        self.links = Links(members, train).double()

    def weights(self) -> Tensor:
        """Weights for a text of which nothing else is known, ``[E, r]``."""
        return self.w.detach() * self.spread * SHRINK

    def fitted(self) -> ScoreTable:
        """Scores of all candidates by their texts alone."""
        return ScoreTable(self.weights() @ self.phi.T)

    def score(self, index: Tensor) -> Tensor:
        """Scores ``[E, n]`` while fitting: text and effect."""
        return (self.w * self.spread) @ self.phi[index].T + math.sqrt(EFFECT) * self.effects[:, index]

    def nll(self, scores: ScoreTable | _Solution, data: RewardData, task_weights: Tensor | None) -> Tensor:
        """Σ of negative log-likelihoods over all votes, ``[E]``."""
        own = self.settings
        return evidence_nll(
            scores, self.links, data, 1.0, task_weights=task_weights, rating_loss=own.rating_loss,
            rating_weight=own.rating_weight, label_weight=own.label_weight,
        )  # fmt: skip

    def solve(self, task_weights: Tensor | None) -> tuple[int, float]:
        """To the optimum; returns steps and the largest entry of the gradient that is left, in nats."""
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=MOST_STEPS, max_eval=2 * MOST_STEPS, history_size=20, tolerance_grad=1e-3,
            tolerance_change=1e-9, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            # a gain without a prior would grow until the weights' own prior meant nothing
            prior = sum(
                (p.square().sum() / 2 for p in (self.w, self.effects, self.links.log_gain)), self.w.new_zeros(())
            )
            loss = self.nll(self, self.train_data, task_weights).sum() + prior
            loss.backward()
            return loss

        optimizer.step(closure)
        left = max(float(p.grad.abs().max()) for p in self.parameters() if p.grad is not None and p.numel())
        return int(optimizer.state[self.w]["n_iter"]), left


def _bootstrap(train: RewardData, members: int, settings: FitSettings, seed: int) -> Tensor | None:
    """Each member's weights of tasks ``[E, tasks]``; a member that drew nothing at all takes every task once."""
    if not settings.bootstrap or members == 1:
        return None
    rates = torch.ones(members, len(train.tasks))
    drawn = torch.poisson(rates, generator=generator(seed, "reward-bootstrap"))
    return torch.where(drawn[:, _judged(train)].sum(1, keepdim=True) > 0, drawn, rates)


@torch.no_grad()
def _measure(solution: _Solution, data: RewardData) -> dict[str, float]:
    """Likelihood per vote (mean over members) of both splits, and accuracy on the validation split."""
    table, made = solution.fitted(), {}
    for name, part in (("train", data.fold(True)), ("validation", data.fold(False))):
        if len(part):
            made[f"reward/nll_{name}"] = float(solution.nll(table, part, None).mean()) / total_weight(part)
    pairs = Pairs.of(data.fold(False))
    if len(pairs):
        made["reward/accuracy_validation"] = pair_accuracy(table.scores.mean(0).numpy(), pairs)
    return made
