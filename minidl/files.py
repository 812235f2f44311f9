"""Where things lie: the folders that come with minidl, the data cache, a fresh folder for each run.

Standard library only, so that ``minidl doctor`` works before NumPy is installed.
"""

import os
import sys
from pathlib import Path

from minidl.text import unknown

__all__ = ["FOLDERS", "data_cache", "folder", "run_folder", "user_cache"]

FOLDERS = ("benchmarks", "datasets", "lessons")
PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """A folder that comes with minidl: ``minidl/_name`` in a wheel, ``name`` beside the package in a clone.

    Args:
        name: "datasets", "lessons" or "benchmarks".

    Raises:
        ValueError: no such folder belongs to minidl.
        FileNotFoundError: the installation is incomplete.
    """
    if name not in FOLDERS:
        raise unknown("folder", name, FOLDERS)
    candidates = (PACKAGE / f"_{name}", PACKAGE.parent / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    places = " nor ".join(map(str, candidates))
    raise FileNotFoundError(f"the folder {name!r} of minidl is neither at {places}; install minidl again")


def data_cache() -> Path:
    """Where downloaded data sets are kept: ``$MINIDL_DATA``, or the user's cache folder of this platform.

    Nothing is created. Linux: ``~/.cache/minidl`` (or under ``$XDG_CACHE_HOME``); macOS: ``~/Library/Caches/minidl``;
    Windows: ``%LOCALAPPDATA%\\minidl``.
    """
    chosen = os.environ.get("MINIDL_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return user_cache()


def user_cache() -> Path:
    """minidl's folder among the user's caches, where this platform keeps them; ``$MINIDL_DATA`` plays no part."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "minidl"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minidl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minidl"


def run_folder(out: str | Path, name: str) -> Path:
    """Make and return a fresh folder ``out/name-001``, or the next free number: no run overwrites another.

    Raises:
        OSError: the folder cannot be made there.
    """
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    number = 1 + max((_number(path.name, name) for path in root.iterdir()), default=0)
    while True:
        candidate = root / f"{name}-{number:03d}"
        try:
            candidate.mkdir()
        except FileExistsError:  # another run took the number first
            number += 1
        else:
            return candidate


def _number(entry: str, name: str) -> int:
    digits = entry.removeprefix(f"{name}-")
    return int(digits) if digits != entry and digits.isdecimal() else 0
