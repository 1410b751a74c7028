"""Data that people already have: read in many formats into one form, and written back without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tropism.data.reading import Source, open_source, read
    from tropism.data.records import Reading, Record, Rejected

__all__ = ["Reading", "Record", "Rejected", "Source", "open_source", "read"]


def __getattr__(name: str) -> Any:
    if name in ("Source", "open_source", "read"):
        from tropism.data import reading

        return getattr(reading, name)
    if name in ("Reading", "Record", "Rejected"):
        from tropism.data import records

        return getattr(records, name)
    raise AttributeError(f"module 'tropism.data' has no attribute {name!r}")
