"""How a corpus becomes a store. `from pipeline import extract` is what `reelcache extract` runs."""

from __future__ import annotations

from typing import Any

__all__ = ["Summary", "extract"]


def __getattr__(name: str) -> Any:
    """Load the engine, and torch with it, only when it is asked for: commands that do without start at once."""
    if name in __all__:
        from pipeline import extraction

        return getattr(extraction, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
