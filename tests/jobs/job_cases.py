"""What the tests of jobs share."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = {"prompt": "question", "chosen": "good answer", "rejected": "bad answer", "annotator": "rater"}
"""Of the example pairs."""
