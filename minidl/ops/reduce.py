"""Reductions over axes: sum, mean, variance, extremes, log-sum-exp, and their yes/no relatives.

They have NumPy's names, so here, and where they are imported, ``sum`` and ``max`` are the operations and not Python's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

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
    y = _image_sum(x, axis, keepdims)
    if y is None:
        y = x.sum(axis=axis, keepdims=keepdims)
    return y, x.shape


sum.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g, kept, axis))
sum.example(_axis_example)


@op(keeps=True)
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Mean over ``axis``."""
    y = _image_sum(x, axis, keepdims)
    y = x.mean(axis=axis, keepdims=keepdims) if y is None else y / _count(x.shape, axis)
    return y, x.shape


mean.derivative(lambda g, _y, _x, axis, keepdims, kept: _spread(g / _count(kept, axis), kept, axis))
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


# ------------------------------------------------------------------------------- images on NumPy in channels-last order
#
# Between the layers of a convolutional network an image (N, C, H, W) lies in memory as (N, H, W, C). What belongs to
# one channel is then C numbers apart, where NumPy's own reductions take ten times as long as a product with ones.

ROW = 4096  # numbers in a row: long enough for NumPy to be quick, short enough for several rows to stay in the cache


def is_host_float(x: Array) -> bool:
    """Whether ``x`` is a NumPy array of float32 or float64: what the fast forms on the host are made for."""
    return type(x) is np.ndarray and x.dtype.char in "fd"


def channels_last(x: Array) -> Array:
    """The view (N, H, W, C) of an image (N, C, H, W), or a vector batch (N, C) as it is."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def channel_rows(x: Array) -> Array:
    """A host array (N, C) or (N, C, H, W) as rows of k·C numbers: k pixels, each with all its channels.

    A view where the memory is channels-last, else a copy. A vector with one number per channel, repeated k times, is
    then as long as a row: what is done per channel becomes one operation on long rows.
    """
    pixels = np.ascontiguousarray(channels_last(x))
    return pixels.reshape(-1, _row_length(pixels.size // x.shape[1], x.shape[1]))


@functools.lru_cache(maxsize=256)
def _row_length(pixels: int, channels: int) -> int:
    """The longest row of at most ROW numbers that holds whole pixels and divides their number."""
    together = next((k for k in range(ROW // channels, 1, -1) if pixels % k == 0), 1)
    return together * channels


def from_channel_rows(rows: Array, shape: Sequence[int]) -> Array:
    """The reverse of ``channel_rows``: a view of logical ``shape`` whose memory is channels-last."""
    n, c, *places = shape
    y = rows.reshape(n, *places, c)
    return y.transpose(0, 3, 1, 2) if places else y


def row_sum(rows: Array) -> Array:
    """The sum of all rows, as a product with ones."""
    return np.ones(len(rows), rows.dtype) @ rows


def _image_sum(x: Array, axis: Axis, keepdims: bool) -> Array | None:
    """The sum over all places, or over all but the channels, of a channels-last image; None for anything else."""
    if not is_host_float(x) or x.ndim != 4 or x.size == 0 or not isinstance(axis, (tuple, list)):
        return None
    axes = set(_axes(axis, 4))
    pixels = channels_last(x)
    if axes not in ({2, 3}, {0, 2, 3}) or not pixels.flags.c_contiguous:
        return None
    n, c, h, w = x.shape
    if axes == {2, 3}:
        y = (np.ones((1, h * w), x.dtype) @ pixels.reshape(n, h * w, c)).reshape(n, c)
        return y[:, :, None, None] if keepdims else y
    y = row_sum(row_sum(channel_rows(x)).reshape(-1, c))
    return y[None, :, None, None] if keepdims else y
