"""What a completion is paid: functions, their errors, clipping, the missing end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tropism.engine.generation import Generation
from tropism.errors import ConfigError, RewardError
from tropism.feedback.records import Task
from tropism.language.rewards import CallableReward, FunctionReward, RewardSum
from tropism.settings.functions import load_function

TASKS = [Task("train", {"prompt": f"question {i}", "answer": i}) for i in range(3)]
TEXTS = ["a", "b b", "c c c"]
GENERATION = Generation([[1]] * 3, [[5, 2], [5, 6], [7, 2]], [[0.0, 0.0]] * 3, ["eos", "length", "eos"], "v")

FILE = """
import math
LIMIT = 3
def length(prompts, completions, rows):
    return [len(c.split()) for c in completions]
def answers(prompts, completions, rows):
    assert [p.endswith(str(r["answer"])) for p, r in zip(prompts, rows)] == [True] * 3
    return [float(r["answer"]) for r in rows]
def fails(prompts, completions, rows):
    raise KeyError("no such word")
def nan(prompts, completions, rows):
    return [0.0, math.nan, 0.0]
def short(prompts, completions, rows):
    return [1.0]
def words(prompts, completions, rows):
    return ["good", "bad", "good"]
def nothing(prompts, completions, rows):
    return None
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return str(path)


def paid(file: str, name: str) -> torch.Tensor:
    reference = f"{file}:{name}"
    return FunctionReward(reference, 1.0, load_function(reference))(TASKS, GENERATION, TEXTS)


def test_a_function_in_a_file_is_given_prompts_completions_and_rows(file: str) -> None:
    assert paid(file, "length").tolist() == [1, 2, 3]
    assert paid(file, "answers").tolist() == [0, 1, 2]


def test_a_function_of_an_installed_module() -> None:
    assert load_function("tropism.digests:digest").__name__ == "digest"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", r"my_rewards\.py:fails raised KeyError: 'no such word'"),
        ("nan", "nan for prompt 'question 1', completion 'b b'"),
        ("short", "1 numbers for 3 completions"),
        ("words", "'good'"),
        ("nothing", "None"),
    ],
)
def test_what_a_function_does_wrong_is_named_with_a_fix(file: str, name: str, said: str) -> None:
    with pytest.raises(RewardError, match=said) as caught:
        paid(file, name)
    assert caught.value.fix
    assert f":{name}" in caught.value.problem


def test_a_missing_function_lists_those_that_are_there(file: str) -> None:
    with pytest.raises(ConfigError, match="has no function 'lenght'") as caught:
        load_function(f"{file}:lenght")
    assert "length, answers" in caught.value.fix
    with pytest.raises(ConfigError, match="has no function 'LIMIT'"):
        load_function(f"{file}:LIMIT")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("rewards.py", "names no function"),
        ("nowhere.py:f", r"nowhere\.py does not exist"),
        ("no_such_module_at_all:f", "cannot be imported"),
    ],
)
def test_a_place_that_is_not_there_is_named(reference: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_function(reference)


@pytest.mark.parametrize("content", ["def f(:\n", "import no_such_module_at_all\n", "1 / 0\n"])
def test_a_file_that_cannot_be_run_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.py") as caught:
        load_function(f"{path}:f")
    assert caught.value.fix


def fixed(name: str, values: list[float], weight: float = 1.0) -> CallableReward:
    return CallableReward(name, lambda tasks, generation, texts: values, weight)


def test_the_sum_is_weighted_clipped_and_charged_for_a_missing_end() -> None:
    """The penalty comes after the clip, so that a clipped completion still pays for its missing end."""
    total = RewardSum([fixed("a", [1, 5, -5]), fixed("b", [1, 1, 1], 0.5)], missing_end_penalty=2.0, clip=3.0)
    out = total(TASKS, GENERATION, TEXTS)
    assert out.total.tolist() == [1.5, 1.0, -3.0]
    assert out.clipped.tolist() == [False, True, True]
    assert {k: v.tolist() for k, v in out.components.items()} == {
        "a": [1, 5, -5], "b": [0.5, 0.5, 0.5], "missing_end": [0, -2, 0],
    }  # fmt: skip


def test_without_a_clip_the_total_is_the_sum_of_the_components() -> None:
    out = RewardSum([fixed("a", [10, 20, -30])], 1.0)(TASKS, GENERATION, TEXTS)
    torch.testing.assert_close(out.total, sum(out.components.values(), torch.zeros(3)))
    assert not out.clipped.any()


def test_the_missing_end_is_told_by_the_stop_reason_not_by_a_token() -> None:
    """The second completion was cut; the third one ends in the same kind of token as a cut one could."""
    generation = Generation([[1]] * 2, [[5, 2], [5, 2]], [[0.0, 0.0]] * 2, ["eos", "length"], "v")
    out = RewardSum([fixed("a", [0, 0])], 1.0)(TASKS[:2], generation, TEXTS[:2])
    assert out.total.tolist() == [0, -1]


@pytest.mark.parametrize("names", [("a", "a"), ("missing_end", "b")])
def test_two_components_of_one_name_are_refused(names: tuple[str, str]) -> None:
    """Neither may silently replace the other in the sum."""
    with pytest.raises(ConfigError, match=names[0]):
        RewardSum([fixed(names[0], [1, 1, 1]), fixed(names[1], [2, 2, 2])])


def test_a_callable_reward_is_checked_too() -> None:
    bad: Any = [0.0, float("-inf"), 0.0]
    with pytest.raises(RewardError, match="question 1"):
        fixed("gold", bad)(TASKS, GENERATION, TEXTS)
