"""The three random laws every scheme is made of, drawn directly in the precision that was asked for.

A large array is drawn in blocks of fixed size, each from a generator of its own, whose seed the given generator draws:
so several threads can share the work, and what is drawn does not depend on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import threads

__all__ = ["standard_normal", "standard_uniform", "truncated_normal", "truncated_std"]

BLOCK = 2**20  # numbers; up to two blocks come from the given generator itself


def standard_normal(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], mean: float = 0.0, std: float = 1.0
) -> NDArray[Any]:
    """``mean + std · ξ`` with ξ ~ N(0, 1), drawn as float32 or float64; no second array is made on the way."""

    def draw(rng: np.random.Generator, out: NDArray[Any]) -> None:
        _normal(rng, out)
        if std != 1:
            out *= std
        if mean != 0:
            out += mean

    return _drawn(draw, rng, shape, dtype)


def standard_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """u ~ U[-1, 1], drawn as float32 or float64."""

    def draw(rng: np.random.Generator, out: NDArray[Any]) -> None:
        rng.random(out=out, dtype=out.dtype)
        out *= 2
        out -= 1

    return _drawn(draw, rng, shape, dtype)


def truncated_normal(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], cut: float
) -> NDArray[Any]:
    """ξ ~ N(0, 1) given |ξ| ≤ cut: what falls outside is drawn again. Standard deviation: ``truncated_std(cut)``."""

    def draw(rng: np.random.Generator, out: NDArray[Any]) -> None:
        _normal(rng, out)
        outside = np.flatnonzero(np.abs(out) > cut)
        while outside.size:
            again = np.empty(outside.size, out.dtype)
            _normal(rng, again)
            out[outside] = again
            outside = outside[np.abs(again) > cut]

    return _drawn(draw, rng, shape, dtype)


def truncated_std(cut: float) -> float:
    """Standard deviation of N(0, 1) cut at ±c: ``√(1 - 2c φ(c) / (2Φ(c) - 1))``; 0.8796 for c = 2."""
    density = math.exp(-0.5 * cut**2) / math.sqrt(2.0 * math.pi)
    return math.sqrt(1.0 - 2.0 * cut * density / math.erf(cut / math.sqrt(2.0)))


def _normal(rng: np.random.Generator, out: NDArray[Any]) -> None:
    rng.standard_normal(out=out, dtype=out.dtype)


def _drawn(
    draw: Callable[[np.random.Generator, NDArray[Any]], None],
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """An array filled by ``draw(generator, array of one axis)``, in blocks if it is large."""
    values = np.empty(math.prod(shape), dtype)
    if values.size <= 2 * BLOCK:
        draw(rng, values)
        return values.reshape(shape)
    seeds = rng.integers(2**63, size=-(-values.size // BLOCK))

    def part(first: int, stop: int) -> None:
        for i in range(first, stop):
            draw(np.random.Generator(np.random.SFC64(seeds[i])), values[i * BLOCK : (i + 1) * BLOCK])

    threads.share(part, len(seeds))
    return values.reshape(shape)
