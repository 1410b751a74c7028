"""study.toml: what is laid over what, and every way to get it wrong named with key, value and fix."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tropism.errors import ConfigError
from tropism.settings import overrides, recipes, toml
from tropism.study import config
from tropism.study.domains import load_domain_class

MINIMAL = '[study]\ndomain = "bandit:BanditDomain"\n'


def load(tmp_path: Path, text: str, over: dict[str, Any] | None = None) -> config.Config:
    (tmp_path / "study.toml").write_text(text)
    return config.load(tmp_path / "study.toml", over)


def test_defaults_and_overrides(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL + "[improve]\nsteps = 7\n", {"improve.kl_coef": 0.3, "study.rounds": 4})
    assert loaded.domain.improve.steps == 7  # type: ignore[attr-defined]
    assert loaded.values["improve"]["kl_coef"] == 0.3
    assert loaded.study.rounds == 4
    assert loaded.feedback.teacher == "oracle"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[studdy]\nx = 1\n", ["'studdy'", "did you mean 'study'"]),
        ("[improve]\nlerning_rate = 1.0\n", ["'improve.lerning_rate'", "did you mean 'learning_rate'"]),
        ("[feedback.oracle]\nmistakes = 0.1\n", ["'feedback.oracle.mistakes'", "did you mean 'mistake'"]),
        ("[feedback.oracle]\nscale = [5, 1]\n", ["feedback.oracle.scale = [5, 1]", "lower end comes first"]),
        ("[feedback.oracle]\nanchors = [0.0, 0.0]\n", ["feedback.oracle.anchors = [0.0, 0.0]"]),
        ("[feedback]\nzzz = 1\n", ["'feedback.zzz'", "valid keys of [feedback]", "teacher"]),
        ('[improve]\nsteps = "7"\n', ["improve.steps", '"7"', "integer"]),
        ("[improve]\nsteps = true\n", ["improve.steps", "true"]),
        ("[feedback]\nqueries_per_round = 0\n", ["feedback.queries_per_round = 0", "greater than or equal to 2"]),
        ('[feedback]\nteacher = "oracel"\n', ["feedback.teacher", '"oracel"', "'oracle'"]),
        ('[feedback]\nkind = "ratings"\n', ["feedback.kind", "rating"]),
        ("feedback = 3\n", ["feedback = 3", "not a section"]),
        ("recipe = 3\n", ["recipe = 3"]),
        ('recipe = "nothing-like-it"\n', ["nothing-like-it", "tropism recipes"]),
        ("[improve\n", ["not valid TOML", "line"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    top = text if not text.startswith("[") else ""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, top + MINIMAL + (text if not top else ""))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("langauge", ["'langauge'", "did you mean 'language'"]),
        ("no_such_module:Thing", ["no_such_module"]),
        ("bandit:softmax", ["not a domain class"]),
    ],
)
def test_unknown_domains_are_named(domain: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_domain_class(domain)
    assert all(word in str(caught.value) for word in words)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.domain is missing"):
        load(tmp_path, "[feedback]\n")
    with pytest.raises(ConfigError, match="tropism new"):
        config.load(tmp_path / "nowhere" / "study.toml")
    with pytest.raises(ConfigError, match="wait_hours"):
        load(tmp_path, MINIMAL, {"feedback.wait_hour": 2})


def test_overrides_are_read_as_toml_or_text() -> None:
    given_ = ["a.b=3", "a.c=[1, 2]", "a.d=true", "a.e=plain words", 'a.f="x=y"', "a.g=1e-3", "h.i=folder/file.jsonl"]
    assert overrides.expand(overrides.parse_overrides(given_)) == {
        "a": {"b": 3, "c": [1, 2], "d": True, "e": "plain words", "f": "x=y", "g": 1e-3},
        "h": {"i": "folder/file.jsonl"},
    }
    for bad in ("a.b", "=3", "a..b=3"):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            overrides.parse_overrides([bad])


def test_users_values_lie_over_the_recipe() -> None:
    under = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert overrides.merge(under, {"a": {"y": [3]}, "c": 2}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}
    assert under == {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    for recipe in recipes.recipes():
        assert recipe.summary
        assert recipes.recipe_values(recipe.name, recipe.job)


KEYS = st.text(min_size=1, max_size=8)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.lists(st.integers()),
)


@given(
    st.dictionaries(KEYS, st.one_of(SCALARS, st.dictionaries(KEYS, st.one_of(SCALARS, st.dictionaries(KEYS, SCALARS)))))
)
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml.to_toml(values)) == values


def test_differences_name_the_keys() -> None:
    before, after = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert overrides.differences(before, after) == {"a.c": (2, 5), "d": (3, None), "e": (None, 4)}
