"""Orthogonal weights: a layer that turns its input without stretching it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, register
from minidl.init.sample import standard_normal

__all__ = ["orthogonal"]


@register()
def orthogonal(gain: float = 1.0) -> Initializer:
    """``W Wᵀ = gain² I`` (or ``Wᵀ W``, whichever is the smaller), uniform over all such matrices.

    Every singular value is ``gain``, so a product of L layers has ``gain^L`` exactly, where a product of Gaussian
    matrices flattens most directions. The entries have variance ``gain²/max(n, m)``. A convolution is read as the
    matrix ``(shape[0], rest)``: an isometry of that matrix, not of the convolution as an operator.

    Args:
        gain: the singular values; √2 for ReLU.

    Raises:
        ValueError: ``gain`` is not finite; when called, a shape with fewer than two axes.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """
    if not math.isfinite(gain):
        raise ValueError(f"orthogonal: gain must be finite, got {gain}")
    return Initializer("W Wᵀ = gain² I or Wᵀ W = gain² I, uniform (Haar)", lambda r: gain * _haar(r))


def _haar(request: Request) -> NDArray[Any]:
    """A uniformly distributed matrix with orthonormal rows or columns, in the shape asked for."""
    if len(request.shape) < 2:
        raise ValueError(
            f"orthogonal: shape {request.shape} has no rows and columns; "
            "only a weight with at least two axes can be orthogonal, take 'zeros' or 'normal' here"
        )
    rows, columns = request.shape[0], math.prod(request.shape[1:])
    gaussian = standard_normal(request.rng, (max(rows, columns), min(rows, columns)), request.dtype)
    # float64 inside: the columns of a float32 factorization are orthogonal to 1e-6 only
    q, r = np.linalg.qr(gaussian.astype(np.float64))
    # QR alone leaves signs that depend on the algorithm, which is not uniform; sign() would zero a column where r is 0
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return (q if rows >= columns else q.T).reshape(request.shape)
