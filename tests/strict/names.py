"""The names and parameters that CuPy has, from ``cupy_names.json``; a call that CuPy would refuse is refused here."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

from strict.counters import calls

NAMES: dict[str, Any] = json.loads(Path(__file__).with_name("cupy_names.json").read_text(encoding="utf-8"))
VERSION: str = NAMES["version"]

# The ufunc docstrings: add(x1, x2, /, out=None, *, casting='same_kind', dtype=None). NumPy has where=, order=, more.
UFUNC_KEYWORDS = ("out", "casting", "dtype")


@functools.cache
def signature(owner: str, name: str) -> inspect.Signature | None:
    """Parameters of ``owner.name``; None where the file does not tell."""
    text = NAMES[owner].get(name)
    if text is None or not text.startswith("("):
        return None
    scope: dict[str, Any] = {}
    exec(f"def f{text}: ...", scope)  # our own file, written by make_cupy_names.py
    return inspect.signature(scope["f"])


def check_call(owner: str, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Note the call; refuse arguments that CuPy does not have.

    Raises:
        TypeError: a keyword that CuPy's function lacks, or too many arguments.
    """
    calls.add((f"{owner}.{name}", tuple(sorted(options))))
    known = signature(owner, name)
    if known is not None:
        try:
            known.bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{owner}.{name}{known} of CuPy {VERSION}: {error}".replace("Ellipsis", "...")) from None


def missing(owner: str, name: str) -> AttributeError:
    """The error for a name that is not there: because CuPy lacks it, or because nobody needed it here yet."""
    if name in NAMES.get(owner, {}):
        return AttributeError(f"CuPy {VERSION} has {owner}.{name}, but the strict library does not yet; add it there")
    return AttributeError(f"CuPy {VERSION} has no {owner}.{name}")
