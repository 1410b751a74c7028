"""tropism: RLHF end to end, on a laptop CPU from one command.

Names load lazily: ``import tropism`` imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tropism.study.study import Study

__version__ = "0.1.0"
__all__ = ["Study", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Study":
        from tropism.study.study import Study

        return Study
    raise AttributeError(f"module 'tropism' has no attribute {name!r}")
