"""Ensembles: per-member scale, combinations, the frozen scale on disk."""

from __future__ import annotations

import json

import pytest
import torch

from tropism.errors import RewardError
from tropism.reward.ensemble import FrozenScale, combine


def members() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    signal = torch.randn(500, generator=g)
    return torch.stack([3 * signal + 1, 0.1 * (signal + torch.randn(500, generator=g)) - 7])


def test_combinations_by_hand():
    scores = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    assert combine(scores).tolist() == [2, 4]
    assert combine(scores, "min").tolist() == [1, 4]
    assert combine(scores, "pessimistic", 0.5).tolist() == [1.5, 4]  # variance 1 and 0
    assert combine(scores, "optimistic", 0.5).tolist() == [2.5, 4]
    with pytest.raises(RewardError, match="'median'"):
        combine(scores, "median")  # type: ignore[arg-type]


def test_every_member_and_their_mean_have_unit_scale_on_the_reference():
    scale = FrozenScale.fit(members(), "reference")
    standard = scale.members(members())
    assert standard.mean(1).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert standard.std(1, correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    reward = scale.combine(members())
    assert float(reward.mean()) == pytest.approx(0, abs=1e-5)
    assert float(reward.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert scale.combined_std < 1  # the members disagree


def test_pessimism_never_pays_more_than_the_mean():
    scale = FrozenScale.fit(members(), "reference")
    mean = scale.combine(members())
    for how in ("min", "pessimistic"):
        paid = scale.combine(members(), how, 1.0)
        assert (paid <= mean + 1e-6).all()
        assert float(paid.mean()) < float(mean.mean()) - 0.1


def test_optimism_pays_what_is_not_known():
    scale = FrozenScale.fit(members(), "reference")
    mean, paid = scale.combine(members()), scale.combine(members(), "optimistic", 1.0)
    apart = scale.members(members()).std(0, correction=0)
    assert (paid >= mean).all()
    assert torch.allclose(paid - mean, apart / scale.combined_std, atol=1e-5)


def test_scale_survives_the_disk_exactly(tmp_path):
    scale = FrozenScale.fit(members(), "digest")
    scale.save(tmp_path / "scale.json")
    assert FrozenScale.load(tmp_path / "scale.json") == scale
    assert json.loads((tmp_path / "scale.json").read_text())["samples"] == 500


def test_segments_and_tokens_keep_their_shape():
    scale = FrozenScale.fit(members(), "reference")
    cube = members().reshape(2, 50, 10)
    assert torch.allclose(scale.combine(cube).reshape(-1), scale.combine(members()))


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]), "members 0 give every reference sample"),
        (torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), "members 0 give NaN"),
        (torch.tensor([[1.0], [2.0]]), r"shape \(2, 1\)"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "cancel out"),
    ],
)
def test_unusable_reference_scores_are_named(scores, says):
    with pytest.raises(RewardError, match=says):
        FrozenScale.fit(scores, "reference")


def test_wrong_member_count_and_broken_file(tmp_path):
    with pytest.raises(RewardError, match="3 members for a scale of 2"):
        FrozenScale.fit(members(), "x").members(torch.zeros(3, 4))
    (tmp_path / "scale.json").write_text('{"mean": [0]}')
    with pytest.raises(RewardError, match=r"scale\.json"):
        FrozenScale.load(tmp_path / "scale.json")
    with pytest.raises(RewardError, match="missing"):
        FrozenScale.load(tmp_path / "missing.json")
