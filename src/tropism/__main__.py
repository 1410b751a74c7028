"""``python -m tropism``: the command line."""

from __future__ import annotations

from tropism.cli.main import main

main()
