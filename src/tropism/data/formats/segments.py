"""Trajectory segments that people compared: npz files of labels with start indices, or with the steps themselves.

``<task>/…label…`` beside two arrays ``<task>/…indices…`` of starts in a data set that is elsewhere; or ``obs1``,
``act1``, ``obs2``, ``act2`` and ``label``. Left out: pickled files, and fetching the data sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tropism.data.files import kind_of_file
from tropism.data.formats.base import Format, Made, Opened, value_of
from tropism.data.records import Record, Rejected
from tropism.data.rows import Row
from tropism.data.strict_json import short
from tropism.errors import DataError

_CHOICES: dict[float, str] = {0: "a", 1: "b", -1: "tie", 0.5: "tie"}
_LENGTH = re.compile(r"(?:_q|/len)(\d+)")
_STEPS = ("obs1", "act1", "obs2", "act2")


@dataclass(frozen=True)
class Segments(Format):
    """One comparison per label: 0 the first is better, 1 the second, -1 or 0.5 equal.

    Candidates are ``{"source": task, "start": index, "length": steps}``, or ``{"file", "row", "side", "length"}``. The
    length is the one that the names say (``_q100``, ``len200``), else ``length``, else it is left out. The group is the
    task. Starts beyond the last label were never judged: they are counted and left out. Steps must be finite numbers of
    shape [rows, steps, size], equal on both sides. Repeats are noted.
    """

    name: ClassVar[str] = "segments"
    summary: ClassVar[str] = "an npz file: labels and start indices by task, or obs1, act1, obs2, act2, label"
    columns: ClassVar[tuple[str, ...]] = ()
    usual_repeats: ClassVar = "keep"

    length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length is not None and (not isinstance(self.length, int) or self.length < 1):
            raise DataError(f"length is {self.length!r}", "give the steps of a segment, 1 or more")

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Never: arrays are no rows."""
        return False

    @classmethod
    def claims(cls, files: Iterable[Path]) -> bool:
        """All files are npz."""
        kinds = {kind_of_file(path) for path in files}
        return kinds == {"npz"}

    def stream(self, opened: Opened) -> Iterator[Made | Rejected]:
        """Every pair of every task. Errors: DataError where arrays are missing or do not fit together."""
        found = False
        for path, file, arrays in opened.arrays():
            found = True
            line = 0
            if set(_STEPS) <= set(arrays):
                tasks = {path.name.split(".")[0]: _steps(path, arrays)}
            else:
                tasks = {task: self._starts(path, task, arrays) for task in _tasks(path, arrays)}
            for task, pairs in tasks.items():
                for candidates, label, fault in pairs:
                    line += 1
                    yield _made(Row(line, {}, file=file), task, candidates, label, fault)
        if not found:
            raise DataError("there is no npz file", "give a file or folder with .npz files")

    def _starts(self, path: Path, task: str, arrays: Mapping[str, Any]) -> Iterator[_Pair]:
        """Pairs by their start indices."""
        label, first, second = _names(path, task, arrays)
        labels, starts = arrays[label], (arrays[first], arrays[second])
        whole = all(array.ndim == 1 and array.dtype.kind in "iu" for array in (labels, *starts))
        if not whole or len(starts[0]) != len(starts[1]) or len(labels) > len(starts[0]):
            shapes = ", ".join(f"{name} {arrays[name].dtype}{arrays[name].shape}" for name in (label, first, second))
            raise DataError(f"{path}: {task} has {shapes}", "give whole numbers: two starts for each label")
        match = _LENGTH.search(first)
        length = int(match[1]) if match else self.length
        for place, pair in enumerate(zip(*(array.tolist() for array in starts), strict=True)):
            contents: list[dict[str, Any]] = [{"source": task, "start": start} for start in pair]
            if length is not None:
                contents = [content | {"length": length} for content in contents]
            fault = f"{task}: a segment starts at {min(pair)}" if min(pair) < 0 else ""
            fault = fault or (f"{task}: the two segments are identical" if pair[0] == pair[1] else "")
            yield tuple(contents), labels[place].item() if place < len(labels) else None, fault


_Pair = tuple[tuple[dict[str, Any], ...], float | None, str]
"""Two candidates, their label (None: nobody judged them), and what is wrong with them or ''."""


def _made(row: Row, task: str, candidates: tuple[dict[str, Any], ...], label: float | None, fault: str) -> Made:
    if label is None:
        row.left_out["pairs of segments without a label"] += 1
        return Made((row,))
    if fault or label not in _CHOICES:
        reason = fault or f"{task}: label is {short(label)}, not 0 (first), 1 (second), -1 or 0.5 (equal)"
        return Made((row,), reason=reason)
    record = Record(
        prompt=task,
        candidates=candidates,
        value=value_of("comparison", {"choice": _CHOICES[label]}, 2),
        kind="comparison",
        candidate_kind="segment",
        group=task,
        line=row.line,
    )
    return Made((row,), (record,))


def _tasks(path: Path, arrays: Mapping[str, Any]) -> list[str]:
    """The folders within the file that have labels, in order."""
    tasks = sorted({name.rpartition("/")[0] for name in arrays if "label" in name.rpartition("/")[2]})
    if not tasks:
        raise DataError(
            f"{path} has neither labels with start indices nor {', '.join(_STEPS)} and label: {', '.join(arrays):.200}",
            "name the arrays so",
        )
    return tasks


def _names(path: Path, task: str, arrays: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names of a task's labels and of its first and second starts (``indices_1`` / ``indices_2``, or ``indices…``
    and ``indices_2…``)."""
    inside = [name for name in arrays if name.rpartition("/")[0] == task]
    labels = [name for name in inside if "label" in name.rpartition("/")[2]]
    indices = [name for name in inside if name.rpartition("/")[2].startswith("indices")]
    second = [name for name in indices if name.rpartition("/")[2].startswith("indices_2")]
    first = [name for name in indices if name not in second]
    if not len(labels) == len(first) == len(second) == 1:
        raise DataError(
            f"{path}: {task or 'the file'} has the arrays {', '.join(inside):.200}",
            "give one label, one indices and one indices_2 for each task",
        )
    return labels[0], first[0], second[0]


def _steps(path: Path, arrays: Mapping[str, Any]) -> Iterator[_Pair]:
    """Pairs whose steps are in the file. Errors: DataError where shapes do not fit."""
    import numpy as np

    labels = arrays.get("label", arrays.get("labels"))
    if labels is None:
        raise DataError(f"{path} has {', '.join(_STEPS)} but no label", "add an array label, one number for each row")
    sides = [(arrays["obs1"], arrays["act1"]), (arrays["obs2"], arrays["act2"])]
    held = [array for side in sides for array in side]
    fits = sides[0][0].shape == sides[1][0].shape and sides[0][1].shape == sides[1][1].shape
    fits = fits and all(array.ndim >= 2 and array.dtype.kind in "iufb" for array in held) and labels.dtype.kind in "iuf"
    fits = (
        fits and labels.shape == held[0].shape[:1] and held[0].shape[:2] == held[1].shape[:2] and held[0].shape[1] > 0
    )
    if not fits:
        shapes = ", ".join(f"{name} {arrays[name].dtype}{arrays[name].shape}" for name in _STEPS)
        raise DataError(
            f"{path} has {shapes} and label {labels.dtype}{labels.shape}",
            "give numbers [rows, steps, size] with equal rows and steps on both sides, and one label for each row",
        )
    for row in range(len(labels)):
        contents = tuple(
            {"file": path.name, "row": row, "side": side, "length": int(held[0].shape[1])} for side in (1, 2)
        )
        bad = next((name for name, array in zip(_STEPS, held, strict=True) if not np.isfinite(array[row]).all()), None)
        fault = "" if bad is None else f"{bad} holds a number that is not finite"
        same = all(np.array_equal(sides[0][i][row], sides[1][i][row]) for i in (0, 1))
        yield contents, labels[row].item(), fault or ("the two segments are identical" if same else "")
