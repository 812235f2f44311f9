"""Convolution on the host, fast: a few large matrix products on views of channels-last images.

``conv.py`` sends NumPy arrays here; its plain versions say what these functions compute, and test them: a first
reading of minidl passes over this file. Images are
(N, C, H, W) outside and (N, H, W, C) in memory, *rows* of W·C numbers. Four ideas:

1. *Along W, a window is a view.* kw neighbouring pixels are one run of kw·C numbers. Every ``phases``-th window
   overlaps none of the others, so that such windows are an ordinary matrix, and so are the places of their results:
   ``np.matmul`` reads and writes them where they are. Where channels are few, a window makes q results at once.
2. *Along H, products are saved* (Toom-Cook; in neural networks known as Winograd): ``step`` results of a kernel of k
   rows need step + k - 1 products, not step·k: y = out @ ((kern @ w) * (into @ x)) with three tiny matrices.
3. *A stride is a change of shape.* Along W windows begin sw pixels apart. Along H the rows that are sh apart are an
   image of their own; sh kernels of ⌈kh/sh⌉ rows see them with stride 1, and their results are added up.
4. *A chunk of work fits into the cache*, and a product is small enough for OpenBLAS to skip its packing. Each thread
   takes a part of the batch and keeps its scratch memory.

The gradient for the input is a convolution of g with the kernel turned round, whose results are s neighbouring pixels;
the one for the weights is the same product with x's windows transposed. An infinite pixel may make NaN of the results
within a tile's height, not of its own windows alone. Sources: Winograd 1980, "Arithmetic Complexity of Computations";
Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minidl import threads
from minidl.backend import Array

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "takes"]

Ints: TypeAlias = tuple[int, int]
DType: TypeAlias = np.dtype[Any]

VALUES = 6  # products per tile: 4 rows of results for a kernel of 3 rows, 2 for one of 5
# Where the polynomials are evaluated, infinity besides. Their powers shall spread little: with the usual ±1 and ±2
# instead of ±0.6 and ±1.5 the rounding error is half as large again.
POINTS = {1: [0.0], 2: [0.0, 1.0], 3: [0.0, 1.0, -1.0], 4: [0.0, 0.6, -0.6, 1.5], 5: [0.0, 0.6, -0.6, 1.5, -1.5]}
CHUNK = 2 << 20  # bytes of scratch that stay in a core's cache
PRODUCT = 1_000_000  # multiplications up to which OpenBLAS takes its kernel for small matrices
LEAST = 48  # rows a product should have; where PRODUCT allows fewer, packing costs less
LONGEST = 512
SHARED = 4_000_000  # multiplications that are worth a thread of their own: about twice what handing over costs
COLUMN = 250  # multiplications that take as long as moving a column of a value in and out


def takes(x: Array, w: Array, kernel: Sequence[int], padding: Ints, dilation: Ints, groups: int) -> bool:
    """Whether these functions handle such arrays and arguments; if not, the plain versions do."""
    return (
        type(x) is type(w) is np.ndarray
        and x.dtype == w.dtype
        and x.dtype in (np.float32, np.float64)
        and x.size * w.size > 0
        and dilation == (1, 1)
        and groups == 1
        and padding[0] < kernel[0]
        and padding[1] < kernel[1]
    )


# ------------------------------------------------------------------------------------------------------- the layout


@functools.cache
def _transforms(step: int, kernel: int, dtype: DType) -> tuple[Array, Array, Array]:
    """The matrices (into, kern, out) by which ``step`` sliding products with a kernel become one product each."""
    if step == 1:
        return np.eye(kernel, dtype=dtype), np.eye(kernel, dtype=dtype), np.ones((1, kernel), dtype)
    values = step + kernel - 1

    def powers(count: int) -> Array:  # so many coefficients -> the polynomial's values; at infinity the last of them
        finite = [[point**i for i in range(count)] for point in POINTS[values - 1]]
        return np.array([*finite, [0.0] * (count - 1) + [1.0]])

    into = np.linalg.inv(powers(values)).T
    size = np.linalg.norm(into, axis=1, keepdims=True)
    into, kern, out = (np.ascontiguousarray(m, dtype) for m in (into / size, powers(kernel) * size, powers(step).T))
    return into, kern, out


@dataclass(frozen=True)
class Grid:
    """A correlation of images of ``c`` channels with results of ``o`` channels, windows ``pace`` pixels apart.

    ``wide`` columns of ``pace`` pixels of scratch hold a row of ``row`` numbers, behind ``left`` zeros; the next row's
    zeros are this one's right end too. A window that begins in the last columns runs over into the next row: its result
    is never read.
    ``split`` rows of the source are one group, or ``made`` rows of results: idea 3, forwards and backwards.
    """

    c: int
    o: int
    kh: int
    kw: int
    pace: int
    row: int
    left: int
    wide: int
    top: int  # the first row that the first tile sees, negative in the padding
    groups: int  # groups of rows of results
    out_row: int  # numbers in a row of results
    split: int
    made: int

    @functools.cached_property
    def step(self) -> int:
        """Groups of rows that one tile makes: what needs the fewest products."""
        steps = range(1, max(1, min(VALUES - self.kh + 1, self.groups)) + 1) if self.kh > 1 else [1]
        return min(steps, key=lambda step: -(-self.groups // step) * (step + self.kh - 1))

    @functools.cached_property
    def values(self) -> int:
        """Products per tile, group member by group member."""
        return self.step + self.kh - 1

    @functools.cached_property
    def tiles(self) -> int:
        """Tiles of an image, from top to bottom."""
        return -(-self.groups // self.step)

    @functools.cached_property
    def q(self) -> int:
        """Results along W of one window: the narrower the matrices, the more."""
        q = 1
        while (((q - 1) * self.pace + self.kw) * self.c < 8 and q * self.o < 48) or (q * self.o < 8 and q < 16):
            q *= 2
        return q

    @functools.cached_property
    def span(self) -> int:
        """Pixels in a window."""
        return (self.q - 1) * self.pace + self.kw

    @functools.cached_property
    def every(self) -> int:
        """Columns between windows of one phase: the first multiple of q without overlap."""
        return -(-self.span // (self.q * self.pace)) * self.q

    def cut(self, columns: int) -> Ints:
        """(parts, m) of products with m windows each."""
        windows = -(-columns // self.every)
        most = PRODUCT // (self.span * self.c * self.q * self.o)
        parts = -(-windows // (LONGEST if most < LEAST else min(most, LONGEST)))
        return parts, -(-windows // parts)

    def cut_taps(self, columns: int) -> Ints:
        """(parts, m) of products with m neighbouring pixels each."""
        most = PRODUCT // (self.c * self.o)
        parts = 1 if most < LEAST else -(-columns // most)
        return parts, -(-columns // parts)

    def length(self, columns: int) -> int:
        """Columns of scratch, so that no window reaches beyond it."""
        (parts, m), (taps, long) = self.cut(columns), self.cut_taps(columns)
        return max(parts * m * self.every, taps * long) + -(-self.span // self.pace)

    @functools.cached_property
    def by_taps(self) -> bool:
        """Whether the gradient of the weights multiplies pixels, column by column of the kernel, instead of windows."""
        return self.q == 1 and self.c >= 16

    def chunks(self, images: slice, members: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
        """Images and tiles whose scratch, with so many members on the side of the results, fits into the cache."""
        tile = self.values * self.wide * (self.split * self.pace * self.c + members * self.o) * itemsize
        fit, many = max(1, CHUNK // tile), images.stop - images.start
        for part in _even(many, max(1, fit // self.tiles)):
            for tiles in _even(self.tiles, fit):
                yield slice(images.start + part.start, images.start + part.stop), tiles

    def into(self, dtype: DType) -> Array:
        """(split·values, split·values): the values of each member's rows, which alternate."""
        matrix = _transforms(self.step, self.kh, dtype)[0]
        return _alternating(matrix, self.split)

    def out(self, dtype: DType) -> Array:
        """(made·step, ·): the rows of results, alternating if they are several; members of the source are added up."""
        matrix = _transforms(self.step, self.kh, dtype)[2]
        return np.tile(_alternating(matrix.T, self.made).T, (1, self.split))


@functools.lru_cache(maxsize=256)
def _grid(*sizes: int) -> Grid:
    return Grid(*sizes)


def _alternating(matrix: Array, members: int) -> Array:
    """(e, i) -> (members·e, i·members): each member's block is the matrix, on columns that take turns."""
    if members == 1:
        return matrix
    e, i = matrix.shape
    return np.einsum("ei,ab->aeib", matrix, np.eye(members, dtype=matrix.dtype)).reshape(members * e, i * members)


def _even(length: int, most: int) -> Iterator[slice]:
    """``range(length)`` in the fewest parts of at most ``most``, all about the same."""
    parts = -(-length // most)
    for i in range(parts):
        yield slice(length * i // parts, length * (i + 1) // parts)


# ---------------------------------------------------------------------------------------------- scratch and its views


def _view(array: Array, shape: tuple[int, ...], strides: tuple[int, ...], start: int = 0) -> Array:
    """A view of a contiguous array, strides and start in elements. NumPy checks that it stays inside."""
    size = array.itemsize
    return np.ndarray(shape, array.dtype, array, start * size, tuple(s * size for s in strides))


class Side:
    """Scratch (members, values, length, c) for one side of the products, and the views of it that a chunk needs.

    ``rows`` (images, tiles, members·values, width) are the numbers of every row, ``gaps`` everything else.
    """

    def __init__(self, grid: Grid, memory: Array, members: int, c: int, chunk: Ints, inside: Ints) -> None:
        (images, tiles), (start, width) = chunk, inside
        self.columns = columns = images * tiles * grid.wide
        self.c, self.line, self.shape = c, grid.length(columns) * c, (members, grid.values)
        self.array = memory[: members * grid.values * self.line]
        row = grid.wide * c
        shape, strides = (images, tiles, members * grid.values, width), (tiles * row, row, self.line, 1)
        self.rows = _view(self.array, shape, strides, start)
        lines = self.array.reshape(members * grid.values, self.line)
        inner = lines[:, : columns * c].reshape(members * grid.values, images * tiles, row)
        gaps = lines[:, columns * c :], inner[:, :, :start], inner[:, :, start + width :]
        self.gaps = [gap for gap in gaps if gap.size]

    def windows(self, grid: Grid, width: int) -> Array:
        """Matrices (members, values, parts, phases, m, width): idea 1."""
        (parts, m), (members, values), line = grid.cut(self.columns), self.shape, self.line
        every = grid.every * self.c
        strides = (values * line, line, m * every, grid.q * self.c, every, 1)
        return _view(self.array, (members, values, parts, grid.every // grid.q, m, width), strides)

    def taps(self, grid: Grid, count: int, width: int) -> Array:
        """Matrices (members, values, count, parts, m, width): all columns, seen from each of ``count`` pixels."""
        (parts, m), (members, values), line = grid.cut_taps(self.columns), self.shape, self.line
        strides = (values * line, line, width, m * self.c, self.c, 1)
        return _view(self.array, (members, values, count, parts, m, width), strides)


class Workspace:
    """What a chunk of (images, tiles) needs: one side for the images' values, one for the results', and the matrices.

    For the gradient of the weights (``members`` = 0) the matrices are x's, turned round, g's and their products.
    """

    def __init__(self, memory: Memory, grid: Grid, chunk: Ints, members: int, dtype: DType) -> None:
        line = grid.values * grid.length(chunk[0] * chunk[1] * grid.wide)
        column, many = grid.pace * grid.c, max(members, 1)
        images = memory.array(0, grid.split * line * column, dtype)
        self.images = Side(grid, images, grid.split, column, chunk, (grid.left, grid.row))
        results = memory.array(1, many * line * grid.o, dtype)
        self.results = Side(grid, results, many, grid.o, chunk, (0, grid.out_row))
        if not members and grid.by_taps:
            self.a, self.b = self.images.taps(grid, grid.kw, grid.c), self.results.taps(grid, 1, grid.o)
        else:
            self.a = self.images.windows(grid, grid.span * grid.c)
            self.b = self.results.windows(grid, grid.q * grid.o)
        if not members:
            self.a = self.a.swapaxes(-1, -2)
            shape = (*self.a.shape[:5], self.b.shape[5])
            self.products = memory.array(2, math.prod(shape), dtype)[: math.prod(shape)].reshape(shape)


class Memory:
    """Scratch of one part of a call, used again by later calls: as much as the largest needed, and views by shape."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[int, DType], Array] = {}
        self.workspaces: dict[Any, Workspace] = {}

    def array(self, role: int, size: int, dtype: DType) -> Array:
        """At least ``size`` numbers; each role has its own."""
        kept = self.arrays.get((role, dtype))
        if kept is None or kept.size < size:
            self.workspaces.clear()  # they would keep the smaller one alive
            kept = self.arrays[role, dtype] = np.empty(size, dtype)
        return kept

    def workspace(self, grid: Grid, chunk: Ints, members: int, dtype: DType) -> Workspace:
        """The workspace of a shape, made when first asked for."""
        key = (grid, chunk, members, dtype)
        found = self.workspaces.get(key)
        if found is None:
            if len(self.workspaces) >= 256:
                self.workspaces.clear()
            found = self.workspaces[key] = Workspace(self, grid, chunk, members, dtype)
        return found


_free: list[Memory] = []  # not in use now; taking and giving back is one step for the interpreter


def _take() -> Memory:
    try:
        return _free.pop()
    except IndexError:
        return Memory()


# ------------------------------------------------------------------------------------------------------- the products

# A call that waits to be made. All are prepared first: a thread that would prepare its own holds the interpreter, for
# which the others wait at their next call; this cost more than the second thread brought.
Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]


def _run(grid: Grid, images: int, calls: Callable[[Memory, slice], Iterator[Call]]) -> None:
    """Make the calls for all images, in parts that share out the images among the threads."""
    columns = grid.tiles * grid.values * grid.split * grid.made * grid.wide
    least = max(1, SHARED // (columns * (grid.kw * grid.c * grid.o + COLUMN)))
    parts = list(_even(images, max(least, -(-images // threads.count()))))
    memories = [_take() for _ in parts]
    try:
        prepared = [list(calls(memory, part)) for memory, part in zip(memories, parts, strict=True)]

        def work(first: int, stop: int) -> None:
            for part in prepared[first:stop]:
                for function, arguments in part:
                    function(*arguments)

        threads.share(work, len(parts))
    finally:
        _free.extend(reversed(memories))


def _zero(side: Side) -> Iterator[Call]:
    for gap in side.gaps:
        yield gap.fill, (0,)


def _spread(matrix: Array, x: Array, step: int, start: int, out: Array) -> Iterator[Call]:
    """``out[n, t, e] = Σ_i matrix[e, i] x[n, start + t·step + i]`` for rows x (n, H, ·); rows outside are zero."""
    (n, h, row), taps, tiles = x.shape, matrix.shape[1], out.shape[1]
    first = min(tiles, max(0, -(start // step)))
    last = min(tiles, max(first, (h - start - taps) // step + 1))
    if last > first:
        strides = (h * row, step * row, row, 1)
        inside = _view(x, (n, last - first, taps, row), strides, (start + first * step) * row)
        yield np.matmul, (matrix, inside, out[:, first:last])
    for t in (*range(first), *range(last, tiles)):
        top = start + t * step
        low, high = max(0, top), min(h, top + taps)
        if low < high:
            yield np.matmul, (matrix[:, low - top : high - top], x[:, low:high], out[:, t])
        else:
            yield out[:, t].fill, (0,)


def _gather(matrix: Array, values: Array, y: Array) -> Iterator[Call]:
    """``y[n, t·step + s] = Σ_e matrix[s, e] values[n, t, e]`` for rows y (n, H', ·); the last tile may hang over."""
    step, whole = matrix.shape[0], y.shape[1] // matrix.shape[0]
    if whole:
        yield np.matmul, (matrix, values[:, :whole], y[:, : whole * step].reshape(len(y), whole, step, -1))
    rest = y[:, whole * step :]
    if rest.shape[1]:
        yield np.matmul, (matrix[: rest.shape[1]], values[:, whole], rest)


def _stage(grid: Grid, x: Array, into: Array, first: int, side: Side) -> Iterator[Call]:
    """The values of rows x (n, H, ·) from tile ``first`` on, with zeros around them."""
    yield from _zero(side)
    step = grid.split * grid.step
    yield from _spread(into, x, step, grid.top + first * step, side.rows)


def _kernel_values(grid: Grid, w: Array) -> Array:
    """Weights (a, kh, kw, c, o) -> (a, values, 1, 1, span·c, q·o), the kernel q times, each time one pace further."""
    kern = _transforms(grid.step, grid.kh, w.dtype)[1]
    u = (kern @ w.reshape(len(w), grid.kh, -1)).reshape(len(w), grid.values, grid.kw, grid.c, grid.o)
    if grid.q > 1:
        shifted = np.zeros((len(w), grid.values, grid.span, grid.c, grid.q, grid.o), w.dtype)
        for i in range(grid.q):
            shifted[:, :, i * grid.pace : i * grid.pace + grid.kw, :, i] = u
        u = shifted
    return u.reshape(len(w), grid.values, 1, 1, grid.span * grid.c, grid.q * grid.o)


def _correlate(grid: Grid, x: Array, w: Array, bias: Array | None, y: Array) -> None:
    """Rows x (N, H, ·) and weights (a, kh, kw, c, o) -> rows y (N, H', ·), with a row of biases added."""
    u, into, out = _kernel_values(grid, w), grid.into(x.dtype), grid.out(x.dtype)
    step = grid.made * grid.step

    def calls(memory: Memory, part: slice) -> Iterator[Call]:
        for images, tiles in grid.chunks(part, len(u), x.itemsize):
            chunk = images.stop - images.start, tiles.stop - tiles.start
            space = memory.workspace(grid, chunk, len(u), x.dtype)
            yield from _stage(grid, x[images], into, tiles.start, space.images)
            yield np.matmul, (space.a, u, space.b)
            rows = y[images, tiles.start * step : tiles.stop * step]
            yield from _gather(out, space.results.rows, rows)
            if bias is not None:
                yield np.add, (rows, bias, rows)

    _run(grid, len(x), calls)


def _correlate_weights(grid: Grid, x: Array, g: Array) -> Array:
    """Rows x (N, H, ·) and g (N, H', ·) -> the gradient of the weights (split, kh, kw, c, o)."""
    _, kern, out = _transforms(grid.step, grid.kh, x.dtype)
    into, spread = grid.into(x.dtype), np.ascontiguousarray(out.T)
    sums: list[Array] = []  # of every chunk

    def calls(memory: Memory, part: slice) -> Iterator[Call]:
        for images, tiles in grid.chunks(part, 1, x.itemsize):
            chunk = images.stop - images.start, tiles.stop - tiles.start
            space = memory.workspace(grid, chunk, 0, x.dtype)
            yield from _stage(grid, x[images], into, tiles.start, space.images)
            yield from _zero(space.results)
            yield from _spread(spread, g[images], grid.step, tiles.start * grid.step, space.results.rows)
            yield np.matmul, (space.a, space.b, space.products)
            axes = (3,) if grid.by_taps else (2, 3)
            sums.append(np.empty([n for i, n in enumerate(space.products.shape) if i not in axes], x.dtype))
            yield np.add.reduce, (space.products, axes, None, sums[-1])

    _run(grid, len(x), calls)
    u = functools.reduce(np.add, sums)
    if not grid.by_taps:  # of each window's q results those of the same pixel
        u = u.reshape(grid.split, grid.values, grid.span, grid.c, grid.q, grid.o)
        starts = enumerate(range(0, grid.q * grid.pace, grid.pace))
        u = functools.reduce(np.add, [u[:, :, j : j + grid.kw, :, i] for i, j in starts])
    return (kern.T @ u.reshape(grid.split, grid.values, -1)).reshape(grid.split, grid.kh, grid.kw, grid.c, grid.o)


# ------------------------------------------------------------------------------------------------------- the three


def _rows(x: Array) -> Array:
    """(N, C, H, W) -> (N, H, W·C); a copy only if it lies otherwise in memory."""
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n, h, w * c)


def _images(n: int, c: int, h: int, w: int, dtype: DType) -> tuple[Array, Array]:
    """New images (N, C, H, W), and their rows (N, H, W·C)."""
    rows = np.empty((n, h, w * c), dtype)
    return rows.reshape(n, h, w, c).transpose(0, 3, 1, 2), rows


def _forward_grid(x: Array, kernel: Sequence[int], stride: Ints, padding: Ints, out: Ints, o: int) -> Grid:
    (_, c, _, w), (sh, sw), (ph, pw) = x.shape, stride, padding
    wide = -(-(pw + w) // sw)
    kh, kw = -(-kernel[0] // sh), kernel[1]
    return _grid(c, o, kh, kw, sw, w * c, pw * c, wide, -ph, out[0], out[1] * o, sh, 1)


def _split_kernel(w: Array, stride: Ints, before: Ints = (0, 0), size: Ints | None = None) -> Array:
    """(O, C, kh, kw) -> (sh, ⌈kh/sh⌉, ⌈kw/sw⌉, sw, C, O), with zeros before and after the kernel."""
    (o, c, kh, kw), (sh, sw), (top, left) = w.shape, stride, before
    bh, bw = size or (-(-kh // sh), -(-kw // sw))
    framed = np.zeros((bh * sh, bw * sw, c, o), w.dtype)
    framed[top : top + kh, left : left + kw] = w.transpose(2, 3, 1, 0)
    return framed.reshape(bh, sh, bw, sw, c, o).swapaxes(0, 1)


def _pixels(x: Array, stride: Ints = (1, 1)) -> Array:
    """Every s-th pixel of (N, C, H, W) -> (N, ·, C)."""
    rows = np.ascontiguousarray(x[:, :, :: stride[0], :: stride[1]].transpose(0, 2, 3, 1))
    return rows.reshape(len(rows), -1, rows.shape[3])


def _of_one_pixel(kernel: Sequence[int]) -> bool:
    return tuple(kernel) == (1, 1)


def _matmul(a: Array, b: Array, out: Array) -> None:
    """(N, P, K) @ (K, M), shared."""

    def part(first: int, stop: int) -> None:
        np.matmul(a[first:stop], b, out=out[first:stop])

    threads.share(part, len(a), max(1, SHARED * len(a) // (a.size * b.shape[1])))


def conv2d(x: Array, w: Array, b: Array | None, stride: Ints, padding: Ints, out: Ints) -> Array:
    """``conv.conv2d``: x (N, C, H, W), w (O, C, kh, kw), b (O,) or None -> (N, O, H', W') with (H', W') = ``out``."""
    bias = None if b is None else np.tile(b, out[1])
    y, rows = _images(x.shape[0], w.shape[0], *out, x.dtype)
    if _of_one_pixel(w.shape[2:]):
        _matmul(_pixels(x, stride), w[:, :, 0, 0].T, rows.reshape(len(rows), -1, len(w)))
        if bias is not None:
            rows += bias
        return y
    grid = _forward_grid(x, w.shape[2:], stride, padding, out, w.shape[0])
    kernel = _split_kernel(w, (stride[0], 1)).reshape(grid.split, grid.kh, grid.kw, grid.c, grid.o)
    _correlate(grid, _rows(x), kernel, bias, rows)
    return y


def conv2d_input_grad(g: Array, w: Array, image: Ints, stride: Ints, padding: Ints) -> Array:
    """``conv.conv2d_input_grad``: row u·s + a of the result meets kernel row a + p - s·e in row u + e of g."""
    if _of_one_pixel(w.shape[2:]):
        return _input_grad_of_one_pixel(g, w[:, :, 0, 0], image, stride)
    (n, o, _, ow), (_, c, kh, kw) = g.shape, w.shape
    low = [-((k - 1 - p) // s) for k, p, s in zip((kh, kw), padding, stride, strict=True)]
    high = [(s - 1 + p) // s for p, s in zip(padding, stride, strict=True)]
    before = [s * e - p for s, e, p in zip(stride, high, padding, strict=True)]
    size = [b - a + 1 for a, b in zip(low, high, strict=True)]
    split = _split_kernel(w, stride, (before[0], before[1]), (size[0], size[1]))[:, ::-1, ::-1]
    kernel = np.ascontiguousarray(split.transpose(0, 1, 2, 5, 3, 4)).reshape(stride[0], *size, o, stride[1] * c)
    groups, columns = -(-image[0] // stride[0]), -(-image[1] // stride[1])
    wide = max(ow - low[1], columns + high[1])
    grid = _grid(o, stride[1] * c, *size, 1, ow * o, -low[1] * o, wide, low[0], groups, image[1] * c, 1, stride[0])
    dx, rows = _images(n, c, *image, g.dtype)
    _correlate(grid, _rows(g), kernel, None, rows)
    return dx


def _input_grad_of_one_pixel(g: Array, w: Array, image: Ints, stride: Ints) -> Array:
    """Every s-th pixel is g @ w, the others are zero."""
    n, _, oh, ow = g.shape
    met, rows = _images(n, w.shape[1], oh, ow, g.dtype)
    _matmul(_pixels(g), w, rows.reshape(n, oh * ow, w.shape[1]))
    if (oh, ow) == image:
        return met
    dx, rows = _images(n, w.shape[1], *image, g.dtype)
    rows[:] = 0
    dx[:, :, :: stride[0], :: stride[1]] = met
    return dx


def _weight_grad_of_one_pixel(x: Array, g: Array) -> Array:
    """Pixels x (N, P, C) and g (N, P, O) -> (O, C, 1, 1)."""

    def part(first: int, stop: int) -> Array:
        return g[first:stop].reshape(-1, g.shape[2]).T @ x[first:stop].reshape(-1, x.shape[2])

    dw: Array = functools.reduce(np.add, threads.share(part, len(x), max(1, SHARED * len(x) // (x.size * g.shape[2]))))
    return dw[:, :, None, None]


def conv2d_weight_grad(x: Array, g: Array, kernel: Sequence[int], stride: Ints, padding: Ints) -> Array:
    """``conv.conv2d_weight_grad``: x (N, C, H, W), g (N, O, H', W') -> (O, C, kh, kw)."""
    if _of_one_pixel(kernel):
        return _weight_grad_of_one_pixel(_pixels(x, stride), _pixels(g))
    (kh, kw), c, o = kernel, x.shape[1], g.shape[1]
    grid = _forward_grid(x, kernel, stride, padding, (g.shape[2], g.shape[3]), o)
    split = _correlate_weights(grid, _rows(x), _rows(g)).swapaxes(0, 1)  # (⌈kh/sh⌉, sh, kw, C, O)
    joined = split.reshape(grid.kh * stride[0], kw, c, o)
    return np.ascontiguousarray(joined[:kh].transpose(3, 2, 0, 1))
