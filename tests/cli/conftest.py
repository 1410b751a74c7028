"""The command line as tests call it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tropism.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return (0 if caught.value.code is None else int(caught.value.code)), out, err

    return run
