"""A text world of the user's own: a file of prompts, perhaps demonstrations, perhaps a function that knows the truth.

Every broken row is found before anything is used, and named with its line. Left out: making a model (a text world
starts from a trained one), and sharded or compressed files.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.digests import canonical_json, digest
from tropism.errors import ConfigError, DataError, ModelError, RewardError
from tropism.feedback.records import Split, Task
from tropism.language.rewards import checked_scores, load_function
from tropism.language.worlds.base import ModelSettings, Phase
from tropism.runtime.seeding import derive, permutation

if TYPE_CHECKING:  # the section's class imports worlds.base
    from tropism.language.config import WorldSection

LINE_LIMIT = 1 << 20
"""Bytes of the longest line that is read (1 MiB); a longer one is refused before it fills the memory."""
Row = tuple[int, dict[str, Any]]


class TextWorld:
    """Prompts from a file. Implements ``World``.

    ``prompts``: ``.jsonl`` (objects with ``prompt``; other fields go to the task's payload), ``.csv`` (a ``prompt``
    column) or any other text file (one prompt per line). ``demonstrations``: ``.jsonl`` or ``.csv`` with ``prompt`` and
    ``completion``. ``gold``: ``file.py:function`` of (prompts, completions, rows) that returns one utility each.

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
        for row in _checked(prompts, ("prompt",), unique=True):
            self._rows[self.split_of(row["prompt"])].append(row)
        self.prompts = frozenset(row["prompt"] for rows in self._rows.values() for row in rows)
        self._demonstrations: list[tuple[str, str]] = []
        self.held_out_demonstrations = 0
        held_out = {r["prompt"] for split in ("validation", "test") for r in self._rows[split]}
        for row in _checked(demonstrations, ("prompt", "completion"), unique=False) if demonstrations else ():
            if row["prompt"] in held_out:
                self.held_out_demonstrations += 1
            else:
                self._demonstrations.append((row["prompt"], row["completion"]))
        if demonstrations and not self._demonstrations:
            raise DataError(
                f"all {self.held_out_demonstrations} demonstrations of {demonstrations} are of held-out prompts",
                "add demonstrations of other prompts, or lower test_fraction and validation_fraction",
            )
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
        return [Task(split, {"kind": "prompt", **rows[int(i)]}) for i in order]

    def demonstrations(self, count: int, seed: int) -> list[tuple[str, str]]:
        """Up to ``count`` (prompt, completion) pairs in an order drawn from ``seed``."""
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
        prompts = [str(task.payload["prompt"])]
        try:
            raw: Sequence[float] = self._gold(prompts, [text], [task.payload])
        except (Exception, SystemExit) as error:
            problem = f"gold function {self._gold_name} raised {type(error).__name__}: {error}"
            raise RewardError(problem, "mend the function, then run the same command again") from error
        return float(checked_scores(raw, 1, self._gold_name, prompts, [text])[0])


def _checked(path: Path, fields: tuple[str, ...], *, unique: bool) -> list[dict[str, Any]]:
    """All rows of a file, or one DataError that names the first broken ones by line and counts the rest."""
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    seen: dict[str, int] = {}
    for line, made in _read(path, fields):
        reason = made if isinstance(made, str) else _fault(made, fields)
        if isinstance(made, str) or reason:
            broken.append(f"line {line}: {reason}")
            continue
        if unique and made["prompt"] in seen:
            broken.append(f"line {line}: the same prompt as line {seen[made['prompt']]}")
            continue
        seen.setdefault(made["prompt"], line)
        rows.append(made)
    if broken:
        more = f" (and {len(broken) - 5} more)" if len(broken) > 5 else ""
        raise DataError(f"{path}: {'; '.join(broken[:5])}{more}", "correct or remove these rows")
    if not rows:
        raise DataError(f"{path} has no rows", f"give at least one row with {' and '.join(fields)}")
    return rows


def _read(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, row or the reason why there is none) of a file of any of the three kinds."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path}", "check the path; it is seen from the folder of the file that names it"
        )
    if path.suffix.lower() == ".csv":
        yield from _read_csv(path, fields)
        return
    is_json = path.suffix.lower() in (".jsonl", ".json", ".ndjson")
    if not is_json and fields != ("prompt",):
        raise DataError(f"{path} is neither .jsonl nor .csv", f"write {' and '.join(fields)} as .jsonl or .csv")
    for number, text, fault in _lines(path):
        if fault:
            yield number, fault
        elif text.strip():
            yield number, _json_row(text) if is_json else {"prompt": text}


def _read_csv(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    faults: list[tuple[int, str]] = []

    def texts() -> Iterator[str]:
        for number, text, fault in _lines(path):
            if fault:
                faults.append((number, fault))
            else:
                yield text + "\n"

    csv.field_size_limit(LINE_LIMIT)
    reader = csv.DictReader(texts(), strict=True)
    try:
        missing = [f for f in fields if f not in (reader.fieldnames or [])]
        if missing and not faults and reader.fieldnames:
            raise DataError(
                f"{path} has no column {missing[0]!r}; its columns are {', '.join(reader.fieldnames)}",
                f"name the columns {', '.join(fields)} in the first line",
            )
        for row in reader:
            number = reader.line_num
            if None in row:
                yield number, f"{len(row[None])} cells more than the first line names"
            elif any(value is None for value in row.values()):
                yield number, "fewer cells than the first line names"
            else:
                yield number, dict(row)
    except csv.Error as error:
        yield reader.line_num, f"not CSV: {error}"
    yield from faults


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, text without its end, reason why it cannot be read or '')."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(raw) > LINE_LIMIT:
                yield number, "", f"longer than {LINE_LIMIT} bytes"
                return  # what follows is the rest of that line: nothing after it is trusted
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in raw:
                yield number, "", "holds a NUL byte"
                continue
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                yield number, "", f"not UTF-8 (byte {error.start})"


def _json_row(text: str) -> dict[str, Any] | str:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else f"a {type(row).__name__}, not an object"


def _fault(row: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    """Why a row cannot be used, or ''."""
    for name in fields:
        if name not in row:
            return f"no field {name!r}"
        if not isinstance(row[name], str):
            return f"{name} is {type(row[name]).__name__} {row[name]!r:.40}, not text"
        if not row[name].strip():
            return f"{name} is empty"
    try:
        canonical_json(dict(row))
    except ValueError as error:  # NaN and infinity, which JSON files of other tools may hold; lone surrogates
        return f"holds a value that is not JSON: {error}"
    return ""
