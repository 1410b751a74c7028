"""SFT: the loss on completions only, honest cuts, a deterministic order, and a resume that changes no bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tropism.errors import DataError, DivergenceError, InterruptedRun
from tropism.language.sft import (
    BatchOrder,
    Example,
    SftSettings,
    batch_loss,
    encode_examples,
    fine_tune,
    learning_rate,
)
from tropism.language.worlds.tinytalk import TinyTalk
from tropism.language.worlds.tinytalk.build import make_tokenizer
from tropism.runtime.precision import PrecisionName
from tropism.runtime.stage import StageRun

TOKENIZER = make_tokenizer()
END = int(TOKENIZER.eos_token_id)


def small(dropout: float = 0.0, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_dropout=dropout,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


class Kept:
    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], float] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.rows |= {(step, name): value for name, value in values.items()}


PAIRS = TinyTalk().demonstrations(64, 0)
CLOCKS = ("time/", "cpu/", "memory/", "throughput/")


def test_only_completion_tokens_count_and_the_loss_is_their_mean() -> None:
    model = small().eval()
    rows = encode_examples(PAIRS[:5], TOKENIZER, END, 64)
    loss, count = batch_loss(model, rows, np.arange(5))
    nll, tokens = 0.0, 0
    for prompt, completion in PAIRS[:5]:
        head = TOKENIZER(prompt)["input_ids"]
        tail = [*TOKENIZER(completion, add_special_tokens=False)["input_ids"], END]
        with torch.no_grad():
            logits = model(torch.tensor([head + tail])).logits[0]
        nll += float(functional.cross_entropy(logits[len(head) - 1 : -1], torch.tensor(tail), reduction="sum"))
        tokens += len(tail)
    assert count == tokens
    assert float(loss.detach()) == pytest.approx(nll / tokens, rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    model = small().eval()
    rows = encode_examples([PAIRS[0], ("Vera likes plums. " * 6, "plums.")], TOKENIZER, END, 64)
    alone, count = batch_loss(model, rows, np.array([0]))
    long, long_count = batch_loss(model, rows, np.array([1]))
    together, both = batch_loss(model, rows, np.array([0, 1]))
    assert both == count + long_count
    assert float(together.detach()) == pytest.approx(
        (float(alone.detach()) * count + float(long.detach()) * long_count) / both, rel=1e-5
    )
    gradients = torch.autograd.grad(together, list(model.parameters()))
    parts = [torch.autograd.grad(x, list(model.parameters())) for x in (alone, long)]
    for g, a, b in zip(gradients, *parts, strict=True):
        torch.testing.assert_close(g, (a * count + b * long_count) / both, rtol=1e-4, atol=1e-6)


def test_pieces_are_trained_as_marked() -> None:
    example = Example((("Vera likes plums.", False), ("Vera", False), ("likes plums.", True), ("Vera", False)))
    rows = encode_examples([example], TOKENIZER, END, 64)
    targets = TOKENIZER.convert_ids_to_tokens(rows.tokens[0][rows.trained[0]].tolist())
    assert targets == ["▁likes", "▁plums", ".", TOKENIZER.eos_token]


def test_trap_14_long_rows_are_counted_and_cut_from_the_left() -> None:
    long = ("Hugo lives in Rome. " * 10 + "Vera likes plums. What does Vera like? Answer:", "Vera likes plums.")
    hopeless = ("Vera", "likes plums " * 20)
    rows = encode_examples([long, hopeless, ("Vera likes plums.", "plums.")], TOKENIZER, END, 32)
    assert (rows.cut, rows.skipped, len(rows.tokens)) == (1, 1, 2)
    cut = rows.tokens[0].tolist()
    assert len(cut) == 32
    assert cut[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(cut, skip_special_tokens=True).endswith("What does Vera like? Answer: Vera likes plums.")
    with pytest.raises(DataError, match="none of 1 examples"):
        encode_examples([hopeless], TOKENIZER, END, 16)
    with pytest.raises(DataError, match="no examples"):
        encode_examples([], TOKENIZER, END, 16)


def test_every_row_is_served_once_an_epoch_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 60, 320)
    order = BatchOrder(lengths, 8, seed=3)
    epoch = [order.batch(step) for step in range(40)]
    assert sorted(np.concatenate(epoch).tolist()) == list(range(320))
    assert sum(int(lengths[b].max()) * 8 for b in epoch) < 1.15 * lengths.sum()
    assert [b.tolist() for b in epoch] != [order.batch(40 + step).tolist() for step in range(40)]
    again = BatchOrder(lengths, 8, seed=3)
    assert again.batch(25).tolist() == epoch[25].tolist()  # no history needed


def test_the_schedule_warms_up_and_ends_at_its_fraction() -> None:
    settings = SftSettings(steps=100, learning_rate=1.0, warmup_steps=10, final_rate_fraction=0.1)
    rates = [learning_rate(settings, s) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


def test_trap_4_the_norm_is_logged_before_clipping_and_clipping_clips(tmp_path: Path) -> None:
    kept, model = Kept(), small()
    before = [p.detach().clone() for p in model.parameters()]
    settings = SftSettings(steps=1, batch_size=8, warmup_steps=0, max_grad_norm=1e-3)
    fine_tune(model, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path, 0, kept))
    assert kept.rows[0, "sft/grad_norm"] > 0.1
    total = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters() if p.grad is not None))
    assert total == pytest.approx(1e-3, rel=1e-2)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    names = {name for _, name in kept.rows}
    assert {"sft/loss", "sft/learning_rate", "sft/tokens", "time/sft_step_s", "work/sft_step_gflop"} <= names


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_trap_19_a_killed_run_resumes_bit_for_bit(tmp_path: Path, dropout: float, precision: PrecisionName) -> None:
    settings = SftSettings(steps=12, batch_size=8, checkpoint_every=4, micro_batch_tokens=60, precision=precision)
    whole, kept = small(dropout), Kept()
    summary = fine_tune(whole, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path / "a", 5, kept))
    stops = iter([False] * 6 + [True])
    interrupted, other = small(dropout), Kept()
    run = StageRun("s", tmp_path / "b", 5, other, stop_requested=lambda: next(stops))
    with pytest.raises(InterruptedRun):  # after step 7; the newest checkpoint holds 4
        fine_tune(interrupted, TOKENIZER, PAIRS, settings, run)
    torch.rand(7)  # another process has another generator state
    resumed = small(dropout, seed=99)
    again = fine_tune(resumed, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path / "b", 5, other))
    assert again == summary
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    stable = [{k: v for k, v in m.rows.items() if not k[1].startswith(CLOCKS)} for m in (kept, other)]
    assert stable[0] == stable[1]
    finished = small(dropout, seed=7)  # a finished activity only loads its weights
    assert fine_tune(finished, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path / "b", 5)) == summary
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), finished.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
def test_training_lowers_the_loss_and_leaves_eval_mode(tmp_path: Path, precision: PrecisionName) -> None:
    model, kept = small(), Kept()
    settings = SftSettings(steps=60, batch_size=16, learning_rate=1e-2, precision=precision)
    fine_tune(model, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path, 0, kept))
    assert kept.rows[59, "sft/loss"] < 0.4 * kept.rows[0, "sft/loss"]
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_trap_17_the_size_of_micro_batches_changes_nothing(tmp_path: Path) -> None:
    """Whole batches, a few rows or one row at a time: loss, norm and weights agree in fp32."""
    found = []
    for budget in (4096, 60, 1):
        model, kept = small(), Kept()
        settings = SftSettings(steps=3, batch_size=8, learning_rate=1e-4, micro_batch_tokens=budget)
        fine_tune(model, TOKENIZER, PAIRS, settings, StageRun("s", tmp_path / str(budget), 0, kept))
        logged = [kept.rows[s, f"sft/{name}"] for s in range(3) for name in ("loss", "grad_norm", "tokens")]
        found.append((logged, [p.detach().clone() for p in model.parameters()]))
    for logged, weights in found[1:]:
        assert logged == pytest.approx(found[0][0], rel=1e-5)
        assert max(float((a - b).abs().max()) for a, b in zip(weights, found[0][1], strict=True)) < 2e-6


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="step 0"):
        fine_tune(model, TOKENIZER, PAIRS, SftSettings(steps=2, batch_size=4), StageRun("s", tmp_path, 0))
