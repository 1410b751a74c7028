"""The manifest beside an export: what it was made of, what was left out and why, and the export's own digest.

It holds nothing that differs between equal runs (no dates, no folders). Left out: signatures; whoever can change a
file can change its manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.digests import digest_file, digest_folder
from tropism.errors import DataError
from tropism.files import sync_path

VERSION = 1
PACKAGES = ("tropism", "pyarrow", "datasets")
"""What wrote an export, besides Python."""


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file or folder is: NAME.manifest.json beside it."""
    return path.with_name(f"{path.name}.manifest.json")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or over the files of a folder."""
    return digest_folder(path) if path.is_dir() else digest_file(path)


def write_manifest(path: Path, content: Mapping[str, Any]) -> Path:
    """Write the manifest of ``path``, whole or not at all; returns where. Errors: OSError."""
    target = manifest_path(path)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        text = json.dumps({"manifest": VERSION, **content}, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", "utf-8")
        sync_path(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest beside ``path``, or None where there is none. Errors: DataError if it cannot be used."""
    target = manifest_path(path)
    try:
        content = json.loads(target.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{target} cannot be read: {error}", "remove it, or export the data again") from error
    known = content.get("manifest") if isinstance(content, dict) else None
    if known != VERSION:
        raise DataError(f"{target} is no manifest of version {VERSION}", "remove it, or export the data again")
    return content


def reading_options(path: Path) -> dict[str, Any]:
    """How to read an export again (``format``, ``escaped`` for CSV, ``empty``, …), and under which ``licence`` it is.

    It is what the manifest says: nothing without one, or where the file was changed since, whose cells may then be
    anybody's. Errors: DataError as ``read_manifest``.
    """
    content = read_manifest(path)
    if content is None or not path.exists():
        return {}
    reading = content.get("reading")
    unchanged = content.get("file", {}).get("sha256") == digest_of(path)
    if not unchanged or not isinstance(reading, dict):
        return {}
    licences = [str(licence) for licence in content.get("licences", ())]
    return dict(reading) | ({"licence": ", ".join(licences)} if licences else {})
