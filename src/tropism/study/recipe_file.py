"""A recipe in a file of the user's own: five lines that name a model, prompts, a teacher and a reward.

Left out: where its paths are seen from, which is one rule for every file of settings (``paths.py``).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe file, as written. ConfigError if it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe file {path} cannot be read: {error.strerror}",
            "correct the path; `tropism recipes` lists built-in ones",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file {path} is not UTF-8 text", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe file {path} is not valid TOML: {error}", "mend that line") from error
