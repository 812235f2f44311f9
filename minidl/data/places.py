"""Where a data set's files may lie: a folder the user names, ``$MINIDL_DATA``, the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from minidl import files

__all__ = ["download_place", "places"]


def places(root: Path | None = None) -> list[Path]:
    """The folders that are searched, in this order: ``root``, ``$MINIDL_DATA``, the per-user cache."""
    found = (root, files.data_cache(), files.user_cache())
    return list(dict.fromkeys(place for place in found if place is not None))


def download_place(root: Path | None = None) -> Path:
    """Where downloads go: ``root`` if it is given, else the first other place that may be written to.

    A shared ``$MINIDL_DATA`` is often read-only. Its permission bits count even for an administrator.
    """
    if root is not None:
        return root
    shared, *rest = places()
    return shared if not rest or _writable(shared) else rest[0]


def _writable(folder: Path) -> bool:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & 0o222)
