"""Schemes as an article gave them, to the letter: for the comparison with what it claims, never for work.

The article is the survey of initialization methods that minidl grew from. Where its text leaves a choice open, the
choice is a parameter; where it is wrong, the docstring says what is wrong and names the scheme to use instead.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, check_not_negative, register
from minidl.init.sample import standard_normal, truncated_normal
from minidl.init.scaling import CUT
from minidl.text import unknown

__all__ = [
    "as_written_gaussian",
    "as_written_he",
    "as_written_kaiming",
    "as_written_xavier",
    "as_written_xavier_global",
]

ACTIVATIONS = ("relu", "sigmoid", "tanh")  # the article speaks of no others
NEURONS = ("fan_in", "fan_out")
READINGS = ("std", "variance")


@register()
def as_written_gaussian(neurons: str = "fan_out", second_argument: str = "std") -> Initializer:
    """As written in the article; do not use: ``W ~ N(0, √(2/n))`` leaves open what √ and n mean; take ``he_normal``.

    The second argument of N may be the standard deviation or the variance, and "n, the neurons of this layer" may be
    its outputs or its inputs. As a standard deviation it is ``he_normal`` with that mode. As a variance the standard
    deviation is ``(2/n)^¼``: a ReLU layer of n units multiplies the second moment by ``√(n/2)``, 11 at n = 256.

    Args:
        neurons: "fan_out", the outputs, or "fan_in"; of a convolution, channels times kernel.
        second_argument: "std" or "variance".

    Raises:
        ValueError: another word for either.
    """
    if neurons not in NEURONS:
        raise unknown("number of neurons", neurons, NEURONS)
    if second_argument not in READINGS:
        raise unknown("second argument of N", second_argument, READINGS)
    power = 0.5 if second_argument == "std" else 0.25

    def draw(r: Request) -> NDArray[Any]:
        n = r.fan_in if neurons == "fan_in" else r.fan_out
        return (2.0 / n) ** power * standard_normal(r.rng, r.shape, r.dtype)

    sign = f"2/{neurons}" if second_argument == "std" else f"√(2/{neurons})"
    return Initializer(f"W ~ N(0, {sign})", draw, needs_fans=True)


@register()
def as_written_he(second_argument: str = "std") -> Initializer:
    """As written in the article; do not use: ``W ~ N(0, √(2/n))``, n the inputs, for ReLU; take ``he_normal``.

    The text does not say whether √(2/n) is a standard deviation (then it is He's) or a variance, nor what the inputs of
    a convolution are (channels times kernel here), and has no leaky ReLU and no fan_out. It adds that nothing has to be
    initialized layer by layer; with this formula every layer has a width of its own.

    Args:
        second_argument: "std" or "variance".

    Raises:
        ValueError: another word.
    """
    return as_written_gaussian("fan_in", second_argument)


@register()
def as_written_xavier(activation: str = "relu") -> Initializer:
    """As written in the article; do not use: ``W ~ N(0, 2/fan_in)``, He's, is called Xavier; take ``glorot_normal``.

    The text has Xavier's own law only for sigmoid and tanh, ``N(0, 2/(fan_in + fan_out))``; what it gives for ReLU is
    ``he_normal``. Xavier with ReLU's gain would be ``glorot_normal(gain=√2)``: the same only where the fans are equal.

    Args:
        activation: "relu", "sigmoid" or "tanh".

    Raises:
        ValueError: another activation.
    """
    _known(activation)
    if activation == "relu":
        return Initializer("W ~ N(0, 2/fan_in)", lambda r: _normal(r, 2.0 / r.fan_in), needs_fans=True)
    return Initializer(
        "W ~ N(0, 2/(fan_in + fan_out))", lambda r: _normal(r, 2.0 / (r.fan_in + r.fan_out)), needs_fans=True
    )


@register()
def as_written_xavier_global(n: int = 784, m: int = 10) -> Initializer:
    """As written in the article; do not use: ``W ~ N(0, 2/(n + m))``, n and m of the *network*; take ``glorot_normal``.

    The fans of Xavier belong to each layer. With the network's own 784 inputs and 10 outputs every layer gets the
    standard deviation 0.0502: the same law as "one Gaussian for all" with the default 0.05 of Keras.

    Args:
        n: inputs of the network.
        m: its outputs.

    Raises:
        ValueError: fewer than one of either.
    """
    if n < 1 or m < 1:
        raise ValueError(f"as_written_xavier_global: a network has at least one input and output, got n={n}, m={m}")
    return Initializer("W ~ N(0, 2/(n + m))", lambda r: _normal(r, 2.0 / (n + m)))


@register()
def as_written_kaiming(activation: str = "relu", std: float | None = None) -> Initializer:
    """As written in the article; do not use: ``W ~ ±|N(0, std²)|`` has one sign only; take ``he_truncated_normal``.

    For ReLU a truncated normal that is never negative, for sigmoid and tanh one that is never positive, cut at
    ±2 std. Its mean 0.723 std is not 0: a ReLU layer of n units multiplies the signal by ``0.723 √(2n)``, 16 at
    n = 256, and all units of a layer say nearly the same. Kaiming is He's first name: his scheme is ``he_normal``, and
    "truncated" is how Keras draws it, on both sides of zero.

    Args:
        activation: "relu", "sigmoid" or "tanh".
        std: of the normal law before it is cut; the article leaves it open. None: ``√(2/fan_in)``, as He has it.

    Raises:
        ValueError: another activation, or ``std`` not finite or negative.
    """
    _known(activation)
    if std is not None:
        check_not_negative("as_written_kaiming", std=std)
    sign = 1.0 if activation == "relu" else -1.0

    def draw(r: Request) -> NDArray[Any]:
        scale = math.sqrt(2.0 / r.fan_in) if std is None else std
        return sign * scale * np.abs(truncated_normal(r.rng, r.shape, r.dtype, CUT))

    width = "2/fan_in" if std is None else "std²"
    return Initializer(f"W ~ {'' if sign > 0 else '-'}|N(0, {width})| cut at 2σ'", draw, needs_fans=std is None)


def _normal(r: Request, variance: float) -> NDArray[Any]:
    return math.sqrt(variance) * standard_normal(r.rng, r.shape, r.dtype)


def _known(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise unknown("activation of the article", activation, ACTIVATIONS)
