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

from minidl.text import unknown

__all__ = ["ACTIVATIONS", "Activation", "Moments", "activation_name", "gaussian_mean", "gaussian_moments", "resolve"]

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


class Activation(NamedTuple):
    """An activation φ and its derivative φ', both on float64 arrays. Both take φ's own parameters as keywords."""

    value: Function
    slope: Function


def _erf(x: Values) -> Values:
    values: Values = np.vectorize(math.erf, otypes=[float])(x)
    return values


def _sigmoid(x: Values) -> Values:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # no overflow, whatever x


def _sigmoid_slope(x: Values) -> Values:
    s = _sigmoid(x)
    return s * (1.0 - s)


def _normal_cdf(x: Values) -> Values:
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _normal_density(x: Values) -> Values:
    return np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)


def _leaky_relu(x: Values, negative_slope: float = 0.01) -> Values:
    return np.where(x > 0, x, negative_slope * x)


def _leaky_relu_slope(x: Values, negative_slope: float = 0.01) -> Values:
    return np.where(x > 0, 1.0, negative_slope)


def _elu(x: Values, alpha: float = 1.0) -> Values:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _elu_slope(x: Values, alpha: float = 1.0) -> Values:
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))


# The two constants make (mean 0, variance 1) a fixed point (Klambauer et al. 2017).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805

#: The activations known by name. At a kink the value of the slope does not matter: see ``gaussian_moments``.
ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x: x, np.ones_like),
    "relu": Activation(lambda x: np.maximum(x, 0.0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_slope),
    "elu": Activation(_elu, _elu_slope),
    "selu": Activation(
        lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
        lambda x: _SELU_SCALE * _elu_slope(x, _SELU_ALPHA),
    ),
    "gelu": Activation(
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _normal_density(x),
    ),
    "silu": Activation(
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) + x * _sigmoid_slope(x),
    ),
    "tanh": Activation(lambda x: np.tanh(x), lambda x: 1.0 - np.tanh(x) ** 2),
    "sigmoid": Activation(_sigmoid, _sigmoid_slope),
    "softplus": Activation(lambda x: np.logaddexp(0.0, x), _sigmoid),
    "softsign": Activation(lambda x: x / (1.0 + np.abs(x)), lambda x: 1.0 / (1.0 + np.abs(x)) ** 2),
    "hard_tanh": Activation(lambda x: np.clip(x, -1.0, 1.0), lambda x: np.where(np.abs(x) < 1, 1.0, 0.0)),
    "erf": Activation(_erf, lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-(x**2))),
}


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

    The derivative is analytic for a known name and a difference quotient for any other callable. Either way its square
    is averaged over a point just left and one just right of each grid point: ReLU has its kink *on* the grid point 0,
    where no single value of the slope gives the right ``E φ'² = 1/2``.

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


def resolve(f: str | Function) -> Activation | Function:
    """What ``f`` means: the ``Activation`` of a known name, or ``f`` itself when it is a callable.

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
    activation = resolve(f)
    if not isinstance(activation, Activation):
        phi = _filled(activation, f, params)
        return phi, lambda z, step: _quotient_square(phi, z, step)
    value = _filled(activation.value, f, params)  # this refuses a wrong parameter
    slope = functools.partial(activation.slope, **params)
    return value, lambda z, step: 0.5 * (slope(z - step) ** 2 + slope(z + step) ** 2)


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
