"""study.toml: read, checked, resolved. What the loop needs is here; every other section belongs to the domain.

Values are laid over one another: a built-in recipe (``recipe = "NAME"``), the user's file, then ``--set a.b=c``.
An unknown key or a wrong type is a ConfigError that names the key, the value and what would be right.

Left out: environment variables and several files per study: one file says everything.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tropism.errors import ConfigError
from tropism.study.domains import load_domain_class
from tropism.study.paths import PathKind, absolute, relative


class Section(BaseModel):
    """A table of study.toml: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StudySection(Section):
    """``[study]``: what is studied, from which seed, for how many rounds."""

    name: str = "study"
    domain: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    rounds: int = Field(default=2, ge=1, le=1000)


class OracleSection(Section):
    """``[feedback.oracle]``: B-Pref's simulated teachers (Lee et al. 2021), combined; by default the exact one."""

    rationality: float | None = Field(default=None, gt=0)
    """Boltzmann rationality in units of the utilities' spread; absent: always the better candidate."""
    mistake: float = Field(default=0.0, ge=0, lt=1)
    skip_below: float | None = None
    equal_within: float = Field(default=0.0, ge=0)
    discount: float = Field(default=1.0, gt=0, le=1)
    """Below 1 a myopic teacher, for whom what comes last counts most; the domain must know utilities by step."""


class FeedbackSection(Section):
    """``[feedback]``: who is asked, how often, in which form."""

    teacher: Literal["oracle", "import", "person"] = "oracle"
    kind: Literal["comparison", "ranking", "rating", "best_of", "label"] = "comparison"
    queries_per_round: int = Field(default=500, ge=2)
    candidates_per_query: int = Field(default=4, ge=2, le=64)
    """Candidates sampled for each task. A comparison shows two of them, a rating or label one, ranking and best_of
    all."""
    selection: Literal["random", "disagreement"] = "random"
    """Which pairs are asked about. ``disagreement``: those on which the last round's reward ensemble disagrees most;
    the first round has none yet and asks about random ones."""
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    """The share of the queries that is asked on validation tasks, which no reward model is fitted on."""
    votes_per_query: int = Field(default=1, ge=1)
    """person: how many different people must answer each query."""
    oracle: OracleSection = OracleSection()
    file: Path | None = None
    """import: preference pairs, JSONL. Without it the domain's data must hold feedback of its own."""
    skip_bad: bool = False
    wait_hours: float = Field(default=24.0 * 14, gt=0)
    """How long to wait for people before giving up (the labels given so far stay)."""

    @model_validator(mode="after")
    def _is_heeded(self) -> FeedbackSection:
        if self.file is not None and self.teacher != "import":
            raise ValueError(f'file is set, but teacher = "{self.teacher}" reads no file: write teacher = "import"')
        if self.votes_per_query > 1 and self.teacher != "person":
            raise ValueError(f'votes_per_query = {self.votes_per_query}, but teacher = "{self.teacher}" votes once')
        return self


class LoopSection(Section):
    """``[loop]``: how rounds are joined."""

    promotion: Literal["evaluation", "always"] = "evaluation"
    """evaluation: a policy that the evaluation does not promote is rolled back; always: every policy is kept."""
    fit_reward: bool = True
    """False where the reward is a Python function alone: no feedback is collected and no reward model fitted."""


class RuntimeSection(Section):
    """``[runtime]``: this process. It is no part of a stage's identity, except ``precision``."""

    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of the tensor library; 0: its own choice. Sums depend on it in their last bits."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    tune_memory: bool = True
    keep_scratch: bool = False


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Config:
    """A resolved study.toml. ``domain`` is an instance of the domain's ``config_class``; ``values`` is all of it.

    Paths are absolute, except in ``values``: there, those inside the study's folder are seen from it.
    """

    study: StudySection
    feedback: FeedbackSection
    loop: LoopSection
    runtime: RuntimeSection
    domain: BaseModel
    domain_class: type[Any]
    recipe: str | None
    values: Mapping[str, Any]


_SECTIONS: dict[str, type[Section]] = {
    "study": StudySection,
    "feedback": FeedbackSection,
    "loop": LoopSection,
    "runtime": RuntimeSection,
}


@dataclass(frozen=True)
class Recipe:
    """A built-in recipe: its name and the first comment line of its file."""

    name: str
    summary: str


def recipes() -> list[Recipe]:
    """The built-in recipes, by name."""
    folder = resources.files("tropism.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return [Recipe(f.name[:-5], f.read_text("utf-8").split("\n", 1)[0].lstrip("# ").strip()) for f in files]


def recipe_values(name: str) -> dict[str, Any]:
    """A built-in recipe's values; ConfigError with the nearest name if there is none."""
    names = [r.name for r in recipes()]
    if name not in names:
        raise ConfigError(f"no recipe is called {name!r}", nearest(name, names, "`tropism recipes` lists them"))
    return tomllib.loads(resources.files("tropism.recipes").joinpath(f"{name}.toml").read_text("utf-8"))


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and resolve a study.toml; ConfigError names what is wrong and the fix."""
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        fix = f"make one with `tropism new {path.parent} --recipe NAME`"
        raise ConfigError(f"{path} does not exist", fix) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "mend that line; strings need quotes") from None
    return resolve(gather((values, path.parent), (expand(overrides or {}), Path())), path.parent)


def gather(*layers: tuple[Mapping[str, Any], Path]) -> dict[str, Any]:
    """Values laid over one another, later ones on top, each with the folder that its paths are seen from.

    Errors: ConfigError if they name no known recipe or domain (which says what is a path).
    """
    raw: dict[str, Any] = {}
    for values, _ in layers:
        raw = merge(raw, values)
    _, _, _, domain_class = _beginning(raw)
    gathered: dict[str, Any] = {}
    for values, folder in layers:
        gathered = merge(gathered, absolute(values, folder, _path_kinds(domain_class)))
    return gathered


def _beginning(own: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], StudySection, type[Any]]:
    """(recipe's name, values laid over it, [study], the domain's class)."""
    given = dict(own)
    recipe = given.pop("recipe", None)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"recipe = {recipe!r} is not a name", 'write recipe = "NAME"; `tropism recipes` lists them')
    merged = merge(recipe_values(recipe), given) if recipe else given
    _refuse_infinite(merged)
    study = _section(StudySection, "study", merged.get("study", {}))
    return recipe, merged, study, load_domain_class(study.domain)


def _refuse_infinite(values: Mapping[str, Any], path: str = "") -> None:
    """TOML can say inf and nan, and an infinite rate passes any lower bound."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _refuse_infinite(value, f"{path}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}{key} = {value} is not a finite number", "leave it out to switch a limit off")


def _path_kinds(domain_class: type[Any]) -> dict[str, PathKind]:
    return {"feedback.file": "file", **getattr(domain_class, "path_settings", {})}


def resolve(own: Mapping[str, Any], folder: Path) -> Config:
    """Check the values that ``gather`` made, laid over their recipe, for the study in ``folder``."""
    recipe, merged, study, domain_class = _beginning(own)
    domain_config: type[BaseModel] = domain_class.config_class
    own_sections = [n for n in domain_config.model_fields if n not in _SECTIONS]
    for name in merged:
        if name not in _SECTIONS and name not in own_sections:
            raise _unknown(name, [*_SECTIONS, *own_sections, "recipe"])
    shared = {name: _section(cls, name, merged.get(name, {})) for name, cls in _SECTIONS.items() if name != "study"}
    given = {n: merged[n] for n in own_sections if n in merged}
    for name, section in {"study": study, **shared}.items():
        if name in domain_config.model_fields:
            # a domain that declares [runtime], say, among its fields gets a copy of what it declares of it
            known = _model_in(domain_config.model_fields[name].annotation)
            given[name] = {
                k: v for k, v in section.model_dump(mode="json").items() if known and k in known.model_fields
            }
    domain = _section(domain_config, "", given)
    _refuse_myopic(shared["feedback"], domain_class)
    resolved = {name: section.model_dump(mode="json") for name, section in {"study": study, **shared}.items()}
    resolved |= {n: v for n, v in domain.model_dump(mode="json").items() if n in own_sections}
    shown = relative(resolved, folder, _path_kinds(domain_class))
    return Config(study=study, domain=domain, domain_class=domain_class, recipe=recipe, values=shown, **shared)  # type: ignore[arg-type]


def _refuse_myopic(feedback: Any, domain_class: type[Any]) -> None:
    """A myopic oracle needs ``step_gold``, an optional part of the domain protocol."""
    discount = feedback.oracle.discount
    if feedback.teacher == "oracle" and discount < 1 and not hasattr(domain_class, "step_gold"):
        raise ConfigError(
            f"feedback.oracle.discount = {discount}, but domain {domain_class.name} knows no utilities by step",
            "leave feedback.oracle.discount out, or give the domain a step_gold",
        )


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """``["ppo.steps=3", "study.name=mine"]`` → ``{"ppo.steps": 3, "study.name": "mine"}``.

    A value is read as TOML; what is not TOML is taken as a string.
    """
    made: dict[str, Any] = {}
    for item in items:
        key, equals, raw = item.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {item!r} is not KEY=VALUE", "write for example --set ppo.steps=40")
        try:
            value = tomllib.loads(f"value = {raw.strip()}")["value"] if "\n" not in raw else raw
        except tomllib.TOMLDecodeError:
            value = raw
        made[".".join(part.strip() for part in key.split("."))] = value
    return made


def expand(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys made into nested tables: ``{"a.b": 1}`` → ``{"a": {"b": 1}}``; nested ones are kept."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``under``, table by table; neither is changed."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def to_toml(values: Mapping[str, Any], path: str = "") -> str:
    """Nested values as TOML: plain keys first, then tables. For what ``expand`` and ``parse_overrides`` make."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in plain.items()]
    head = f"\n[{path}]\n" if path and (lines or not tables) else ""
    below = [to_toml(value, f"{path}.{_toml_key(key)}" if path else _toml_key(key)) for key, value in tables.items()]
    return head + "".join(lines) + "".join(below)


def _toml_key(key: str) -> str:
    plain = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if plain else _toml_string(key)


def _toml_string(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL, which only TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(str(k))} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    if value is None:
        raise ConfigError("TOML has no null", "leave the key out to have its default")
    return _toml_string(str(value))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values (None where absent)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = (old, new)
    return found


def nearest(name: str, valid: Iterable[str], otherwise: str) -> str:
    """A fix that names the nearest valid name, or says what else to do."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.55)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _unknown(key: str, valid: Iterable[str]) -> ConfigError:
    head, _, last = key.rpartition(".")
    names = sorted(valid)
    listed = f"valid {'keys of [' + head + ']' if head else 'sections'}: {', '.join(names)}"
    return ConfigError(
        f"unknown {'key' if head else 'section or key'} {key!r} in study.toml", nearest(last, names, listed)
    )


def _section(cls: type[_Model], name: str, raw: Any) -> _Model:
    """One section, strictly typed: "3" is no integer and 1 no truth value."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{name} = {raw!r} is not a section", f"write [{name}] and its keys below it")
    _refuse_unknown(cls, raw, name)
    try:
        # JSON mode: lists may become tuples and strings paths, which TOML cannot say otherwise
        return cls.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join([*([name] if name else []), *(str(part) for part in first["loc"])])
        if first["type"] == "missing":
            raise ConfigError(f"{key} is missing in study.toml", f"add {key}") from None
        given = first["input"]
        shown = f"{key} = {json.dumps(given, default=str)}" if not isinstance(given, Mapping) else f"[{key}]"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{shown}: {_sentence(first)}{more}", f"set {key} to a value of the right kind") from None


def _sentence(error: Any) -> str:
    """Pydantic's message without its prefix, first letter small."""
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _refuse_unknown(cls: type[BaseModel], raw: Mapping[str, Any], path: str) -> None:
    """Unknown keys at any depth, whatever the model's own ``extra`` says."""
    names = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
    for key, value in raw.items():
        full = f"{path}.{key}" if path else key
        if key not in names:
            raise _unknown(full, names)
        below = _model_in(names[key])
        if below is not None and isinstance(value, Mapping):
            _refuse_unknown(below, value, full)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model class of an annotation such as ``Section`` or ``Section | None``; None if there are several."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    models = [m for m in map(_model_in, typing.get_args(annotation)) if m is not None]
    return models[0] if len(models) == 1 and typing.get_origin(annotation) not in (dict, list, tuple) else None
