"""A strict array library for the tests: it behaves as CuPy does wherever CuPy and NumPy differ, and needs no GPU.

``differences.py`` lists each difference with its source; ``tests/test_strict.py`` shows each one.
"""

from minidl.backend import Library
from strict.array import StrictArray, from_host
from strict.counters import Counts, calls, total, watch
from strict.differences import DIFFERENCES, Difference
from strict.module import xp
from strict.names import NAMES, VERSION

LIBRARY = Library("strict", "gpu", StrictArray, xp, from_host, lambda x: x.get())

__all__ = [
    "DIFFERENCES",
    "LIBRARY",
    "NAMES",
    "VERSION",
    "Counts",
    "Difference",
    "StrictArray",
    "calls",
    "from_host",
    "total",
    "watch",
    "xp",
]
