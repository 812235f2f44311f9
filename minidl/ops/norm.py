"""Batch normalization and dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import threads
from minidl.backend import Array, array_module
from minidl.ops.reduce import channel_rows, from_channel_rows, is_host_float, mean, row_sum, sum, var
from minidl.tensor import op

__all__ = ["batch_norm", "dropout", "normalize"]


@op
def normalize(x: Array, *, axes: Sequence[int], eps: float = 1e-5) -> Array:
    """``(x - mean) / √(var + eps)`` with mean and (biased) variance over ``axes``."""
    centred = x - x.mean(axis=tuple(axes), keepdims=True)
    variance = (centred * centred).mean(axis=tuple(axes), keepdims=True)
    return centred / array_module(x).sqrt(variance + eps)


def _normalize_rule(g: Any, y: Any, x: Any, axes: Sequence[int], eps: float) -> Any:
    """The gradient without its mean and without its part along y: both are what normalization takes away."""
    axes = tuple(axes)
    kept = g - mean(g, axis=axes, keepdims=True) - y * mean(g * y, axis=axes, keepdims=True)
    return kept * (var(x, axis=axes, keepdims=True) + eps) ** -0.5


normalize.derivative(_normalize_rule)
normalize.example(lambda draw: ((draw.array((4, 3, 2, 2)),), {"axes": draw.choice([(0, 2, 3), (0,)]), "eps": 1e-3}))


def plain_batch_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """What ``batch_norm`` computes, in single operations: for other libraries, and the oracle of the fast form."""
    per_channel = (slice(None), *(None,) * (x.ndim - 2))
    y = normalize(x, axes=_all_but_channels(x), eps=eps)
    y = y if weight is None else y * weight[per_channel]
    return y if bias is None else y + bias[per_channel]


def _all_but_channels(x: Any) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != 1)


@op(keeps=True, method=False)
def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    observe: Callable[[Array, Array], None] | None = None,
) -> Array:
    """Batch normalization in training: each channel (axis 1) normalized over the batch and all places, then scaled.

    Args:
        x: (N, C) or (N, C, H, W).
        weight: γ (C,) or None.
        bias: β (C,) or None.
        eps: added to the variance.
        observe: is told mean and (biased) variance of every channel, two arrays (C,).

    Raises:
        ValueError: one value per channel only, whose variance says nothing.

    Source: Ioffe & Szegedy 2015, "Batch Normalization".
    """
    if x.ndim < 2 or x.size == x.shape[1]:
        raise ValueError(f"batch_norm in training needs several values per channel; got shape {x.shape}")
    if not is_host_float(x):
        if observe is not None:
            observe(x.mean(axis=_all_but_channels(x)), x.var(axis=_all_but_channels(x)))
        return plain_batch_norm(x, weight, bias, eps), None
    y, mean, variance, kept = _forward_rows(x, weight, bias, eps)
    if observe is not None:
        observe(mean.astype(x.dtype), variance.astype(x.dtype))
    return y, kept


def _batch_norm_rule(
    g: Any,
    _y: Any,
    x: Any,
    weight: Any = None,
    _bias: Any = None,
    *,
    needs: Sequence[bool],
    eps: float,
    observe: Any,  # noqa: ARG001
    kept: Any,
) -> Sequence[Any]:
    """Three gradients from the two sums they share; on Tensors in single operations, which have derivatives."""
    if kept is not None and isinstance(g, np.ndarray):
        return _backward_rows(g, weight, kept, needs)
    axes, per_channel = _all_but_channels(x), (slice(None), *(None,) * (x.ndim - 2))
    z = normalize(x, axes=axes, eps=eps)
    scaled = g if weight is None else g * weight[per_channel]
    wanted = (*needs, False, False)  # weight and bias may have been left out
    return [
        _normalize_rule(scaled, z, x, axes, eps) if wanted[0] else None,
        sum(g * z, axis=axes) if wanted[1] else None,
        sum(g, axis=axes) if wanted[2] else None,
    ][: len(needs)]


def _batch_norm_example(draw: Any) -> Any:
    x = draw.array(draw.choice([(4, 3, 2, 2), (5, 2)]))
    channels = (x.shape[1],)
    return (x, draw.array(channels), draw.array(channels)), {"eps": 1e-3}


batch_norm.joint_derivative(_batch_norm_rule)
batch_norm.example(_batch_norm_example)


# --------------------------------------------------------------------------------- batch normalization on NumPy, fast
#
# All passes run over rows of k·C numbers (see ``channel_rows``), and are as few as NumPy allows: two sums and then
# ``x·a + b`` on the way up; two sums and then ``(x·b + c + g)·a`` on the way down.

BLOCK = 1 << 17  # numbers that go through all passes while they are in the cache
SHARE = 1 << 17  # numbers worth a thread
FAR = 5.0  # where |mean| exceeds so many deviations, E[x²] - mean² loses too many digits


def _in_blocks(work: Callable[[slice], Any], rows: Array) -> None:
    """``work`` on slices of the rows that fit into the cache, the rows divided among the threads."""
    step = max(1, BLOCK // rows.shape[1])

    def part(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            work(slice(i, min(i + step, stop)))

    threads.share(part, len(rows), least=max(1, SHARE // rows.shape[1]))


def _sums(g: Array, x: Array, channels: int) -> tuple[Array, Array]:
    """Σg and Σg·x of every channel; what a column of the rows adds up to is added on in float64."""

    def part(start: int, stop: int) -> list[Array]:
        columns = row_sum(g[start:stop]), np.einsum("ij,ij->j", g[start:stop], x[start:stop])
        return [row_sum(c.astype(np.float64).reshape(-1, channels)) for c in columns]

    found = threads.share(part, len(x), least=max(1, SHARE // x.shape[1]))
    return found[0] if len(found) == 1 else np.sum(found, axis=0)  # type: ignore[return-value]


def _moments(rows: Array, channels: int) -> tuple[Array, Array]:
    """Mean and variance of every channel, from the sums of x and x²."""
    count = rows.size // channels
    total, square = _sums(rows, rows, channels)
    mean = total / count
    return mean, np.maximum(square / count - mean * mean, 0)


def _repeated(per_channel: Array, rows: Array) -> Array:
    """A vector (C,) repeated to the length of a row, in the rows' precision."""
    return np.tile(per_channel.astype(rows.dtype), rows.shape[1] // len(per_channel))


def _forward_rows(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Any:
    """The normalized array, mean and variance, and what the rule needs: the rows, their mean and 1/deviation."""
    rows, shift = channel_rows(x), np.zeros(())
    mean, variance = _moments(rows, x.shape[1])
    if (mean * mean > FAR * FAR * variance).any():
        shift = mean.astype(rows.dtype)
        rows = rows - _repeated(shift, rows)
        mean, variance = _moments(rows, x.shape[1])
    inverse = 1 / np.sqrt(variance + eps)
    scale = inverse if weight is None else inverse * weight
    a, b = _repeated(scale, rows), _repeated((0.0 if bias is None else bias) - mean * scale, rows)
    y = np.empty_like(rows)

    def affine(block: slice) -> None:
        part = np.multiply(rows[block], a, out=y[block])
        part += b

    _in_blocks(affine, rows)
    return from_channel_rows(y, x.shape), shift + mean, variance, (rows, mean, inverse)


def _backward_rows(g: Array, weight: Array | None, kept: Any, needs: Sequence[bool]) -> list[Any]:
    """The gradients of x, γ and β."""
    rows, mean, inverse = kept
    shape, channels, count = g.shape, len(mean), rows.size // len(mean)
    g = channel_rows(g)
    sum_g, sum_gx = _sums(g, rows, channels)
    sum_gz = inverse * (sum_gx - mean * sum_g)  # z is the normalized x
    grads: list[Any] = [None, sum_gz.astype(rows.dtype), sum_g.astype(rows.dtype)]
    if needs[0]:
        slope = -inverse * sum_gz / count
        a = _repeated(inverse if weight is None else inverse * weight, rows)
        b, c = _repeated(slope, rows), _repeated(-sum_g / count - mean * slope, rows)
        dx = np.empty_like(rows)

        def affine(block: slice) -> None:
            part = rows[block] * b
            part += c
            part += g[block]
            np.multiply(part, a, out=dx[block])

        _in_blocks(affine, rows)
        grads[0] = from_channel_rows(dx, shape)
    return grads[: len(needs)]


def dropout(x: Any, p: float, rng: Any) -> Any:
    """Each element set to 0 with probability ``p``, the others divided by 1 - p, so that the mean stays.

    Args:
        x: any shape.
        p: in [0, 1).
        rng: a generator of the library that owns ``x``, ``numpy.random.Generator`` or ``cupy.random.Generator``. The
            two libraries draw different masks from the same seed.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1); got {p}")
    mask = rng.random(x.shape, dtype="float32") >= p
    return x * (mask.astype(x.dtype) * (1 / (1 - p)))
