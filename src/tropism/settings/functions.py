"""A user's Python function, named in settings: ``file.py:function`` or ``package.module:function``.

Left out: what it is called with; whoever calls it says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tropism.digests import digest_file
from tropism.errors import ConfigError


def load_function(reference: str) -> Callable[..., Any]:
    """The function behind ``file.py:function`` or ``package.module:function``; ConfigError naming what is missing."""
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"'{reference}' names no function", "write file.py:function or package.module:function")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            fix = "check the path; it is seen from the folder of the file that names it"
            raise ConfigError(f"file {path} does not exist", fix)
        spec = importlib.util.spec_from_file_location(
            f"tropism_user_{hashlib.sha256(place.encode()).hexdigest()[:8]}", path
        )
        assert spec is not None  # a .py file always has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a user's file may call exit() where it is no script
            problem = f"file {path} cannot be run: {type(error).__name__}: {error}"
            raise ConfigError(problem, "mend the file: python FILE must run without an error") from error
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ConfigError(
                f"module '{place}' cannot be imported: {error}", "install it or correct the name"
            ) from error
    function = getattr(module, name, None)
    if function is None or not callable(function):
        public = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise ConfigError(f"'{place}' has no function '{name}'", f"it has: {', '.join(public) or 'none'}")
    return function


def function_digest(reference: str) -> str:
    """Digest of the source file behind a function that :func:`load_function` takes; ConfigError if it has none."""
    load_function(reference)  # whatever is wrong with it is said there
    place = reference.rpartition(":")[0]
    file = place if place.endswith(".py") else getattr(importlib.import_module(place), "__file__", None)
    if file is None:
        raise ConfigError(f"module '{place}' of {reference} has no file", "put it into a .py file")
    return digest_file(Path(file))
