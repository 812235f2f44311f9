"""Pooling over windows of an image: the largest value, or the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import threads
from minidl.backend import Array, array_module
from minidl.ops.conv import Pair, out_length, pair
from minidl.ops.nonlinear import only_where
from minidl.ops.reduce import channels_last, is_host_float, mean
from minidl.tensor import op

__all__ = ["avg_pool2d", "global_avg_pool2d", "max_pool2d", "window_gather", "window_scatter", "window_spread"]


def _places(
    x: Array, kernel: Pair, stride: Pair | None, padding: Pair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and output size of a pooling; the stride defaults to the kernel."""
    if x.ndim != 4:
        raise ValueError(f"pooling needs images (N, C, H, W); got shape {x.shape}")
    k, s, p = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    if p[0] * 2 > k[0] or p[1] * 2 > k[1]:
        raise ValueError(
            f"pooling with padding {p} and kernel {k}: a window may not lie in the padding by more than half"
        )
    return k, s, (out_length(x.shape[2], k[0], s[0], p[0]), out_length(x.shape[3], k[1], s[1], p[1]))


@op(keeps=True)
def max_pool2d(x: Array, *, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> Array:
    """The largest value of every window (N, C, H, W) -> (N, C, H', W'); padding is never the largest.

    Ties go to the first maximum in reading order, so that the gradient is not counted twice. The largest of a window is
    the largest of its rows' largest: first along W, then along H, which takes kh + kw comparisons and not kh·kw.
    """
    (kh, kw), (sh, sw), (h, w) = _places(x, kernel_size, stride, padding)
    framed = _in_frame(x, padding, -math.inf)
    columns = _like(x, (framed.shape[2], w), "int8" if kw < 128 else "int16")  # which element of its row won
    rows = _like(x, (h, w), "int8" if kh < 128 else "int16")  # and which row
    y = _like(x, (h, w))

    def pool(part: slice) -> None:
        across, columns[part] = _largest(framed[part], 3, kw, sw, w)
        y[part], rows[part] = _largest(across, 2, kh, sh, h)

    _by_images(pool, x)
    return y, (rows, columns)


def _largest(x: Array, axis: int, kernel: int, stride: int, length: int) -> tuple[Array, Array | int]:
    """The largest of every ``kernel`` neighbours along an axis, and which of them it is: the first at a tie."""
    xp = array_module(x)
    best, which = _neighbour(x, axis, 0, stride, length), 0
    for i in range(1, kernel):
        candidate = _neighbour(x, axis, i, stride, length)
        larger = candidate > best
        which = larger if i == 1 else xp.maximum(which, larger.astype("int8" if kernel < 128 else "int16") * i)
        best = xp.maximum(best, candidate)
    return best, which


@op(method=False)
def window_scatter(
    g: Array,
    *,
    place: tuple[Array, Array],
    image: Sequence[int],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
) -> Array:
    """Each value of ``g`` (N, C, H', W') added at one element of its window, in zeros (N, C, *image).

    ``place``: the row of the window (N, C, H', W'), and for every row of the padded image the column (N, C, ·, W').
    """
    (kh, kw), (sh, sw) = pair(kernel_size), pair(kernel_size if stride is None else stride)
    rows, columns = place
    framed, y = _around(columns, image, padding, g.dtype)
    g = _ordered_like(rows, g)

    def scatter(part: slice) -> None:
        across = _like(columns[part], columns.shape[2:], g.dtype)
        _hand_back(g[part], rows[part], 2, kh, sh, across)
        _hand_back(across, columns[part], 3, kw, sw, framed[part])

    _by_images(scatter, framed)
    return y


def _hand_back(g: Array, which: Array | None, axis: int, kernel: int, stride: int, out: Array) -> None:
    """Each value of ``g`` to element ``which`` of its neighbours along an axis of ``out``; None: to all of them."""
    if (stride, out.shape[axis]) != (kernel, kernel * g.shape[axis]):  # else each element is written exactly once
        out[...] = 0
    for i in range(kernel):
        target = out[_along(axis, i, stride, g.shape[axis])]
        if stride < kernel:
            target += g if which is None else only_where(which == i, g)
        elif which is None:
            _copy(g, target, axis)
        elif axis == 3 and _pixels(target) is not None:
            _copy(only_where(which == i, g), target, axis)
        else:
            only_where(which == i, g, target)


@op(method=False)
def window_gather(
    x: Array,
    *,
    place: tuple[Array, Array],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
) -> Array:
    """The element ``place`` of every window of ``x``: the reverse of ``window_scatter``."""
    (kh, kw), (sh, sw) = pair(kernel_size), pair(kernel_size if stride is None else stride)
    rows, columns = place
    return _taken(_taken(_in_frame(x, padding, 0), columns, 3, kw, sw), rows, 2, kh, sh)


def _taken(x: Array, which: Array, axis: int, kernel: int, stride: int) -> Array:
    """Of every ``kernel`` neighbours along an axis the one that ``which`` says."""
    y = array_module(x).zeros_like(x, shape=which.shape)
    for i in range(kernel):
        y += _neighbour(x, axis, i, stride, y.shape[axis]) * (which == i)
    return y


max_pool2d.derivative(lambda g, _y, x, kept, **how: window_scatter(g, place=kept, image=x.shape[2:], **how))
window_scatter.derivative(lambda g, _y, _x, place, image, **how: window_gather(g, place=place, **how))
window_gather.derivative(lambda g, _y, x, place, **how: window_scatter(g, place=place, image=x.shape[2:], **how))


@op
def avg_pool2d(x: Array, *, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> Array:
    """The mean of every window; padding counts as zeros, as in PyTorch's default."""
    (kh, kw), (sh, sw), (h, w) = _places(x, kernel_size, stride, padding)
    framed, y = _in_frame(x, padding, 0), _like(x, (h, w))

    def pool(part: slice) -> None:
        y[part] = _total(_total(framed[part], 2, kh, sh, h), 3, kw, sw, w) / (kh * kw)

    _by_images(pool, x)
    return y


def _total(x: Array, axis: int, kernel: int, stride: int, length: int) -> Array:
    """The sum of every ``kernel`` neighbours along an axis."""
    total = _neighbour(x, axis, 0, stride, length)
    for i in range(1, kernel):
        total = total + _neighbour(x, axis, i, stride, length)
    return total


@op(method=False)
def window_spread(
    g: Array, *, image: Sequence[int], kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Array:
    """Each value of ``g`` shared equally by its window: the gradient of ``avg_pool2d``."""
    (kh, kw), (sh, sw) = pair(kernel_size), pair(kernel_size if stride is None else stride)
    framed, y = _around(g, image, padding, g.dtype)

    def spread(part: slice) -> None:
        across = _like(framed[part], (framed.shape[2], g.shape[3]))
        _hand_back(g[part] / (kh * kw), None, 2, kh, sh, across)
        _hand_back(across, None, 3, kw, sw, framed[part])

    _by_images(spread, framed)
    return y


avg_pool2d.derivative(lambda g, _y, x, **how: window_spread(g, image=x.shape[2:], **how))
window_spread.derivative(lambda g, _y, _x, image, **how: avg_pool2d(g, **how))


# ---------------------------------------------------------------------------------------------- moving through images

BLOCK = 1 << 17  # numbers of an image that go through all passes while they are in the cache
SHARE = 1 << 18  # numbers worth a thread
SMALL = 64  # bytes of a pixel that is copied whole


def _by_images(work: Callable[[slice], None], x: Array) -> None:
    """``work`` on slices of the batch; on the host they fit into the cache and are divided among the threads."""
    if not is_host_float(x) or x.size <= BLOCK:
        work(slice(None))
        return
    step = max(1, len(x) * BLOCK // x.size)

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            work(slice(i, min(i + step, stop)))

    threads.share(part, len(x), least=max(1, len(x) * SHARE // x.size))


def _like(x: Array, image: Sequence[int], dtype: Any = None) -> Array:
    """An empty array for images of another size, in the memory order of ``x``."""
    return array_module(x).empty_like(x, dtype=dtype, shape=(*x.shape[:2], *image))


def _ordered_like(x: Array, g: Array) -> Array:
    """``g`` in the memory order of ``x``: on the host a copy costs less than passes over two orders at once."""
    if not is_host_float(g) or all(a * x.itemsize == b * g.itemsize for a, b in zip(g.strides, x.strides, strict=True)):
        return g
    ordered = _like(x, x.shape[2:], g.dtype)
    ordered[...] = g
    return ordered


def _in_frame(x: Array, padding: Pair, value: float) -> Array:
    """A copy of x (N, C, H, W), in its memory order, inside a frame of ``value``; x itself if that has no width."""
    ph, pw = pair(padding)
    if ph == pw == 0:
        return x
    h, w = x.shape[2:]
    framed = _like(x, (h + 2 * ph, w + 2 * pw))
    framed[...] = value
    framed[:, :, ph : ph + h, pw : pw + w] = x
    return framed


def _around(like: Array, image: Sequence[int], padding: Pair, dtype: Any) -> tuple[Array, Array]:
    """An empty framed image in the memory order of ``like``, and the view of it without the frame."""
    ph, pw = pair(padding)
    framed = _like(like, (image[0] + 2 * ph, image[1] + 2 * pw), dtype)
    return framed, framed[:, :, ph : ph + image[0], pw : pw + image[1]]


def _along(axis: int, i: int, stride: int, length: int) -> tuple[slice, ...]:
    """Index of the i-th element of every window along an axis."""
    return (*(slice(None),) * axis, slice(i, i + stride * (length - 1) + 1, stride))


def _neighbour(x: Array, axis: int, i: int, stride: int, length: int) -> Array:
    """The i-th element of every window along an axis; packed where a view would be slow to read."""
    part = x[_along(axis, i, stride, length)]
    if axis == 2 or stride == 1 or _pixels(part) is None:
        return part
    packed = np.empty_like(part)
    _copy(part, packed, axis)
    return packed


def _copy(source: Array, target: Array, axis: int) -> None:
    """``target[...] = source``; small pixels whole, several times as fast as number by number."""
    pixels = (_pixels(source), _pixels(target)) if axis == 3 else (None, None)
    if pixels[0] is None or pixels[1] is None:
        target[...] = source
    else:
        pixels[1][...] = pixels[0]


def _pixels(x: Array) -> Array | None:
    """An image on the host whose few channels lie side by side, as whole pixels (N, H, W); else None."""
    if not is_host_float(x) or x.size == 0 or x.strides[1] != x.itemsize or x.shape[1] * x.itemsize > SMALL:
        return None
    return channels_last(x).view(f"V{x.shape[1] * x.itemsize}")[..., 0]


def global_avg_pool2d(x: Any) -> Any:
    """The mean over all places: (N, C, H, W) -> (N, C)."""
    return mean(x, axis=(2, 3))


def _pool_example(draw: Any, **limits: Any) -> Any:
    how = {
        "kernel_size": draw.choice([2, (3, 2)]),
        "stride": draw.choice([None, 1, (2, 1)]),
        "padding": draw.choice([0, 1]),
    }
    return (draw.array((2, 2, 5, 6), **limits),), how


def _place_example(draw: Any) -> tuple[tuple[Any, Any], dict[str, Any]]:
    how = {"kernel_size": 2, "stride": draw.choice([1, 2])}
    h, w = (4, 5) if how["stride"] == 1 else (2, 3)
    place = draw.integers((1, 2, h, w), 2), draw.integers((1, 2, 5, w), 2)
    return (draw.array((1, 2, h, w)), draw.array((1, 2, 5, 6))), {"place": place, **how}


def _window_scatter_example(draw: Any) -> Any:
    (g, _), how = _place_example(draw)
    return (g,), {"image": (5, 6), **how}


def _window_gather_example(draw: Any) -> Any:
    (_, x), how = _place_example(draw)
    return (x,), how


max_pool2d.example(lambda draw: _pool_example(draw, distinct=True))
avg_pool2d.example(_pool_example)
window_scatter.example(_window_scatter_example)
window_gather.example(_window_gather_example)
window_spread.example(lambda draw: ((draw.array((1, 2, 4, 5)),), {"image": (5, 6), "kernel_size": 2, "stride": 1}))
