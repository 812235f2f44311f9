"""The law of one element of a layer's output, as a list of values with their chances.

An activation changes the values, the maximum of a window changes the chances, branches side by side are a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from minidl.meanfield.gaussian import Values

__all__ = ["Law"]

XI = np.linspace(-12.0, 12.0, 24_001)
CHANCES = np.exp(-0.5 * XI**2)
CHANCES /= CHANCES.sum()
_BELOW = np.cumsum(CHANCES) - CHANCES / 2  # Φ at XI
_COMMON = np.linspace(-5.0, 5.0, 41)  # values of what correlated elements have in common
_PARTS = 200  # of a law that another is added to
_FEW = 8_000  # of a mixture


class Law(NamedTuple):
    """What one element of a layer's output may be: ``values[i]`` with probability ``chances[i]``."""

    values: Values
    chances: Values

    @classmethod
    def gaussian(cls, mean: float, variance: float) -> Self:
        """N(mean, variance), on 24 001 points."""
        return cls(mean + math.sqrt(variance) * XI, CHANCES)

    @classmethod
    def mixture(cls, laws: Sequence[Law], weights: Sequence[float]) -> Self:
        """One of ``laws``, each with a chance in proportion to its weight; mean and variance are exact."""
        shares = np.asarray(weights, np.float64) / np.sum(weights)
        chances = [law.chances * share for law, share in zip(laws, shares, strict=True)]
        return cls(np.concatenate([law.values for law in laws]), np.concatenate(chances))._in_parts(_FEW)

    @property
    def mean(self) -> float:
        """E x."""
        return float(self.chances @ self.values)

    @property
    def square(self) -> float:
        """E x²: what a layer with zero-mean weights makes its variance of."""
        return float(self.chances @ self.values**2)

    @property
    def variance(self) -> float:
        """E x² - (E x)²."""
        mean = self.mean
        return float(self.chances @ (self.values - mean) ** 2)

    def average(self, f: Callable[[Values], Any]) -> float:
        """E f(x)."""
        return float(self.chances @ np.asarray(f(self.values), np.float64))

    def changed(self, f: Callable[[Values], Any]) -> Law:
        """The law of ``f(x)``."""
        return Law(np.asarray(f(self.values), np.float64), self.chances)

    def largest_of(self, count: int, alike: float = 0.0) -> Law:
        """The law of the largest of ``count`` elements: ``P(max ≤ x) = E Φ((z - √ρ ξ)/√(1 - ρ))^count``, Φ(z) = P(x).

        Args:
            count: of elements.
            alike: ρ, the correlation of any two of them, as Gaussians before an increasing function; 0: independent.
        """
        order = np.argsort(self.values, kind="stable")
        below = np.minimum(np.cumsum(self.chances[order]), 1.0)
        alike = min(max(alike, 0.0), 1.0)
        if alike == 0:
            return Law(self.values[order], np.diff(below**count, prepend=0.0))
        z, weight = np.interp(below, _BELOW, XI), np.exp(-0.5 * _COMMON**2)
        largest, apart = np.zeros_like(below), math.sqrt(max(1 - alike, 1e-9))
        for common, share in zip(_COMMON, weight / weight.sum(), strict=True):
            largest += share * _normal((z - math.sqrt(alike) * common) / apart) ** count
        return Law(self.values[order], np.diff(largest / largest[-1], prepend=0.0))

    def averaged(self, count: int, alike: float = 0.0) -> Law:
        """The law of the mean of ``count`` elements with correlation ``alike``, nearly Gaussian."""
        return Law.gaussian(self.mean, self.variance * (alike + (1 - alike) / count))

    def plus(self, other: Law) -> Law:
        """The law of the sum of two independent elements, each in 200 parts; mean and variance are exact."""
        a, b = self._in_parts(_PARTS), other._in_parts(_PARTS)
        values = (a.values[:, None] + b.values).ravel()
        return Law(values, (a.chances[:, None] * b.chances).ravel())

    def _in_parts(self, parts: int) -> Self:
        """Neighbouring values as one, their mean, in parts of equal chance; stretched to the variance there was."""
        order = np.argsort(self.values, kind="stable")
        chances, values = self.chances[order], self.values[order]
        part = np.minimum((parts * (np.cumsum(chances) - chances / 2)).astype(int), parts - 1)
        mass = np.bincount(part, chances, parts)
        kept = mass > 0
        means = np.bincount(part, chances * values, parts)[kept] / mass[kept]
        coarse = Law(means, mass[kept] / mass.sum())
        mean, variance = coarse.mean, coarse.variance
        stretch = math.sqrt(self.variance / variance) if variance else 0.0
        return type(self)(self.mean + stretch * (coarse.values - mean), coarse.chances)


def _normal(x: Values) -> Values:
    """Φ, read off the grid."""
    result: Values = _BELOW[np.clip(np.rint((x - XI[0]) / (XI[1] - XI[0])), 0, len(XI) - 1).astype(int)]
    return result
