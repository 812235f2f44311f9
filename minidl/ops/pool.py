"""Pooling over windows of an image: the largest value, or the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.backend import Array, array_module
from minidl.ops.conv import Pair, _framed, _windows, out_length, pair
from minidl.ops.reduce import mean
from minidl.tensor import op

__all__ = ["avg_pool2d", "global_avg_pool2d", "max_pool2d", "window_gather", "window_scatter", "window_spread"]


def _places(
    x: Array, kernel: Pair, stride: Pair | None, padding: Pair
) -> tuple[tuple[int, int], Pair, tuple[int, int]]:
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

    Ties go to the first maximum in reading order, so that the gradient is not counted twice.
    """
    xp = array_module(x)
    kernel, stride, out = _places(x, kernel_size, stride, padding)
    lowest = xp.asarray(-xp.inf, x.dtype)
    framed = x if pair(padding) == (0, 0) else xp.pad(x, _frame(padding), constant_values=-xp.inf)
    best = xp.full((*x.shape[:2], *out), lowest, x.dtype)
    place = xp.zeros(best.shape, "int16")  # which window element won
    for i, j, (rows, cols) in _windows(kernel, out, stride, 1):
        candidate = framed[:, :, rows, cols]
        place = xp.where(candidate > best, i * kernel[1] + j, place).astype("int16")
        best = xp.maximum(best, candidate)
    return best, place


def _frame(padding: Pair) -> tuple[tuple[int, int], ...]:
    ph, pw = pair(padding)
    return (0, 0), (0, 0), (ph, ph), (pw, pw)


@op(method=False)
def window_scatter(
    g: Array, *, place: Array, image: Sequence[int], kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Array:
    """Each value of ``g`` (N, C, H', W') added at the element ``place`` of its window, in zeros (N, C, *image)."""
    kernel, (ph, pw) = pair(kernel_size), pair(padding)
    framed = array_module(g).zeros((*g.shape[:2], image[0] + 2 * ph, image[1] + 2 * pw), g.dtype)
    for i, j, (rows, cols) in _windows(kernel, g.shape[2:], kernel_size if stride is None else stride, 1):
        framed[:, :, rows, cols] += g * (place == i * kernel[1] + j)
    return framed[:, :, ph : ph + image[0], pw : pw + image[1]]


@op(method=False)
def window_gather(x: Array, *, place: Array, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> Array:
    """The element ``place`` of every window of ``x``: the reverse of ``window_scatter``."""
    kernel = pair(kernel_size)
    framed = _framed(x, padding)
    y = array_module(x).zeros(place.shape, x.dtype)
    for i, j, (rows, cols) in _windows(kernel, place.shape[2:], kernel_size if stride is None else stride, 1):
        y += framed[:, :, rows, cols] * (place == i * kernel[1] + j)
    return y


max_pool2d.derivative(lambda g, _y, x, kept, **how: window_scatter(g, place=kept, image=x.shape[2:], **how))
window_scatter.derivative(lambda g, _y, _x, place, image, **how: window_gather(g, place=place, **how))
window_gather.derivative(lambda g, _y, x, place, **how: window_scatter(g, place=place, image=x.shape[2:], **how))


@op
def avg_pool2d(x: Array, *, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> Array:
    """The mean of every window; padding counts as zeros, as in PyTorch's default."""
    kernel, stride, out = _places(x, kernel_size, stride, padding)
    framed = _framed(x, padding)
    total = array_module(x).zeros((*x.shape[:2], *out), x.dtype)
    for _, _, (rows, cols) in _windows(kernel, out, stride, 1):
        total += framed[:, :, rows, cols]
    return total / (kernel[0] * kernel[1])


@op(method=False)
def window_spread(
    g: Array, *, image: Sequence[int], kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Array:
    """Each value of ``g`` shared equally by its window: the gradient of ``avg_pool2d``."""
    kernel, (ph, pw) = pair(kernel_size), pair(padding)
    framed = array_module(g).zeros((*g.shape[:2], image[0] + 2 * ph, image[1] + 2 * pw), g.dtype)
    share = g / (kernel[0] * kernel[1])
    for _, _, (rows, cols) in _windows(kernel, g.shape[2:], kernel_size if stride is None else stride, 1):
        framed[:, :, rows, cols] += share
    return framed[:, :, ph : ph + image[0], pw : pw + image[1]]


avg_pool2d.derivative(lambda g, _y, x, **how: window_spread(g, image=x.shape[2:], **how))
window_spread.derivative(lambda g, _y, _x, image, **how: avg_pool2d(g, **how))


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
    out = (4, 5) if how["stride"] == 1 else (2, 3)
    return (draw.array((1, 2, *out)), draw.array((1, 2, 5, 6))), {"place": draw.integers((1, 2, *out), 4), **how}


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
