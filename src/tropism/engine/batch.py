"""Token batches: prompts and completions side by side, padded on the right, masked by explicit lengths.

No pad id ever decides what counts (a pad id may equal EOS, or be sampled). What goes through a network is packed: the
sequences end to end in one row, without their padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tropism.errors import DataError


@dataclass(frozen=True)
class Packed:
    """B sequences of ``lengths`` int64 ``[B]`` end to end, N tokens in all."""

    lengths: Tensor

    @cached_property
    def starts(self) -> Tensor:
        """Where each sequence begins, and behind them N: int64 ``[B + 1]``."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    @cached_property
    def positions(self) -> Tensor:
        """Each token's place in its sequence, int64 ``[N]``."""
        return torch.arange(int(self.starts[-1])) - self.starts[:-1].repeat_interleave(self.lengths)

    @cached_property
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Sequences of like length (the shortest at least three quarters of the longest) side by side: for each group
        the packed tokens ``[b, T]`` and which of them are real."""
        made, rest = [], torch.argsort(self.lengths, descending=True, stable=True)
        rest = rest[self.lengths[rest] > 0]
        while len(rest):
            longest = int(self.lengths[rest[0]])
            like = rest[self.lengths[rest] * 4 >= longest * 3]
            places = torch.arange(longest)[None]
            valid = places < self.lengths[like][:, None]
            made.append((self.starts[like][:, None] + torch.where(valid, places, 0), valid))
            rest = rest[len(like) :]
        return made


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

    @cached_property
    def packed(self) -> Packed:
        """The layout of the sequences without their padding."""
        return Packed(self.lengths)

    def packed_ids(self) -> Tensor:
        """Token ids ``[N]``."""
        return self.ids[torch.arange(self.ids.shape[1])[None] < self.lengths[:, None]]

    @cached_property
    def completion_places(self) -> Tensor:
        """Where the n completion tokens stand among the N packed ones, int64 ``[n]``, row by row."""
        own = Packed(self.completion_lengths)
        return (self.packed.starts[:-1] + self.prompt_lengths).repeat_interleave(
            self.completion_lengths
        ) + own.positions

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


def by_tokens(rows: Tensor, lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Consecutive groups of ``rows`` of at most ``budget`` tokens together; a longer row is a group of its own.
    ``lengths`` ``[B]`` are those of all rows."""
    first, tokens = 0, 0
    for i, length in enumerate(lengths[rows].tolist()):
        if tokens and tokens + length > budget:
            yield rows[first:i]
            first, tokens = i, 0
        tokens += length
    if first < len(rows):
        yield rows[first:]
