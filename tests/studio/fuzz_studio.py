"""Ten minutes of schemathesis against a studio with everything in it, pass after pass over all addresses: no answer may
be a 5xx.

    pip install schemathesis        (in an environment of its own, if you like: --schemathesis PATH)
    python tests/studio/fuzz_studio.py [--minutes 10]

Not part of the test-suite, since it takes long and needs a tool that nothing else here needs. The stream is left out
(it never ends), and DELETE (it would take away the token that is used).
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))  # pytest does so for its own

from studio_cases import ask, make_study, running  # noqa: E402
from test_studio_engineer import evaluated  # noqa: E402


def main() -> int:
    """0 if no answer was a 5xx."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--examples", type=int, default=20, help="for each address in a pass; passes go on till the end"
    )
    parser.add_argument("--schemathesis", default="schemathesis", help="the program")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, running(make_study(Path(folder) / "s", votes=2)) as here:
        evaluated(here, Path(folder))
        for kind, k in (("comparison", 2), ("ranking", 3), ("rating", 1), ("label", 1), ("demonstration", 0)):
            ask(here.studio, kind, 20, k=k)  # type: ignore[arg-type]
        admin = here.person("admin")
        token = admin.post("tokens", json={"name": "fuzz", "scope": "write"}).json()["token"]
        ends, passes = time.monotonic() + 60 * given.minutes, 0
        while (left := ends - time.monotonic()) > 0:
            command = [
                given.schemathesis, "run", f"{here.base}/api/v1/openapi.json", "-H", f"Authorization: Bearer {token}",
                "--checks", "not_a_server_error", "--exclude-path", "/api/v1/stream", "--exclude-method", "DELETE",
                "--phases", "fuzzing", "--max-examples", str(given.examples), "--continue-on-failure",
                "--seed", str(passes),
            ]  # fmt: skip
            try:
                subprocess.run(command, timeout=left, check=False, cwd=folder, stdout=subprocess.DEVNULL)
                passes += 1
            except subprocess.TimeoutExpired:
                print("the time is over")
        text = admin.get(f"{here.base}/metrics").text
    by_status, by_route = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for found in re.finditer(r"tropism_request_seconds_count\{(.*?)\} ([\d.e+]+)", text):
        about = dict(re.findall(r'(\w+)="(.*?)"', found[1]))
        by_status[about["status"]] += int(float(found[2]))
        by_route[f"{about['method']} {about['route']}"][about["status"]] += int(float(found[2]))
    for route, of in sorted(by_route.items()):
        print(f"{route:60} {dict(sorted(of.items()))}")
    print(f"{passes} whole passes, {len(by_route)} routes: {dict(sorted(by_status.items()))}")
    return 1 if any(status.startswith("5") for status in by_status) or not passes else 0


if __name__ == "__main__":
    sys.exit(main())
