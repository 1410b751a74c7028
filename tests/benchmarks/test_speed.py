"""What the speed benchmarks rest on: prescribed lengths, models of exact work, turns, ratios and laws of growth."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The modules, as the scripts import them."""
    sys.path.insert(0, str(BENCHMARKS))
    import generation_speed
    import speed_growth
    import speed_models
    import speed_sides
    from peers import prescribed_lengths

    yield SimpleNamespace(
        growth=speed_growth, models=speed_models, sides=speed_sides, lengths=prescribed_lengths,
        generation=generation_speed,
    )  # fmt: skip
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def models(bench: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = bench.models.make(tmp_path_factory.mktemp("models"), [], "S", 6, 32)
    return made


def run_of(cpu: float, rss: float = 100.0, wall: float = 1.0) -> dict[str, Any]:
    step = {"cpu_s": cpu, "wall_s": wall, "phases_cpu_s": {"rollout": cpu / 4}}
    return {"steps": [step], "peak_rss_mib": rss, "start_rss_mib": 50.0, "versions": {}}


def test_lengths_are_uniform_and_every_step_is_the_same_work(bench: SimpleNamespace) -> None:
    steps = [bench.lengths.lengths_of("eos", step, 64, 64) for step in range(4)]
    assert len({tuple(s) for s in steps}) == 4
    assert len({tuple(sorted(s)) for s in steps}) == 1
    assert (min(steps[0]), max(steps[0])) == (8, 128)
    assert sum(steps[0]) / 64 == pytest.approx(68, abs=0.5)
    gaps = torch.tensor(sorted(steps[0])).diff()
    assert set(gaps.tolist()) == {1, 2}
    assert bench.lengths.lengths_of("fixed", 0, 3, 7) == [7, 7, 7]


def test_transformers_ends_rows_where_it_is_told(bench: SimpleNamespace) -> None:
    """A model that would end at once, and one that never would, both make exactly the prescribed tokens."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, pad_token_id=0, eos_token_id=2)).eval()
    prompts, lengths = torch.full((3, 4), 5), [1, 4, 6]
    for eos_logit in (30.0, -30.0):

        def biased(module: Any, args: Any, logits: torch.Tensor, bias: float = eos_logit) -> torch.Tensor:
            return logits + bias * torch.nn.functional.one_hot(torch.tensor(2), 12)

        handle = model.lm_head.register_forward_hook(biased)
        out = model.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts),
            generation_config=GenerationConfig(max_new_tokens=6, do_sample=True, pad_token_id=0, eos_token_id=2),
            logits_processor=LogitsProcessorList([bench.lengths.PrescribedLengths(lengths, 4, 2, 0)]),
        )  # fmt: skip
        handle.remove()
        responses = out[:, 4:]
        assert bench.lengths.lengths_made(responses, 2) == lengths
        assert [int((row != 0).sum()) for row in responses] == lengths  # no pad token inside a row


def test_lengths_made_counts_the_end_or_everything(bench: SimpleNamespace) -> None:
    responses = torch.tensor([[2, 2, 0], [5, 2, 0], [5, 5, 5]])
    assert bench.lengths.lengths_made(responses, 2) == [1, 2, 3]
    assert bench.lengths.lengths_made(responses, -1) == [3, 3, 3]


def test_models_and_prompts_are_the_work_that_is_named(bench: SimpleNamespace, models: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(models / "lm")
    assert sum(p.numel() for p in lm.parameters()) == pytest.approx(5.8e6, rel=0.01)
    assert AutoModelForSequenceClassification.from_pretrained(models / "rm").config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(models / "lm")
    rows = bench.models.read_prompts(models)
    assert len(rows) == 6
    assert all(tokenizer.encode(row["text"], add_special_tokens=False) == row["ids"] for row in rows)
    assert {len(row["ids"]) for row in rows} == {32}
    assert len(tokenizer) == 4096


@pytest.mark.parametrize("work", ["fixed", "eos"])
def test_our_step_is_the_work_that_was_asked_for(bench: SimpleNamespace, models: Path, work: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "ppo_speed_ours.py"), "--models", str(models), "--work", work]
    command += ["--precision", "fp32", "--trunk", "shared", "--steps", "1", "--skip", "0", "--threads", "1"]
    made = bench.sides.drive([*command, "--prompts", "3", "--new-tokens", "5", "--epochs", "2"], 1, 200)
    assert (
        made["steps"][0]["tokens"] == sum(bench.lengths.lengths_of(work, 0, 3, 5)) == (15 if work == "fixed" else 204)
    )
    assert {"rollout", "score", "optimise"} <= set(made["steps"][0]["phases_cpu_s"])
    assert 0 < made["start_rss_mib"] <= made["peak_rss_mib"]


def test_a_ratio_is_theirs_over_ours_and_shows_its_worst_round(bench: SimpleNamespace) -> None:
    ours, theirs = [run_of(1.0), run_of(2.0), run_of(1.0)], [run_of(4.0), run_of(4.0), run_of(8.0)]
    claim = bench.sides.faster("x", ours, theirs, 4.0)
    assert (claim.value, claim.low, claim.high, claim.holds) == (4.0, 2.0, 8.0, True)
    assert not bench.sides.faster("x", theirs, ours, 1.0).holds
    assert not bench.sides.faster("x", ours, theirs, 4.1).holds
    small = bench.sides.smaller("x", [run_of(1, 30), run_of(1, 50)], [run_of(1, 100), run_of(1, 100)], 0.4)
    assert (small.value, small.low, small.high, small.holds) == (0.4, 0.3, 0.5, True)


def test_sides_take_turns_and_steps_are_pooled(bench: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    order: list[str] = []

    def go(side: str) -> dict[str, Any]:
        order.append(side)
        return run_of(float(len(order)))

    runs = bench.sides.in_turns(["a", "b"], 3, go, "title")
    assert order == ["a", "b"] * 3
    assert bench.sides.summary(runs["a"])["cpu_s"] == 3.0
    assert bench.sides.summary(runs["b"])["phases_cpu_s"] == {"rollout": 1.0}
    assert "title, round 3, b: 6.00 CPU s" in capsys.readouterr().err


def test_a_driver_answers_with_its_last_line_or_fails_aloud(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    script = 'import json, os; print("chatter"); print(json.dumps(dict(os.environ)))'
    seen = bench.sides.drive([sys.executable, "-c", script], 1)
    assert (seen["OMP_WAIT_POLICY"], seen["OMP_NUM_THREADS"], seen["HF_HUB_OFFLINE"]) == ("PASSIVE", "1", "1")
    with pytest.raises(subprocess.CalledProcessError):
        bench.sides.drive([sys.executable, "-c", "raise SystemExit('what went wrong')"], 1)
    assert "what went wrong" in capsys.readouterr().err
    with pytest.raises(subprocess.TimeoutExpired):
        bench.sides.drive([sys.executable, "-c", "import time; time.sleep(60)"], 1, timeout_s=0.5)


def test_laws_of_growth_are_found_and_broken(bench: SimpleNamespace) -> None:
    growth = bench.growth
    long = [growth.Point(64, n) for n in growth.SPAN]
    wide = [growth.Point(n, 64) for n in growth.SPAN]
    (a, b), error = growth.in_tokens_and_squares({p: 2e-4 * p.tokens + 3e-7 * p.squares for p in long})
    assert (a, b) == pytest.approx((2e-4, 3e-7), rel=1e-6)
    assert error < 1e-6
    assert growth.proportional({p: 0.02 * p.prompts for p in wide})[1] < 1e-9
    assert growth.proportional({p: 0.02 * p.prompts**1.2 for p in wide})[1] > growth.TOLERANCE
    assert growth.in_tokens_and_squares({p: float(p.prompts * p.length**3) for p in long})[1] > growth.TOLERANCE
    runs = {p: [run_of(0.02 * p.prompts, 150 + p.prompts), run_of(0.03 * p.prompts, 150 + p.prompts)] for p in wide}
    claim = growth.law("x", wide, runs, growth.proportional)
    assert claim.holds
    assert claim.value < 1e-9
    more = growth.memory("x", wide, runs)
    assert more.value == pytest.approx((100 + 512) / (100 + 64))
    assert not more.holds


def test_the_plot_is_drawn(bench: SimpleNamespace, tmp_path: Path) -> None:
    growth = bench.growth
    wide, long = [growth.Point(n, 64) for n in growth.SPAN], [growth.Point(64, n) for n in growth.SPAN]
    costs = {p: 2e-4 * p.tokens + 3e-7 * p.squares for p in {*wide, *long}}
    growth.plot(tmp_path / "deep" / "growth.png", costs, dict.fromkeys(costs, 700.0), wide, long)
    assert (tmp_path / "deep" / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_transformers_is_taken_at_its_better_number_of_threads(bench: SimpleNamespace) -> None:
    side, generation = bench.generation.Side, bench.generation
    ours, two, one = side("tropism", "bf16", 2), side("hf", "fp32", 2), side("hf", "fp32", 1)
    runs = {
        side("tropism", "fp32", 2): [run_of(9.0)], ours: [run_of(1.0, wall=2.0)], two: [run_of(8.0, wall=3.0)],
        one: [run_of(3.5, wall=4.0)], side("hf", "bf16", 2): [run_of(0.1)],
    }  # fmt: skip
    fixed, eos = generation.claim("S", "fixed", runs), generation.claim("S", "eos", runs)
    assert (fixed.value, fixed.holds, eos.holds) == (3.5, True, False)
    assert str(one) in fixed.name
    found = generation.ratios(runs)
    assert found[f"{two} / {ours}"] == {"cpu_s": 8.0, "wall_s": 1.5}
    assert len(found) == 6


def test_a_generator_process_answers_round_by_round(bench: SimpleNamespace, models: Path) -> None:
    for engine in ("tropism", "hf"):
        with bench.generation.worker(bench.generation.Side(engine, "fp32", 1), models, 3) as worker:
            answers = [worker.ask(work, 0) for work in ("eos", "fixed")]
            assert [a["steps"][0]["tokens"] for a in answers] == [204, 3 * 64]
            worker.process.kill()
            worker.process.wait(30)
            with pytest.raises(RuntimeError, match="died"):
                worker.ask("eos", 1)


def test_an_interpreter_is_a_program_and_its_link_is_not_followed(bench: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    assert bench.sides.interpreter(str(tmp_path / "python")) == tmp_path / "python"
    with pytest.raises(argparse.ArgumentTypeError, match="trl_environment"):
        bench.sides.interpreter(str(tmp_path / "none"))
