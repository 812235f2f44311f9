"""The threads of the matrix library under NumPy: how many it uses here, and a way to use fewer for a while.

For small matrices a second thread costs more than it brings, and on a busy machine ten times more: the threads wait for
each other by spinning. What other code in the process has chosen is put back afterwards.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["blas_threads", "limited"]

# OpenBLAS as NumPy's wheels bring it, as conda and Linux distributions do
PREFIXES = ("scipy_openblas_", "openblas_")
SUFFIXES = ("64_", "")


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """The functions that read and set OpenBLAS's number of threads, or None where NumPy stands on something else."""
    import numpy

    root = Path(numpy.__file__).parent
    found = [p for folder in (root.parent / "numpy.libs", root / ".dylibs") for p in sorted(folder.glob("*openblas*"))]
    for path in found:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in (f"{prefix}{{}}_num_threads{suffix}" for prefix in PREFIXES for suffix in SUFFIXES):
            if hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


def blas_threads() -> int | None:
    """How many threads a matrix product uses now; None where NumPy's matrix library is not OpenBLAS."""
    functions = _openblas()
    return None if functions is None else int(functions[0]())


@contextmanager
def limited(count: int) -> Iterator[None]:
    """At most ``count`` threads for matrix products inside; outside it is as it was. Does nothing without OpenBLAS."""
    functions = _openblas()
    if functions is None:
        yield
        return
    get, set_ = functions
    before = int(get())
    set_(min(count, before))
    try:
        yield
    finally:
        set_(before)
