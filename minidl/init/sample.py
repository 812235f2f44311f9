"""The three random laws every scheme is made of, drawn directly in the precision that was asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["standard_normal", "standard_uniform", "truncated_normal", "truncated_std"]


def standard_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """ξ ~ N(0, 1), drawn as float32 or float64."""
    return np.asarray(rng.standard_normal(shape, dtype=dtype))


def standard_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """u ~ U[-1, 1], drawn as float32 or float64."""
    return np.asarray(2 * rng.random(shape, dtype=dtype) - 1)


def truncated_normal(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], cut: float
) -> NDArray[Any]:
    """ξ ~ N(0, 1) given |ξ| ≤ cut: what falls outside is drawn again. Standard deviation: ``truncated_std(cut)``."""
    values = standard_normal(rng, (math.prod(shape),), dtype)
    outside = np.flatnonzero(np.abs(values) > cut)
    while outside.size:
        values[outside] = standard_normal(rng, (outside.size,), dtype)
        outside = outside[np.abs(values[outside]) > cut]
    return values.reshape(shape)


def truncated_std(cut: float) -> float:
    """Standard deviation of N(0, 1) cut at ±c: ``√(1 - 2c φ(c) / (2Φ(c) - 1))``; 0.8796 for c = 2."""
    density = math.exp(-0.5 * cut**2) / math.sqrt(2.0 * math.pi)
    return math.sqrt(1.0 - 2.0 * cut * density / math.erf(cut / math.sqrt(2.0)))
