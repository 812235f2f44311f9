"""Transforms of whole batches of small images, (N, C, H, W) in and out.

Each function returns a transform, called ``transform(x, rng) -> x``: what ``DataLoader(transform=…)`` takes. Those
that draw nothing can be called without ``rng``. float32 stays float32; ``pad``, ``random_crop`` and ``random_flip``
keep any type, so they work on uint8 as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidl.data.check import checked_count

__all__ = ["chain", "normalize", "pad", "random_crop", "random_flip", "resize"]

Images = NDArray[Any]
BatchTransform = Callable[..., Images]


def chain(*transforms: BatchTransform) -> BatchTransform:
    """One transform after the other, all drawing from the same generator."""

    def chained(x: Images, rng: np.random.Generator | None = None) -> Images:
        for transform in transforms:
            x = transform(x, rng)
        return x

    return chained


def normalize(mean: ArrayLike, std: ArrayLike) -> BatchTransform:
    """``(x − mean) / std`` in float32, one number a channel.

    Args:
        mean: shape (C,) or a number, in the units of x.
        std: shape (C,) or a number, in the units of x.
    """
    shift, scale = (np.reshape(np.asarray(value, np.float32), (-1, 1, 1)) for value in (mean, std))

    def normalized(x: Images, _rng: np.random.Generator | None = None) -> Images:
        out = np.subtract(_batch(x), shift, dtype=np.float32)
        out /= scale
        return out

    return normalized


def pad(pixels: int, value: float = 0) -> BatchTransform:
    """A frame of ``pixels`` pixels round every image. In a standardized image the value 0 is the mean colour."""
    checked_count("pixels", pixels, least=0)

    def padded(x: Images, _rng: np.random.Generator | None = None) -> Images:
        return np.pad(_batch(x), ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), constant_values=value)

    return padded


def random_crop(size: int, padding: int = 0) -> BatchTransform:
    """A square of ``size`` pixels from a place of its own in every image, all places equally likely.

    Args:
        size: height and width of the result.
        padding: pixels of frame (value 0) that are put round the image first.
    """
    checked_count("size", size)
    framed = pad(padding)

    def cropped(x: Images, rng: np.random.Generator) -> Images:
        x = framed(x)
        rows, columns = x.shape[2] - size + 1, x.shape[3] - size + 1
        if rows < 1 or columns < 1:
            raise ValueError(
                f"random_crop({size}): the images have {x.shape[2]} × {x.shape[3]} pixels, padding included"
            )
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        top, left = rng.integers(rows, size=len(x)), rng.integers(columns, size=len(x))
        return windows[np.arange(len(x)), :, top, left]

    return cropped


def random_flip(probability: float = 0.5) -> BatchTransform:
    """Mirrors each image left to right with this probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"random_flip({probability}): a probability lies between 0 and 1")

    def flipped(x: Images, rng: np.random.Generator) -> Images:
        chosen = rng.random(len(_batch(x))) < probability
        out = x.copy()  # the batch may still be needed as it is
        out[chosen] = x[chosen, :, :, ::-1]
        return out

    return flipped


def resize(size: int | tuple[int, int]) -> BatchTransform:
    """Bilinear resampling to ``size`` (height, width), in float32.

    Going down, the triangle of the interpolation widens with the step, so that every pixel counts (no aliasing).

    Args:
        size: height and width, or one number for both.
    """
    height, width = (size, size) if isinstance(size, int) else size
    checked_count("height", height)
    checked_count("width", width)

    def resized(x: Images, _rng: np.random.Generator | None = None) -> Images:
        down, across = _triangle(_batch(x).shape[2], height), _triangle(x.shape[3], width)
        return np.matmul(down, np.matmul(x.astype(np.float32, copy=False), across.T))

    return resized


def _triangle(source: int, target: int) -> NDArray[np.float32]:
    """The matrix (target, source) of bilinear weights; pixel i covers the interval [i, i + 1], rows sum to 1."""
    step = source / target
    centres = (np.arange(target) + 0.5) * step
    distance = np.abs(centres[:, None] - (np.arange(source) + 0.5)) / max(step, 1.0)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _batch(x: Images) -> Images:
    if x.ndim != 4:
        raise ValueError(f"expected a batch of images (N, C, H, W), got shape {x.shape}")
    return x
