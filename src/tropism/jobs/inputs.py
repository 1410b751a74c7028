"""What a job reads: data with every row accounted for, models with their digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tropism.data.importing import opened
from tropism.data.reading import collect
from tropism.data.records import Reading
from tropism.digests import digest, digest_file, digest_folder
from tropism.engine.adapters import base_of
from tropism.engine.models import context_length
from tropism.errors import DataError
from tropism.feedback.records import Task
from tropism.jobs.config import DataSection, required
from tropism.language.policy import LanguagePolicy

SHOWN = 10
"""Rejected rows that an error and a result name; the others are counted."""


def read_data(section: DataSection, flag: str = "--data", setting: str = "data.source") -> Reading:
    """Everything a section names. DataError with line numbers and reasons for rows that cannot be used, unless
    ``skip_bad`` asks to leave them out."""
    source = required(section.source, setting, flag)
    reading = collect(
        opened(
            source,
            format=section.format,
            columns=section.columns or None,
            limit=section.limit,
            licence=section.licence,
            **section.options,
        )
    )
    if reading.rejected and (not section.skip_bad or not reading.records):
        listed = "\n".join(f"  line {row.line}: {row.reason}" for row in reading.rejected[:SHOWN])
        more = f"\n  and {len(reading.rejected) - SHOWN} more" if len(reading.rejected) > SHOWN else ""
        raise DataError(
            f"{source}: {len(reading.rejected)} of {reading.rows} rows cannot be used\n{listed}{more}",
            "mend these rows, or leave them out with --skip-bad (`tropism data show` explains the file)",
        )
    if not reading.records:
        raise DataError(f"{source} has no rows", "give a file with at least one row")
    return reading


def account(reading: Reading) -> dict[str, Any]:
    """What was read, as JSON: for results and model cards."""
    rejected = [{"line": row.line, "reason": row.reason} for row in reading.rejected[:SHOWN]]
    return {
        **reading.source,
        "rows": reading.rows,
        "records": len(reading.records),
        "rejected": len(reading.rejected),
        "rejected_first": rejected,
        "repaired": dict(reading.repaired),
        "noted": dict(reading.noted),
        "left_out": dict(reading.left_out),
    }


def digest_of_data(reading: Reading) -> str:
    """One digest of all files that were read and of how they were read."""
    return digest({key: reading.source.get(key) for key in ("format", "files", "columns")})


def digest_of(path: str) -> str:
    """Digest of a file or folder, of adapters with their base model's; a hub name stands for itself (its commit is
    known once it is loaded)."""
    place = Path(path)
    if not place.is_dir():
        return digest_file(place) if place.is_file() else f"hub:{path}"
    # a finished job's own record of how it ran is no part of the model
    mine = digest_folder(place) if not (place / "run").is_dir() else _without_run(place)
    base = base_of(place)
    return mine if base is None else digest([mine, digest_of(base)])


def _without_run(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] != "run")
    return digest([[p.relative_to(folder).as_posix(), digest_file(p)] for p in files])


def limited(policy: LanguagePolicy, tasks: Sequence[Task], new_tokens: int) -> tuple[LanguagePolicy, int]:
    """The policy with its prompts limited to what leaves room for ``new_tokens``, and how many of ``tasks`` are cut
    (from the left). DataError if there is no room at all."""
    room = context_length(policy.model) - new_tokens
    if room < 1:
        raise DataError(
            f"sampling.max_new_tokens = {new_tokens} fills the context of {context_length(policy.model)}",
            "lower it, or take a model with a longer context",
        )
    return replace(policy, prompt_limit=room), sum(len(policy.encode_task(t.payload)) > room for t in tasks)
