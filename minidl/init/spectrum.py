"""What a weight does apart from its size: how alike its units are, and how unevenly it stretches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import to_host

__all__ = ["coherence", "singular_values"]

ROWS = 1024  # compared with all others at a time, so that a wide layer needs no square of its width in memory


def coherence(weight: Any) -> float:
    """The mean of ``|cos(w_i, w_j)|`` over all pairs of units: 0 for orthogonal ones, 1 for copies of one.

    Independent units with n inputs have ``√(2/(π n))`` on average, 0.0499 at n = 256. Units that are alike learn alike,
    whatever their variance.

    Args:
        weight: array, tensor or parameter (units, ...), on any device; read as the matrix (shape[0], rest).

    Returns:
        The mean; nan if fewer than two units have a length.

    Raises:
        ValueError: fewer than two axes.
    """
    matrix = _matrix(weight)
    lengths = np.linalg.norm(matrix, axis=1)
    units = matrix[lengths > 0] / lengths[lengths > 0, None]
    count = len(units)
    if count < 2:
        return math.nan
    total = sum(np.abs(units[i : i + ROWS] @ units.T).sum() for i in range(0, count, ROWS))
    return float((total - count) / (count * (count - 1)))  # each unit's cosine with itself is 1


def singular_values(weight: Any, image: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """The factors by which a weight stretches the directions of its input, largest first.

    Args:
        weight: array, tensor or parameter on any device: (out, in), or (out, in, kh, kw) of a convolution with one
            group. Read as the matrix (shape[0], rest), unless ``image`` is given.
        image: height and width of the images. Then those of the convolution as an *operator* on them, circular and with
            stride 1: at every frequency the kernel is one matrix (out, in), its Fourier transform.

    Returns:
        ``min(rows, columns)`` values, or for an operator ``height · width · min(out, in)``.

    Raises:
        ValueError: fewer than two axes; or an image for a weight without a kernel, or smaller than its kernel.

    Source: Sedghi et al. 2019, "The Singular Values of Convolutional Layers", theorem 6.
    """
    if image is None:
        return np.asarray(np.linalg.svd(_matrix(weight), compute_uv=False), np.float64)
    kernel = _host(weight)
    if kernel.ndim != 4 or kernel.shape[2] > image[0] or kernel.shape[3] > image[1]:
        raise ValueError(
            f"singular_values: an image of {image[0]}×{image[1]} needs a weight (out, in, kh, kw) with a kernel no "
            f"larger; got shape {kernel.shape}"
        )
    spectra = np.fft.fft2(kernel, image).transpose(2, 3, 0, 1)
    return np.asarray(np.sort(np.linalg.svd(spectra, compute_uv=False), axis=None)[::-1], np.float64)


def _host(weight: Any) -> NDArray[np.float64]:
    return to_host(weight.data if hasattr(weight, "requires_grad") else weight).astype(np.float64)


def _matrix(weight: Any) -> NDArray[np.float64]:
    host = _host(weight)
    if host.ndim < 2:
        raise ValueError(f"a weight needs at least two axes, units and inputs; got shape {host.shape}")
    return host.reshape(host.shape[0], -1)
