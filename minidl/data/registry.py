"""Data sets by name. A new one is one file in ``minidl/data/sets/`` with one registered function."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minidl.data.dataset import Dataset, moments
from minidl.data.fileset import FileSet
from minidl.data.part import Part
from minidl.data.seeds import checked_seed
from minidl.data.split import Split, hold_out
from minidl.text import unknown

__all__ = ["Entry", "Parts", "entry", "is_here", "load", "names", "register"]


@dataclass(frozen=True)
class Parts:
    """What a data set's function returns: the two published parts, read as values in [0, 1] or as generated.

    ``mean`` and ``std`` are the published ones of the training part; ``None``: measured on it.
    """

    train: Part
    test: Part
    mean: ArrayLike | None = None
    std: ArrayLike | None = None


Source = Callable[..., Parts]


@dataclass(frozen=True)
class Entry:
    """A registered data set: the function that reads or makes it, and its files if it has any."""

    source: Source
    files: FileSet | None


_SETS: dict[str, Entry] = {}


def register(name: str, files: FileSet | None = None) -> Callable[[Source], Source]:
    """Make ``data.load(name)`` call the decorated function, which returns ``Parts``.

    Its parameters are the options of the set, all with defaults; ``root`` and ``seed`` are passed if it has them.

    Args:
        name: what ``load`` and ``minidl data`` call the set.
        files: where its files may lie; None for a set that is generated.
    """

    def remember(source: Source) -> Source:
        _SETS[name] = Entry(source, files)
        return source

    return remember


def names() -> list[str]:
    """The names that ``load`` knows, sorted."""
    return sorted(_known())


def entry(name: str) -> Entry:
    """The registered set.

    Raises:
        ValueError: no set has this name; the text suggests the nearest.
    """
    sets = _known()
    if name not in sets:
        raise unknown("data set", name, list(sets))
    return sets[name]


def is_here(name: str, root: str | PathLike[str] | None = None) -> bool:
    """Whether ``load`` would find the set on this machine; nothing is downloaded. A set without files always is.

    Args:
        name: one of ``names()``.
        root: folder that holds the files; left out, the places where ``load`` looks.

    Raises:
        ValueError: unknown name.
        DataError: a folder may not be looked into.
    """
    files = entry(name).files
    return files is None or files.find(Path(root).expanduser() if root else None) is not None


def load(
    name: str,
    root: str | PathLike[str] | None = None,
    val: float = 0,
    seed: int = 0,
    normalize: bool = True,
    **options: Any,
) -> Split:
    """The data set ``name`` in three parts: ``.train``, ``.val``, ``.test``.

    Args:
        name: one of ``names()``.
        root: folder that holds the files; left out, the set's usual place. Generated sets have no files.
        val: fraction or count of the training part held out for validation, stratified by class; 0 for none.
        seed: names the validation draw, and the points of a generated set.
        normalize: read ``(x − mean) / std`` with mean and std of the training part, one number a channel or
            feature. False: images as values in [0, 1], points as generated.
        options: what the set itself takes, for example ``load("spirals", classes=5, noise=0.1)``.

    Returns:
        The split. ``split.train[:256]`` is ``(x, y)`` with x float32 (256, C, H, W) or (256, D), y int64 (256,).

    Raises:
        ValueError: unknown name, unknown option, ``val`` out of range.
        DataError: a file is missing, damaged or not the one it should be.
    """
    parts = _parts(name, entry(name).source, Path(root).expanduser() if root else None, checked_seed(seed), options)
    mean, std = _moments(parts)
    train, held = hold_out(parts.train, val, seed)
    split = Split(name, train, held, parts.test, np.asarray(mean, np.float32), np.asarray(std, np.float32))
    return split.standardized() if normalize else split


def _moments(parts: Parts) -> tuple[ArrayLike, ArrayLike]:
    """The published mean and standard deviation, or the measured ones."""
    if parts.mean is not None and parts.std is not None:
        return parts.mean, parts.std
    assert isinstance(parts.train, Dataset), "a set that streams publishes its mean and std"
    return moments(parts.train)


def _known() -> dict[str, Entry]:
    """All registered sets, after importing every file of ``minidl/data/sets/``."""
    package = import_module("minidl.data.sets")
    for module in pkgutil.iter_modules(package.__path__, "minidl.data.sets."):
        import_module(module.name)
    return _SETS


def _parts(name: str, source: Source, root: Path | None, seed: int, options: dict[str, Any]) -> Parts:
    """Call the set's function with its options and with those of ``root`` and ``seed`` that it takes."""
    taken = list(inspect.signature(source).parameters)
    given = {key: value for key, value in (("root", root), ("seed", seed)) if key in taken}
    known = [key for key in taken if key not in ("root", "seed")]
    for option in options:
        if option not in known:
            raise unknown(f"option of the data set {name!r}:", option, known)
    return source(**given, **options)
