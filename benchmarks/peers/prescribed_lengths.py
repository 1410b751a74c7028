"""Completions of lengths known beforehand, so that two engines generate the same number of tokens row by row.

``transformers`` and whatever generates through it is made to end a row by a logits processor; our own engine takes the
same numbers as limits. Imported on both sides: only torch and transformers are needed. Left out: what the tokens are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

WORKS = ("fixed", "eos")
"""``fixed``: completions of one length; ``eos``: lengths uniform in ``SHORTEST`` … ``LONGEST`` tokens, end included."""
SHORTEST, LONGEST = 8, 128


def lengths_of(work: str, step: int, rows: int, fixed: int) -> list[int]:
    """Tokens of each of a step's completions.

    For ``eos`` they are spread evenly, in an order that the step alone decides: every step is the same amount of work.
    """
    if work == "fixed":
        return [fixed] * rows
    spread = [SHORTEST + round(i * (LONGEST - SHORTEST) / max(1, rows - 1)) for i in range(rows)]
    random.Random(step).shuffle(spread)
    return spread


class PrescribedLengths(LogitsProcessor):
    """Ends row i at its ``lengths[i]``-th new token: EOS is impossible before and certain there.

    The pad token is impossible too, because some trainers take it for an end. One object serves one call of
    ``generate`` with ``prompt`` tokens a row. The scores are changed in place: nothing is copied.
    """

    def __init__(self, lengths: Sequence[int], prompt: int, eos: int, pad: int) -> None:
        self.lengths, self.prompt, self.eos, self.pad = torch.tensor(lengths), prompt, eos, pad

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[rows, vocabulary]`` of the next token."""
        ending = self.lengths == input_ids.shape[1] - self.prompt + 1
        scores[:, [self.eos, self.pad]] = -torch.inf
        if ending.any():
            scores[ending] = -torch.inf
            scores[ending, self.eos] = 0.0
        return scores


def lengths_made(responses: Tensor, eos: int) -> list[int]:
    """Tokens of each response ``[rows, new]`` up to its first EOS, that one included; all of them where there is
    none."""
    ended = responses == eos
    first = torch.where(ended.any(1), ended.int().argmax(1) + 1, responses.shape[1])
    return [int(n) for n in first]
