"""VGG: 3×3 convolutions only, in five groups with pooling between them; depth 11, 13, 16 or 19."""

from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.models.blocks import Init, Shape, Stack, check_image, finished, is_small
from minidl.text import unknown

__all__ = ["vgg", "vgg11", "vgg13", "vgg16", "vgg19"]

#: Convolutions in each group; the paper's columns A, B, D and E of table 1.
GROUPS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def vgg(
    name: str,
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = False,
    in_shape: Shape = (3, 224, 224),
    num_classes: int = 1000,
    seed: int = 0,
) -> nn.Sequential:
    """VGG: (N, 3, 224, 224) -> (N, 1000).

    Group g of five: 3×3 convolutions "conv<g>_1", "conv<g>_2", … with 64, 128, 256, 512 or 512 channels, then 2×2
    pooling; 512 × 7 × 7 at the end. Then dense layers of 4096, 4096 and 1000, with dropout of ½ after the first two.

    The small form, for images with a side below 96, has a quarter of the channels, no pooling after the fifth group
    (so that 28×28 is left as 1×1, 32×32 as 2×2), and dense layers of 256.

    Args:
        name: "vgg11", "vgg13", "vgg16" or "vgg19".
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights or rules, as for ``init.apply``; None: the usual one for the activation.
        norm: batch normalization after every convolution (which keep their biases, though these then do nothing; the
            form known as "_bn"). Published: none.
        in_shape: (C, H, W) of an image, at least 16×16.
        num_classes: number of outputs.
        seed: of the weights.

    Raises:
        ValueError: images too small, an unknown name, activation or scheme.

    Source: Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1.
    Its column with local response normalization (A-LRN) did no better than A, and is left out.
    """
    if name not in GROUPS:
        raise unknown("VGG network", name, GROUPS)
    check_image(name, in_shape, smallest=16)
    small = is_small(in_shape)
    part, units = (4, 256) if small else (1, 4096)
    net = Stack(in_shape, activation, norm)
    for group, (count, channels) in enumerate(zip(GROUPS[name], CHANNELS, strict=True), start=1):
        for i in range(1, count + 1):
            net.conv_block(f"{group}_{i}", channels // part, 3, padding=1)
        if group < 5 or not small:
            net.pool(group, 2)
    net.flatten().dense(6, units).dropout(6, 0.5).dense(7, units).dropout(7, 0.5).linear("output", num_classes)
    return finished(net.sequential(), activation, init, seed)


def vgg11(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """VGG-11 (column A), 132 863 336 parameters; options as for ``vgg``."""
    return vgg("vgg11", activation, init, **options)


def vgg13(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """VGG-13 (column B), 133 047 848 parameters; options as for ``vgg``."""
    return vgg("vgg13", activation, init, **options)


def vgg16(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """VGG-16 (column D), 138 357 544 parameters; options as for ``vgg``."""
    return vgg("vgg16", activation, init, **options)


def vgg19(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """VGG-19 (column E), 143 667 240 parameters; options as for ``vgg``."""
    return vgg("vgg19", activation, init, **options)
