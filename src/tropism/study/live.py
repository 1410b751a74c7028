"""The newest reward of a study that is learning, for others to train on while it learns: ``live/reward`` in its folder.

It is a link that is moved in one step to the next version's folder, which never changes; so whoever follows it once and
reads has one version. The one before stays for those who are reading it. Left out: older versions (a round's last one
is an artifact), and anything durable: after a power cut the next fit publishes again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER, LINK = "live", "reward"


def publish(place: Path, write: Callable[[Path], None]) -> Path:
    """Make what ``write`` writes into an empty folder the newest version in ``place`` (a study's ``live/``). Returns
    the link. One process publishes at a time: the study's trainer."""
    place.mkdir(exist_ok=True)
    link = place / LINK
    before = link.resolve() if link.is_symlink() else None
    made = Path(tempfile.mkdtemp(prefix="version-", dir=place))
    write(made)
    made.chmod(0o755)  # mkdtemp's folders are for their owner alone
    if link.exists() and before is None:
        shutil.rmtree(link)  # a copy of a study may have a folder where the link was
    fresh = place / "next"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(made.name)
    fresh.replace(link)
    for other in place.glob("version-*"):
        if other not in (made, before and place / before.name):
            shutil.rmtree(other, ignore_errors=True)
    return link
