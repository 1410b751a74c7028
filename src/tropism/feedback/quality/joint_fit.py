"""One joint fit of comparison votes: utilities of items, and of each annotator skill, position, length and tie terms.

The maximum of the posterior by L-BFGS with the analytic gradient, standard errors from its Hessian, and the prior
spreads learned from the data by turns (empirical Bayes: EM, with Laplace's method inside). Where items have many votes
all parameters are found together (``joint_likelihood.py``); where they have few, pairs are integrated out first
(``pair_likelihood.py``).

A length term that all annotators share and a quality that grows with length are the same thing to any votes. They are
told apart here by the assumption that quality and length are uncorrelated among the items; ``common_length`` says how
large the shared part was, and ``JointSettings(length=False)`` leaves it to the utilities.

Left out: full posteriors (sampling), covariates of items, and more than two candidates a vote.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import minimize

from tropism.errors import ContractError, DataError
from tropism.feedback.quality.joint_likelihood import JointLikelihood, Prior, Spreads, own_terms
from tropism.feedback.quality.pair_likelihood import PairLikelihood
from tropism.feedback.quality.uncertainty import marginal_errors
from tropism.feedback.quality.votes import Floats, Integers, Votes

DENSE = 3000
"""Items connected by votes, or annotators and items all in all; beyond it standard errors are conditional."""
Model = JointLikelihood | PairLikelihood
LINKED = 10
"""From this many votes per item on, utilities and annotators are found at one common maximum."""
TOLD_APART, TOLD_APART_PAIRS = 0.6, 0.14
"""From this reliability of the utilities on, skills mean something; pairs of few votes need less, because there a
utility's uncertainty is not taken for none."""
_HYPER = 4.0  # the given spreads count as much as this many observed terms
_FREEDOM = 3.0  # of the t distribution of annotators' terms: heavy tails


@dataclass(frozen=True)
class JointSettings:
    """What the model has. ``position`` and ``length`` terms drop out by themselves where no vote tells of them.

    ``rounds``: how often the spreads are learned anew; 0 keeps ``spreads`` as given.
    """

    position: bool = True
    length: bool = True
    spreads: Spreads = field(default_factory=Spreads)
    linked: bool | None = None
    """Which of the two ways to fit (``JointFit.linked``); None decides by the number of votes per item."""
    rounds: int = 6
    iterations: int = 3000


@dataclass(frozen=True)
class Term:
    """One number per item or annotator with its standard error, ``[n]`` each; NaN where the model lacks the term."""

    value: Floats
    error: Floats

    def interval(self, width: float = 1.96) -> tuple[Floats, Floats]:
        """``value ∓ width · error``."""
        return self.value - width * self.error, self.value + width * self.error


@dataclass(frozen=True)
class Evidence:
    """Of N votes, with standard errors: ``skill``, and ``pull`` toward a in logits (position and length together), such
    that δ = skill · difference of utilities + pull; ``[N]`` each."""

    skill: Floats
    skill_error: Floats
    pull: Floats
    pull_error: Floats


@dataclass(frozen=True)
class JointFit:
    """What the fit found.

    The scale: of the annotators whose skill is surely positive (95 %) the median's is 1, so ``utility`` is in logits of
    that annotator's votes. Where there is nobody, or the items cannot be told apart, the scale is the prior's and
    ``scaled`` is False. ``utility`` has mean 0. ``position``: log odds of choosing what was shown first among equals.
    ``length``: log odds per ``length_unit``, the root mean square of the votes' lengths. ``tie``: log weight of a tie.
    """

    utility: Term
    skill: Term
    position: Term
    length: Term
    tie: Term
    common_position: tuple[float, float]
    common_length: tuple[float, float]
    common_tie: tuple[float, float]
    """Means over annotators with their standard errors; NaN where the model lacks the term."""
    reliability: float
    """Of the utilities: their variance over itself plus their mean squared error (as in Rasch models)."""
    told_apart: bool
    """Whether the votes tell the items apart at all; if not, then the items are alike, or all answer at random."""
    linked: bool
    """True: one maximum of all parameters. False: few votes an item; the pairs' differences were integrated out, and
    the errors of utilities take the annotators as known."""
    utility_spread: float
    """Prior deviation of utilities as learned, on the scale of ``utility``."""
    length_unit: float
    spreads: Spreads
    log_likelihood: float
    scaled: bool
    marginal: bool
    """False beyond DENSE connected parameters: standard errors then take the others as known, and are too small."""
    counts: Integers
    """Votes of each annotator ``[K]``."""
    model: JointLikelihood = field(repr=False)
    vector: Floats = field(repr=False)
    """The parameters on the fit's own scale (before a median skill became 1)."""

    def predict(self, asked: Votes) -> Floats:
        """P(a, b, tie) ``[N, 3]`` for any questions to these annotators; ``asked.choice`` is not looked at."""
        return np.exp(self.model.log_probabilities(self.vector, _scaled_length(asked, self.length_unit)))

    def evidence(self, asked: Votes) -> Evidence:
        """What each question to these annotators is answered with."""
        who, long = asked.annotator, asked.length / self.length_unit
        place, place_error = (np.nan_to_num(side)[who] for side in (self.position.value, self.position.error))
        drawn, drawn_error = (np.nan_to_num(side)[who] for side in (self.length.value, self.length.error))
        pull, error = place * asked.first + drawn * long, np.hypot(place_error * asked.first, drawn_error * long)
        return Evidence(self.skill.value[who], self.skill.error[who], pull, error)


def fit_jointly(votes: Votes, settings: JointSettings | None = None) -> JointFit:
    """Fit all votes at once. Errors: DataError without votes, ContractError if no maximum was found."""
    settings = settings or JointSettings()
    if not len(votes):
        raise DataError("a joint fit of no votes", "collect comparisons first")
    unit = float(np.sqrt(np.mean(votes.length**2))) or 1.0
    terms = {"position": settings.position and bool(votes.first.any())}
    terms["length"] = settings.length and bool(votes.length.any())
    scaled = _scaled_length(votes, unit)
    items = len(np.unique(np.concatenate([votes.a, votes.b])))
    linked = len(votes) >= LINKED * items if settings.linked is None else settings.linked
    model: Model = JointLikelihood(scaled, **terms) if linked else PairLikelihood(scaled, **terms)
    spreads, vector = settings.spreads, model.start(settings.spreads.utility)
    prior = Prior.alike(spreads, len(votes.annotators))
    for round in range(settings.rounds + 1):
        vector = _maximum(model, vector, prior, settings.iterations)
        marginal, errors = _uncertainty(model, vector, prior)
        if round < settings.rounds:
            spreads, prior = learned(model, vector, errors, settings.spreads, spreads)
    if isinstance(model, PairLikelihood):
        spreads = replace(spreads, utility=float(np.exp(vector[model.blocks.pair][0]) / np.sqrt(2)))
        whole = JointLikelihood(scaled, **terms)
        vector, marginal, errors = _placed(whole, vector, errors, replace(prior, utility=spreads.utility), settings)
        return _read(whole, vector, marginal, errors, spreads, unit, linked)
    return _read(model, vector, marginal, errors, spreads, unit, linked)


def _placed(
    whole: JointLikelihood, known: Floats, errors: Floats, prior: Prior, settings: JointSettings
) -> tuple[Floats, bool, Floats]:
    """Utilities beside annotators' terms ``known`` from a PairLikelihood (log σ last): all parameters, whether the
    errors of the utilities are marginal (annotators taken as known), and the errors of all."""
    free = whole.blocks.utility
    vector = _maximum(whole, np.concatenate([np.zeros(free.stop), known[:-1]]), prior, settings.iterations, free)
    curvature = whole.hessian(vector, prior)[free, free]
    found = marginal_errors(curvature, np.ones(free.stop, np.bool_), DENSE)
    placed = 1 / np.sqrt(curvature.diagonal()) if found is None else found
    return vector, found is not None, np.concatenate([placed, errors[:-1]])


def _maximum(model: Model, vector: Floats, prior: Prior, iterations: int, free: slice = slice(None)) -> Floats:
    """The maximum over the parameters ``free``, the others held where they are."""
    # in units of the terms' own (conditional) standard errors, or a narrow prior would make the valley steep
    unit = 1 / np.sqrt(model.diagonal(vector, prior)[free])

    def scaled(place: Floats) -> tuple[float, Floats]:
        whole = vector.copy()
        whole[free] = place * unit
        value, slope = model.objective(whole, prior)
        return value, slope[free] * unit

    found = minimize(
        scaled, vector[free] / unit, method="L-BFGS-B", jac=True,
        options={"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-3},
    )  # fmt: skip
    if found.status == 1 or not np.isfinite(found.fun):
        raise ContractError(
            f"the joint fit of {len(model.votes)} votes found no maximum in {iterations} steps", "raise `iterations`"
        )
    reached = vector.copy()
    reached[free] = found.x * unit
    return reached


def _uncertainty(model: Model, vector: Floats, prior: Prior) -> tuple[bool, Floats]:
    """Whether they are marginal, and the standard errors ``[P]``. The more numerous of utilities and annotators' own
    terms are eliminated: of pairs asked about once, or of a crowd, each is then linked to few others."""
    utilities = np.zeros(len(vector), np.bool_)
    utilities[model.blocks.utility] = True
    own = own_terms(model.blocks)
    eliminated = utilities if utilities.sum() >= own.sum() else own
    found = marginal_errors(model.hessian(vector, prior), eliminated, DENSE)
    return (False, 1 / np.sqrt(model.diagonal(vector, prior))) if found is None else (True, found)


def learned(model: Model, vector: Floats, errors: Floats, given: Spreads, now: Spreads) -> tuple[Spreads, Prior]:
    """Spreads from the terms found, one step of EM; ``given`` counts as ``_HYPER`` terms, so that few keep it.

    Annotators' terms are taken as Student-t (``_FREEDOM`` degrees) around their common mean, as a scale mixture of
    Gaussians: who is far from the others gets a prior of their own width, and does not widen everybody's.
    """
    blocks, n = model.blocks, len(model.votes.annotators)

    def own(block: slice, before: float, prior: float, centre: float | None = None) -> tuple[float, Floats]:
        if block not in blocks:
            return prior, np.full(n, prior)
        end = None if centre is not None else -1
        middle = vector[block][-1] if centre is None else centre
        square = (vector[block][:end] - middle) ** 2 + errors[block][:end] ** 2
        weight = (_FREEDOM + 1) / (_FREEDOM + square / before**2)
        scale = float(np.sqrt(((weight * square).sum() + _HYPER * prior**2) / (n + _HYPER)))
        return scale, scale / np.sqrt(weight)

    square = vector[blocks.utility] ** 2 + errors[blocks.utility] ** 2  # none in a PairLikelihood, which has its own σ
    utility = float(np.sqrt((square.sum() + _HYPER * given.utility**2) / (len(square) + _HYPER)))
    skill = own(blocks.skill, now.skill, given.skill, 1.0)
    position = own(blocks.position, now.position, given.position)
    length = own(blocks.length, now.length, given.length)
    tie = own(blocks.tie, now.tie, given.tie)
    spreads = Spreads(utility, skill[0], position[0], length[0], tie[0])
    return spreads, Prior(utility, skill[1], position[1], length[1], tie[1])


def _read(
    model: JointLikelihood, vector: Floats, marginal: bool, errors: Floats, spreads: Spreads, unit: float, linked: bool
) -> JointFit:
    blocks, n = model.blocks, len(model.votes.annotators)
    utility, error = vector[blocks.utility], errors[blocks.utility]
    reliability = float(utility.var() / (utility.var() + np.mean(error**2)))
    sure = vector[blocks.skill] - 1.96 * errors[blocks.skill] > 0
    told_apart = reliability >= (TOLD_APART if linked else TOLD_APART_PAIRS)
    scaled = bool(sure.any()) and told_apart
    scale = float(np.median(vector[blocks.skill][sure])) if scaled else 1.0

    def term(block: slice) -> Term:
        if block not in blocks:
            return Term(np.full(n, np.nan), np.full(n, np.nan))
        return Term(vector[block][:-1], errors[block][:-1])

    def common(block: slice) -> tuple[float, float]:
        if block not in blocks:
            return np.nan, np.nan
        return float(vector[block][-1]), float(errors[block][-1])

    return JointFit(
        utility=Term((utility - utility.mean()) * scale, error * scale),
        skill=Term(vector[blocks.skill] / scale, errors[blocks.skill] / scale),
        position=term(blocks.position),
        length=term(blocks.length),
        tie=term(blocks.tie),
        common_position=common(blocks.position),
        common_length=common(blocks.length),
        common_tie=common(blocks.tie),
        reliability=reliability,
        told_apart=told_apart,
        linked=linked,
        utility_spread=spreads.utility * scale,
        length_unit=unit,
        spreads=spreads,
        log_likelihood=model.log_likelihood(vector),
        scaled=scaled,
        marginal=marginal,
        counts=np.bincount(model.votes.annotator, minlength=n),
        model=model,
        vector=vector,
    )


def _scaled_length(votes: Votes, unit: float) -> Votes:
    return replace(votes, length=votes.length / unit)
