"""What the control commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.cli.job_tables import finish, print_rows

if TYPE_CHECKING:
    from tropism.control.evaluate import Returns


def print_training(values: Mapping[str, Any], out: Path) -> None:
    """Steps, and what the policy is worth."""
    true = values["true_return"]
    rows = [
        ("trained", f"{values['algorithm']}, {values['steps']} environment steps, {values['episodes']} episodes"),
        ("true return", f"{true['value']:.4g} [{true['low']:.4g}, {true['high']:.4g}] over {true['n']} episodes"),
        ("random actions", f"{values['random_return']:.4g}"),
        ("episode length", f"{values['length']:.4g} steps"),
    ]
    if why := values["clips"]["why_none"]:
        rows.append(("clips", f"none: {why}"))
    elif shown := values["clips"]["starts"]:
        rows.append(("clips", f"{shown} in {out / 'clips'}"))
    finish(rows, out)


def print_returns(played: Returns, environment: str) -> None:
    """Mean with interval, and the spread."""
    from tropism.evaluation.intervals import bootstrap_mean

    mean = bootstrap_mean(played.returns)
    least, most = float(played.returns.min()), float(played.returns.max())
    print_rows(
        [
            ("environment", environment),
            ("true return", f"{mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}] over {mean.n} episodes"),
            ("range", f"{least:.4g} to {most:.4g}"),
            ("episode length", f"{float(played.lengths.mean()):.4g} steps"),
        ]
    )
