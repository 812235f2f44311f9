"""Arithmetic, comparison, and the elementary functions: all elementwise, all broadcasting as in NumPy."""

from __future__ import annotations

import math

from minidl.backend import Array, array_module
from minidl.tensor import op

__all__ = [
    "abs",
    "add",
    "clip",
    "divide",
    "equal",
    "exp",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "log",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "power",
    "sign",
    "sqrt",
    "subtract",
    "where",
    "within",
]


@op
def add(a: Array, b: Array) -> Array:
    """``a + b``."""
    return a + b


add.derivative(lambda g, _y, _a, _b: g, lambda g, _y, _a, _b: g)
add.example(lambda draw: (draw.broadcastable(2), {}))


@op
def subtract(a: Array, b: Array) -> Array:
    """``a - b``."""
    return a - b


subtract.derivative(lambda g, _y, _a, _b: g, lambda g, _y, _a, _b: -g)
subtract.example(lambda draw: (draw.broadcastable(2), {}))


@op
def multiply(a: Array, b: Array) -> Array:
    """``a · b``, elementwise."""
    return a * b


multiply.derivative(lambda g, _y, _a, b: g * b, lambda g, _y, a, _b: g * a)
multiply.example(lambda draw: (draw.broadcastable(2), {}))


@op
def divide(a: Array, b: Array) -> Array:
    """``a / b``, elementwise."""
    return a / b


divide.derivative(lambda g, _y, _a, b: g / b, lambda g, y, _a, b: -g * y / b)
divide.example(lambda draw: (draw.broadcastable(2, low=0.5, high=2.0), {}))


@op
def negative(x: Array) -> Array:
    """``-x``."""
    return -x


negative.derivative(lambda g, _y, _x: -g)
negative.example(lambda draw: ((draw.array(),), {}))


@op
def exp(x: Array) -> Array:
    """``e ** x``."""
    return array_module(x).exp(x)


exp.derivative(lambda g, y, _x: g * y)
exp.example(lambda draw: ((draw.array(),), {}))


@op
def log(x: Array) -> Array:
    """Natural logarithm."""
    return array_module(x).log(x)


log.derivative(lambda g, _y, x: g / x)
log.example(lambda draw: ((draw.array(low=0.2, high=3.0),), {}))


@op
def power(a: Array, b: Array) -> Array:
    """``a ** b``, elementwise; the gradient of ``b`` needs ``a > 0``."""
    return a**b


power.derivative(
    lambda g, _y, a, b: g * b * a ** (b - 1 + (b == 0)),  # at b = 0 the derivative is 0, also where a = 0
    lambda g, y, a, _b: g * y * (log(a) if hasattr(a, "shape") else math.log(a)),
)
power.example(lambda draw: (draw.broadcastable(2, low=0.5, high=2.0), {}))
power.example(lambda draw: ((draw.array(), draw.choice([0, 1, 2, 3])), {}))
power.example(lambda draw: ((draw.choice([2, 0.5]), draw.array()), {}))


@op
def sqrt(x: Array) -> Array:
    """Square root; its derivative at 0 is infinite."""
    return array_module(x).sqrt(x)


sqrt.derivative(lambda g, y, _x: g / (2 * y))
sqrt.example(lambda draw: ((draw.array(low=0.2, high=3.0),), {}))


@op(differentiable=False)
def sign(x: Array) -> Array:
    """-1, 0 or 1. Flat everywhere, so it has no derivative of use."""
    return array_module(x).sign(x)


@op
def abs(x: Array) -> Array:
    """``|x|``; the derivative at 0 is taken as 0."""
    return array_module(x).abs(x)


abs.derivative(lambda g, _y, x: g * sign(x))
abs.example(lambda draw: ((draw.array(avoid=(0.0,)),), {}))


@op
def maximum(a: Array, b: Array) -> Array:
    """The larger of two, elementwise; at a tie the gradient goes to the first."""
    return array_module(a if hasattr(a, "shape") else b).maximum(a, b)


maximum.derivative(lambda g, _y, a, b: g * (a >= b), lambda g, _y, a, b: g * (a < b))
maximum.example(lambda draw: (draw.broadcastable(2, apart=True), {}))


@op
def minimum(a: Array, b: Array) -> Array:
    """The smaller of two, elementwise; at a tie the gradient goes to the first."""
    return array_module(a if hasattr(a, "shape") else b).minimum(a, b)


minimum.derivative(lambda g, _y, a, b: g * (a <= b), lambda g, _y, a, b: g * (a > b))
minimum.example(lambda draw: (draw.broadcastable(2, apart=True), {}))


@op(differentiable=False)
def within(x: Array, *, low: float | None = None, high: float | None = None) -> Array:
    """Whether ``low <= x <= high``, elementwise; None is no limit."""
    above = x == x if low is None else x >= low
    return above if high is None else above & (x <= high)


@op
def clip(x: Array, *, low: float | None = None, high: float | None = None) -> Array:
    """``x`` limited to [low, high]; no gradient where it was cut."""
    return array_module(x).clip(x, low, high)


clip.derivative(lambda g, _y, x, low, high: g * within(x, low=low, high=high))
clip.example(lambda draw: ((draw.array(avoid=(-1.0, 0.5)),), {"low": -1.0, "high": 0.5}))
clip.example(lambda draw: ((draw.array(avoid=(0.5,)),), {"high": 0.5}))


@op(method=False)
def where(condition: Array, a: Array, b: Array) -> Array:
    """``a`` where the condition holds, ``b`` elsewhere."""
    return array_module(condition).where(condition, a, b)


where.derivative(None, lambda g, _y, c, _a, _b: g * (c != 0), lambda g, _y, c, _a, _b: g * (c == 0))
where.example(lambda draw: (draw.broadcastable(3, first_boolean=True), {}))


@op(differentiable=False)
def less(a: Array, b: Array) -> Array:
    """``a < b``."""
    return a < b


@op(differentiable=False)
def less_equal(a: Array, b: Array) -> Array:
    """``a <= b``."""
    return a <= b


@op(differentiable=False)
def greater(a: Array, b: Array) -> Array:
    """``a > b``."""
    return a > b


@op(differentiable=False)
def greater_equal(a: Array, b: Array) -> Array:
    """``a >= b``."""
    return a >= b


@op(differentiable=False)
def equal(a: Array, b: Array) -> Array:
    """``a == b``."""
    return a == b


@op(differentiable=False)
def not_equal(a: Array, b: Array) -> Array:
    """``a != b``."""
    return a != b
