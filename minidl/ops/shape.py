"""Operations that move elements about and never change them: reshape, transpose, index, join, pad, copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl.backend import Array, array_module, device_of, to_device
from minidl.tensor import op

__all__ = [
    "astype",
    "broadcast_to",
    "circular_pad",
    "concat",
    "copy_to",
    "flatten",
    "getitem",
    "pad",
    "reshape",
    "scatter_add",
    "stack",
    "sum_to",
    "swap_last_axes",
    "transpose",
]


@op(keeps=True)
def reshape(x: Array, *, shape: int | Sequence[int]) -> Array:
    """The same elements in another shape; one length may be -1."""
    return x.reshape(shape), x.shape


reshape.derivative(lambda g, _y, _x, shape, kept: reshape(g, shape=kept))
reshape.example(lambda draw: ((draw.array((2, 3, 4)),), {"shape": draw.choice([(6, 4), (-1,), (4, 2, 3)])}))


def flatten(x: Any, start_axis: int = 1) -> Any:
    """All axes from ``start_axis`` on as one: (N, C, H, W) -> (N, C·H·W)."""
    kept = x.shape[:start_axis]
    return reshape(x, shape=(*kept, math.prod(x.shape[start_axis:])))


@op
def transpose(x: Array, *, axes: Sequence[int] | None = None) -> Array:
    """The axes in another order; reversed without ``axes``."""
    return array_module(x).transpose(x, axes)


transpose.derivative(lambda g, _y, _x, axes: transpose(g, axes=_inverse(axes)))
transpose.example(
    lambda draw: ((draw.array((2, 3, 4)),), {"axes": draw.choice([None, (1, 2, 0), (0, 2, 1), (-1, 0, 1)])})
)


def _inverse(axes: Sequence[int] | None) -> Sequence[int] | None:
    """The order that undoes ``axes``."""
    if axes is None:
        return None
    places = [axis % len(axes) for axis in axes]
    return [places.index(i) for i in range(len(places))]


def swap_last_axes(x: Any) -> Any:
    """The last two axes exchanged: a matrix, or each matrix of a batch, transposed."""
    return transpose(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@op
def broadcast_to(x: Array, *, shape: Sequence[int]) -> Array:
    """``x`` repeated along new or length-1 axes until it has ``shape``."""
    return array_module(x).broadcast_to(x, tuple(shape))


broadcast_to.derivative(lambda g, _y, _x, shape: g)
broadcast_to.example(lambda draw: ((draw.array((3, 1)),), {"shape": (2, 3, 4)}))


@op(keeps=True)
def sum_to(x: Array, *, shape: Sequence[int]) -> Array:
    """The reverse of broadcasting: sum ``x`` over the axes along which ``shape`` was repeated.

    Raises:
        ValueError: no array of ``shape`` broadcasts to the shape of ``x``.
    """
    extra = x.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1))
    y = x.sum(axis=axes, keepdims=True).reshape(shape) if extra >= 0 and _reduces_to(x.shape[extra:], shape) else None
    if y is None:
        raise ValueError(f"a gradient of shape {x.shape} cannot come from an argument of shape {tuple(shape)}")
    return y, x.shape


def _reduces_to(full: Sequence[int], shape: Sequence[int]) -> bool:
    return all(n in (1, m) for n, m in zip(shape, full, strict=True))


sum_to.derivative(lambda g, _y, _x, shape, kept: broadcast_to(g, shape=kept))
sum_to.example(lambda draw: ((draw.array((2, 3, 4)),), {"shape": draw.choice([(3, 1), (1, 4), (2, 1, 4), ()])}))


@op(keeps=True)
def getitem(x: Array, *, index: Any) -> Array:
    """``x[index]``: slices, integers, None, Ellipsis, and integer or boolean arrays, as in NumPy."""
    return x[index], x.shape


@op(method=False)
def scatter_add(x: Array, *, index: Any, shape: Sequence[int]) -> Array:
    """Zeros of ``shape`` with ``x`` added at ``index``; what is named twice gets both."""
    xp = array_module(x)
    y = xp.zeros(shape, x.dtype)
    if _names_each_once(index):
        y[index] = x
    else:
        xp.add.at(y, index, x)
    return y


def _names_each_once(index: Any) -> bool:
    """Whether an index is made of slices and integers alone, so that no element can be named twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in parts)


getitem.derivative(lambda g, _y, _x, index, kept: scatter_add(g, index=index, shape=kept))
getitem.example(
    lambda draw: ((draw.array((4, 5)),), {"index": (slice(1, None, 2), draw.choice([0, -1, None, slice(3)]))})
)
getitem.example(lambda draw: ((draw.array((4, 5)),), {"index": (draw.integers((3, 2), 4),)}))
getitem.example(lambda draw: ((draw.array((4, 5)),), {"index": (draw.integers((3,), 4), draw.integers((3,), 5))}))

scatter_add.derivative(lambda g, _y, _x, index, shape: getitem(g, index=index))
scatter_add.example(lambda draw: ((draw.array((3, 5)),), {"index": draw.integers((3,), 4), "shape": (4, 5)}))
scatter_add.example(lambda draw: ((draw.array((2, 5)),), {"index": slice(1, 3), "shape": (4, 5)}))


@op(keeps=True, method=False)
def concat(*xs: Array, axis: int = 0) -> Array:
    """Arrays joined along an existing axis; ``concat([a, b])`` or ``concat(a, b)``."""
    return array_module(xs[0]).concatenate(xs, axis=axis), [x.shape[axis] for x in xs]


def _concat_rule(g: Any, _y: Any, *_xs: Any, needs: Sequence[bool], axis: int, kept: list[int]) -> list[Any]:
    grads, start = [], 0
    before = (slice(None),) * (axis % g.ndim)
    for length, needed in zip(kept, needs, strict=True):
        end = start + length
        grads.append(getitem(g, index=(*before, slice(start, end))) if needed else None)
        start = end
    return grads


concat.joint_derivative(_concat_rule)
concat.example(
    lambda draw: ((draw.array((2, 3)), draw.array((2, 1)), draw.array((2, 2))), {"axis": draw.choice([1, -1])})
)


@op(method=False)
def stack(*xs: Array, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    return array_module(xs[0]).stack(xs, axis=axis)


def _stack_rule(g: Any, _y: Any, *_xs: Any, needs: Sequence[bool], axis: int) -> list[Any]:
    before = (slice(None),) * (axis % g.ndim)
    return [getitem(g, index=(*before, i)) if needed else None for i, needed in enumerate(needs)]


stack.joint_derivative(_stack_rule)
stack.example(lambda draw: ((draw.array((2, 3)), draw.array((2, 3))), {"axis": draw.choice([0, 1, -1])}))


@op(keeps=True)
def pad(x: Array, *, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """``x`` framed by ``value``: ``widths`` holds (before, after) per axis."""
    return array_module(x).pad(x, widths, constant_values=value), x.shape


pad.derivative(
    lambda g, _y, _x, widths, value, kept: getitem(
        g, index=tuple(slice(before, before + n) for (before, _), n in zip(widths, kept, strict=True))
    )
)
pad.example(lambda draw: ((draw.array((2, 3)),), {"widths": ((1, 0), (0, 2)), "value": 0.5}))


def circular_pad(x: Any, widths: Sequence[tuple[int, int]]) -> Any:
    """``x`` continued periodically on every axis: each side is taken from the opposite one.

    Raises:
        ValueError: a width is larger than its axis.
    """
    for axis, (before, after) in enumerate(widths):
        n = x.shape[axis]
        if max(before, after) > n:
            raise ValueError(f"circular padding of {max(before, after)} exceeds axis {axis} of length {n}")
        rest = (slice(None),) * axis
        parts = [getitem(x, index=(*rest, slice(n - before, n))), x, getitem(x, index=(*rest, slice(0, after)))]
        x = concat(*parts, axis=axis) if before or after else x
    return x


@op(keeps=True)
def astype(x: Array, *, dtype: Any) -> Array:
    """``x`` with elements of another type."""
    return x.astype(dtype), x.dtype


astype.derivative(lambda g, _y, _x, dtype, kept: astype(g, dtype=kept))
astype.example(lambda draw: ((draw.array(),), {"dtype": "float64"}))


@op(keeps=True)
def copy_to(x: Array, *, device: str) -> Array:
    """``x`` on another device, "cpu" or "gpu"."""
    return to_device(x, device), device_of(x)


copy_to.derivative(lambda g, _y, _x, device, kept: copy_to(g, device=kept))
copy_to.example(lambda draw: ((draw.array(),), {"device": "cpu"}))
