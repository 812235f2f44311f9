"""What would cost time on a GPU, counted: waits for the device, copies to and from it. And which calls were made."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HERE = str(Path(__file__).parent)


@dataclass
class Counts:
    """Events since the start, or inside one ``with watch()``."""

    syncs: int = 0  #: the host waited for a value: float(x), bool(x), x.item(), x.get(), a boolean mask, ...
    to_host: int = 0  #: copies from the device
    to_device: int = 0  #: copies to the device
    widened: int = 0  #: results in float64 though no operand is: a NumPy scalar, a mask times a number, an index
    made: int = 0  #: arrays of the strict library
    places: list[str] = field(default_factory=list)  #: what and where, one line per event


total = Counts()
_watching: list[Counts] = [total]
#: every call as ("cupy.sum" or "ndarray.sum", (keyword, ...)), for the comparison with the installed CuPy
calls: set[tuple[str, tuple[str, ...]]] = set()


@contextlib.contextmanager
def watch() -> Iterator[Counts]:
    """Count what happens inside: ``with watch() as seen: ...; assert seen.syncs == 0, seen.places``."""
    seen = Counts()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching[:] = [c for c in _watching if c is not seen]


def count(event: str, what: str) -> None:
    """One more ``event`` ("syncs", "to_host", "to_device", "widened"), caused by ``what``."""
    place = f"{what} at {_caller()}"
    for counts in _watching:
        setattr(counts, event, getattr(counts, event) + 1)
        if counts is not total:
            counts.places.append(place)


def count_array() -> None:
    """One more array."""
    for counts in _watching:
        counts.made += 1


def _caller() -> str:
    """The nearest places outside this library, innermost first: "backend.py:100 < tensor.py:175 < nn.py:20"."""
    frame, places = sys._getframe(2), []
    while frame is not None and len(places) < 3:
        if not frame.f_code.co_filename.startswith(_HERE):
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(places)
