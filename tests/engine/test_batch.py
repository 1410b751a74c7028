"""Token batches: layout, masks from lengths, sub-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tropism.engine.batch import TokenBatch, crop
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
