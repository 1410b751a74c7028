"""Counter-based random numbers: the same bits everywhere, whatever the order, and random enough."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from scipy import stats

from tropism.runtime import seeding


def test_known_values_do_not_move() -> None:
    # SplitMix64 seeded with 0 starts 0xE220A8397B1DCDAF (reference implementation): the finaliser is the published one.
    assert seeding._mix_int(0) == 0xE220A8397B1DCDAF
    assert int(seeding._mix(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF
    assert seeding.derive(0) == 5254295370254170289
    assert seeding.derive(7, "a", 1) == 1135960206254137694
    assert float(seeding.uniform(3, np.array(5), 6)) == 0.28537501247138597


def test_derive_tells_names_apart() -> None:
    made = [seeding.derive(*a) for a in [(7,), (8,), (7, "a"), (7, "a", 1), (7, "a", "1"), (7, "ab"), (7, "a", "b")]]
    assert len(set(made)) == len(made)
    assert all(0 <= m < 2**63 for m in made)
    assert seeding.derive(7, "a", 1) == made[3]


def test_numpy_and_torch_give_identical_bits() -> None:
    ids = np.array([-(2**63), -1, 0, 1, 17, 2**40, 2**63 - 1], dtype=np.int64)
    for seed in (0, 1, -5, 2**63 - 1, 2**64 - 1):
        a = seeding.uniform(seed, ids[:, None], np.arange(50)[None])
        b = seeding.uniform(seed, torch.from_numpy(ids)[:, None], torch.arange(50)[None])
        assert b.dtype == torch.float64
        assert a.tobytes() == b.numpy().tobytes()


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    ids, positions = np.arange(100) % 10, np.arange(100) // 10
    whole = seeding.uniform(3, ids, positions)
    order = seeding.permutation(100, 3, 0)
    assert np.array_equal(seeding.uniform(3, ids[order], positions[order]), whole[order])
    assert seeding.uniform(3, ids[42], positions[42]) == whole[42]
    assert np.array_equal(seeding.uniform(3, ids[:5], 2), seeding.uniform(3, ids[:5], np.full(5, 2)))


def test_uniform_is_uniform_and_uncorrelated() -> None:
    u = seeding.uniform(11, np.arange(400)[:, None], np.arange(400)[None])
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    for a, b in (
        (u[:, 1:], u[:, :-1]),
        (u[1:], u[:-1]),
        (u, seeding.uniform(12, np.arange(400)[:, None], np.arange(400))),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
    assert abs(np.corrcoef(u.ravel(), u.T.ravel())[0, 1]) < 4 / np.sqrt(u.size)  # (i, j) is not (j, i)


def test_the_extremes_stay_inside_the_open_interval() -> None:
    top = ((np.uint64(2**64 - 1) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    assert top < 1.0


def test_permutation_is_one_and_differs_by_epoch() -> None:
    first, second = seeding.permutation(1000, 5, 0), seeding.permutation(1000, 5, 1)
    assert sorted(first) == list(range(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, seeding.permutation(1000, 5, 0))
    assert len(seeding.permutation(0, 5, 0)) == 0


def test_generator_is_seeded_by_name() -> None:
    draw = [torch.rand(4, generator=seeding.generator(1, name)) for name in ("a", "b", "a")]
    assert torch.equal(draw[0], draw[2])
    assert not torch.equal(draw[0], draw[1])


def test_the_numpy_part_needs_no_torch() -> None:
    code = (
        "import sys; from tropism.runtime.seeding import uniform; uniform(0, 1, 2); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
