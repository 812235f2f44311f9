"""Schemes that look at the layer as a matrix: identity, few non-zero weights, units that resemble each other.

The weight is read as the matrix (shape[0], rest), whose rows are the units of a dense layer or of a convolution. (Those
of a transposed convolution lie along the second axis: there a row is what leaves one input channel.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, check_finite, check_not_negative, register
from minidl.init.sample import standard_normal
from minidl.text import unknown

__all__ = ["correlated_normal", "dirac", "identity", "shared_draw", "sparse"]

Values: TypeAlias = NDArray[Any]
SHARED_AMONG = ("units", "layers")


@register(aliases=("dirac",))
def identity(gain: float = 1.0) -> Initializer:
    """``W = gain I``: every unit repeats one input; a convolution with I at its centre tap ("Dirac") repeats the image.

    Deterministic, the same at any depth, and symmetric: units beyond the number of inputs, and channels of one group,
    see the same gradient until something else tells them apart. A plain ReLU network starts as ``relu(x)``. Where the
    layer is not square the rest is 0; an even kernel has no centre, so the image moves by half a pixel. Every group of
    a grouped convolution gets an I of its own.

    Args:
        gain: the factor on I.

    Raises:
        ValueError: ``gain`` is not finite; when called, a shape without rows and columns.

    Source: Le et al. 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units"; for convolutions
    Zagoruyko & Komodakis 2017, "DiracNets".
    """
    check_finite("identity", gain=gain)

    def draw(r: Request) -> Values:
        return centred(r, "identity", lambda rows, columns: gain * np.eye(rows, columns))

    return Initializer("W = gain I at the centre tap, else 0", draw)


@register()
def sparse(connections: float = 15, std: float = 1.0) -> Initializer:
    """``W`` has k weights ``N(0, std²)`` in every row, else zeros: a pre-activation has ``k std² E x²``, at any width.

    Units differ by *which* inputs they see, and none of them saturates because there are many inputs. A ReLU layer
    multiplies the second moment by ``k std²/2``. The entries of a row are uncorrelated, not independent: there are
    always k. (PyTorch's ``sparse_`` leaves out a share of every *column*, and its std is 0.01.)

    Args:
        connections: how many inputs a unit sees (all, where there are fewer), or below 1 which share of them.
        std: of the weights that are not zero.

    Raises:
        ValueError: ``connections`` is not positive, or above 1 no whole number; ``std`` is negative or not finite;
            when called, a shape without rows and columns.

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 5; Sutskever et al. 2013, "On the
    importance of initialization and momentum in deep learning", for k = 15 and std = 1.
    """
    if not 0 < connections < math.inf or (connections >= 1 and connections != int(connections)):
        raise ValueError(f"sparse: connections must be a whole number or a share in (0, 1), got {connections}")
    check_not_negative("sparse", std=std)

    def draw(r: Request) -> Values:
        rows, columns = matrix_shape(r, "sparse")
        k = min(int(connections) if connections >= 1 else math.ceil(connections * columns), columns)
        chosen = [r.rng.choice(columns, k, replace=False, shuffle=False) for _ in range(rows)]
        values = np.zeros((rows, columns), r.dtype)
        np.put_along_axis(values, np.reshape(chosen, (rows, k)).astype(int), std * _normal(r, rows, k), axis=1)
        return values.reshape(r.shape)

    return Initializer("W has k entries N(0, std²) in every row, the others are 0", draw)


@register()
def correlated_normal(rho: float = 0.5, scale: float = 2.0) -> Initializer:
    """``W = √(scale/fan_in) (√ρ c + √(1-ρ) ξ)``: He's variance, and correlation ρ between any two units. For teaching.

    ``c`` is one random row that all units share, ξ is each unit's own. The variance of every weight is that of
    ``he_normal``, and so is the average size of the signal: what ρ takes away is the difference between units. At
    ρ = 1 a layer has rank 1.

    Args:
        rho: the correlation ρ of two units' weights at the same input, 0 to 1.
        scale: the variance times fan_in.

    Raises:
        ValueError: ``rho`` outside [0, 1], or ``scale`` negative or not finite; when called, a shape without rows and
            columns.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"correlated_normal: rho must lie in [0, 1], got {rho}")
    check_not_negative("correlated_normal", scale=scale)

    def draw(r: Request) -> Values:
        rows, columns = matrix_shape(r, "correlated_normal")
        common, own = _normal(r, 1, columns), _normal(r, rows, columns)
        values = math.sqrt(scale / r.fan_in) * (math.sqrt(rho) * common + math.sqrt(1 - rho) * own)
        return values.reshape(r.shape)

    return Initializer("W ~ N(0, scale/fan_in), correlation ρ between rows", draw, needs_fans=True)


@register()
def shared_draw(among: str = "units", scale: float = 2.0, seed: int = 0) -> Initializer:
    """``W ~ N(0, scale/fan_in)``, but the same numbers again and again. For teaching: random is not yet different.

    Among "units" one random row serves all units of the layer: they stay equal for ever, as with ``constant``, though
    no two inputs have the same weight. Among "layers" every layer starts the same stream of numbers, as an integer
    seed makes Keras do: layers of one shape are equal, and their product is a power of one matrix.

    Args:
        among: "units" or "layers".
        scale: the variance times fan_in.
        seed: of the stream that layers share; units share a draw from their layer's own stream.

    Raises:
        ValueError: another word for ``among``, a negative seed, or ``scale`` negative or not finite; when called, a
            shape without rows and columns.
    """
    if among not in SHARED_AMONG:
        raise unknown("among", among, SHARED_AMONG)
    if seed < 0:
        raise ValueError(f"shared_draw: seed must be a whole number >= 0, got {seed}")
    check_not_negative("shared_draw", scale=scale)

    def draw(r: Request) -> Values:
        rows, columns = matrix_shape(r, "shared_draw")
        std = math.sqrt(scale / r.fan_in)
        if among == "units":
            return np.broadcast_to(std * _normal(r, 1, columns), (rows, columns)).reshape(r.shape)
        return std * standard_normal(np.random.default_rng(seed), r.shape, r.dtype)

    return Initializer(f"W ~ N(0, scale/fan_in), one draw for all {among}", draw, needs_fans=True)


dirac = identity


def matrix_shape(r: Request, scheme: str) -> tuple[int, int]:
    """(rows, columns) of the weight read as a matrix, (shape[0], rest).

    Raises:
        ValueError: fewer than two axes.
    """
    if len(r.shape) < 2:
        raise ValueError(
            f"{scheme}: shape {r.shape} has no rows and columns; "
            f"only a weight with at least two axes can be {scheme}, take 'zeros' or 'normal' here"
        )
    return r.shape[0], math.prod(r.shape[1:])


def centred(r: Request, scheme: str, block: Callable[[int, int], Values]) -> Values:
    """Zeros, but for the centre tap: there every group gets ``block(rows, columns)``. A dense weight is all centre.

    Raises:
        ValueError: fewer than two axes.
    """
    matrix_shape(r, scheme)
    values = np.zeros(r.shape, r.dtype)
    tap: tuple[Any, ...] = tuple(length // 2 for length in r.shape[2:])
    centre = values[(..., *tap)]
    for part in np.split(centre, r.groups):
        part[...] = block(*part.shape)
    return values


def _normal(r: Request, rows: int, columns: int) -> Values:
    return standard_normal(r.rng, (rows, columns), r.dtype)
