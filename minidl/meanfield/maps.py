"""The maps of a wide layer: what it does to the variance q of a pre-activation and to the correlation c of two of them.

``q' = σ_w² E φ(z)² + σ_b²`` and ``c' = (σ_w² E φ(u) φ(v) + σ_b²)/q'``, where u and v have variance q and correlation c,
σ_w² = fan_in Var w and σ_b² = Var b. Differences near c = 1 are computed from ``1 - c``, so that their digits are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.meanfield.closed import HALF_DIFFERENCES, closed
from minidl.meanfield.gaussian import (
    Function,
    Values,
    activation_name,
    bends,
    checked,
    edges,
    evaluate,
    filled,
    gaussian_mean,
    gaussian_moments,
    legendre,
)

__all__ = [
    "CriticalPoint",
    "DepthScales",
    "chi",
    "correlation_fixed_point",
    "correlation_map",
    "critical_point",
    "depth_scales",
    "distance_map",
    "fixed_point",
    "half_difference",
    "variance_map",
    "variance_slope",
]

LARGEST_Q = 2.0**14  # no unit that works has a pre-activation of variance 16 000
SMALLEST_Q = 2.0**-40
ENDLESS = 2.0**100  # a variance that grows beyond has no fixed point
LEVEL = 1e-13  # relative change of q below which it stands still
CLOSE = 1e-12  # 1 - c below which a difference is a derivative


class CriticalPoint(NamedTuple):
    """Where a network is at the edge of chaos."""

    sigma_w: float  #: √(fan_in Var w)
    q: float  #: the variance of the pre-activations that reproduces itself from layer to layer


class DepthScales(NamedTuple):
    """How deep a signal gets: distances from the fixed points shrink, or grow, like ``exp(-layers/ξ)``."""

    q_star: float  #: the fixed point of the variance
    chi: float  #: ``σ_w² E φ'²`` there: below 1 inputs become alike (order), above 1 they part (chaos)
    xi_c: float  #: ``1/|ln χ|`` in layers: of differences between inputs, and of gradients; inf at the edge of chaos
    xi_q: float  #: ``1/|ln dq'/dq|`` in layers: of the variance


def variance_map(f: str | Function, q: float, sigma_w: float, sigma_b: float = 0.0, **params: Any) -> float:
    """``q' = σ_w² E φ(√q ξ)² + σ_b²``: the variance of the pre-activations one layer on.

    Args:
        f: the name of an activation, or any elementwise function of an array.
        q: the variance of the pre-activations now.
        sigma_w: √(fan_in Var w).
        sigma_b: standard deviation of the biases.
        params: parameters of the activation, as for ``gaussian_moments``.

    Raises:
        ValueError: ``q``, ``sigma_w`` or ``sigma_b`` is negative or not finite; an unknown activation.
    """
    weights, biases = _sigmas(sigma_w, sigma_b)
    return weights**2 * gaussian_moments(f, q, **params).square + biases**2


def _sigmas(sigma_w: float, sigma_b: float = 0.0) -> tuple[float, float]:
    return checked("sigma_w is √(fan_in Var w)", sigma_w), checked("sigma_b is the std of the biases", sigma_b)


def variance_slope(f: str | Function, q: float, sigma_w: float, **params: Any) -> float:
    """``dq'/dq = σ_w² E φ(z)² (ξ² - 1)/(2q) = σ_w² E (φ'² + φ φ'')``: a fixed point is stable where it is below 1.

    At q = 0 the limit for an activation with φ(0) = 0, ``σ_w² φ'(0)²``.
    """
    if q == 0:
        return chi(f, 0.0, sigma_w, **params)
    phi, weights = filled(f, params), _sigmas(sigma_w)[0]
    return weights**2 * gaussian_mean(lambda z: evaluate(phi, z) ** 2 * (z * z / q - 1), q) / (2 * q)


def chi(f: str | Function, q: float, sigma_w: float, **params: Any) -> float:
    """``χ = σ_w² E φ'(√q ξ)²``: what one layer multiplies a small difference by, and ``E δ²`` on the way back.

    Source: Schoenholz et al. 2017, "Deep Information Propagation", eq. 5.
    """
    return _sigmas(sigma_w)[0] ** 2 * gaussian_moments(f, q, **params).slope_square


def fixed_point(f: str | Function, sigma_w: float, sigma_b: float = 0.0, start: float = 1.0, **params: Any) -> float:
    """``q* = σ_w² E φ(√q* ξ)² + σ_b²``: where the variance map leads from ``start``.

    Returns:
        q*: 0 if the signal dies, inf if it grows without end, ``start`` itself where that stays (ReLU with σ_w = √2).

    Raises:
        ValueError: ``start`` is not above 0.
    """
    if not checked("start is the variance to begin with", start):
        raise ValueError("start is the variance to begin with, above 0: at 0 many maps stand still; got 0")

    def growth(q: float) -> float:
        return variance_map(f, q, sigma_w, sigma_b, **params) - q

    first = growth(start)
    if abs(first) <= LEVEL * start:
        return start
    factor, near = (2.0 if first > 0 else 0.5), start
    while near < ENDLESS if first > 0 else near > SMALLEST_Q:
        far = factor * near
        if growth(far) * first <= 0:
            return _root(growth, min(near, far), max(near, far))
        near = far
    return math.inf if first > 0 else 0.0


def half_difference(f: str | Function, q: float, apart: float, **params: Any) -> float:
    """``½ E (φ(u) - φ(v))² = E φ² - E φ(u) φ(v)`` for Gaussian u, v of variance q and correlation ``c = 1 - apart``.

    A closed form where there is one. Else the integral over u of the integral over v given u, each with panels that
    end at the kinks 0 and ±1, and are as fine near them as u and v are apart.

    Args:
        f: the name of an activation, or any elementwise function of an array.
        q: the variance of both.
        apart: ``1 - c``, between 0 and 2.
        params: parameters of the activation.

    Returns:
        The half difference, to about 1e-9 of itself; with kinks elsewhere than at 0 and ±1, and for jumps, less.

    Raises:
        ValueError: ``apart`` is not between 0 and 2; ``q`` is negative or not finite.
    """
    if not 0 <= apart <= 2:
        raise ValueError(f"apart is 1 - c with a correlation c between -1 and 1; got {apart!r}")
    checked("q is the variance of both", q)
    form = closed(HALF_DIFFERENCES, f)
    if form is not None:
        return float(form(q, apart, **params))
    if apart < CLOSE or q == 0:
        return q * apart * gaussian_moments(f, q, **params).slope_square
    phi, s = filled(f, params), math.sqrt(q * apart * (2 - apart))
    u, weight = legendre(*_finer(edges(q, 9, 9.0), s))
    u, weight = u.ravel(), weight.ravel() * np.exp(-0.5 * (u.ravel() / math.sqrt(q)) ** 2) / math.sqrt(2 * math.pi * q)
    return 0.5 * float(weight @ _given(phi, u, (1 - apart) * u, s, bends(9.0 * math.sqrt(q))))


def _finer(ends: Values, s: float) -> tuple[Values, Values]:
    """Panels with more ends around the places of kinks, where the integrand changes within s."""
    more = (np.array([-1.0, 0.0, 1.0])[:, None] + np.array([-8.0, -2.0, 2.0, 8.0]) * s).ravel()
    ends = np.unique(np.concatenate([ends, more[np.abs(more) < ends[-1]]]))
    return ends[:-1], ends[1:]


def _given(phi: Function, u: Values, centre: Values, s: float, ends: Values) -> Values:
    """``E (φ(u) - φ(v))²`` for each u, where ``v ~ N(centre, s²)``."""
    here = evaluate(phi, u)
    if s < 1e-150:
        return (here - evaluate(phi, centre)) ** 2
    at_ends = np.clip((ends - centre[:, None]) / s, -9.0, 9.0)
    own = np.broadcast_to(np.linspace(-9.0, 9.0, 13), (len(u), 13))
    t = np.sort(np.concatenate([at_ends, own], axis=1), axis=1)
    result = np.zeros(len(u))
    for low, high in zip(t[:, :-1].T, t[:, 1:].T, strict=True):  # panel by panel: no large arrays
        rows = high > low
        if rows.any():
            x, weight = legendre(low[rows], high[rows])
            v = evaluate(phi, (centre[rows, None] + s * x).ravel()).reshape(x.shape)
            result[rows] += (weight * np.exp(-0.5 * x * x) * (here[rows, None] - v) ** 2).sum(axis=1)
    return result / math.sqrt(2 * math.pi)


def distance_map(
    f: str | Function, apart: float, q: float, sigma_w: float, sigma_b: float = 0.0, **params: Any
) -> float:
    """``1 - c'`` from ``1 - c``: the correlation map for inputs that are nearly alike."""
    after = variance_map(f, q, sigma_w, sigma_b, **params)
    return sigma_w**2 * half_difference(f, q, apart, **params) / after if after else 0.0


def correlation_map(
    f: str | Function, c: float, q: float, sigma_w: float, sigma_b: float = 0.0, **params: Any
) -> float:
    """``c' = (σ_w² E φ(u) φ(v) + σ_b²)/q'``: the correlation of two pre-activations one layer on.

    Args:
        f: the name of an activation, or any elementwise function of an array.
        c: their correlation now, between -1 and 1.
        q: the variance of both now.
        sigma_w: √(fan_in Var w).
        sigma_b: standard deviation of the biases.
        params: parameters of the activation.

    Source: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos", eq. 4.
    """
    return 1.0 - distance_map(f, 1.0 - c, q, sigma_w, sigma_b, **params)


def correlation_fixed_point(f: str | Function, sigma_w: float, sigma_b: float = 0.0, **params: Any) -> float:
    """``c*``: where the correlation of two different inputs leads in depth, at the fixed point q* of the variance.

    1 where χ(q*) ≤ 1: all inputs become alike. Below 1 in the chaotic phase, where c = 1 is a fixed point that repels.

    Raises:
        ValueError: the variance has no finite fixed point.
    """
    q, slope, *_ = depth_scales(f, sigma_w, sigma_b, **params)
    if slope <= 1 + LEVEL:
        return 1.0
    low = 1.0
    while distance_map(f, low, q, sigma_w, sigma_b, **params) < low and low > CLOSE:
        low /= 2
    if low == 1.0:
        return 0.0
    return 1.0 - _root(lambda d: distance_map(f, d, q, sigma_w, sigma_b, **params) - d, low, 2 * low)


def depth_scales(f: str | Function, sigma_w: float, sigma_b: float = 0.0, **params: Any) -> DepthScales:
    """q*, χ(q*) and the depth scales ``ξ_c = 1/|ln χ|`` and ``ξ_q = 1/|ln dq'/dq|`` there.

    A network trains to about 6 ξ_c layers.

    Raises:
        ValueError: the variance has no finite fixed point.

    Source: Schoenholz et al. 2017, "Deep Information Propagation", eq. 9 and 14.
    """
    q = fixed_point(f, sigma_w, sigma_b, **params)
    if not math.isfinite(q):
        raise ValueError(f"{activation_name(f)} with sigma_w = {sigma_w:g}: the variance grows without end")
    slope = chi(f, q, sigma_w, **params)
    return DepthScales(q, slope, _scale(slope), _scale(variance_slope(f, q, sigma_w, **params)))


def _scale(factor: float) -> float:
    """``1/|ln factor|``."""
    if factor <= 0:
        return 0.0
    return 1 / abs(math.log(factor)) if abs(math.log(factor)) > LEVEL else math.inf


@functools.lru_cache(maxsize=256)
def critical_point(activation: str | Function = "tanh", sigma_b: float = 0.0) -> CriticalPoint:
    """The σ_w at which ``χ₁ = 1``, and the fixed point q there: the smallest solution of ``s(q) = σ_b²``.

    ``χ₁ = 1`` says ``σ_w² = 1/E φ'²`` and the fixed point ``q = σ_w² E φ² + σ_b²``, so ``s(q) = q - E φ²/E φ'²``.

    Args:
        activation: a name, or any elementwise function of an array.
        sigma_b: standard deviation of the biases.

    Returns:
        ``CriticalPoint(sigma_w, q)``.

    Raises:
        ValueError: ``sigma_b`` is negative or not finite, or there is no solution.
    """
    target = _sigmas(1.0, sigma_b)[1] ** 2
    if target == 0 and _bias_variance(activation, 0.0) == 0:  # φ(0) = 0: all is still, and stays so
        return _point(activation, 0.0)
    low, high = SMALLEST_Q, 2 * SMALLEST_Q
    while _bias_variance(activation, high) < target:
        low, high = high, 2 * high
        if high > LARGEST_Q:
            raise ValueError(
                f"activation {activation_name(activation)!r} has no edge of chaos with sigma_b = {sigma_b}: "
                f"at q = 1 it would need a bias variance of {_bias_variance(activation, 1.0):.3g}. "
                "ReLU and its like have it at sigma_b = 0 alone; take tanh, or 'orthogonal'"
            )
    return _point(activation, _root(lambda q: target - _bias_variance(activation, q), low, high))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is positive at ``low`` and not at ``high`` crosses 0, by halving the ratio."""
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def _point(activation: str | Function, q: float) -> CriticalPoint:
    return CriticalPoint(1.0 / math.sqrt(gaussian_moments(activation, q).slope_square), q)


def _bias_variance(activation: str | Function, q: float) -> float:
    """``s(q) = q - E φ²/E φ'²``: the bias variance with which q is the fixed point on the edge; may be negative."""
    moments = gaussian_moments(activation, q)
    return q - moments.square / moments.slope_square if moments.slope_square else -math.inf
