"""Closed forms, by the name of the activation: its moments, and the half difference of two correlated inputs.

(Leaky) ReLU is ``α z + β |z|`` with α = (1 + a)/2, β = (1 - a)/2; its correlation is the arc-cosine kernel of order 1
(Cho & Saul 2009, "Kernel Methods for Deep Learning"). erf has Williams' arc-sine kernel (1997, "Computing with Infinite
Networks").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["HALF_DIFFERENCES", "MOMENTS", "closed"]


def _leaky_moments(q: float, negative_slope: float = 0.01) -> tuple[float, float, float]:
    kept = (1 + negative_slope**2) / 2
    return (1 - negative_slope) * math.sqrt(q / (2 * math.pi)), kept * q, kept


def _leaky_difference(q: float, apart: float, negative_slope: float = 0.01) -> float:
    """``α² (1 - c) q + β² q (1 - c - (2/π)(sin θ - θ cos θ))`` with ``c = cos θ``: no digits are lost near c = 1."""
    theta = 2 * math.asin(math.sqrt(apart / 2))
    bent = apart - 2 / math.pi * (math.sin(theta) - theta * math.cos(theta))
    return q * (((1 + negative_slope) / 2) ** 2 * apart + ((1 - negative_slope) / 2) ** 2 * bent)


def _erf_moments(q: float) -> tuple[float, float, float]:
    return 0.0, 2 / math.pi * math.asin(2 * q / (1 + 2 * q)), 4 / math.pi / math.sqrt(1 + 4 * q)


def _erf_difference(q: float, apart: float) -> float:
    """``(2/π)(asin x - asin c x)``, ``x = 2q/(1 + 2q)``; near c = 1 by the sine of the difference."""
    x, c = 2 * q / (1 + 2 * q), 1 - apart
    if c < 0.5:
        return 2 / math.pi * (math.asin(x) - math.asin(c * x))
    across = x * math.sqrt(1 - (c * x) ** 2) + c * x * math.sqrt(1 + 4 * q) / (1 + 2 * q)
    return 2 / math.pi * math.asin(min(x**2 * apart * (2 - apart) / across, 1.0)) if across else 0.0


#: name -> ``(q, **params) -> (E φ, E φ², E φ'²)``
MOMENTS: dict[str, Callable[..., tuple[float, float, float]]] = {
    "identity": lambda q: (0.0, q, 1.0),
    "linear": lambda q: (0.0, q, 1.0),
    "relu": lambda q: _leaky_moments(q, 0.0),
    "leaky_relu": _leaky_moments,
    "erf": _erf_moments,
}

#: name -> ``(q, 1 - c, **params) -> ½ E (φ(u) - φ(v))²``
HALF_DIFFERENCES: dict[str, Callable[..., float]] = {
    "identity": lambda q, apart: q * apart,
    "linear": lambda q, apart: q * apart,
    "relu": lambda q, apart: _leaky_difference(q, apart, 0.0),
    "leaky_relu": _leaky_difference,
    "erf": _erf_difference,
}


def closed(table: dict[str, Callable[..., Any]], f: Any) -> Callable[..., Any] | None:
    """The closed form for ``f``, if it is a name that has one."""
    return table.get(f) if isinstance(f, str) else None
