"""Batch normalization and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.backend import Array, array_module
from minidl.ops.reduce import mean, var
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


def batch_norm(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    """Batch normalization in training: each channel (axis 1) normalized over the batch and all places, then scaled.

    Args:
        x: (N, C) or (N, C, H, W).
        weight: γ (C,) or None.
        bias: β (C,) or None.
        eps: added to the variance.

    Raises:
        ValueError: one value per channel only, whose variance says nothing.

    Source: Ioffe & Szegedy 2015, "Batch Normalization".
    """
    if x.ndim < 2 or x.size == x.shape[1]:
        raise ValueError(f"batch_norm in training needs several values per channel; got shape {x.shape}")
    y = normalize(x, axes=tuple(i for i in range(x.ndim) if i != 1), eps=eps)
    per_channel = (slice(None), *(None,) * (x.ndim - 2))
    y = y if weight is None else y * weight[per_channel]
    return y if bias is None else y + bias[per_channel]


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
