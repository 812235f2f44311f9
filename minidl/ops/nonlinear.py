"""Activation functions and softmax, each in a form that neither overflows nor loses its derivative."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import threads
from minidl.backend import Array, array_module
from minidl.ops.arithmetic import exp, within
from minidl.ops.reduce import is_host_float, sum
from minidl.ops.shape import concat
from minidl.tensor import op

__all__ = [
    "ACTIVATIONS",
    "crelu",
    "elu",
    "erf",
    "gelu",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_softmax",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
]


def identity(x: Any) -> Any:
    """``x`` itself: the linear unit."""
    return x


@op
def sigmoid(x: Array) -> Array:
    """``1 / (1 + e^-x)``, written so that the exponent is never positive."""
    xp = array_module(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-xp.abs(x)))


sigmoid.derivative(lambda g, y, _x: g * y * (1 - y))
sigmoid.example(lambda draw: ((draw.array(),), {}))


@op
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return array_module(x).tanh(x)


tanh.derivative(lambda g, y, _x: g * (1 - y * y))
tanh.example(lambda draw: ((draw.array(),), {}))


@op
def relu(x: Array) -> Array:
    """``max(x, 0)``; the derivative at 0 is taken as 0."""
    if is_host_float(x) and x.size >= LARGE:
        return _relu_on_host(x)
    return array_module(x).maximum(x, 0)


def _relu_rule(g: Any, y: Any, _x: Any) -> Any:
    if is_host_float(g) and is_host_float(y) and g.dtype == y.dtype and g.shape == y.shape:
        return _relu_grad_on_host(g, y)
    return g * (y > 0)


relu.derivative(_relu_rule)
relu.example(lambda draw: ((draw.array(avoid=(0.0,)),), {}))


@op
def leaky_relu(x: Array, *, negative_slope: float = 0.01) -> Array:
    """``x`` where positive, ``negative_slope · x`` elsewhere."""
    return array_module(x).where(x > 0, x, negative_slope * x)


leaky_relu.derivative(lambda g, _y, x, negative_slope: g * (x > 0) + negative_slope * g * (x <= 0))
leaky_relu.example(lambda draw: ((draw.array(avoid=(0.0,)),), {"negative_slope": 0.2}))


def _exp_part(x: Any) -> Any:
    """``e^x`` where x is negative, 1 elsewhere; for rules, on arrays and Tensors."""
    return exp(x * (x < 0))


@op
def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """``x`` where positive, ``alpha (e^x - 1)`` elsewhere."""
    xp = array_module(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


elu.derivative(lambda g, _y, x, alpha: g * ((x > 0) + (x <= 0) * _exp_part(x) * alpha))
elu.example(lambda draw: ((draw.array(avoid=(0.0,)),), {"alpha": 0.7}))

# Klambauer et al. 2017, "Self-Normalizing Neural Networks": the pair that makes mean 0, variance 1 a fixed point
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


@op
def selu(x: Array) -> Array:
    """``1.0507 · elu(x, alpha=1.6733)``: keeps mean 0 and variance 1 under LeCun-normal weights."""
    xp = array_module(x)
    return SELU_SCALE * xp.where(x > 0, x, SELU_ALPHA * xp.expm1(xp.minimum(x, 0)))


selu.derivative(lambda g, _y, x: SELU_SCALE * g * ((x > 0) + (x <= 0) * _exp_part(x) * SELU_ALPHA))
selu.example(lambda draw: ((draw.array(avoid=(0.0,)),), {}))

# Rational approximations of erf and erfc: W. J. Cody 1969, "Rational Chebyshev approximations for the error function",
# Math. Comp. 23, 631-637 (highest power first). Below 0.46875 in x², above it in |x|.
_ERF_P = (1.85777706184603153e-1, 3.16112374387056560, 113.864154151050156, 377.485237685302021, 3209.37758913846947)
_ERF_Q = (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062)
_ERFC_P = (
    2.15311535474403846e-8,
    0.564188496988670089,
    8.88314979438837594,
    66.1191906371416295,
    298.635138197400131,
    881.952221241769090,
    1712.04761263407058,
    2051.07837782607147,
    1230.33935479799725,
)
_ERFC_Q = (
    1.0,
    15.7449261107098347,
    117.693950891312499,
    537.181101862009858,
    1621.38957456669019,
    3290.79923573345963,
    4362.61909014324716,
    3439.36767414372164,
    1230.33935480374942,
)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, highest power first."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


@op
def erf(x: Array) -> Array:
    """The error function ``2/√π ∫₀ˣ e^-t² dt``, to the precision of the dtype."""
    xp = array_module(x)
    size = xp.minimum(xp.abs(x), 6)  # erf(6) is 1 to the last bit of float64
    square = xp.minimum(size, 0.5) ** 2
    small = x * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)
    large = xp.sign(x) * (1 - xp.exp(-size * size) * _polynomial(_ERFC_P, size) / _polynomial(_ERFC_Q, size))
    return xp.where(size <= 0.46875, small, large)


erf.derivative(lambda g, _y, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))
erf.example(lambda draw: ((draw.array(),), {}))


@op
def gelu(x: Array) -> Array:
    """``x Φ(x)``, Φ the normal distribution function (the exact form, not the tanh approximation)."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


gelu.derivative(lambda g, _y, x: g * ((1 + erf(x / math.sqrt(2))) / 2 + x * exp(-x * x / 2) / math.sqrt(2 * math.pi)))
gelu.example(lambda draw: ((draw.array(),), {}))


@op
def silu(x: Array) -> Array:
    """``x · sigmoid(x)``, also called swish."""
    return x * sigmoid(x)


silu.derivative(lambda g, _y, x: g * sigmoid(x) * (1 + x * sigmoid(-x)))
silu.example(lambda draw: ((draw.array(),), {}))


@op
def softplus(x: Array) -> Array:
    """``log(1 + e^x)``."""
    xp = array_module(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


softplus.derivative(lambda g, _y, x: g * sigmoid(x))
softplus.example(lambda draw: ((draw.array(),), {}))


@op
def softsign(x: Array) -> Array:
    """``x / (1 + |x|)``."""
    return x / (1 + array_module(x).abs(x))


softsign.derivative(lambda g, _y, x: g / (1 + abs(x)) ** 2)
softsign.example(lambda draw: ((draw.array(avoid=(0.0,)),), {}))


@op
def hard_tanh(x: Array) -> Array:
    """``x`` limited to [-1, 1]."""
    return array_module(x).clip(x, -1, 1)


hard_tanh.derivative(lambda g, _y, x: g * within(x, low=-1.0, high=1.0))
hard_tanh.example(lambda draw: ((draw.array(avoid=(-1.0, 1.0)),), {}))


def crelu(x: Any, axis: int = 1) -> Any:
    """``relu(x)`` and ``relu(-x)`` side by side along the channel axis: twice the channels, nothing lost."""
    return concat(relu(x), relu(-x), axis=axis)


@op
def softmax(x: Array, *, axis: int = -1) -> Array:
    """``e^x / Σ e^x`` along ``axis``, shifted by the largest element."""
    xp = array_module(x)
    y = xp.exp(x - x.max(axis=axis, keepdims=True))
    return y / y.sum(axis=axis, keepdims=True)


softmax.derivative(lambda g, y, _x, axis: y * (g - sum(g * y, axis=axis, keepdims=True)))
softmax.example(lambda draw: ((draw.array((3, 4)),), {"axis": draw.choice([0, 1, -1])}))


@op
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """``log softmax(x)`` without forming the quotient, so that small probabilities keep their digits."""
    xp = array_module(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))


log_softmax.derivative(lambda g, y, _x, axis: g - exp(y) * sum(g, axis=axis, keepdims=True))
log_softmax.example(lambda draw: ((draw.array((3, 4)),), {"axis": draw.choice([0, 1, -1])}))


#: The activations, by the name of the layer that ``nn`` makes of each (``nn.Tanh`` and so on).
ACTIVATIONS: dict[str, Any] = {
    "CReLU": crelu,
    "ELU": elu,
    "Erf": erf,
    "GELU": gelu,
    "HardTanh": hard_tanh,
    "Identity": identity,
    "LeakyReLU": leaky_relu,
    "ReLU": relu,
    "SELU": selu,
    "SiLU": silu,
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Softsign": softsign,
    "Tanh": tanh,
}


# ------------------------------------------------------------------------------------------------ relu on NumPy, fast

LARGE = 1 << 14  # numbers
SHARE = 1 << 18  # numbers worth a thread


def _relu_on_host(x: Array) -> Array:
    """``max(x, 0)`` of a large array: NumPy compares with a row of zeros in a third of the time of a number."""
    y = np.empty_like(x)  # in the same order in memory, so that both are one long vector
    values, out, zeros = x.ravel(order="K"), y.ravel(order="K"), np.zeros(LARGE, x.dtype)

    def part(start: int, stop: int) -> None:
        whole = stop - (stop - start) % LARGE
        rows = (-1, LARGE)
        np.maximum(values[start:whole].reshape(rows), zeros, out=out[start:whole].reshape(rows))
        np.maximum(values[whole:stop], zeros[: stop - whole], out=out[whole:stop])

    threads.share(part, x.size, least=SHARE)
    return y


def _relu_grad_on_host(g: Array, y: Array) -> Array:
    """``g`` where ``y > 0``; large arrays that lie alike in memory are shared by the threads."""
    if y.size < 2 * SHARE or g.strides != y.strides:
        return only_where(y > 0, g)
    dx = np.empty_like(y)
    values, slopes, out = (array.ravel(order="K") for array in (y, g, dx))
    threads.share(lambda i, j: only_where(values[i:j] > 0, slopes[i:j], out=out[i:j]), y.size, least=SHARE)
    return dx


def only_where(mask: Array, g: Array, out: Array | None = None) -> Array:
    """``g`` where ``mask`` holds, 0 elsewhere.

    On the host the bits of a number, as an integer, are multiplied by 0 or 1: quicker in NumPy than float · bool.
    """
    if not is_host_float(g):
        return array_module(g).multiply(g, mask, out=out)
    bits = "i4" if g.dtype.itemsize == 4 else "i8"
    y = np.multiply(g.view(bits), mask.view("i1"), out=None if out is None else out.view(bits))
    return y.view(g.dtype)
