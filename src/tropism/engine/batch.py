"""Token batches: prompts and completions side by side, padded on the right, masked by explicit lengths.

Causal models never look right, so padding needs no attention mask, and no pad id ever decides what counts (a pad id may
equal EOS, or be sampled). Rows are padded with their own last token: a weight of zero times a NaN is a NaN, and nobody
has trained the pad token's embedding. Left out here: packing, which belongs to the fast engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tropism.errors import DataError


@dataclass(frozen=True)
class TokenBatch:
    """B sequences of prompt + completion.

    ``ids`` int64 ``[B, T]``, right-padded; ``prompt_lengths`` and ``completion_lengths`` int64 ``[B]``. Whatever is
    said of completions has layout ``[B, C]``: column j is the j-th completion token, C the longest completion.
    """

    ids: Tensor
    prompt_lengths: Tensor
    completion_lengths: Tensor

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int | None = None
    ) -> TokenBatch:
        """Lay out token lists. A prompt needs at least one token; a completion may be empty.

        ``pad_id`` stands in the padding; None: each row's own last token.
        """
        if len(prompts) != len(completions) or not prompts:
            raise DataError(
                f"{len(prompts)} prompts and {len(completions)} completions", "give one completion per prompt"
            )
        if any(len(p) == 0 for p in prompts):
            raise DataError(
                "an empty prompt has no token to predict the first completion token from", "start it with BOS"
            )
        width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        ids = torch.empty((len(prompts), width), dtype=torch.int64)
        for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
            tokens = torch.tensor([*p, *c], dtype=torch.int64)
            ids[row] = tokens[-1] if pad_id is None else pad_id
            ids[row, : len(tokens)] = tokens
        return cls(ids, torch.tensor([len(p) for p in prompts]), torch.tensor([len(c) for c in completions]))

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Prompt plus completion lengths ``[B]``."""
        return self.prompt_lengths + self.completion_lengths

    @property
    def width(self) -> int:
        """C, the longest completion (at least 1, so that no tensor is empty)."""
        return max(1, int(self.completion_lengths.max()))

    @property
    def mask(self) -> Tensor:
        """Completion mask bool ``[B, C]``, True where a completion token stands."""
        return torch.arange(self.width)[None, :] < self.completion_lengths[:, None]

    def completion_positions(self) -> Tensor:
        """Index into ``ids`` of every completion token, ``[B, C]``; padded entries are clamped into the row."""
        positions = self.prompt_lengths[:, None] + torch.arange(self.width)[None, :]
        return positions.clamp(max=self.ids.shape[1] - 1)

    def completion_ids(self) -> Tensor:
        """Completion token ids ``[B, C]``; padded entries hold some id of the row and must be masked."""
        return self.ids.gather(1, self.completion_positions())

    def select(self, rows: Tensor) -> TokenBatch:
        """Some rows, cut to the longest of them."""
        lengths = self.lengths[rows]
        return TokenBatch(
            self.ids[rows, : int(lengths.max())], self.prompt_lengths[rows], self.completion_lengths[rows]
        )


def crop(rows: Tensor, batch: TokenBatch) -> Tensor:
    """Cut a ``[b, C]`` tensor of a larger batch to the width of a sub-batch."""
    return rows[:, : batch.width]
