"""Reductions over axes: sum, mean, variance, extremes, log-sum-exp, and their yes/no relatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from minidl.backend import Array, array_module
from minidl.ops.arithmetic import exp
from minidl.ops.shape import broadcast_to, reshape
from minidl.tensor import op

__all__ = ["all", "any", "argmax", "argmin", "logsumexp", "max", "mean", "min", "sum", "var"]

Axis: TypeAlias = int | Sequence[int] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The reduced axes, counted from the front; None means all."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in ((axis,) if isinstance(axis, int) else axis))


def _spread(g: Any, shape: Sequence[int], axis: Axis) -> Any:
    """The value of each reduced group back at every one of its members."""
    axes = _axes(axis, len(shape))
    return broadcast_to(reshape(g, shape=tuple(1 if i in axes else n for i, n in enumerate(shape))), shape=shape)


def _axis_example(draw: Any, **limits: Any) -> Any:
    axis = draw.choice([None, 0, -1, (0, 2), (1,)])
    return (draw.array((3, 2, 4), **limits),), {"axis": axis, "keepdims": draw.choice([True, False])}


@op(keeps=True)
def sum(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over ``axis`` (an axis, several, or all)."""
    return x.sum(axis=axis, keepdims=keepdims), x.shape


sum.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g, kept, axis))
sum.example(_axis_example)


@op(keeps=True)
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Mean over ``axis``."""
    return x.mean(axis=axis, keepdims=keepdims), x.shape


mean.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g, kept, axis) / _count(kept, axis))
mean.example(_axis_example)


def _count(shape: Sequence[int], axis: Axis) -> int:
    return math.prod(shape[a] for a in _axes(axis, len(shape)))


@op
def var(x: Array, *, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Array:
    """Variance over ``axis``: mean squared distance from the mean, over n - ``ddof``."""
    return x.var(axis=axis, keepdims=keepdims, ddof=ddof)


def _var_rule(g: Any, _y: Any, x: Any, axis: Axis, keepdims: bool, ddof: int) -> Any:  # noqa: ARG001
    centred = x - mean(x, axis=axis, keepdims=True)
    return _spread(g, x.shape, axis) * centred * (2 / (_count(x.shape, axis) - ddof))


var.derivative(_var_rule)
var.example(lambda draw: (lambda args, static: (args, {**static, "ddof": draw.choice([0, 1])}))(*_axis_example(draw)))


def _first_extreme(x: Array, axis: Axis, largest: bool) -> Array:
    """Mask of the first largest (or smallest) element of every group."""
    xp = array_module(x)
    axes = _axes(axis, x.ndim)
    last = tuple(range(x.ndim - len(axes), x.ndim))
    groups = xp.moveaxis(x, axes, last)
    flat = groups.reshape(*groups.shape[: x.ndim - len(axes)], -1)
    place = flat.argmax(axis=-1) if largest else flat.argmin(axis=-1)
    mask = xp.arange(flat.shape[-1]) == place[..., None]
    return xp.moveaxis(mask.reshape(groups.shape), last, axes)


@op(keeps=True)
def max(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest element over ``axis``; the gradient of a tie goes to the first."""
    return x.max(axis=axis, keepdims=keepdims), _first_extreme(x, axis, largest=True)


@op(keeps=True)
def min(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Smallest element over ``axis``; the gradient of a tie goes to the first."""
    return x.min(axis=axis, keepdims=keepdims), _first_extreme(x, axis, largest=False)


max.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g, kept.shape, axis) * kept)
min.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g, kept.shape, axis) * kept)
max.example(lambda draw: _axis_example(draw, distinct=True))
min.example(lambda draw: _axis_example(draw, distinct=True))


@op
def logsumexp(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """``log Σ exp x`` over ``axis``, shifted by the largest element so that nothing overflows."""
    xp = array_module(x)
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # all -inf: shift by 0, not by -inf
    y = xp.log(xp.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return y if keepdims else y.reshape(x.sum(axis=axis).shape)


def _logsumexp_rule(g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:  # noqa: ARG001
    return _spread(g, x.shape, axis) * exp(x - _spread(y, x.shape, axis))


logsumexp.derivative(_logsumexp_rule)
logsumexp.example(_axis_example)


@op(differentiable=False)
def argmax(x: Array, *, axis: int | None = None) -> Array:
    """Index of the (first) largest element."""
    return x.argmax(axis=axis)


@op(differentiable=False)
def argmin(x: Array, *, axis: int | None = None) -> Array:
    """Index of the (first) smallest element."""
    return x.argmin(axis=axis)


@op(differentiable=False)
def all(x: Array, *, axis: Axis = None) -> Array:
    """Whether all elements are true."""
    return x.all(axis=axis)


@op(differentiable=False)
def any(x: Array, *, axis: Axis = None) -> Array:
    """Whether any element is true."""
    return x.any(axis=axis)
