"""A text world of the user's own: a file of prompts, perhaps demonstrations, perhaps a function that knows the truth.

Every broken row is found before anything is used, and named with its line. Left out: making a model (a text world
starts from a trained one), and splits that a file names: a prompt's split is a hash of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.data.importing import opened, placed
from tropism.data.judgements import to_demonstrations
from tropism.data.records import Record, Rejected, payload
from tropism.digests import digest
from tropism.errors import ConfigError, DataError, ModelError
from tropism.feedback.records import Split, Task
from tropism.language.rewards import call_function
from tropism.language.worlds.base import ModelSettings, Phase
from tropism.runtime.seeding import derive, permutation
from tropism.settings.functions import load_function

if TYPE_CHECKING:  # the section's class imports worlds.base
    from tropism.language.config import WorldSection

_SHOWN = 5
"""Broken rows that an error names."""


class TextWorld:
    """Prompts from a file. Implements ``World``.

    ``prompts``: a file or folder of any kind that ``tropism.data`` reads, with a column ``prompt`` (text, or messages,
    which the payload then holds as ``messages`` too; other columns go to the payload as they are), ``.txt`` with one
    prompt per line, or any format of judgements, of which the prompts are taken. ``demonstrations``: ``prompt`` and
    ``completion``, ``messages``, or any other format that holds some.

    ``gold``: ``file.py:function`` of (prompts, completions, rows) that returns one utility each.

    A prompt's split is a hash of the prompt alone, so it stays the same when the file grows. Demonstrations of
    validation or test prompts are left out and counted in ``held_out_demonstrations``.
    """

    name = "text"

    def __init__(
        self,
        prompts: Path,
        *,
        demonstrations: Path | None = None,
        gold: str | None = None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.15,
    ) -> None:
        if not 0 <= test_fraction + validation_fraction < 1:
            raise ConfigError(
                f"test_fraction {test_fraction} and validation_fraction {validation_fraction} leave nothing over",
                "keep their sum below 1",
            )
        self.path = prompts
        self._bounds = (test_fraction, test_fraction + validation_fraction)
        self._rows: dict[Split, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
        for row in _prompts(prompts):
            self._rows[self.split_of(row["prompt"])].append(row)
        self.prompts = frozenset(row["prompt"] for rows in self._rows.values() for row in rows)
        self._demonstrations: list[tuple[str | Mapping[str, Any], str]] = []
        self.held_out_demonstrations = 0
        if demonstrations is not None:
            self._read_demonstrations(demonstrations)
        self._gold_name = gold
        self._gold = load_function(gold) if gold else None

    @classmethod
    def from_settings(cls, section: WorldSection) -> TextWorld:
        """From the [world] section of a study."""
        if section.prompts is None:
            raise ConfigError(
                "world.prompts is not set, and a text world has no prompts of its own", "name a prompt file"
            )
        if section.options:
            raise ConfigError(f"a text world has no options, but world.options = {section.options}", "remove them")
        return cls(
            Path(section.prompts),
            demonstrations=Path(section.demonstrations) if section.demonstrations else None,
            gold=section.gold,
            test_fraction=section.test_fraction,
            validation_fraction=section.validation_fraction,
        )

    def _read_demonstrations(self, path: Path) -> None:
        """Take the demonstrations of prompts that are not held out."""
        held_out = {row["prompt"] for split in ("validation", "test") for row in self._rows[split]}
        shown = to_demonstrations(_records(path, "demonstrations"), splits=("train", "validation", "test", None))
        for task, completion in shown:
            if task["prompt"] in held_out:
                self.held_out_demonstrations += 1
            else:
                self._demonstrations.append((task if "messages" in task else task["prompt"], completion))
        if not shown:
            raise DataError(f"{path} has no demonstrations", "give prompt and completion in every row, or messages")
        if not self._demonstrations:
            raise DataError(
                f"all {self.held_out_demonstrations} demonstrations of {path} are of held-out prompts",
                "add demonstrations of other prompts, or lower test_fraction and validation_fraction",
            )

    def split_of(self, prompt: str) -> Split:
        """The split of a prompt, by its hash."""
        place = int(digest(prompt)[:8], 16) / 0x1_0000_0000
        return "test" if place < self._bounds[0] else "validation" if place < self._bounds[1] else "train"

    def known_split(self, prompt: str) -> Split | None:
        """The split of a prompt that is in the file; None for others."""
        return self.split_of(prompt) if prompt in self.prompts else None

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """Up to ``count`` tasks of a split in an order drawn from ``seed``; DataError if the split is empty."""
        rows = self._rows[split]
        if not rows:
            total = sum(len(r) for r in self._rows.values())
            raise DataError(
                f"none of the {total} prompts of {self.path} falls into the {split} split",
                "add prompts, or raise world.test_fraction / world.validation_fraction",
            )
        order = permutation(len(rows), derive(seed, "text", split), 0)[:count]
        return [Task(split, rows[int(i)]) for i in order]

    def demonstrations(self, count: int, seed: int) -> list[tuple[str | Mapping[str, Any], str]]:
        """Up to ``count`` (prompt, completion) pairs in an order drawn from ``seed``. The prompt of a chat is a task's
        payload, with ``messages``."""
        if not self._demonstrations:
            return []
        order = permutation(len(self._demonstrations), derive(seed, "text", "demonstrations"), 0)[:count]
        return [self._demonstrations[int(i)] for i in order]

    def curriculum(self, seed: int) -> list[Phase]:
        """None: the model comes trained."""
        return []

    def build(self, folder: Path, settings: ModelSettings, seed: int) -> None:
        """Refuses: a text world makes no model."""
        raise ModelError(
            f"model.path is not set, and a text world ({self.path}) makes no model of its own",
            "set model.path to a folder or hub name of a causal language model",
        )

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        """None are known."""
        return {}

    def gold(self, task: Task, text: str) -> float | None:
        """The gold function's value; None without one. RewardError where it raises or returns no finite number."""
        if self._gold is None or self._gold_name is None:
            return None
        return float(call_function(self._gold, self._gold_name, [task], [text])[0])


def _prompts(path: Path) -> list[dict[str, Any]]:
    """The distinct task payloads of a file of prompts. DataError naming the first broken rows by line."""
    made: dict[str, dict[str, Any]] = {}
    for record in _records(path, "prompts"):
        row = {"kind": "prompt", **payload(record)}
        if record.kind == "prompt":  # its columns are the prompt's; those of a judgement are not
            row |= ({} if record.source_id is None else {"id": record.source_id}) | dict(record.meta)
        made.setdefault(row["prompt"], row)
    return list(made.values())


def _records(path: Path, usual: str) -> list[Record]:
    """The records of a file: of format ``usual`` where its first row can be read as such, else of its own format.

    Raises DataError that names the first broken rows by line and counts the others.
    """
    if not path.exists():
        raise DataError(
            f"there is no file {path}", "check the path; it is seen from the folder of the file that names it"
        )
    # a prompt that comes twice is refused; a demonstration that does is one
    options: dict[str, Any] = {} if usual == "prompts" else {"repeats": "keep"}
    source = opened(path, format=_format(path, usual), **options)
    found: list[Record] = []
    broken: list[Rejected] = []
    for made in source.records():
        if isinstance(made, Rejected):
            broken.append(made)
        else:
            found.append(made)
    if broken:
        said = "; ".join(f"{placed(bad)}: {bad.reason}" for bad in broken[:_SHOWN])
        more = f" (and {len(broken) - _SHOWN} more)" if len(broken) > _SHOWN else ""
        raise DataError(f"{path}: {said}{more}", "correct or remove these rows")
    if not found:
        raise DataError(f"{path} has no rows", f"give at least one row of {usual}")
    return found


def _format(path: Path, usual: str) -> str:
    """The format to read a file in: a column ``prompt`` makes it prompts, whatever else its rows hold. Where nothing is
    recognised it is the usual one, and its rows are refused by name."""
    try:
        if usual == "demonstrations":
            found = opened(path).format.name
            return usual if found == "prompts" else found
        first = next(opened(path, format=usual).records(), None)
        fitting = first is None or (isinstance(first, Record) and "tropism" not in first.meta)
        return usual if fitting else opened(path).format.name
    except DataError:
        return usual
