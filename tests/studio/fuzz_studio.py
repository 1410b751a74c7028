"""Ten minutes of schemathesis against a studio with everything in it: no answer may be a 5xx.

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
from pathlib import Path

from studio_cases import ask, make_study, running
from test_studio_engineer import evaluated


def main() -> int:
    """0 if no answer was a 5xx."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=1000, help="for each address, as far as the time goes")
    parser.add_argument("--schemathesis", default="schemathesis", help="the program")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, running(make_study(Path(folder) / "s", votes=2)) as here:
        evaluated(here, Path(folder))
        for kind, k in (("comparison", 2), ("ranking", 3), ("rating", 1), ("label", 1), ("demonstration", 0)):
            ask(here.studio, kind, 20, k=k)  # type: ignore[arg-type]
        admin = here.person("admin")
        token = admin.post("tokens", json={"name": "fuzz", "scope": "write"}).json()["token"]
        command = [
            given.schemathesis, "run", f"{here.base}/api/v1/openapi.json", "-H", f"Authorization: Bearer {token}",
            "--checks", "not_a_server_error", "--exclude-path", "/api/v1/stream", "--exclude-method", "DELETE",
            "--phases", "fuzzing", "--max-examples", str(given.examples), "--continue-on-failure",
        ]  # fmt: skip
        try:
            subprocess.run(command, timeout=60 * given.minutes, check=False)
        except subprocess.TimeoutExpired:
            print("the time is over")
        text = admin.get(f"{here.base}/metrics").text
    counts: dict[str, float] = {}
    for found in re.finditer(r'tropism_request_seconds_count\{.*status="(\d)\d\d"\} ([\d.e+]+)', text):
        counts[found[1]] = counts.get(found[1], 0) + float(found[2])
    print({f"{status}xx": int(count) for status, count in sorted(counts.items())})
    return 1 if counts.get("5") else 0


if __name__ == "__main__":
    sys.exit(main())
