"""The multi-layer perceptron: dense layers with an activation between them. Depth is easiest to see here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minidl import nn
from minidl.models.blocks import Init, Shape, finished, plain_name

__all__ = ["image_mlp", "mlp"]


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    init: Init = None,
    norm: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """Dense layers of the given sizes with an activation after each but the last; images are flattened first.

    Layers are named "linear1", "tanh1", "linear2", … and the last "output"; with ``norm`` also "norm1", ….

    Args:
        sizes: inputs, hidden widths, outputs: ``[64, *[100] * 20, 10]`` is 20 hidden layers of width 100.
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights, as for ``init.apply``; None: the usual one for the activation (``scheme_for``).
        norm: batch normalization before each activation.
        seed: of the weights.

    Raises:
        ValueError: fewer than two sizes, or an unknown activation or scheme.
    """
    if len(sizes) < 2:
        raise ValueError(f"an mlp needs at least the number of inputs and of outputs; got sizes={list(sizes)}")
    activation = plain_name(activation)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    inputs = sizes[0]
    for i, width in enumerate(sizes[1:-1], start=1):
        layers[f"linear{i}"] = nn.Linear(inputs, width, init="zeros")
        if norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"{activation}{i}"] = nn.activation(activation)
        inputs = 2 * width if activation == "crelu" else width
    layers["output"] = nn.Linear(inputs, sizes[-1], init="zeros")
    return finished(nn.Sequential(**layers), activation, init, seed)


def image_mlp(
    activation: str = "relu",
    init: Init = None,
    *,
    hidden: Sequence[int] = (256, 128),
    norm: bool = False,
    in_shape: Shape = (1, 28, 28),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """``mlp`` with the arguments of the other networks: inputs from ``in_shape``, outputs from ``num_classes``.

    Args:
        hidden: widths of the hidden layers.
        in_shape: shape of one example, (C, H, W) or any other.
        num_classes: number of outputs.
        activation, init, norm, seed: as for ``mlp``.

    Raises:
        ValueError: an unknown activation or scheme.
    """
    return mlp([math.prod(in_shape), *hidden, num_classes], activation, init, norm, seed)
