"""Weights that keep lengths: a layer that turns its input without stretching it, as a matrix or as a whole network."""

from __future__ import annotations

import math

import numpy as np

from minidl.init.registry import Initializer, Request, check_finite, register
from minidl.init.sample import standard_normal
from minidl.init.structured import Values, centred, matrix_shape

__all__ = ["delta_orthogonal", "identity_hadamard", "looks_linear", "orthogonal", "semi_orthogonal"]


@register(aliases=("semi_orthogonal",))
def orthogonal(gain: float = 1.0) -> Initializer:
    """``W Wᵀ = gain² I`` (or ``Wᵀ W``, whichever is the smaller), uniform over all such matrices.

    Every singular value is ``gain``, so a product of L layers has ``gain^L`` exactly, where a product of Gaussian
    matrices flattens most directions. The entries have variance ``gain²/max(n, m)``. A layer that is not square is
    *semi*-orthogonal: from wide to narrow a unit's second moment keeps its size, from narrow n to wide m the length
    does, so that each unit has n/m of it. A convolution is read as the matrix ``(shape[0], rest)``, as PyTorch does
    (Keras and JAX read (rest, out)): an isometry of that matrix, not of the convolution as an operator; that is
    ``delta_orthogonal``. In a grouped convolution every group has a matrix of its own. (To PyTorch all groups are one:
    there a depthwise 3×3 layer of C channels keeps only 9/C of the second moment.)

    Args:
        gain: the singular values; √2 for ReLU.

    Raises:
        ValueError: ``gain`` is not finite; when called, a shape with fewer than two axes.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """
    check_finite("orthogonal", gain=gain)

    def draw(r: Request) -> Values:
        rows, columns = matrix_shape(r, "orthogonal")
        parts = [_haar(r, rows // r.groups, columns) for _ in range(r.groups)]
        return gain * np.concatenate(parts).reshape(r.shape)

    return Initializer("W Wᵀ = gain² I or Wᵀ W = gain² I, uniform (Haar)", draw)


@register()
def delta_orthogonal(gain: float = 1.0) -> Initializer:
    """``W = gain Q`` at the centre tap, else 0, with ``Qᵀ Q = I``: a convolution that keeps the length of every image.

    At first each pixel is turned by itself and pixels do not mix; that is what makes the *operator* isometric. It needs
    C_out ≥ C_in. With fewer outputs some of every image must be lost: then ``Q Qᵀ = I``, and a unit keeps its second
    moment as with ``orthogonal``. (JAX refuses that case.) A dense layer is ``orthogonal``. Circular or "same"
    padding keeps the image's size; stride 2 would drop three pixels of four. Every group of a grouped convolution gets
    a Q of its own.

    Args:
        gain: the singular values of the operator; with tanh 1 or a little more (``edge_of_chaos``).

    Raises:
        ValueError: ``gain`` is not finite; when called, a shape without rows and columns.

    Source: Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs", algorithm 1.
    """
    check_finite("delta_orthogonal", gain=gain)

    def draw(r: Request) -> Values:
        return centred(r, "delta_orthogonal", lambda rows, columns: gain * _haar(r, rows, columns))

    return Initializer("W = gain Q at the centre tap, else 0, Q orthogonal (Haar)", draw)


@register()
def looks_linear(gain: float = 1.0, mirror_outputs: bool = False) -> Initializer:
    """``W = gain [Q, -Q]`` after CReLU, Q orthogonal: ``W [relu(z), relu(-z)] = gain Q z``, so the network is linear.

    A network that starts as an orthogonal map, and bends as it learns. The inputs are taken for pairs, the first half
    (of the channels) positive parts and the second negative. An odd number of them is no output of CReLU, but an image
    with 1 or 3 channels: it gets Q alone. A first layer with an even number of inputs needs "orthogonal" by name, and
    any layer without CReLU before it as well. A grouped convolution tears the pairs apart: it gets a Q for every group,
    and is not linear.

    Args:
        gain: the singular values of the linear map.
        mirror_outputs: True makes ``[[Q, -Q], [-Q, Q]]``, units in opposite pairs: then plain ReLU does what CReLU
            does. Not for the output layer; an odd number of outputs is left unmirrored.

    Raises:
        ValueError: ``gain`` is not finite; when called, a shape with fewer than two axes.

    Source: Balduzzi et al. 2017, "The Shattered Gradients Problem: If resnets are the answer, then what is the
    question?", section 4.
    """
    check_finite("looks_linear", gain=gain)

    def draw(r: Request) -> Values:
        matrix_shape(r, "looks_linear")
        outputs, inputs = r.shape[:2]
        if r.groups > 1:
            return orthogonal(gain).draw(r)
        paired, mirrored = inputs % 2 == 0, mirror_outputs and outputs % 2 == 0
        rows, channels = outputs // (1 + mirrored), inputs // (1 + paired)
        q = gain * _haar(r, rows, channels * math.prod(r.shape[2:])).reshape(rows, channels, *r.shape[2:])
        q = np.concatenate([q, -q], axis=1) if paired else q
        return np.concatenate([q, -q], axis=0) if mirrored else q

    return Initializer("W = gain [Q, -Q], Q orthogonal (Haar)", draw)


@register()
def identity_hadamard() -> Initializer:
    """``W = I`` cut to size if m ≤ n, else ``W = I H_p/√p I`` with a Hadamard matrix: ZerO, zeros and ones alone.

    Deterministic. The identity by itself would confine the hidden layers: with n inputs, what training adds to any
    of them has rank n at most, however wide they are. The Hadamard matrix of size p = 2^⌈log₂ m⌉ (entries ±1,
    orthogonal) spreads the n inputs over all m units instead; its m × n corner has full rank n. A widening layer keeps
    lengths exactly where m is a power of 2, and else a column has length ``√(m/p)``, 0.71 to 1. Convolutions have the
    matrix at their centre tap, every group its own. The last layer of a residual branch is to be zero, in the networks
    here ``{"*.branch.conv2.weight": "zeros", "*": "identity_hadamard"}``: then every block starts as its shortcut.

    Raises:
        ValueError: when called, a shape without rows and columns.

    Source: Zhao et al. 2022, "ZerO Initialization: Initializing Neural Networks with only Zeros and Ones".
    """
    return Initializer(
        "W = I if m ≤ n, else I H/√p I, at the centre tap, else 0",
        lambda r: centred(r, "identity_hadamard", _widening),
    )


semi_orthogonal = orthogonal


def _haar(request: Request, rows: int, columns: int) -> Values:
    """A uniformly distributed matrix with orthonormal rows or columns, whichever are fewer."""
    gaussian = standard_normal(request.rng, (max(rows, columns), min(rows, columns)), request.dtype)
    # float64 inside: the columns of a float32 factorization are orthogonal to 1e-6 only
    q, r = np.linalg.qr(gaussian.astype(np.float64))
    # QR alone leaves signs that depend on the algorithm, which is not uniform; sign() would zero a column where r is 0
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def _widening(rows: int, columns: int) -> Values:
    """The identity, or for more rows than columns the corner of a Hadamard matrix over the root of its size.

    Sylvester's matrix has the entry ``(-1)^(number of ones that i and j share in binary)``.
    """
    if rows <= columns:
        return np.eye(rows, columns)
    shared = np.bitwise_count(np.arange(rows)[:, None] & np.arange(columns))
    size: int = 2 ** (rows - 1).bit_length()
    return np.where(shared % 2, -1.0, 1.0) / math.sqrt(size)
