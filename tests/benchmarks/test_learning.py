"""How the learning benchmarks read curves, measure policies and sample without the engine."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from fixtures import EOS, FP32, llama, policy_of, trainer_of, word_tokenizer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The benchmark modules, which import one another as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("learning_curves", "learning_meter", "learning_speed", "engine_quality_oracle", "engine_quality")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def curve(*rows: tuple[float, float, float]) -> list[dict[str, float]]:
    return [{"kl": kl, "reward": reward, "cpu_s": cpu} for kl, reward, cpu in rows]


def test_a_crossing_lies_on_the_line_between_two_points(bench: SimpleNamespace) -> None:
    line = curve((0, 0.2, 0), (2, 0.3, 10), (4, 0.5, 20))
    assert bench.learning_curves.crossing(line, "kl", 3.0) == pytest.approx({"kl": 3, "reward": 0.4, "cpu_s": 15})
    assert bench.learning_curves.crossing(line, "kl", 4.5) is None
    assert bench.learning_curves.crossing(line, "reward", 0.1) == line[0]


def test_a_reward_beyond_the_leash_is_not_reached(bench: SimpleNamespace) -> None:
    line = curve((0, 0.2, 0), (2, 0.3, 10), (4, 0.5, 20))
    assert bench.learning_curves.reach(line, 0.4, 3.0)["cpu_s"] == pytest.approx(15)
    assert bench.learning_curves.reach(line, 0.4, 2.9) is None
    assert bench.learning_curves.reach(line, 0.6) is None


def test_the_reward_at_a_kl_is_that_of_a_line_through_its_neighbours(bench: SimpleNamespace) -> None:
    at_kl = bench.learning_curves.at_kl
    straight = curve(*((k / 2, 0.1 * k, k) for k in range(20)))
    assert at_kl(straight, "reward", 3.1) == pytest.approx(0.62)
    assert at_kl(straight, "reward", 10.0) is None
    # alternating noise on the points: two neighbours alone would be off by 0.05
    noisy = [p | {"reward": p["reward"] + (0.05 if i % 2 else -0.05)} for i, p in enumerate(straight)]
    assert abs(at_kl(noisy, "reward", 3.0) - 0.6) < 0.02
    # what came after the run had left the neighbourhood does not count: it collapsed, and its KL fell back
    collapsed = [*curve((0, 0, 0), (2.5, 0.5, 1), (3.5, 0.7, 2), (9, 0.9, 3)), *curve((3.0, -5.0, 4))]
    assert at_kl(collapsed, "reward", 3.0) == pytest.approx(0.6)


def learning_runs(bench: ModuleType, ours_cpu: float) -> dict[object, dict[str, object]]:
    """TRL gains 0.1 a nat under weight 0.05 and less under the others; ours has its rewards in ``ours_cpu`` as long."""
    found = {}
    for seed in bench.SEEDS:
        for weight in bench.TRL_WEIGHTS:
            gain = 0.1 if weight == 0.05 else 0.08
            reach = 2.0 if weight == 0.1 else 12.0  # the tightest leash never gets to 3
            rows = curve(*((reach * k / 10, 0.2 + gain * reach * k / 10, 10.0 * k) for k in range(11)))
            found[bench.Cell("trl", "bf16", weight, seed)] = {"curve": rows, "versions": {}}
        best = found[bench.Cell("trl", "bf16", 0.05, seed)]["curve"]
        ours = [p | {"cpu_s": ours_cpu * p["cpu_s"], "kl": 0.9 * p["kl"]} for p in best]
        for side, weight in (*(("ours", w) for w in bench.OURS_WEIGHTS), ("grpo", 0.05)):
            found[bench.Cell(side, "bf16", weight, seed)] = {"curve": ours, "versions": {}}
    return found


@pytest.mark.parametrize(("share", "holds"), [(0.4, True), (0.6, False)])
def test_the_claim_compares_seconds_to_the_peers_reward(
    bench: SimpleNamespace, share: float, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    speed = bench.learning_speed
    given = argparse.Namespace(quick=False, all_seeds=speed.SEEDS, threads=1, size=speed.Work())
    monkeypatch.setattr(speed, "write_result", functools.partial(speed.write_result, folder=tmp_path))
    runs = learning_runs(speed, share)
    fresh = {speed.Cell("ours", "bf16", 0.05, 3): runs[speed.Cell("ours", "bf16", 0.05, 0)]}
    speed.result(runs, fresh, given)
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    claim, again = made["claims"][1:3]
    assert claim["value"] == pytest.approx(share)
    assert claim["holds"] is holds
    assert again["holds"]
    assert again["value"] == pytest.approx(0.2 + 0.1 * 3 / 0.9)
    assert made["at_leash"]["trl_weight"] == 0.05
    assert made["at_leash"]["target_reward"] == pytest.approx(0.5)
    assert "0.1" not in made["at_leash"]["trl_rewards_at_leash"]
    assert made["at_kl_10"]["TRL PPO, KL weight 0.1"]["reward"] == [None] * 3


def test_ours_beyond_the_leash_is_not_a_win(bench: SimpleNamespace) -> None:
    """However fast: reward that was bought with more KL than the leash allows does not count."""
    speed = bench.learning_speed
    found = learning_runs(speed, 0.1)
    ours = {s: found[speed.Cell("ours", "bf16", 0.05, s)]["curve"] for s in speed.SEEDS}
    far = {s: [p | {"kl": 1.3 * p["kl"]} for p in rows] for s, rows in ours.items()}
    trl = {
        w: {s: found[speed.Cell("trl", "bf16", w, s)]["curve"] for s in speed.SEEDS} for w in speed.TRL_WEIGHTS
    }  # fmt: skip
    assert speed.compared({0.05: ours}, trl)[0][0].holds
    claims, why = speed.compared({0.05: far}, trl)
    assert not claims[0].holds
    assert [row["ours_reached"] for row in why["seeds"]] == [False] * 3
    assert not speed.again(far, why["target_reward"]).holds


def test_a_weight_under_which_a_seed_stays_within_the_leash_is_no_sides_best(bench: SimpleNamespace) -> None:
    speed = bench.learning_speed
    steep, flat = ({s: curve((0, 0.2, 0), (5, top, 50)) for s in speed.SEEDS} for top in (0.9, 0.5))
    assert speed.best_weight({0.1: steep, 0.01: flat})[0] == 0.1
    steep[1] = curve((0, 0.2, 0), (2.9, 0.9, 50))
    assert speed.best_weight({0.1: steep, 0.01: flat})[0] == 0.01
    with pytest.raises(ValueError, match="more rollouts"):
        speed.best_weight({0.1: steep})


def test_engines_are_compared_at_a_kl_that_all_have(bench: SimpleNamespace) -> None:
    quality = bench.engine_quality

    def run(slope: float, far: float) -> dict[str, object]:
        made = []
        for level, at in ((3.0, 3.0), (10.0, far)):
            for kl in (0.8 * at, at - 0.2, at, at + 0.4):
                made.append({"leash": level, "kl": kl, "reward": slope * kl, "gold": -slope * kl})
        return {"curve": made}

    runs = {
        (arm, seed): run(1.0 + 0.1 * seed + (0.5 if arm == "bf16" else 0.0), 9.5 if arm != "control" else 7.6)
        for arm in quality.ARMS
        for seed in (0, 1, 2)
    }
    claims = {c.name: c for c in quality.compared(runs, (0, 1, 2), "gold")}
    at_3 = claims["frozen reward at KL 3: bf16 engine less HF generate in fp32"]
    assert (at_3.value, at_3.low, at_3.high, at_3.holds) == pytest.approx((1.5, 1.5, 1.5, True))
    below = claims["gold at KL 3: bf16 engine less HF generate in fp32"]
    assert (below.value, below.holds) == (pytest.approx(-1.5), False)
    farthest = [name for name in claims if "KL 8.00 (not every run was at 10)" in name]
    assert len(farthest) == len(quality.PAIRS) * 2
    assert claims[farthest[2]].value == pytest.approx(0.5 * 8.0)


def start_folder(folder: Path) -> Path:
    """A start folder of ``learning_start.py`` in small: model, tokenizer, prompts."""
    llama(vocab_size=64).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    rows = [{"text": "w1", "ids": [4 + (7 * i + j) % 60 for j in range(16)]} for i in range(40)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_meter_finds_no_kl_at_the_start_and_the_right_one_elsewhere(bench: SimpleNamespace, tmp_path: Path) -> None:
    """The KL of a shifted policy, against a large sample's exact per-token KL: both estimate the same number."""
    meter = bench.learning_meter.Meter(start_folder(tmp_path), evaluated=32)
    weights = meter.reference.state_dict()
    reward, kl = meter.measure(weights)
    assert kl == 0.0
    assert reward == 0.0  # no word but <pad> and its like has an a
    moved = {n: w + 0.02 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) for n, w in weights.items()}
    assert meter.measure(moved) == meter.measure(moved)
    found = meter.measure(moved)[1]
    with torch.no_grad():
        meter.policy.load_state_dict(moved)
        torch.manual_seed(5)
        ids = meter.policy.generate(meter.prompts.repeat(20, 1), attention_mask=torch.ones(640, 16, dtype=torch.int64))
        own, ref = (torch.log_softmax(m(input_ids=ids).logits[:, 15:-1], -1) for m in (meter.policy, meter.reference))
        exact = (own.exp() * (own - ref)).sum(-1).sum(1)
    assert found == pytest.approx(float(exact.mean()), rel=0.35)
    assert float(exact.mean()) > 0.1


def test_the_clock_of_a_course_stands_still_while_it_measures(bench: SimpleNamespace, tmp_path: Path) -> None:
    meter = bench.learning_meter.Meter(start_folder(tmp_path), evaluated=32)
    course, weights = bench.learning_meter.Course(meter), meter.reference.state_dict()
    course.begin()
    for _ in range(5):
        course.point(weights)
    once = bench.learning_meter.time.process_time()
    meter.measure(weights)
    once = bench.learning_meter.time.process_time() - once
    assert course.points[-1]["cpu_s"] < 0.5 * once  # four measurements lie before it


def test_the_oracle_samples_the_distribution_and_knows_its_logprobs(bench: SimpleNamespace) -> None:
    """Uneven prompts, an EOS that is also the pad: log-probabilities while sampling are those of full forwards, and
    first tokens follow the exact distribution."""
    policy = policy_of(llama(), pad="<eos>")
    oracle = bench.engine_quality_oracle.HfOracle(policy, 6)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15]] * 20
    out = oracle.sample(prompts, 3, "v")
    assert {len(c) for c in out.completions} > {1, 6}
    assert all((c[-1] == EOS) == (stop == "eos") for c, stop in zip(out.completions, out.stops, strict=True))
    assert all(EOS not in c[:-1] for c in out.completions)
    sums = torch.tensor([sum(row) for row in out.logprobs])
    assert float((oracle.sequence_logprobs(out) - sums).abs().max()) < 1e-4
    many = oracle.sample([[12]] * 4000, 4, "v").completions
    with torch.no_grad():
        exact = policy.model(input_ids=torch.tensor([[12]])).logits[0, -1].double().softmax(-1)
    seen = torch.bincount(torch.tensor([c[0] for c in many]), minlength=64).double()
    likely = exact * 4000 > 5
    observed = torch.cat([seen[likely], seen[~likely].sum()[None]])
    expected = torch.cat([exact[likely], exact[~likely].sum()[None]]) * 4000
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3


def test_ppo_learns_on_rollouts_of_the_oracle(bench: SimpleNamespace, tmp_path: Path) -> None:
    """One step of the trainer on them: its own log-probabilities agree with the sampler's, and the KL begins at 0."""
    like = trainer_of(tmp_path / "a")
    fields = ("policy", "reference", "actor", "rewards", "tasks", "settings", "sampling", "run")
    trainer = bench.engine_quality_oracle.HfTrainer(**{name: getattr(like, name) for name in fields}, precision=FP32)
    trainer.step()
    assert trainer.state.last["check/mismatch_mean"] < 1e-5
    assert trainer.state.last["kl/ref_k1"] == 0.0
