"""The report in a real browser, without a network: it opens, its script runs, and the console stays silent."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from fake_study import make_study
from tropism.study.report.page import write_page

BROWSER = next((b for name in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: scripts/install_debian.sh chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
# nothing resolves: a request to anywhere would fail, and say so on the console
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"


def open_page(page: Path, profile: Path, *more: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, NO_NETWORK, f"--user-data-dir={profile}", *more, page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(log: str) -> list[str]:
    """What a page wrote to its console."""
    return [line for line in log.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(make_study(tmp_path_factory.mktemp("browser") / "fake", rejected=1))


def test_it_opens_without_a_word_on_the_console(page: Path, tmp_path: Path) -> None:
    done = open_page(page, tmp_path / "profile", "--dump-dom")
    assert console(done.stderr) == []
    assert done.stdout.count("<svg") >= 18
    assert re.search(r"<h1>fake &lt;study&gt;</h1>", done.stdout)


def test_a_broken_page_would_be_heard(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><meta charset=utf-8><script>undefined_name()</script>")
    assert console(open_page(broken, tmp_path / "profile", "--dump-dom").stderr)


def test_the_pointer_brings_up_the_values(page: Path, tmp_path: Path) -> None:
    probe = """<script>
    const chart = document.querySelector("svg[data-chart]"), box = chart.getBoundingClientRect();
    chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + 9}));
    document.body.dataset.tip = document.querySelector(".tip").innerText;
    </script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", probe), "utf-8")
    done = open_page(probed, tmp_path / "profile", "--dump-dom")
    found = re.search(r'data-tip="([^"]*)"', done.stdout)
    assert found is not None
    assert re.search(r"step \d+\s+learned score: [\d.]+\s+.*gold: [\d.]+", found[1], re.DOTALL)


def test_a_screenshot_has_the_size_asked_for(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "report.png"
    open_page(page, tmp_path / "profile", f"--screenshot={shot}", "--window-size=600,900", "--hide-scrollbars")
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (600, 900)
    assert shot.stat().st_size > 20_000  # a blank page of this size compresses to a few kilobytes
