"""AlexNet: five convolutions, three dense layers; the network that won ImageNet in 2012."""

from __future__ import annotations

from minidl import nn
from minidl.models.blocks import Init, Shape, Stack, check_image, finished, is_small

__all__ = ["alexnet"]


def alexnet(
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = False,
    in_shape: Shape = (3, 224, 224),
    num_classes: int = 1000,
    seed: int = 0,
) -> nn.Sequential:
    """AlexNet in one column, 61 100 840 parameters: (N, 3, 224, 224) -> (N, 1000).

    ================ ============= ========== =============
    layer            gives         parameters small form
    ================ ============= ========== =============
    conv1 11×11, /4  64 × 55 × 55  23 296     5×5, /1, 16
    pool1 3×3, /2    64 × 27 × 27
    conv2 5×5        192 × 27 × 27 307 392    48
    pool2 3×3, /2    192 × 13 × 13
    conv3 3×3        384 × 13 × 13 663 936    96
    conv4 3×3        256 × 13 × 13 884 992    64
    conv5 3×3        256 × 13 × 13 590 080    64
    pool5 3×3, /2    256 × 6 × 6
    linear6          4096          37 752 832 256
    linear7          4096          16 781 312 256
    output           1000          4 097 000
    ================ ============= ========== =============

    Dropout of ½ before linear6 and linear7. The small form, for images with a side below 96, keeps the pixels in conv1
    and has a quarter of the channels and a sixteenth of the dense units.

    The network of 2012 split its channels over two GPUs; this is the author's one-column form of 2014. Local response
    normalization is left out: the form of 2014 is run without it today, and Simonyan & Zisserman (2014, section 4.1)
    found that it improves nothing.

    Args:
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights or rules, as for ``init.apply``; None: the usual one for the activation.
        norm: batch normalization after every convolution.
        in_shape: (C, H, W) of an image, at least 15×15.
        num_classes: number of outputs.
        seed: of the weights.

    Raises:
        ValueError: images too small, an unknown activation or scheme.

    Source: Krizhevsky, Sutskever & Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks";
    Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".
    """
    check_image("alexnet", in_shape, smallest=15)
    small = is_small(in_shape)
    part, units = (4, 256) if small else (1, 4096)
    net = Stack(in_shape, activation, norm)
    if small:
        net.conv_block(1, 64 // part, 5, padding=2).pool(1, 3, stride=2)
    else:
        net.conv_block(1, 64, 11, stride=4, padding=2).pool(1, 3, stride=2)
    net.conv_block(2, 192 // part, 5, padding=2).pool(2, 3, stride=2)
    net.conv_block(3, 384 // part, 3, padding=1)
    net.conv_block(4, 256 // part, 3, padding=1)
    net.conv_block(5, 256 // part, 3, padding=1).pool(5, 3, stride=2)
    net.flatten().dropout(6, 0.5).dense(6, units).dropout(7, 0.5).dense(7, units).linear("output", num_classes)
    return finished(net.sequential(), activation, init, seed)
