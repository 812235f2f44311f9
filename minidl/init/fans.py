"""Fans: how many weights feed one output, and how many outputs one input feeds.

A layer knows its fans and declares them; a weight's *shape* does not tell them (square layers hide a swap, grouped and
transposed convolutions fool every rule that reads the shape). Each function returns ``(fan_in, fan_out)``:

* ``fan_in``: the number of terms in the sum that makes one output value, so ``Var(output) = fan_in Var(w) E x²``;
* ``fan_out``: the number of output values one input value goes into, so ``Var(∂x) = fan_out Var(w) Var(∂output)``.

Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2 (n_l and n̂_l).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Fans", "conv_fans", "conv_transpose_fans", "dense_fans"]

#: ``(fan_in, fan_out)``. Whole numbers, except for a transposed convolution whose stride does not divide its kernel.
Fans: TypeAlias = tuple[float, float]


def dense_fans(in_features: int, out_features: int) -> Fans:
    """``(in, out)`` of a fully connected layer."""
    return in_features, out_features


def conv_fans(in_channels: int, out_channels: int, kernel_size: int | Sequence[int], groups: int = 1) -> Fans:
    """``(C_in/g · k², C_out/g · k²)`` of a convolution.

    Groups divide *both* fans: an input channel reaches only the outputs of its own group. (Reading the shape
    ``(C_out, C_in/g, k, k)`` gives C_out · k² instead, for a depthwise layer too large by the number of channels.)
    With stride s an input pixel is met by fan_out / s² of these weights on average; the convention ignores it.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, or one length per axis ``(kh, kw)``.
        groups: g; must divide both channel numbers.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """
    into, out_of = _per_group(in_channels, out_channels, groups)
    taps = math.prod(_axes(kernel_size))
    return into * taps, out_of * taps


def conv_transpose_fans(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    groups: int = 1,
) -> Fans:
    """``(C_in/g · k²/s², C_out/g · k²)`` of a transposed convolution.

    Each input pixel stamps k² weights on the output, and the stamps lie s pixels apart: so one output pixel collects
    k²/s² of them per channel, averaged over its position.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, or one length per axis.
        stride: s, or one step per axis.
        groups: g; must divide both channel numbers.

    Returns:
        The fans. ``fan_in`` need not be a whole number where the stride does not divide the kernel: 3×3 at stride 2
        gives 2.25 C_in.

    Raises:
        ValueError: ``groups`` does not divide the channels.
    """
    into, out_of = _per_group(in_channels, out_channels, groups)
    kernel = _axes(kernel_size)
    taps, steps = math.prod(kernel), math.prod(_axes(stride, len(kernel)))
    fan_in = into * taps / steps
    return int(fan_in) if fan_in.is_integer() else fan_in, out_of * taps


def _per_group(in_channels: int, out_channels: int, groups: int) -> tuple[int, int]:
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}: "
            "every group takes the same number of channels"
        )
    return in_channels // groups, out_channels // groups


def _axes(size: int | Sequence[int], count: int = 2) -> tuple[int, ...]:
    """One length per axis; a single number means a square (``count`` equal lengths)."""
    return (size,) * count if isinstance(size, int) else tuple(size)
