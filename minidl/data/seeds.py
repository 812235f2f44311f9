"""Named random streams: what is drawn for one purpose never shifts what is drawn for another."""

from __future__ import annotations

from numbers import Integral
from zlib import crc32

import numpy as np

__all__ = ["checked_seed", "stream"]


def checked_seed(seed: int) -> int:
    """``seed`` itself, if it is a whole number ≥ 0.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be a whole number, got {seed!r}; pass for example seed=0")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}; pass for example seed=0")
    return int(seed)


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """The generator that belongs to ``(seed, purpose, position)``, the same on every machine.

    Args:
        seed: the user's seed, a whole number ≥ 0.
        purpose: what the numbers are for, such as "validation split".
        position: where in a sequence, such as ``(epoch, batch)``: a stream can be re-entered anywhere.
    """
    return np.random.default_rng([checked_seed(seed), crc32(purpose.encode()), *position])
