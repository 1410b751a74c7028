"""study.toml: read, checked, resolved. What the loop needs is here; every other section belongs to the domain.

Values are laid over one another: a built-in recipe (``recipe = "NAME"``), the user's file, then ``--set a.b=c``.
An unknown key or a wrong type is a ConfigError that names the key, the value and what would be right.

Left out: environment variables and several files per study: one file says everything.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from tropism.errors import ConfigError
from tropism.settings.overrides import expand, merge
from tropism.settings.paths import PathKind, absolute, relative
from tropism.settings.recipes import recipe_values
from tropism.settings.sections import Section, check_section, model_in, refuse_infinite, unknown_key
from tropism.study.domains import load_domain_class


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
    scale: tuple[int, int] = (1, 5)
    """Of ratings: the lowest score and the highest."""
    anchors: tuple[float, float] | None = None
    """Of ratings: the utilities (of agents: a segment's true return) that the scale's ends stand for. Absent: the whole
    scale is used for the first candidates, and what comes to be far better than they is rated like the best of them."""

    @model_validator(mode="after")
    def _ends_in_order(self) -> OracleSection:
        for name in ("scale", "anchors"):
            ends = getattr(self, name)
            if ends is not None and ends[0] >= ends[1]:
                raise ValueError(f"feedback.oracle.{name} = {list(ends)}: the lower end comes first")
        return self


class FeedbackSection(Section):
    """``[feedback]``: who is asked, how often, in which form."""

    teacher: Literal["oracle", "import", "person"] = "oracle"
    kind: Literal["comparison", "ranking", "rating", "best_of", "label"] = "comparison"
    queries_per_round: int = Field(default=500, ge=2)
    candidates_per_query: int = Field(default=4, ge=2, le=64)
    """Candidates sampled for each task. A comparison shows two of them, a rating or label one, ranking and best_of
    all."""
    selection: Literal["random", "disagreement", "entropy", "k_centre"] = "random"
    """Which pairs are asked about. ``disagreement``: those on which the last round's reward ensemble disagrees most;
    the first round has none yet and asks about random ones. ``entropy`` and ``k_centre``: domains that learn online."""
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    """The share of the queries that is asked on validation tasks, which no reward model is fitted on."""
    votes_per_query: int = Field(default=1, ge=1)
    """person: how many different people must answer each query."""
    enough: float = Field(default=1.0, gt=0, le=1)
    """person: the share of a round's queries after whose answers the loop goes on. The others stay open while the
    policy trains, so that nobody runs out of questions; answers to them count from the next round on. Agents, which
    train while people judge, are charged for their steps as far as this share of what is due is answered."""
    oracle: OracleSection = OracleSection()
    file: Path | None = None
    """import: judgements, in any format of `tropism data show` (a file or a folder). Without it the domain's data must
    hold feedback of its own."""
    format: str = "auto"
    """import: the file's format; ``auto`` decides by the columns."""
    columns: dict[str, str] = Field(default={})
    """import: our names of columns to the file's: ``{ prompt = "question", chosen = "good" }``."""
    options: dict[str, Any] = Field(default={})
    """import: further options of the format: ``{ scale = [1, 5] }``."""
    skip_bad: bool = False
    wait_hours: float = Field(default=24.0 * 14, gt=0)
    """How long to wait for people before giving up (the labels given so far stay)."""

    @model_validator(mode="after")
    def _is_heeded(self) -> FeedbackSection:
        if self.file is not None and self.teacher != "import":
            raise ValueError(f'file is set, but teacher = "{self.teacher}" reads no file: write teacher = "import"')
        for name, usual in (("format", "auto"), ("columns", {}), ("options", {})):
            if self.file is None and getattr(self, name) != usual:
                raise ValueError(f"{name} is set, but no file that it could be of: name one in file")
        if self.votes_per_query > 1 and self.teacher != "person":
            raise ValueError(f'votes_per_query = {self.votes_per_query}, but teacher = "{self.teacher}" votes once')
        if self.enough < 1 and self.teacher != "person":
            raise ValueError(f'enough = {self.enough}, but nobody waits for teacher = "{self.teacher}"')
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
    """Threads of the tensor library; 0: the domain's choice, else its own. Sums depend on it in their last bits."""
    precision: Literal["auto", "fp32", "autocast", "bf16"] = "auto"
    tune_memory: bool = True
    """Keep freed memory instead of returning it to the kernel (glibc)."""
    passive_wait: bool = True
    """Let tensor threads sleep while they wait for one another; false: they spin, as OpenMP has it."""
    keep_scratch: bool = False


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
    refuse_infinite(merged)
    study = check_section(StudySection, "study", merged.get("study", {}))
    return recipe, merged, study, load_domain_class(study.domain)


def _path_kinds(domain_class: type[Any]) -> dict[str, PathKind]:
    return {"feedback.file": "file", **getattr(domain_class, "path_settings", {})}


def resolve(own: Mapping[str, Any], folder: Path) -> Config:
    """Check the values that ``gather`` made, laid over their recipe, for the study in ``folder``."""
    recipe, merged, study, domain_class = _beginning(own)
    domain_config: type[BaseModel] = domain_class.config_class
    own_sections = [n for n in domain_config.model_fields if n not in _SECTIONS]
    for name in merged:
        if name not in _SECTIONS and name not in own_sections:
            raise unknown_key(name, [*_SECTIONS, *own_sections, "recipe"])
    shared = {
        name: check_section(cls, name, merged.get(name, {})) for name, cls in _SECTIONS.items() if name != "study"
    }
    given = {n: merged[n] for n in own_sections if n in merged}
    for name, section in {"study": study, **shared}.items():
        if name in domain_config.model_fields:
            # a domain that declares [runtime], say, among its fields gets a copy of what it declares of it
            known = model_in(domain_config.model_fields[name].annotation)
            given[name] = {
                k: v for k, v in section.model_dump(mode="json").items() if known and k in known.model_fields
            }
    domain = check_section(domain_config, "", given)
    _refuse_myopic(shared["feedback"], domain_class)
    resolved = {name: section.model_dump(mode="json") for name, section in {"study": study, **shared}.items()}
    resolved |= {n: v for n, v in domain.model_dump(mode="json").items() if n in own_sections}
    shown = relative(resolved, folder, _path_kinds(domain_class))
    return Config(study=study, domain=domain, domain_class=domain_class, recipe=recipe, values=shown, **shared)  # type: ignore[arg-type]


def _refuse_myopic(feedback: Any, domain_class: type[Any]) -> None:
    """A myopic oracle needs ``step_gold``, an optional part of the domain protocol."""
    discount = feedback.oracle.discount
    knows = hasattr(domain_class, "step_gold") or hasattr(domain_class, "learn")  # an online domain tells its asker
    if feedback.teacher == "oracle" and discount < 1 and not knows:
        raise ConfigError(
            f"feedback.oracle.discount = {discount}, but domain {domain_class.name} knows no utilities by step",
            "leave feedback.oracle.discount out, or give the domain a step_gold",
        )
