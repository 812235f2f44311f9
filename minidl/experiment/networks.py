"""The networks of a comparison by name: those of ``models``, the mlp, and plain stacks of convolutions."""

from __future__ import annotations

import math
import re
from typing import Any

from minidl import models, nn
from minidl.models.blocks import Init, Stack, finished
from minidl.text import unknown

__all__ = ["build", "check", "names", "plain"]

PLAIN = re.compile(r"plain([1-9]\d*)")
LEAST = 7  # layers of a plain network: its first convolution, one for each of three stages, three dense ones
WIDTHS = (16, 32, 64)  # channels of the three stages
DENSE = 128


def names() -> list[str]:
    """The names that ``build`` knows. Behind "plain" any number of layers may stand."""
    return sorted([*models.names(), "plain22", "plain30"])


def check(name: str) -> None:
    """Refuse a name that ``build`` does not know.

    Raises:
        ValueError: it suggests the nearest, or says how many layers a plain network has at least.
    """
    stack = PLAIN.fullmatch(name)
    if stack is None and name not in names():
        raise unknown("network", name, names())
    if stack is not None and int(stack[1]) < LEAST:
        raise ValueError(f"{name}: a plain network has at least {LEAST} layers; take plain{LEAST} or a deeper one")


def build(name: str, in_shape: tuple[int, ...], num_classes: int, sizes: list[int], **options: Any) -> nn.Module:
    """A network for inputs of this shape.

    Args:
        name: one of ``names()``.
        in_shape: of one example, (C, H, W) or (D,).
        num_classes: scores to give.
        sizes: hidden widths of the mlp.
        options: activation, init, norm and seed, as every builder of ``models`` takes them.

    Raises:
        ValueError: an unknown name, activation or scheme, or examples that the network does not take.
    """
    if name == "mlp":
        return models.mlp([math.prod(in_shape), *sizes, num_classes], **options)
    stack = PLAIN.fullmatch(name)
    if stack is not None:
        return plain(int(stack[1]), in_shape=in_shape, num_classes=num_classes, **options)
    return models.build(name, in_shape=in_shape, num_classes=num_classes, **options)


def plain(
    layers: int,
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = False,
    in_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """So many layers with weights one after the other, no shortcut: 3×3 convolutions, and three dense layers on top.

    He et al. 2015 compared Xavier with their own scheme on networks of 22 and 30 such layers for photographs of
    224×224. This is that experiment in small: a first convolution to 16 channels and max-pooling; then three stages of
    16, 32 and 64 channels that share the other convolutions evenly, the first two ending in max-pooling, the last in
    average pooling to 2×2 (3×3 for images of 28×28); two dense layers of width 128 and the scores. Zero padding keeps
    the size. As in the paper nearly all layers have as many inputs as outputs, so with ReLU Xavier halves the second
    moment in each. CReLU, which gives twice the channels, makes each layer that follows read so many.

    Args:
        layers: layers with weights, at least 7.
        activation, init, norm, seed: as for ``models.mlp``.
        in_shape: (C, H, W); H and W at least 16.
        num_classes: scores to give.

    Raises:
        ValueError: fewer layers or smaller images, an unknown activation or scheme.

    Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2 and figures 2 and 3.
    """
    check(f"plain{layers}")
    if len(in_shape) != 3 or min(in_shape[1:]) < 16:
        raise ValueError(f"plain{layers} reads images (C, H, W) of at least 16×16; got examples of shape {in_shape}")
    row = Stack(in_shape, activation, norm).conv_block(1, WIDTHS[0], 3, padding=1).pool(0, 2)
    count = 1
    for stage, channels in enumerate(WIDTHS):
        for _ in range((layers - 4 - (count - 1)) // (len(WIDTHS) - stage)):
            count += 1
            row.conv_block(count, channels, 3, padding=1)
        if stage < 2:
            row.pool(stage + 1, 2)
    height, width = row.size
    kernel = (max(height // 2, 1), max(width // 2, 1))
    row.add("pool3", nn.AvgPool2d(kernel))
    row.size = (height // kernel[0], width // kernel[1])
    row.flatten()
    for number in (count + 1, count + 2):
        row.linear(f"linear{number}", DENSE)
        if norm:
            row.add(f"norm{number}", nn.BatchNorm1d(DENSE))
        row.activate(number)
    return finished(row.linear("output", num_classes).sequential(), activation, init, seed)
