"""Token batches: layout, masks from lengths, sub-batches, packing, micro-batches by tokens."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tropism.engine.batch import Packed, TokenBatch, by_tokens, crop
from tropism.errors import DataError

rows = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.lists(st.integers(0, 9), max_size=5)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(rows, st.integers(0, 9))
def test_layout_gives_back_what_was_laid_out(pairs: list[tuple[list[int], list[int]]], pad: int) -> None:
    prompts, completions = [p for p, _ in pairs], [c for _, c in pairs]
    batch = TokenBatch.of(prompts, completions, pad)
    ids, mask = batch.completion_ids(), batch.mask
    assert [ids[i][mask[i]].tolist() for i in range(len(batch))] == completions
    assert [batch.ids[i, : len(p)].tolist() for i, p in enumerate(prompts)] == prompts
    assert batch.lengths.tolist() == [len(p) + len(c) for p, c in pairs]
    assert int(mask.sum()) == sum(map(len, completions))


def test_mask_comes_from_lengths_not_from_ids() -> None:
    """Completions made of nothing but the pad id count in full."""
    batch = TokenBatch.of([[5], [5, 6]], [[0, 0, 0], [0]], pad_id=0)
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]


def test_select_cuts_to_the_longest_chosen_row_and_crop_follows() -> None:
    batch = TokenBatch.of([[1], [1, 2], [1, 2, 3]], [[4, 5, 6, 7], [4], [4, 5]])
    part = batch.select(torch.tensor([2, 1]))
    assert part.ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 4, 4, 4]]  # padded with its own last token
    assert part.width == 2
    assert crop(torch.arange(12.0).reshape(3, 4)[[2, 1]], part).tolist() == [[8, 9], [4, 5]]
    assert part.completion_ids()[part.mask].tolist() == [4, 5, 4]


def test_only_empty_completions_still_make_a_batch() -> None:
    batch = TokenBatch.of([[1, 2]], [[]])
    assert batch.width == 1
    assert not batch.mask.any()
    assert batch.completion_ids().shape == (1, 1)


@given(rows)
def test_packed_tokens_are_the_rows_end_to_end(pairs: list[tuple[list[int], list[int]]]) -> None:
    batch = TokenBatch.of([p for p, _ in pairs], [c for _, c in pairs], pad_id=77)
    flat, layout = batch.packed_ids(), batch.packed
    assert flat.tolist() == [t for p, c in pairs for t in p + c]
    assert flat[batch.completion_places].tolist() == [t for _, c in pairs for t in c]
    assert [flat[a:b].tolist() for a, b in pairwise(layout.starts.tolist())] == [p + c for p, c in pairs]
    assert layout.positions.tolist() == [i for p, c in pairs for i in range(len(p + c))]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_groups_hold_every_token_once_beside_others_of_like_length(lengths: list[int]) -> None:
    layout, seen = Packed(torch.tensor(lengths)), []
    for index, valid in layout.groups:
        seen += index[valid].tolist()
        real = valid.sum(1)
        assert int(real.min()) * 4 >= index.shape[1] * 3
        for row, length in zip(index, real.tolist(), strict=True):
            first = int(row[0])
            assert row[:length].tolist() == list(range(first, first + length))
            assert (row[length:] == first).all()  # what stands in the padding is a token of the row's own
    assert sorted(seen) == list(range(sum(lengths)))


@given(st.lists(st.integers(1, 40), min_size=0, max_size=30), st.integers(1, 60), st.randoms())
def test_micro_batches_by_tokens_cover_all_rows_in_order_within_the_budget(
    lengths: list[int], budget: int, random: Random
) -> None:
    chosen = [i for i in range(len(lengths)) if random.random() < 0.8]
    random.shuffle(chosen)
    parts = list(by_tokens(torch.tensor(chosen, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64), budget))
    assert [i for part in parts for i in part.tolist()] == chosen
    sizes = [sum(lengths[i] for i in part.tolist()) for part in parts]
    assert all(size <= budget or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    for number, following in enumerate(parts[1:]):  # and none is smaller than it need be
        assert sizes[number] + lengths[int(following[0])] > budget


@pytest.mark.parametrize(
    ("prompts", "completions", "said"),
    [
        ([[1]], [[1], [2]], "1 prompts and 2 completions"),
        ([], [], "0 prompts"),
        ([[1], []], [[1], [1]], "empty prompt"),
    ],
)
def test_bad_input_is_named(prompts: list[list[int]], completions: list[list[int]], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        TokenBatch.of(prompts, completions)
    assert caught.value.fix
