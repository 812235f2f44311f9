"""Convolution in two dimensions, by gathering patches into columns and multiplying matrices.

This is the plain version, for every library and all arguments. ``conv_numpy`` has a fast one for ordinary cases on the
host; each operation asks it first.

Three operations are each other's derivatives, so that gradients of any order come free:
``conv2d`` (x, w -> y), ``conv2d_input_grad`` (g, w -> x-shaped; it is also the transposed convolution) and
``conv2d_weight_grad`` (x, g -> w-shaped). Shapes: x (N, C, H, W), w (O, C/groups, kh, kw), y (N, O, H', W') with
``H' = floor((H + 2·padding - dilation·(kh - 1) - 1) / stride) + 1``. As in every framework this is a
cross-correlation: the kernel is not flipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from minidl.backend import Array, array_module
from minidl.ops import conv_numpy
from minidl.ops.reduce import sum
from minidl.tensor import op

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose2d"]

Pair: TypeAlias = int | tuple[int, int]


def pair(value: Pair | Sequence[int]) -> tuple[int, int]:
    """``3`` -> (3, 3): one number serves both axes."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second


def out_length(length: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Number of places at which a kernel fits along an axis.

    Raises:
        ValueError: it fits nowhere.
    """
    span = dilation * (kernel - 1) + 1
    if span > length + 2 * padding:
        raise ValueError(
            f"a kernel that spans {span} does not fit into {length} + 2·{padding} (padding): use a smaller kernel, "
            "more padding, or a larger image"
        )
    return (length + 2 * padding - span) // stride + 1


def _windows(
    kernel: Sequence[int], out: Sequence[int], stride: Pair, dilation: Pair
) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """For every kernel element (i, j): the rows and columns of the padded image that it meets."""
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dh, i * dh + sh * (out[0] - 1) + 1, sh)
            yield i, j, (rows, slice(j * dw, j * dw + sw * (out[1] - 1) + 1, sw))


def _framed(x: Array, padding: Pair) -> Array:
    """A copy of x (N, C, H, W) inside a frame of zeros; x itself if the frame has no width."""
    ph, pw = pair(padding)
    if ph == pw == 0:
        return x
    n, c, h, w = x.shape
    framed = array_module(x).zeros((n, c, h + 2 * ph, w + 2 * pw), x.dtype)
    framed[:, :, ph : ph + h, pw : pw + w] = x
    return framed


def _columns(x: Array, kernel: Sequence[int], out: Sequence[int], stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """Every patch that the kernel sees, as a column: (N, C, kh·kw, H'·W')."""
    x = _framed(x, padding)
    columns = array_module(x).empty((*x.shape[:2], *kernel, *out), x.dtype)
    for i, j, (rows, cols) in _windows(kernel, out, stride, dilation):
        columns[:, :, i, j] = x[:, :, rows, cols]
    return columns.reshape(*x.shape[:2], kernel[0] * kernel[1], out[0] * out[1])


def _grouped_columns(columns: Array, groups: int) -> Array:
    """(N, C, kh·kw, H'·W') -> (N, groups, C/groups·kh·kw, H'·W'): a matrix for every group."""
    n, c, elements, places = columns.shape
    return columns.reshape(n, groups, c // groups * elements, places)


def _grouped_image(g: Array, groups: int) -> Array:
    """(N, O, H', W') -> (N, groups, O/groups, H'·W'): a matrix for every group."""
    n, o, h, w = g.shape
    return g.reshape(n, groups, o // groups, h * w)


def _check_conv(x: Array, w: Array, groups: int) -> None:
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"conv2d needs x (N, C, H, W) and w (O, C/groups, kh, kw); got {x.shape} and {w.shape}")
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"conv2d: input {x.shape} has {x.shape[1]} channels, but weights {w.shape} in {groups} group(s) expect "
            f"{w.shape[1] * groups} channels in and a multiple of {groups} out"
        )


@op
def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Convolution with zero padding: ``y[n, o, p, q] = b[o] + Σ_{c,i,j} w[o, c, i, j] x[n, c, p·s + i·d, q·s + j·d]``.

    Args:
        x: (N, C, H, W).
        w: (O, C/groups, kh, kw).
        b: (O,) or None.
        stride, padding, dilation: one number, or (vertical, horizontal).
        groups: the channels are split into so many independent convolutions.

    Returns:
        (N, O, H', W').
    """
    _check_conv(x, w, groups)
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    kernel = w.shape[2:]
    out = (out_length(x.shape[2], kernel[0], sh, ph, dh), out_length(x.shape[3], kernel[1], sw, pw, dw))
    if conv_numpy.takes(x, w, kernel, (ph, pw), (dh, dw), groups):
        return conv_numpy.conv2d(x, w, b, (sh, sw), (ph, pw), out)
    columns = _grouped_columns(_columns(x, kernel, out, stride, padding, dilation), groups)
    y = (w.reshape(groups, w.shape[0] // groups, -1) @ columns).reshape(x.shape[0], w.shape[0], *out)
    return y if b is None else y + b[:, None, None]


@op(method=False)
def conv2d_input_grad(
    g: Array,
    w: Array,
    *,
    image: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """The gradient of ``conv2d`` for its input: every output hands its value back along the weights that made it.

    Args:
        g: (N, O, H', W'), shaped like the convolution's result.
        w: (O, C/groups, kh, kw).
        image: (H, W) of the input.

    Returns:
        (N, C, H, W).
    """
    ph, pw = pair(padding)
    if conv_numpy.takes(g, w, w.shape[2:], (ph, pw), pair(dilation), groups):
        return conv_numpy.conv2d_input_grad(g, w, pair(image), pair(stride), (ph, pw))
    n, (h, width), kernel, out = g.shape[0], image, w.shape[2:], g.shape[2:]
    matrices = w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2)
    columns = (matrices @ _grouped_image(g, groups)).reshape(n, w.shape[1] * groups, *kernel, *out)
    framed = array_module(g).zeros((n, w.shape[1] * groups, h + 2 * ph, width + 2 * pw), g.dtype)
    for i, j, (rows, cols) in _windows(kernel, out, stride, dilation):
        framed[:, :, rows, cols] += columns[:, :, i, j]
    return framed[:, :, ph : ph + h, pw : pw + width]


@op(method=False)
def conv2d_weight_grad(
    x: Array,
    g: Array,
    *,
    kernel: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """The gradient of ``conv2d`` for its weights: the product of what came in with what came back, over all places.

    Args:
        x: (N, C, H, W).
        g: (N, O, H', W').
        kernel: (kh, kw).

    Returns:
        (O, C/groups, kh, kw).
    """
    if conv_numpy.takes(x, g, kernel, pair(padding), pair(dilation), groups):
        return conv_numpy.conv2d_weight_grad(x, g, kernel, pair(stride), pair(padding))
    columns = _grouped_columns(_columns(x, kernel, g.shape[2:], stride, padding, dilation), groups)
    products = _grouped_image(g, groups) @ columns.swapaxes(2, 3)  # (N, groups, O/groups, C/groups·kh·kw)
    return products.sum(axis=0).reshape(g.shape[1], x.shape[1] // groups, *kernel)


conv2d.derivative(
    lambda g, _y, x, w, _b=None, **how: conv2d_input_grad(g, w, image=x.shape[2:], **how),
    lambda g, _y, x, w, _b=None, **how: conv2d_weight_grad(x, g, kernel=w.shape[2:], **how),
    lambda g, _y, _x, _w, _b=None, **how: sum(g, axis=(0, 2, 3)),
)
conv2d_input_grad.derivative(
    lambda u, _y, _g, w, image, **how: conv2d(u, w, **how),
    lambda u, _y, g, w, image, **how: conv2d_weight_grad(u, g, kernel=w.shape[2:], **how),
)
conv2d_weight_grad.derivative(
    lambda u, _y, x, g, kernel, **how: conv2d_input_grad(g, u, image=x.shape[2:], **how),
    lambda u, _y, x, _g, kernel, **how: conv2d(x, u, **how),
)


def conv_transpose2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Any:
    """Transposed convolution: the map that ``conv2d`` applies backwards, used forwards.

    Args:
        x: (N, in, H, W).
        w: (in, out/groups, kh, kw).
        b: (out,) or None.
        output_padding: extra rows and columns at the bottom and right, smaller than the stride.

    Returns:
        (N, out, H', W') with ``H' = (H - 1)·stride - 2·padding + dilation·(kh - 1) + output_padding + 1``.

    Raises:
        ValueError: shapes that do not fit, or so much output padding that ``conv2d`` would not lead back to x's shape.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[0]:
        raise ValueError(f"conv_transpose2d: input {x.shape} does not fit weights (in, out/groups, kh, kw) = {w.shape}")
    if any(extra >= s for extra, s in zip(pair(output_padding), pair(stride), strict=True)):
        raise ValueError(f"output_padding {output_padding} must be smaller than the stride {stride}, on both axes")
    per_axis = zip(
        x.shape[2:], w.shape[2:], pair(stride), pair(padding), pair(output_padding), pair(dilation), strict=True
    )
    image = [(n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, extra, d in per_axis]
    y = conv2d_input_grad(x, w, image=image, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return y if b is None else y + b[:, None, None]


def _conv_example(draw: Any) -> Any:
    groups = draw.choice([1, 2])
    stride, dilation = draw.choice([1, 2, (2, 1)]), draw.choice([1, (1, 2)])
    x, w = draw.array((2, 2 * groups, 5, 6)), draw.array((2 * groups, 2, 2, 3))
    return (x, w), {"stride": stride, "padding": draw.choice([0, 1, (2, 1)]), "dilation": dilation, "groups": groups}


def _out_of(x: Any, w: Any, how: dict[str, Any]) -> tuple[int, int]:
    per_axis = zip(
        x.shape[2:], w.shape[2:], pair(how["stride"]), pair(how["padding"]), pair(how["dilation"]), strict=True
    )
    rows, cols = (out_length(n, k, s, p, d) for n, k, s, p, d in per_axis)
    return rows, cols


def _input_grad_example(draw: Any) -> Any:
    (x, w), how = _conv_example(draw)
    return (draw.array((2, w.shape[0], *_out_of(x, w, how))), w), {"image": x.shape[2:], **how}


def _weight_grad_example(draw: Any) -> Any:
    (x, w), how = _conv_example(draw)
    return (x, draw.array((2, w.shape[0], *_out_of(x, w, how)))), {"kernel": w.shape[2:], **how}


conv2d.example(_conv_example)
conv2d.example(lambda draw: ((draw.array((1, 2, 3, 3)), draw.array((3, 2, 2, 2)), draw.array((3,))), {}))
conv2d_input_grad.example(_input_grad_example)
conv2d_weight_grad.example(_weight_grad_example)
