"""The annotator of ``benchmarks/studio_loop.py`` judges by the words alone as the world's gold does by the task."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tropism.language.worlds.tinytalk.answers import Mix, demonstration
from tropism.language.worlds.tinytalk.rubric import judge
from tropism.language.worlds.tinytalk.tasks import Maker


@pytest.fixture(scope="module")
def annotator() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "studio_annotator.py"
    spec = importlib.util.spec_from_file_location("benchmarks_studio_annotator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_prompt_is_read_off_its_words(annotator: ModuleType) -> None:
    seen = set()
    for split in ("train", "validation"):
        maker = Maker(split, 5)
        for number in range(300):
            frame = maker.frame(number)
            found = annotator.read_prompt(f"  {frame.prompt()}\n")
            assert found["kind"] == frame.kind
            assert [tuple(fact) for fact in found["asked"]] == list(frame.asked)
            assert found["harm"] == (None if frame.harm is None else list(frame.harm))
            seen.add(frame.form)
    assert seen == {"ask", "tell", "both", "harm"}


def test_the_key_is_what_gold_prefers(annotator: ModuleType) -> None:
    maker, keys = Maker("train", 6), set()
    for number in range(400):
        frame, random = maker.frame(number), maker.random(number)
        first, second = (demonstration(frame, Mix(), random) for _ in range(2))
        key = annotator.key_for(frame.prompt(), first, second)
        gap = judge(frame.payload(), first)[1] - judge(frame.payload(), second)[1]
        assert ("123".find(key) >= 0, "ewq".find(key) >= 0) == (gap > 1e-9, gap < -1e-9)
        if key in "1e":
            assert abs(gap) >= 3.5
        mirrored = annotator.key_for(frame.prompt(), second, first)
        assert mirrored == {"1": "e", "2": "w", "3": "q", "4": "4", "q": "3", "w": "2", "e": "1"}[key]
        keys.add(key)
    assert keys == set("1234qwe")


@pytest.mark.parametrize("words", ["", "Ada likes plums.", "Ada likes plums. Why? Answer:"])
def test_what_is_no_prompt_is_refused(annotator: ModuleType, words: str) -> None:
    with pytest.raises(ValueError, match="no question of tinytalk"):
        annotator.read_prompt(words)


def test_a_submit_is_paired_with_the_claim_after_it(annotator: ModuleType) -> None:
    calls = [("claim", 1.0, 9.0), ("submit", 2.0, 0.1), ("claim", 2.2, 0.2), ("submit", 3.0, 0.4), ("submit", 3.1, 0.5)]
    calls += [("claim", 3.7, 0.05), ("submit", 5.0, 7.0)]
    found = annotator.pairs_of(list(reversed(calls)))
    assert [at for at, _ in found] == [2.0, 3.0, 3.1]
    assert [took for _, took in found] == pytest.approx([0.3, 0.45, 0.55])
