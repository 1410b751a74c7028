"""Settings of jobs: sections shared by several of them, and how a recipe, flags and ``--set`` become one config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from tropism.errors import ConfigError
from tropism.monitoring.trackers import TrackerName
from tropism.runtime.precision import PrecisionName
from tropism.settings.overrides import expand, merge, parse_overrides
from tropism.settings.paths import PathKind, absolute
from tropism.settings.recipes import for_job, read_recipe, recipe_values
from tropism.settings.sections import Section, check_section, refuse_infinite


class RunSection(Section):
    """How a job runs, whatever it does."""

    seed: int = Field(0, ge=0, lt=2**63)
    threads: int = Field(0, ge=0)
    """Tensor threads; 0: torch's own choice. Small networks are fastest on 1."""
    tune_memory: bool = True
    """Keep freed memory instead of returning it to the kernel (glibc)."""
    passive_wait: bool = True
    """Let tensor threads sleep while they wait for one another; false: they spin, as OpenMP has it."""
    precision: PrecisionName = "auto"
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where curves go besides metrics.db: any of tensorboard, wandb, mlflow."""


class DataSection(Section):
    """What a job reads."""

    source: str = ""
    """A file, a folder, or the hub name of a dataset."""
    format: str = "auto"
    """One of `tropism data show`'s formats; ``auto`` decides by the columns and says so."""
    columns: dict[str, str] = Field({})
    """Our names for theirs: ``{ prompt = "question", chosen = "good answer" }``."""
    options: dict[str, Any] = Field({})
    """Further options of a format."""
    limit: int | None = Field(None, ge=1)
    """Read at most this many rows."""
    licence: str | None = None
    """What the data may be used for; goes into the model card."""
    skip_bad: bool = False
    """Leave out rows that cannot be used (they are counted and listed); otherwise they stop the job."""


class HeldOut(DataSection):
    """Data of which a share is held out, to stop early and to assess."""

    validation_share: float = Field(0.1, ge=0, lt=1)
    split_by: Literal["prompt", "group"] = "prompt"
    """What is held out together: a prompt with all its answers, or a group (topic, tree, task family)."""


class JobConfig(Section):
    """All settings of one job. ``path_settings``: which of them are paths, and of what (``settings.paths``)."""

    job: ClassVar[str]
    path_settings: ClassVar[Mapping[str, PathKind]]

    run: RunSection = RunSection()


_Config = TypeVar("_Config", bound=JobConfig)


def resolve(
    cls: type[_Config],
    flags: Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str] = (),
    recipe: str | None = None,
) -> _Config:
    """A job's config: the recipe, then ``flags`` (dotted keys; None: not given), then ``overrides``.

    ``recipe``: a built-in one for this job, or a TOML file, whose paths are seen from where it is; other paths are seen
    from the working directory. Errors: ConfigError naming key, value and fix.
    """
    layers: list[tuple[dict[str, Any], Path]] = []
    if recipe is not None and recipe.endswith(".toml"):
        layers.append((for_job(read_recipe(Path(recipe)), recipe, cls.job), Path(recipe).parent))
    elif recipe is not None:
        layers.append((recipe_values(recipe, cls.job), Path()))
    given = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    layers.append((expand({key: value for key, value in flags.items() if value is not None}), Path()))
    layers.append((expand(given), Path()))
    merged: dict[str, Any] = {}
    for values, folder in layers:
        merged = merge(merged, absolute(values, folder, cls.path_settings))
    refuse_infinite(merged)
    return check_section(cls, "", merged)


def required(value: str | None, setting: str, flag: str) -> str:
    """A setting that must be given; ConfigError naming the flag otherwise."""
    if not value:
        raise ConfigError(f"{setting} is not set", f"give {flag}, or {setting} in a recipe")
    return value
