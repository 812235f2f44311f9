"""The mathematics of wide networks: what an activation does to a Gaussian pre-activation.

In a wide layer with independent zero-mean weights a pre-activation is Gaussian, ``z = √q ξ`` with ``ξ ~ N(0, 1)``.
Three averages over ``ξ`` then say how the layer changes a signal: ``E φ(z)`` and ``E φ(z)²`` on the way up, and
``E φ'(z)²`` on the way down. Everything here is a pure function of numbers, in float64 on the host.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl import ops
from minidl.tensor import Tensor, grad
from minidl.text import unknown

__all__ = ["ACTIVATIONS", "Moments", "activation_name", "gaussian_mean", "gaussian_moments", "resolve"]

Values: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[..., Any]

# The grid of the integrals. For a smooth integrand that has vanished at both ends the trapezoid rule converges faster
# than any power of the step, and a kink costs only O(step²); Gauss-Hermite nodes miss both (3e-3 off for E relu with
# 101 of them), so plain points win.
_XI = np.linspace(-12.0, 12.0, 24_001)
_WEIGHT = np.exp(-0.5 * _XI**2)
_WEIGHT /= _WEIGHT.sum()

_STEP = 1e-5  # of the difference quotients, in units of √q; the grid's own step is a hundred times larger


class Moments(NamedTuple):
    """Averages of an activation φ over a Gaussian pre-activation ``z ~ N(0, q)``."""

    mean: float  #: ``E φ(z)``
    square: float  #: ``E φ(z)²``: the second moment, which is what the next layer sees
    slope_square: float  #: ``E φ'(z)²``: the factor on the way back

    @property
    def variance(self) -> float:
        """``E φ² - (E φ)²``. Zero-mean weights propagate the second moment ``square``, not this."""
        return self.square - self.mean**2


#: The elementwise activations of ``ops`` by name, and "linear".
ACTIVATIONS: dict[str, Function] = {
    function.__name__: function for name, function in ops.ACTIVATIONS.items() if name != "CReLU"
} | {"linear": ops.identity}


def gaussian_mean(f: Function, q: float = 1.0) -> float:
    """``E f(√q ξ)`` with ``ξ ~ N(0, 1)``, by the trapezoid rule on [-12, 12] with 24 001 points.

    Args:
        f: a function of one float64 array, elementwise.
        q: the variance of the argument, ``q >= 0``.

    Returns:
        The average: exact to rounding for smooth ``f``, to about 1e-7 with kinks. A *jump* of ``f`` that falls between
        two points costs up to 2e-4 of its height.

    Raises:
        ValueError: ``q`` is negative or not finite; ``f`` returns another shape or a value that is not finite.
    """
    return _average(_evaluate(f, _grid(q)))


def gaussian_moments(f: str | Function, q: float = 1.0, **params: Any) -> Moments:
    """``(E φ, E φ², E φ'²)`` of any activation φ at ``z = √q ξ``, ``ξ ~ N(0, 1)``.

    The derivative is that of the operation for a known name, and a difference quotient for any other callable. Either
    way its square is averaged over a point just left and one just right of each grid point: ReLU has its kink *on* the
    grid point 0, where no single value of the slope gives the right ``E φ'² = 1/2``.

    Args:
        f: the name of an activation ("relu"), or any elementwise function of an array.
        q: the variance of the pre-activation.
        params: parameters of the activation, such as ``negative_slope=0.2`` for "leaky_relu".

    Returns:
        ``Moments(mean, square, slope_square)``.

    Raises:
        ValueError: an unknown name, a bad ``q``, or an activation whose values are not finite.
        TypeError: ``f`` is neither a name nor a callable, or does not have such a parameter.

    Source: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos", eq. 3 and 5.
    """
    z = _grid(q)
    value, slope_square = _with_params(f, params)
    phi = _evaluate(value, z)
    return Moments(_average(phi), _average(phi**2), _average(slope_square(z, _STEP * (math.sqrt(q) or 1.0))))


def resolve(f: str | Function) -> Function:
    """The function that ``f`` means: that of a known name, or ``f`` itself.

    Raises:
        ValueError: an unknown name; the message suggests the nearest.
        TypeError: neither a name nor a callable.
    """
    if isinstance(f, str):
        if f not in ACTIVATIONS:
            raise unknown("activation", f, ACTIVATIONS)
        return ACTIVATIONS[f]
    if not callable(f):
        raise TypeError(f"an activation is a name or a function of an array, got {type(f).__name__}: {f!r}")
    return f


def activation_name(f: str | Function) -> str:
    """``f`` for messages: its name, or the name of the function."""
    return f if isinstance(f, str) else getattr(f, "__name__", type(f).__name__)


def _with_params(f: str | Function, params: dict[str, Any]) -> tuple[Function, Callable[[Values, float], Values]]:
    """φ with its parameters filled in, and ``(z, step) -> φ'(z)²`` averaged over the two sides of ``z``."""
    phi = _filled(resolve(f), f, params)
    if not isinstance(f, str):
        return phi, lambda z, step: _quotient_square(phi, z, step)
    return phi, lambda z, step: 0.5 * (_slope(phi, z - step) ** 2 + _slope(phi, z + step) ** 2)


def _slope(phi: Function, z: Values) -> Values:
    """``φ'(z)`` by the operation's own derivative rule."""
    x = Tensor(z, requires_grad=True)
    slope: Values = grad(phi(x).sum(), x).numpy()
    return slope


def _filled(function: Function, f: str | Function, params: dict[str, Any]) -> Function:
    if not params:
        return function
    accepted = _parameters(function)
    for name in params:
        if accepted is not None and name not in accepted:
            listed = ", ".join(accepted) or "no parameters"
            raise TypeError(f"activation {activation_name(f)!r} has no parameter {name!r}; it accepts: {listed}")
    return functools.partial(function, **params)


def _parameters(function: Function) -> list[str] | None:
    """The parameters after the array, or None if the function does not tell or takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters[1:]]


def _quotient_square(phi: Function, z: Values, step: float) -> Values:
    """``φ'(z)²`` as the mean of the squared quotients of the two sides: error O(step²), and right for a kink at z."""
    below, here, above = (_evaluate(phi, z + shift) for shift in (-step, 0.0, step))
    return 0.5 * ((here - below) ** 2 + (above - here) ** 2) / step**2


def _grid(q: float) -> Values:
    if not (math.isfinite(q) and q >= 0):
        raise ValueError(f"q is the variance of the pre-activation, a finite number >= 0; got {q!r}")
    return math.sqrt(q) * _XI


def _average(values: Values) -> float:
    return float(_WEIGHT @ values)


def _evaluate(f: Function, z: Values) -> Values:
    """``f(z)`` as a float64 array of the shape of ``z``; a result that has ``.numpy()`` (a Tensor) is unpacked."""
    result = f(z)
    if not isinstance(result, np.ndarray) and hasattr(result, "numpy"):
        result = result.numpy()
    values = np.asarray(result, dtype=np.float64)
    name = activation_name(f)
    if values.shape != z.shape:
        raise ValueError(f"activation {name!r} must be elementwise: it turned shape {z.shape} into {values.shape}")
    if not np.isfinite(values).all():
        where = z[~np.isfinite(values)][0]
        raise ValueError(
            f"activation {name!r} gives {values[~np.isfinite(values)][0]} at {where:.4g}; it must be finite"
        )
    return values
