"""A collection that is stopped between two batches of its sampling goes on behind the last one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures import BF16, EOS, FP32, PRECISIONS, llama, policy_of, some_tasks
from tropism.engine.generation import Sampling, generate
from tropism.errors import DataError, InterruptedRun
from tropism.feedback.records import Candidate, Task
from tropism.language.rollouts import sample_candidates
from tropism.runtime.precision import Precision
from tropism.runtime.stage import StageRun

pytestmark = pytest.mark.durability

SAMPLING = Sampling(6, frozenset({EOS}), max_rows=4)
LENGTHS = (3, 1, 4, 1, 5, 9)


def tasks() -> list[Task]:
    """Six tasks whose prompts differ in length, so that batches are not in the tasks' order."""
    return [Task("train", {"prompt": " ".join(["w7"] * n + [f"w{i}"])}) for i, n in enumerate(LENGTHS)]


def sample(
    run: StageRun | None, policy_id: str = "p", seed: int = 5, precision: Precision = BF16
) -> list[list[Candidate]]:
    return sample_candidates(policy_of(llama()), policy_id, tasks(), 2, SAMPLING, seed, precision, run)


def test_the_batches_are_those_of_one_call(tmp_path: Path) -> None:
    """In fp32 those of one call for all prompts; in bf16, where a row's last bits may depend on its company, those of
    the same batches whether they are kept or not."""
    policy = policy_of(llama())
    prompts = [policy.encode_prompt(t.payload["prompt"]) for t in tasks() for _ in range(2)]
    out = generate(policy.model, prompts, SAMPLING, seed=5, sequence_ids=range(12), policy_version="p")
    for precision in PRECISIONS:
        kept = StageRun("collect-1", tmp_path / precision.name, seed=0)
        plain, made = (sample(run, precision=precision) for run in (None, kept))
        assert made == plain
        if precision is FP32:
            assert [c.content["tokens"] for row in made for c in row] == out.completions
            assert [c.content["stop"] for row in made for c in row] == out.stops


class StopAfter:
    """Asks to stop once the given number of batches was looked for."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_sampling_goes_on_behind_the_last_batch(tmp_path: Path) -> None:
    undisturbed = sample(None)
    run = StageRun("collect-1", tmp_path, seed=0)
    with pytest.raises(InterruptedRun):
        sample(replace(run, stop_requested=StopAfter(2)))
    kept = {path: path.stat().st_ino for path in (tmp_path / "sampled").iterdir()}
    assert len(kept) == 2
    assert sample(run) == undisturbed
    everything = {path: path.stat().st_ino for path in (tmp_path / "sampled").iterdir()}
    assert len(everything) == 3
    assert kept.items() <= everything.items(), "a batch that was there was sampled again"
    with pytest.raises(InterruptedRun):  # another seed or policy finds nothing of these
        sample(replace(run, stop_requested=StopAfter(0)), seed=6)
    with pytest.raises(InterruptedRun):
        sample(replace(run, stop_requested=StopAfter(0)), policy_id="q")


def test_a_half_written_batch_is_sampled_again(tmp_path: Path) -> None:
    run = StageRun("collect-1", tmp_path, seed=0)
    undisturbed = sample(run)
    for path in (tmp_path / "sampled").iterdir():
        path.with_suffix(".partial").write_text(path.read_text()[:20])
        path.unlink()
    assert sample(run) == undisturbed


def test_a_prompt_that_is_too_long_is_found_before_anything_is_sampled(tmp_path: Path) -> None:
    long = [*some_tasks(5), Task("train", {"prompt": "w1 " * 70})]
    with pytest.raises(DataError, match="leaves the context"):
        sample_candidates(policy_of(llama()), "p", long, 1, SAMPLING, 0, BF16, StageRun("collect-1", tmp_path, seed=0))
    assert not (tmp_path / "sampled").exists()
