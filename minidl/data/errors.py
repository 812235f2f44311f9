"""The one exception type for data that cannot be had or cannot be trusted."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """A data file is missing, damaged or not what its name says; the text names the file and the reason."""
