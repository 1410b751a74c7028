"""Rows of a source, with their numbers: files of many kinds, folders, ``datasets`` folders and names.

JSON lines and CSV are streamed with a line limit; a JSON list is loaded whole up to a stated size. What was repaired is
counted by name, what cannot be used comes out as ``Rejected``. Left out: writing, and what the rows mean.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from tropism.data import tables
from tropism.data.inflating import FileBytes
from tropism.data.lines import Counts, FileOptions, Lines
from tropism.data.records import Rejected
from tropism.data.rows import Row, kind_of
from tropism.data.strict_json import BadRow, Doubled, check, parse, short
from tropism.errors import DataError
from tropism.feedback.records import Split

JSON_LIMIT = 128 << 20
"""Bytes of the largest JSON list, decompressed: it is loaded whole (JSON lines have no such limit)."""
JSON_ITEMS = 6_000_000
"""Commas, braces and brackets in it: what is loaded takes some 60 bytes for each, however short it is written."""
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".npz": "npz",
    ".txt": "txt",
}
"""What a file is, by its suffix; each may also end in .gz or .xz."""
_SPLITS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "package.json", "config.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def kind_of_file(path: Path) -> str | None:
    """``jsonl``, ``json``, ``csv``, ``parquet``, ``npz`` or ``txt`` by the name; None for any other file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".xz"):
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def split_of_name(name: str) -> Split | None:
    """The split that a part's or a file's name says: ``train``, ``test-00000``, ``dev.csv``; None for other names."""
    return _SPLITS.get(re.split(r"[^a-z]", name.lower(), maxsplit=1)[0])


def data_files(source: str | Path) -> list[Path]:
    """The data files of a path: itself, or those in the folder, in the order of their names.

    Text files count only where there are no others, manifests and hidden files never. Errors: DataError.
    """
    path = Path(source)
    if path.is_file():
        if kind_of_file(path) is None:
            raise DataError(f"{path} is of no kind that is read here", f"name it {', '.join(KINDS)} (or with .gz)")
        return [path]
    if not path.is_dir():
        if path.exists():
            raise DataError(f"{path} is no ordinary file", "give a file or a folder")
        fix = "check the path, or give the name of a data set as owner/name"
        raise DataError(f"{path} cannot be read: No such file or directory", fix)
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and kind_of_file(p) and not _hidden(p, path)]
    found = [p for p in found if kind_of_file(p) != "txt"] or found
    if not found:
        raise DataError(f"{path} is a folder without data files", f"give a file, or a folder with {', '.join(KINDS)}")
    return found


def is_hub_name(source: str | Path) -> bool:
    """Whether a source is a data set's name on the hub: owner/name, no such path here, and no data file's suffix."""
    name = str(source)
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists() and kind_of_file(Path(name)) is None


def is_datasets_folder(path: Path) -> bool:
    """Whether ``datasets`` saved this folder (``save_to_disk``)."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def rows_of_file(
    path: Path, options: FileOptions, counts: Counts, name: str = ""
) -> Generator[Row | Rejected, None, None]:
    """Every row of a file. ``name`` is what its description calls it (its own name).

    Errors: DataError if the file as a whole cannot be used.
    """
    kind = kind_of_file(path)
    stored = FileBytes(path)
    try:
        if kind == "jsonl":
            made = _jsonl(Lines(stored, counts))
        elif kind == "json":
            made = _json(stored, counts)
        elif kind == "csv":
            made = tables.csv_rows(Lines(stored, counts, csv=True), options, path)
        elif kind == "txt":
            made = _text(Lines(stored, counts))
        elif kind == "parquet":
            made = tables.parquet_rows(stored, counts)
        else:
            raise DataError(f"{path} holds arrays, which only the format 'segments' reads", "give format='segments'")
        yield from made
        stored.finish()
    finally:
        stored.close()
    counts.files.append({"name": name or path.name, "sha256": stored.sha256, "bytes": stored.size})


def _jsonl(lines: Lines) -> Iterator[Row | Rejected]:
    for number, text in lines:
        if isinstance(text, BadRow):
            yield Rejected(number, str(text))
            continue
        try:
            yield _object(number, parse(text))
        except BadRow as bad:
            yield Rejected(number, str(bad))


def _text(lines: Lines) -> Iterator[Row | Rejected]:
    """One prompt per line."""
    for number, text in lines:
        yield Rejected(number, str(text)) if isinstance(text, BadRow) else Row(number, {"prompt": text})


def _json(stored: FileBytes, counts: Counts) -> Iterator[Row | Rejected]:
    """A list of objects, an object that holds one list or several, or JSON lines under another name."""
    text = _whole(stored, counts)
    if sum(text.count(sign) for sign in ",[{") > JSON_ITEMS:
        fix = "give JSON lines (.jsonl), which are read one by one"
        raise DataError(f"{stored.path} holds more than {JSON_ITEMS} JSON values, which are loaded together", fix)
    try:
        document = parse(text)
    except BadRow as bad:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and _is_object(lines[0]):
            counts.repaired["JSON lines in a .json file"] += 1
            yield from _jsonl_text(text)
            return
        raise DataError(f"{stored.path}: {bad}", "give a JSON list of objects, or JSON lines (.jsonl)") from bad
    for number, (subset, value) in enumerate(_elements(document, stored.path), 1):
        try:
            row = _object(number, value)
            row.subset = subset
            yield row
        except BadRow as bad:
            yield Rejected(number, str(bad))


def _jsonl_text(text: str) -> Iterator[Row | Rejected]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _object(number, parse(line))
            except BadRow as bad:
                yield Rejected(number, str(bad))


def _whole(stored: FileBytes, counts: Counts) -> str:
    """The text of a whole file up to ``JSON_LIMIT``. Errors: DataError."""
    data = stored.buffer.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        fix = "give JSON lines (.jsonl), which are read one by one"
        raise DataError(f"{stored.path} holds more than {JSON_LIMIT} bytes of JSON, which is loaded whole", fix)
    encoding = "utf-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
        counts.repaired["UTF-16 decoded"] += 1
    elif data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        counts.repaired["byte order mark removed"] += 1
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{stored.path}: byte {error.start + 1} is not valid {encoding.upper()}", "save it as UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{stored.path} is empty", "give a JSON list of objects")
    return text


def _elements(document: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """(subset, element): of a list, of an object's only list, or of the several lists it holds by name."""
    if isinstance(document, Doubled):
        raise DataError(f"{path}: key {short(document.key)!r} stands twice in one object", "name each list once")
    if isinstance(document, list):
        yield from (("", element) for element in document)
        return
    lists = (
        {key: held for key, held in document.items() if isinstance(held, list)} if isinstance(document, dict) else {}
    )
    if not lists or any(isinstance(held, dict) for held in document.values()):
        keys = ", ".join(repr(short(key)) for key in list(document)[:5]) if isinstance(document, dict) else ""
        what = f"an object with {keys}" if keys else f"{kind_of(document)}"
        raise DataError(
            f"{path} holds {what}, not a list", "give a JSON list of objects, or an object that holds one list"
        )
    for key, held in lists.items():
        yield from ((key if len(lists) > 1 else "", element) for element in held)


def _object(number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise BadRow(f"{kind_of(value)}, not an object with columns")
    check(value)
    return Row(number, value)


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse(text), dict)
    except BadRow:
        return False


def _hidden(path: Path, folder: Path) -> bool:
    if path.name.endswith(".manifest.json") or path.name in _NOT_DATA:
        return True
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
