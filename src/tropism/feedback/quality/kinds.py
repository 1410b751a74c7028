"""What kind of annotator somebody is, told from the intervals of the joint fit and never from point values.

Somebody of whom there are few votes is ``unclear``; that is the honest answer, and no reproach. Left out: a mixture of
kinds, and change over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from tropism.feedback.quality.joint_fit import JointFit
from tropism.feedback.quality.votes import Floats

Kind = Literal["good", "random", "inverted", "position-biased", "length-biased", "unclear"]


@dataclass(frozen=True)
class KindRules:
    """From where on a term matters; an interval of ``level`` must lie wholly beyond.

    ``margin``: skill that is surely not chance, and ``useful``: below which votes tell next to nothing, both as shares
    of the median good annotator's (information goes with the square: at 0.4 it is a sixth). ``material``: a bias in
    logits; 0.5 turns 50:50 into 62:38.
    """

    margin: float = 0.1
    useful: float = 0.4
    material: float = 0.5
    level: float = 0.95


def kinds_of(fit: JointFit, rules: KindRules | None = None) -> list[Kind]:
    """The kind of each annotator, in the fit's order; the first of these that fits.

    ``inverted``: skill surely below −margin. ``position-biased``, ``length-biased``: a pull that is surely material
    (the surer of the two). Length must pull materially by itself and beyond what all share: that is taste, or quality.
    ``random``: skill surely within ± useful. ``good``: skill surely above the margin. Else ``unclear``; and where the
    votes do not tell the items apart at all, nobody's skill is told from anything.
    """
    rules = rules or KindRules()
    told = fit.told_apart
    width = float(norm.ppf((1 + rules.level) / 2))
    low, high = fit.skill.interval(width)
    position = _surely(fit.position.value, fit.position.error, width)
    alone = _surely(fit.length.value - fit.common_length[0], fit.length.error, width)
    length = np.minimum(alone, _surely(fit.length.value, fit.length.error, width))
    found: list[Kind] = []
    for k in range(len(low)):
        if told and high[k] < -rules.margin:
            found.append("inverted")
        elif max(position[k], length[k]) > rules.material:
            found.append("position-biased" if position[k] >= length[k] else "length-biased")
        elif told and -rules.useful < low[k] and high[k] < rules.useful:
            found.append("random")
        else:
            found.append("good" if told and low[k] > rules.margin else "unclear")
    return found


def _surely(value: Floats, error: Floats, width: float) -> Floats:
    """How far from zero the nearer end of an interval lies; 0 where it holds zero or the model lacks the term."""
    return np.nan_to_num(np.maximum(np.abs(value) - width * error, 0.0), nan=0.0)
