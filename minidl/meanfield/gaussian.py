"""Averages over a Gaussian pre-activation ``z = √q ξ``, ``ξ ~ N(0, 1)``: ``E f(z)``, and ``E φ``, ``E φ²``, ``E φ'²``.

The range is cut into panels: at multiples of √q/2, where the bell changes, and at powers of two, where activations bend
and have their kinks (0 and ±1). On each a polynomial rule of 10 points is compared with two rules on its halves, and
where they differ the panel is halved, again and again. So the result is exact to rounding whether q is 1e-10 or 1e10
and whether f is smooth, steep, kinked or jumps. Gauss-Hermite nodes, the usual choice, miss ``E relu`` by 3e-3.
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
from minidl.meanfield.closed import MOMENTS, closed
from minidl.tensor import Tensor, grad
from minidl.text import unknown

__all__ = [
    "ACTIVATIONS",
    "Function",
    "Moments",
    "Values",
    "activation_name",
    "bends",
    "checked",
    "edges",
    "evaluate",
    "filled",
    "gaussian_mean",
    "gaussian_moments",
    "legendre",
    "resolve",
]

Values: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[..., Any]

REACH = 12.0  # in units of √q: beyond, the bell holds 4e-33
POINTS = 10  # of the rule on one panel
TOLERANCE = 1e-14  # of a panel, relative to the whole
NOISE = 1e-10  # the same for difference quotients, whose rounding is of this size
ROUNDS, MOST = 50, 2_000  # how often a panel is halved; how many panels may be left to halve (f is noise, if more are)
STEP = 1e-5  # of the difference quotients, in units of the smaller of 1 and √q


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
    """``E f(√q ξ)`` with ``ξ ~ N(0, 1)``.

    Args:
        f: a function of one float64 array, elementwise.
        q: the variance of the argument, ``q >= 0``.

    Returns:
        The average: exact to rounding, also of functions with kinks and jumps.

    Raises:
        ValueError: ``q`` is negative or not finite; ``f`` returns another shape or a value that is not finite.
    """
    return float(_average(lambda z: evaluate(f, z)[None], q)[0])


def gaussian_moments(f: str | Function, q: float = 1.0, **params: Any) -> Moments:
    """``(E φ, E φ², E φ'²)`` of any activation φ at ``z = √q ξ``, ``ξ ~ N(0, 1)``.

    The derivative is that of the operation for a known name, and a difference quotient for any other callable, good to
    about 1e-9 then. Its square at a kink does not matter, except for q = 0: there it is the mean of both sides.

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
    phi, form = filled(f, params), closed(MOMENTS, f)
    if form is not None:
        return Moments(*form(_checked(q), **params))
    slope_square = _slope_square if isinstance(f, str) else _quotient_square
    step = STEP * min(math.sqrt(_checked(q)) or 1.0, 1.0)

    def integrands(z: Values) -> Values:
        value = evaluate(phi, z)
        return np.stack([value, value**2, slope_square(phi, z, step)])

    return Moments(*map(float, _average(integrands, q, np.array([TOLERANCE, TOLERANCE, NOISE]))))


def edges(q: float, steps: int = 24, reach: float = REACH) -> Values:
    """The ends of the panels for ``z ~ N(0, q)``: steps of the bell up to ``reach √q``, and ``bends``."""
    end = reach * math.sqrt(q)
    return np.unique(np.concatenate([np.linspace(-end, end, 2 * steps + 1), bends(end)]))


def bends(end: float) -> Values:
    """Where activations bend and have their kinks: 0 and ± powers of two from 1/8 on, below ``end``."""
    powers = 2.0 ** np.arange(-3, max(math.ceil(math.log2(end)), -3))
    half = powers[powers < end]
    return np.concatenate([-half[::-1], [0.0], half])


def legendre(low: Values, high: Values) -> tuple[Values, Values]:
    """Points and weights of the rule on every panel from ``low`` to ``high``, with one axis more."""
    half = 0.5 * (high - low)[..., None]
    nodes, weights = _rule()
    return 0.5 * (high + low)[..., None] + half * nodes, half * weights


@functools.cache
def _rule() -> tuple[Values, Values]:
    """Nodes and weights on [-1, 1]; made when first used, for NumPy's polynomials take time to load."""
    return np.polynomial.legendre.leggauss(POINTS)


def _average(f: Callable[[Values], Values], q: float, tolerance: Values | float = TOLERANCE) -> Values:
    """``E f(z)`` of an f that gives several rows at once; a panel is settled when it is for every row."""
    at_zero = f(np.zeros(1))[:, 0]  # refuses a pole there, which no point of the rules would meet
    if _checked(q) == 0:
        return at_zero
    ends = edges(q)
    low, high = ends[:-1], ends[1:]
    whole = _panels(f, low, high, q)
    total, size = np.zeros(len(whole)), np.abs(whole).sum(axis=1)
    for _ in range(ROUNDS):
        middle = 0.5 * (low + high)
        left, right = _panels(f, low, middle, q), _panels(f, middle, high, q)
        rough = (np.abs(left + right - whole) > (tolerance * size)[:, None]).any(axis=0)
        total += (left + right)[:, ~rough].sum(axis=1)
        low, high = np.concatenate([low[rough], middle[rough]]), np.concatenate([middle[rough], high[rough]])
        whole = np.concatenate([left[:, rough], right[:, rough]], axis=1)
        if not 0 < low.size <= MOST:
            break
    result: Values = total + whole.sum(axis=1)
    return result


def _panels(f: Callable[[Values], Values], low: Values, high: Values, q: float) -> Values:
    """The part of the average that each panel gives: (rows, panels)."""
    z, weight = legendre(low, high)
    weight = weight * np.exp(-0.5 * (z / math.sqrt(q)) ** 2) / math.sqrt(2 * math.pi * q)
    result: Values = (f(z.ravel()).reshape(-1, *z.shape) * weight).sum(axis=-1)
    return result


def resolve(f: str | Function) -> Function:
    """The function that ``f`` means: that of a known name, or ``f`` itself.

    Raises:
        ValueError: an unknown name; the message suggests the nearest.
        TypeError: neither a name nor a callable; a class, which is not the function that its instances are.
    """
    if isinstance(f, str):
        if f not in ACTIVATIONS:
            raise unknown("activation", f, ACTIVATIONS)
        return ACTIVATIONS[f]
    if isinstance(f, type):
        raise TypeError(f"{f.__name__} is a class; pass its name in small letters, or an instance: {f.__name__}()")
    if not callable(f):
        raise TypeError(f"an activation is a name or a function of an array, got {type(f).__name__}: {f!r}")
    return f


def activation_name(f: str | Function) -> str:
    """``f`` for messages: its name, or the name of the function."""
    return f if isinstance(f, str) else getattr(f, "__name__", type(f).__name__)


def filled(f: str | Function, params: dict[str, Any]) -> Function:
    """The function that ``f`` means, with its parameters filled in.

    Raises:
        TypeError: it has no such parameter.
    """
    function = resolve(f)
    if not params:
        return function
    accepted = _parameters(function)
    for name in params:
        if accepted is not None and name not in accepted:
            listed = ", ".join(accepted) or "no parameters"
            raise TypeError(f"activation {activation_name(f)!r} has no parameter {name!r}; it accepts: {listed}")
    return functools.partial(function, **params)


def _slope_square(phi: Function, z: Values, step: float) -> Values:
    """``φ'(z)²`` by the operation's own rule; of a single z, which may be a kink, the mean of its two sides."""
    if z.size > 1:
        return _slope(phi, z) ** 2
    near = 1e-4 * step  # the rule needs no wide step
    return 0.5 * (_slope(phi, z - near) ** 2 + _slope(phi, z + near) ** 2)


def _slope(phi: Function, z: Values) -> Values:
    """``φ'(z)`` by the operation's own derivative rule."""
    x = Tensor(z, requires_grad=True)
    slope: Values = grad(phi(x).sum(), x).numpy()
    return slope


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
    steps = np.maximum(step, STEP * np.abs(z))  # far out φ changes more slowly, and its rounding is larger
    here = evaluate(phi, z)
    below, above = ((evaluate(phi, z + side * steps) - here) / steps for side in (-1, 1))
    return 0.5 * (below**2 + above**2)


def _checked(q: float) -> float:
    return checked("q is the variance of the pre-activation", q)


def checked(what: str, value: Any) -> float:
    """A number that must be finite and not negative.

    Raises:
        ValueError: it is not finite, or negative.
        TypeError: it is no number.
    """
    try:
        number = float(0.0 + value)  # a text is no number, though float() reads it
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}, a finite number >= 0; got {value!r}") from error
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{what}, a finite number >= 0; got {value!r}")
    return number


def evaluate(f: Function, z: Values) -> Values:
    """``f(z)`` as a float64 array of the shape of ``z``; a result that has ``.numpy()`` (a Tensor) is unpacked.

    Raises:
        TypeError: f does not take an array, or gives something else.
        ValueError: another shape, or values that are not finite.
    """
    name = activation_name(f)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            result = f(z)
        if not isinstance(result, np.ndarray) and hasattr(result, "numpy"):
            result = result.numpy()
        values = np.asarray(result, dtype=np.float64)
    except Exception as error:
        raise TypeError(
            f"activation {name!r} must turn a NumPy array into one, elementwise (np.tanh does, math.tanh does not); "
            f"it raised {type(error).__name__}: {error}"
        ) from error
    if values.shape != z.shape:
        raise ValueError(f"activation {name!r} must be elementwise: it turned shape {z.shape} into {values.shape}")
    if not np.isfinite(values).all():
        where = z[~np.isfinite(values)][0]
        raise ValueError(
            f"activation {name!r} gives {values[~np.isfinite(values)][0]} at {where:.4g}; it must be finite"
        )
    return values
