"""Fitting learns from every kind of evidence, is deterministic, and resumes to the same bits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from reward_fixtures import TinyEnsemble, utilities_of, world

from tropism.errors import DataError, InterruptedRun, RewardError
from tropism.reward.dataset import RewardData
from tropism.reward.ensemble import FrozenScale
from tropism.reward.fitting import FitSettings, _Fitting, fit
from tropism.reward.likelihood import Links, evidence_nll, take_rows, total_weight
from tropism.runtime.stage import StageRun

SETTINGS = FitSettings(epochs=12, batch_size=32, learning_rate=0.02, patience=4)


def fitted_scores(data: RewardData, settings: FitSettings = SETTINGS, seed: int = 0) -> torch.Tensor:
    model = TinyEnsemble(data)
    fit(model, data, settings, seed)
    with torch.no_grad():
        return model.score(torch.arange(len(data.candidates)))


@pytest.mark.parametrize(
    ("kind", "k", "settings"),
    [
        ("comparison", 2, SETTINGS),
        ("best_of", 4, SETTINGS),
        ("ranking", 4, SETTINGS),
        ("rating", 1, SETTINGS),
        ("rating", 1, replace(SETTINGS, rating_loss="ordinal")),
        ("label", 1, SETTINGS),
    ],
    ids=["comparison", "best_of", "ranking", "rating", "ordinal", "label"],
)
def test_every_kind_of_evidence_finds_the_utility(kind, k, settings):
    data = RewardData.from_judgements(world(kind, 240, k))
    scores = FrozenScale.fit(raw := fitted_scores(data, settings), "all").combine(raw)
    truth = torch.tensor(utilities_of(data))
    held_out = torch.tensor([data.tasks[int(t)].split == "validation" for t in data.candidate_task])
    agreement = float(torch.corrcoef(torch.stack([scores[held_out], truth[held_out]]))[0, 1])
    assert agreement > 0.8  # an untrained network: below 0.5 on every kind
    untrained = TinyEnsemble(data).eval().score(torch.arange(len(truth))).detach()
    before = FrozenScale.fit(untrained, "all").combine(untrained)
    assert float(torch.corrcoef(torch.stack([before[held_out], truth[held_out]]))[0, 1]) < 0.5


def test_all_kinds_together():
    kinds = ("comparison", "ranking", "rating", "label")
    judgements = [
        j for i, kind in enumerate(kinds) for j in world(kind, 60, {"comparison": 2, "ranking": 3}.get(kind, 1), i)
    ]
    # the same prompts come back with other candidates; that is what rounds do
    data = RewardData.from_judgements(judgements)
    result = fit(TinyEnsemble(data), data, SETTINGS, 0)
    assert result.history[-1]["reward/nll_train"] < 0.8 * result.history[0]["reward/nll_train"]
    assert result.nll_validation == min(h["reward/nll_validation"] for h in result.history)
    assert result.history[result.best_epoch - 1]["reward/nll_validation"] == result.nll_validation


def test_deterministic_and_seeded():
    data = RewardData.from_judgements(world("comparison", 80))
    assert torch.equal(fitted_scores(data), fitted_scores(data))
    assert not torch.equal(fitted_scores(data), fitted_scores(data, seed=1))


def test_fitting_leaves_the_global_generator_alone():
    data = RewardData.from_judgements(world("comparison", 40))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fitted_scores(data)
    assert torch.equal(torch.rand(3), expected)


def test_members_differ_by_bootstrap_alone():
    data = RewardData.from_judgements(world("comparison", 80))

    def spread(bootstrap: bool) -> float:
        model = TinyEnsemble(data, dropout=0.0)
        with torch.no_grad():  # the same start for every member
            model.first.copy_(model.first[:1].expand_as(model.first).clone())
            model.second.copy_(model.second[:1].expand_as(model.second).clone())
        fit(model, data, replace(SETTINGS, bootstrap=bootstrap, max_grad_norm=1e9), 0)
        with torch.no_grad():
            return float(model.score(torch.arange(len(data.candidates))).std(0).mean())

    assert spread(False) < 1e-6
    assert spread(True) > 0.05


def test_best_weights_are_restored():
    data = RewardData.from_judgements(world("comparison", 60))
    model = TinyEnsemble(data, hidden=64, dropout=0.0)
    settings = replace(SETTINGS, epochs=40, learning_rate=0.05, patience=5, weight_decay=0.0)
    result = fit(model, data, settings, 0)
    assert result.epochs == result.best_epoch + 5  # it over-fitted and was stopped
    validation = data.fold(False)
    nll = evidence_nll(model, Links(3, data), validation, total_weight(validation)).mean()
    assert float(nll.detach()) == pytest.approx(result.nll_validation, abs=1e-6)


def test_what_bags_left_out_stops_a_fit_that_learns_by_heart():
    """Without validation rows, and with no row wasted: every one is in some member's bag."""
    data = RewardData.from_judgements(world("comparison", 90)).fold(True)
    settings = replace(SETTINGS, epochs=60, learning_rate=0.05, patience=5, weight_decay=0.0, out_of_bag=True)
    model = TinyEnsemble(data, hidden=64, dropout=0.0)
    result = fit(model, data, settings, 0)
    assert result.epochs == result.best_epoch + 5
    assert result.nll_validation == min(h["reward/nll_out_of_bag"] for h in result.history)
    # the same by hand: each member judged on the tasks that its bag has none of
    fitting = _Fitting(model, data, settings, 0)
    assert fitting.bags is not None
    nll = []
    for member, bag in enumerate(fitting.bags):
        outside = data.of_tasks(bag == 0)
        nll.append(float(evidence_nll(model, Links(3, data), outside, total_weight(outside))[member].detach()))
    assert sum(nll) / 3 == pytest.approx(result.nll_validation, abs=1e-6)
    assert fit(TinyEnsemble(data, hidden=64), data, replace(settings, out_of_bag=False), 0).epochs == 60
    later = fit(TinyEnsemble(data, hidden=64, dropout=0.0), data, replace(settings, least_epochs=30), 0)
    assert result.best_epoch < 30 <= later.best_epoch


def test_a_task_stays_in_the_bags_it_was_in():
    """Later fits go on from earlier weights: what a member has seen must not count as left out of it."""
    settings = replace(SETTINGS, out_of_bag=True)

    def bags(tasks: int) -> dict[str, list[float]]:
        data = RewardData.from_judgements(world("comparison", tasks)).fold(True)
        found = _Fitting(TinyEnsemble(data), data, settings, 0).bags
        assert found is not None
        return {task.id: found[:, n].tolist() for n, task in enumerate(data.tasks)}

    few, many = bags(40), bags(400)
    assert few == {id: many[id] for id in few}
    drawn = torch.tensor(list(many.values()))
    assert float((drawn == 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.05)
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.1)


def test_without_validation_all_epochs_are_done():
    data = RewardData.from_judgements([j for j in world("comparison", 40) if j.task.split == "train"])
    result = fit(TinyEnsemble(data), data, replace(SETTINGS, epochs=3), 0)
    assert (result.epochs, result.best_epoch, result.nll_validation) == (3, 3, None)


@pytest.mark.parametrize("stop_after", range(1, 10))
def test_resume_gives_the_same_bits(tmp_path, stop_after):
    """Stopped between epochs and within them (the process asks after every step), with a schedule of rates."""
    data = RewardData.from_judgements(world("comparison", 60) + world("rating", 20, 1, 1))
    settings = replace(SETTINGS, epochs=7, patience=3, checkpoint_every=2, batch_size=16, warmup=0.2, decay=True)
    undisturbed = TinyEnsemble(data)
    expected = fit(undisturbed, data, settings, 5)
    calls = iter(range(100))
    run = StageRun("reward-1", tmp_path / "reward-1", 0, stop_requested=lambda: next(calls) + 1 >= stop_after)
    with pytest.raises(InterruptedRun):
        fit(TinyEnsemble(data), data, settings, 5, run)
    again = TinyEnsemble(data, seed=99)  # whatever is in memory at the start must not matter
    found = fit(again, data, settings, 5, StageRun("reward-1", tmp_path / "reward-1", 0))
    assert expected.epochs > 3
    assert found == expected
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_resuming_a_finished_fit_trains_no_more(tmp_path):
    data = RewardData.from_judgements(world("comparison", 40))
    settings = replace(SETTINGS, epochs=3)
    first, second = TinyEnsemble(data), TinyEnsemble(data, seed=1)
    a = fit(first, data, settings, 0, StageRun("r", tmp_path / "r", 0))
    b = fit(second, data, settings, 0, StageRun("r", tmp_path / "r", 0))
    assert a == b
    assert torch.equal(first.first, second.first)


def test_gradients_are_clipped():
    data = RewardData.from_judgements(world("comparison", 32))
    model, settings = TinyEnsemble(data, dropout=0.0), replace(SETTINGS, epochs=1, max_grad_norm=1e-3, bootstrap=False)
    result = fit(model, data, settings, 0)
    assert result.history[0]["reward/grad_norm"] > 0.1  # what is logged is the norm before clipping
    assert max(float(p.grad.norm()) for p in model.parameters() if p.grad is not None) <= 1e-3


class Levelled(TinyEnsemble):
    """Its level is a parameter of its own, at 3 to begin with."""

    heads = frozenset({"level"})

    def __init__(self, data: RewardData) -> None:
        super().__init__(data, dropout=0.0)
        self.level = torch.nn.Parameter(torch.tensor(3.0))

    def score(self, index: torch.Tensor) -> torch.Tensor:
        return super().score(index) + self.level


def test_centred_scores_have_a_level_and_heads_a_rate_of_their_own():
    data = RewardData.from_judgements(world("comparison", 60) + world("ranking", 20, 3, 1))

    def level(**over: float) -> float:
        model = Levelled(data)
        fit(model, data, replace(SETTINGS, patience=99, **over), 0)
        return abs(float(model.level.detach()))

    # no preference speaks of it: without the penalty it only drifts with rounding
    assert level(center_coef=0.1, head_learning_rate=0.2) < 0.7 * level(head_learning_rate=0.2)
    assert 2 < level(center_coef=0.1, head_learning_rate=1e-3) < 3


def test_rates_rise_and_fall():
    data = RewardData.from_judgements(world("comparison", 64))
    seen: list[float] = []

    class Watched(_Fitting):
        def _set_rates(self) -> None:
            super()._set_rates()
            seen.append(self.optimizer.param_groups[0]["lr"])

    settings = replace(SETTINGS, epochs=4, batch_size=8, warmup=0.25, decay=True, learning_rate=1.0, patience=99)
    fitting = Watched(TinyEnsemble(data), data, settings, 0)
    while not fitting.finished:
        fitting.epoch()
    total = 4 * 6
    assert seen == pytest.approx([min(1, (i + 1) / 6) * (1 - i / total) for i in range(total)])


def test_vectors_are_not_decayed():
    data = RewardData.from_judgements(world("comparison", 32))
    model = Levelled(data)
    decayed = {
        id(p): group["weight_decay"] > 0
        for group in _Fitting(model, data, SETTINGS, 0).optimizer.param_groups
        for p in group["params"]
    }
    assert decayed[id(model.first)]
    assert not decayed[id(model.level)]


def test_a_long_epoch_is_checkpointed_on_its_way(tmp_path):
    data = RewardData.from_judgements(world("comparison", 64))
    run = StageRun("r", tmp_path, 0)
    saved: list[int] = []
    keep = run.checkpoint
    run.checkpoint = lambda activity, step, *a: saved.append(step) or keep(activity, step, *a)  # type: ignore[method-assign]
    fit(TinyEnsemble(data), data, replace(SETTINGS, epochs=2, batch_size=8, checkpoint_seconds=0.0), 0, run)
    assert set(saved) >= {6, 12}
    assert len(saved) > 2


def test_mini_batches_add_up_to_the_whole():
    data = RewardData.from_judgements(world("comparison", 20) + world("ranking", 12, 4, 1) + world("label", 10, 1, 2))
    model = TinyEnsemble(data).eval().double()
    model.features = model.features.double()
    links, count = Links(3, data).double(), total_weight(data)
    weights = torch.poisson(torch.ones(3, len(data.tasks)), generator=torch.Generator().manual_seed(0)).double()
    whole = evidence_nll(model, links, data, count, task_weights=weights)
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    parts = [evidence_nll(model, links, take_rows(data, r), count, task_weights=weights) for r in rows.split(5)]
    assert torch.allclose(sum(parts), whole, atol=1e-12)
    assert sum(total_weight(take_rows(data, r)) for r in rows.split(5)) == count


def test_nan_scores_name_the_candidate():
    data = RewardData.from_judgements(world("comparison", 12))
    model = TinyEnsemble(data)
    model.features[4, 0] = math.nan
    with pytest.raises(RewardError, match=data.candidates[4].id):
        fit(model, data, SETTINGS, 0)


def test_nothing_to_fit_on_is_an_error():
    data = RewardData.from_judgements([j for j in world("comparison", 20) if j.task.split == "validation"])
    with pytest.raises(DataError, match="no evidence"):
        fit(TinyEnsemble(data), data, SETTINGS, 0)
