"""Rewards over segments: inputs standardised anew, the regret form's states, and what a fit goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tropism.control.fit_reward import BAG_SEED, RewardSection, fit_reward
from tropism.control.reward_network import Form, LearnedReward, SegmentEnsemble, SegmentScores, Shape, load_reward
from tropism.errors import RewardError
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task
from tropism.reward.dataset import RewardData
from tropism.reward.fitting import FitSettings, _Fitting
from tropism.reward.likelihood import Links, ScoresWhere, ScoreTable, candidates_of, evidence_nll, needed_by

SHAPE = Shape(observations=3, actions=2, discrete=False, low=(-1.0, -1.0), high=(1.0, 1.0), successors=True)


def rows(count: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Segments ``[n, 4, 8]``."""
    return spread * torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 4, SHAPE.width))).float()


def ensemble(form: Form = "regret") -> SegmentEnsemble:
    made = SegmentEnsemble(SHAPE, 3, (16, 16), form, 0)
    made.standardise(rows(50).flatten(0, 1))
    return made


@pytest.mark.parametrize("form", ["partial_return", "regret"])
def test_a_fitted_ensemble_scores_the_same_after_its_inputs_are_standardised_anew(form: Form) -> None:
    made, segments = ensemble(form), rows(20, 1)
    with torch.no_grad():
        made.reward.linear.normal_(generator=torch.Generator().manual_seed(3))
        before = made.segments(segments)
        made.standardise(rows(50, 2, 3.0).flatten(0, 1) + 0.7, fitted=True)
        assert not torch.allclose(made.deviation, torch.ones(8), atol=1.0)
        torch.testing.assert_close(made.segments(segments), before, rtol=1e-4, atol=1e-4)


def test_what_was_never_seen_to_vary_does_not_weigh_a_thousand_times_more_once_it_does() -> None:
    first, later = rows(50), rows(50, 3)
    first[..., 1] = 0.25
    made = SegmentEnsemble(SHAPE, 3, (16,), "partial_return", 0)
    made.standardise(first.flatten(0, 1))
    weights = made.reward.weights[0].detach().clone()
    made.standardise(later.flatten(0, 1), fitted=True)
    assert torch.equal(made.reward.weights[0][:, 1], weights[:, 1])
    with torch.no_grad():
        assert float(made.segments(later).abs().max()) < 10


def test_regret_values_the_state_after_the_last_action_also_of_single_steps() -> None:
    made, segments = ensemble(), rows(6)
    assert made.value is not None
    with torch.no_grad():
        for part in (segments, segments[:, :1]):
            ends = torch.stack([part[:, 0, :3], part[:, -1, -3:]])
            begun, ended = (made.value(((x - made.mean[:3]) / made.deviation[:3]).clamp(-10, 10)) for x in ends)
            sums = made.steps(part.flatten(0, 1)).view(3, len(part), -1).sum(-1)
            assert (begun != ended).all()
            torch.testing.assert_close(made.segments(part), sums + ended - begun)


def test_regret_refuses_steps_without_what_followed() -> None:
    with pytest.raises(RewardError, match="after a segment's last action"):
        SegmentEnsemble(Shape(3, 1, True), 1, (4,), "regret", 0)
    assert RewardSection(form="regret").reads_successors
    assert not RewardSection().reads_successors


@pytest.mark.parametrize("missing", [{"members": 1}, {"bootstrap": False}, {"early_stopping": False}])
def test_forms_are_not_compared_by_nothing(missing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"reward\.members of 2 or more"):
        RewardSection(form="auto", **missing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"optimism": 1.0}, r'"mean" with reward\.optimism = 1: "optimistic" needs'),
        ({"combination": "optimistic"}, r"reward\.optimism = 0"),
        ({"combination": "pessimistic", "optimism": 1.0}, r"reward\.pessimism = 0"),
        ({"combination": "optimistic", "optimism": 1.0, "members": 1}, r"reward\.members = 1 has none"),
    ],
)
def test_a_weight_of_disagreement_that_would_do_nothing_is_refused(told: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RewardSection(**told)  # type: ignore[arg-type]


def test_an_optimist_pays_the_more_for_what_no_answer_was_about(tmp_path: Path) -> None:
    hopeful = RewardSection(combination="optimistic", optimism=1.0)
    (plain, _), (optimist, _) = fitted(rows(60)), fitted(rows(60), settings=hopeful)
    known, unknown = (x.split([3, 2, 3], 1) for x in (rows(60).flatten(0, 1), 4 * rows(60, 1).flatten(0, 1)))
    bonus = [optimist(*(p.numpy() for p in x)).mean() - plain(*(p.numpy() for p in x)).mean() for x in (known, unknown)]
    assert bonus[1] > 2 * bonus[0] > 0
    optimist.save(tmp_path)
    again = load_reward(tmp_path)
    assert np.array_equal(again(*(p.numpy() for p in unknown)), optimist(*(p.numpy() for p in unknown)))


def judged(segments: Tensor, truth: Tensor) -> RewardData:
    """Comparisons of neighbours, by the sum of what ``truth`` weighs."""
    scores = (segments @ truth).sum(-1)
    made = []
    for first in range(0, len(segments), 2):
        task = Task("train", {"number": first})
        pair = tuple(Candidate(task.id, "segment", {"number": n}, Provenance("test")) for n in (first, first + 1))
        query = Query(task.id, "comparison", tuple(c.id for c in pair), (0, 1), 0)
        choice = {"choice": "a" if scores[first] > scores[first + 1] else "b", "strength": 0}
        made.append(Judgement(f"event-{first}", "oracle", query, task, pair, choice))
    return RewardData.from_judgements(made)


def fitted(
    segments: Tensor, before: LearnedReward | None = None, settings: RewardSection | None = None, seed: int = 0
) -> tuple[LearnedReward, dict[str, float]]:
    data = judged(segments, torch.linspace(-1, 1, SHAPE.width))
    order = torch.tensor([c.content["number"] for c in data.candidates])
    steps = segments.flatten(0, 1)
    return fit_reward(data, segments[order], steps, SHAPE, before, settings or RewardSection(), seed)


def test_every_version_standardises_on_all_that_was_asked_about_so_far() -> None:
    first, _ = fitted(rows(2))  # one answer, as a person's first
    beyond = torch.cat([rows(2), 20 + rows(118, 1)])  # the agent came to where it had not been
    second, _ = fitted(beyond, first)
    torch.testing.assert_close(second.ensemble.mean, beyond.flatten(0, 1).mean(0))
    torch.testing.assert_close(second.ensemble.deviation, beyond.flatten(0, 1).std(0, correction=0))
    fresh = 20 + rows(200, 5)
    scores = second.segment_members(fresh).mean(0)
    truth = (fresh @ torch.linspace(-1, 1, SHAPE.width)).sum(-1)
    assert float(torch.corrcoef(torch.stack([scores, truth]))[0, 1]) > 0.7  # of the first one's inputs, all clamped


def test_one_answer_about_one_kind_of_step_leaves_a_reward_that_more_answers_can_mend() -> None:
    alike = rows(1)[:, :1] + rows(2, 2, 1e-5)[:, :1]  # all inputs as good as the same
    first, _ = fitted(alike)
    segments = rows(200, 1)[:, :1]
    (second, _), (fresh, _) = fitted(segments, first), fitted(segments)
    truth = (segments @ torch.linspace(-1, 1, 8)).sum(-1)
    mended, own = (
        float(torch.corrcoef(torch.stack([r.segment_members(segments).mean(0), truth]))[0, 1]) for r in (second, fresh)
    )
    assert mended > own - 0.1


def test_a_later_rounds_seed_does_not_move_tasks_between_bags() -> None:
    """Fits of different rounds go on from one another; what one left out the next must not have been fitted on."""
    segments, one_epoch = rows(100), {"fit_steps": 1, "least_steps": 1, "batch_size": 200}
    settings = RewardSection(**one_epoch)  # type: ignore[arg-type]
    (a, found), (b, other) = (fitted(segments, settings=settings, seed=seed) for seed in (0, 1))
    assert not torch.equal(a.ensemble.reward.weights[0], b.ensemble.reward.weights[0])
    bags = [_Fitting(SegmentScores(r.ensemble, segments), judged(segments, torch.ones(8)), how, s).bags
            for s, r in enumerate((a, b)) for how in [FitSettings(bag_seed=BAG_SEED)]]  # fmt: skip
    assert torch.equal(*bags)  # type: ignore[arg-type]
    assert found["reward/nll_out_of_bag"] != other["reward/nll_out_of_bag"]


def test_without_bags_all_steps_are_done_and_said_to_be() -> None:
    _, metrics = fitted(rows(60), settings=RewardSection(members=1, fit_steps=40))
    assert metrics["reward/fit_steps"] == 40
    assert "reward/nll_out_of_bag" not in metrics


def test_the_form_is_chosen_by_what_was_left_out_of_bags_also_without_held_out_answers() -> None:
    """Where answers tell of the states at both ends and of nothing between, sums of rewards cannot say it."""
    segments = rows(600)
    truth = 4 * (segments[:, -1, -3] - segments[:, 0, 0])
    data = judged(truth[:, None, None].expand(-1, 4, 8), torch.ones(8))
    assert not len(data.fold(False))
    features = segments[torch.tensor([c.content["number"] for c in data.candidates])]
    made, metrics = fit_reward(data, features, segments.flatten(0, 1), SHAPE, None, RewardSection(form="auto"), 0)
    assert made.ensemble.form == "regret"
    assert metrics["reward/regret"] == 1.0


class EveryScore:
    """An ensemble's scores without what ``ScoresWhere`` saves."""

    def __init__(self, scores: SegmentScores) -> None:
        self.scores, self.members = scores, scores.members

    def score(self, index: Tensor) -> Tensor:
        return self.scores.score(index)


@pytest.mark.parametrize("form", ["partial_return", "regret"])
def test_members_that_score_only_what_they_weigh_have_the_same_likelihood_and_gradient(form: Form) -> None:
    segments = rows(40)
    made, data = ensemble(form), judged(segments, torch.linspace(-1, 1, SHAPE.width))
    scores = SegmentScores(made, segments)
    assert isinstance(scores, ScoresWhere)
    weights = torch.from_numpy(np.random.default_rng(3).poisson(1.0, (3, len(data.tasks)))).float()
    weights[1] = 0.0  # one that weighs nothing at all
    asked: list[int] = []
    first = made.reward.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0][..., 0].numel()))
    found = []
    for model in (scores, EveryScore(scores)):
        made.zero_grad()
        nll = evidence_nll(model, Links(3, data), data, 20.0, task_weights=weights, lapse=0.1)
        nll.sum().backward()
        found.append((nll.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)))
    first.remove()
    assert asked[0] < 3 * asked[1]  # the latter are shared by members, and count once
    for mine, whole in zip(*found, strict=True):
        torch.testing.assert_close(mine, whole)
    wanted = candidates_of(data)
    needed = needed_by(data, wanted, weights)
    assert needed is not None
    assert not needed[1].any()
    tables = [ScoreTable.of(scores, wanted, 40, 7, n).score(wanted) for n in (needed, None)]
    torch.testing.assert_close(tables[0][needed], tables[1][needed])
