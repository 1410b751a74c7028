"""The report of a study: one self-contained HTML file, written from what the stages stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tropism.study.study import Study

__all__ = ["write_report"]


def write_report(study: Study) -> Path:
    """Write ``report.html`` into the study's folder and return its path.

    Works at any point of a study: what is not there yet is said to be missing. StoreError where the study cannot be
    read or the file cannot be written.
    """
    from tropism.study.report.page import write_page

    return write_page(study.folder)
