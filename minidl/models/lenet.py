"""LeNet-5: two convolutions with pooling, three dense layers; made to read digits."""

from __future__ import annotations

from minidl import nn
from minidl.models.blocks import Init, Shape, Stack, check_image, finished

__all__ = ["lenet5"]


def lenet5(
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = False,
    pool: str = "max",
    in_shape: Shape = (1, 32, 32),
    num_classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """LeNet-5, 61 706 parameters: (N, 1, 32, 32) -> (N, 10).

    ========= =========== =============
    layer     gives       parameters
    ========= =========== =============
    conv1 5×5 6 × 28 × 28 156
    pool1 2×2 6 × 14 × 14
    conv2 5×5 16 × 10 × 10 2 416
    pool2 2×2 16 × 5 × 5
    linear3   120         48 120
    linear4   84          10 164
    output    10          850
    ========= =========== =============

    Images with a side below 32, such as MNIST's 28×28, get a frame of 2 zeros in conv1: same shapes, same count.

    As everyone builds it today: conv2 sees all 6 channels (in the paper each map saw 3 to 6 of them, to break symmetry
    and save work), pooling has no weights, the output is dense, not of radial basis functions. The paper's activation
    is a scaled tanh and its pooling the mean: ``lenet5("tanh", pool="avg")`` is nearest.

    Args:
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights or rules, as for ``init.apply``; None: the usual one for the activation.
        norm: batch normalization after every convolution.
        pool: "max" or "avg".
        in_shape: (C, H, W) of an image, at least 12×12.
        num_classes: number of outputs.
        seed: of the weights.

    Raises:
        ValueError: images too small, an unknown pooling, activation or scheme.

    Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", section II.
    """
    check_image("lenet5", in_shape, smallest=12)
    if pool not in ("max", "avg"):
        raise ValueError(f"lenet5: pool must be 'max' or 'avg'; got {pool!r}")
    net = Stack(in_shape, activation, norm)
    net.conv_block(1, 6, 5, padding=2 if min(in_shape[1:]) < 32 else 0).pool(1, 2, kind=pool)
    net.conv_block(2, 16, 5).pool(2, 2, kind=pool)
    net.flatten().dense(3, 120).dense(4, 84).linear("output", num_classes)
    return finished(net.sequential(), activation, init, seed)
