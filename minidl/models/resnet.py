"""ResNet: blocks that learn what to add to their input, ``x + F(x)``; for ImageNet and for CIFAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minidl import nn
from minidl.models.blocks import Init, Shape, Stack, check_image, finished, is_small, plain_name
from minidl.text import unknown

__all__ = ["resnet", "resnet18", "resnet20", "resnet32", "resnet34", "resnet50", "resnet56"]

#: Blocks in each stage. Every stage has twice the channels of the one before, at half the size.
STAGES = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet20": (3, 3, 3),
    "resnet32": (5, 5, 5),
    "resnet56": (9, 9, 9),
}


def resnet(
    name: str,
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = True,
    order: str = "post",
    scale: bool = False,
    in_shape: Shape = (3, 224, 224),
    num_classes: int = 1000,
    seed: int = 0,
) -> nn.Sequential:
    """ResNet: (N, 3, 224, 224) -> (N, 1000), and for CIFAR (N, 3, 32, 32) -> (N, 10).

    * resnet18, 34: basic blocks, two 3×3 convolutions; resnet50: bottleneck blocks, 1×1, 3×3 and 1×1 with four times
      the channels. Before them a 7×7 convolution of stride 2 and 3×3 pooling of stride 2; 64, 128, 256, 512 channels.
    * resnet20, 32, 56, for CIFAR at every size: basic blocks after a single 3×3 convolution; 16, 32, 64 channels.
    * The small form of resnet18, 34, 50, for images with a side below 96: the 3×3 convolution of the CIFAR networks
      instead of 7×7 and pooling, and a quarter of the channels.

    At the end the mean of every channel, and a dense layer. Block b of stage s is "block<s>_<b>".

    Where a block changes the shape, a 1×1 convolution brings its input into the new one (the paper's option B), here in
    the CIFAR networks too: 272 474 parameters for resnet20, where the paper's strided identity with zeros for the new
    channels (option A) has 269 722. Bottlenecks halve the size in their 3×3 convolution, as is usual since 2017: in the
    paper's place, the first 1×1, three quarters of the pixels go unseen.

    Args:
        name: "resnet18", "resnet34", "resnet50", "resnet20", "resnet32" or "resnet56".
        activation: name of an activation, see ``nn.activation``; not "crelu", whose output does not fit the sum.
        init: scheme of the weights or rules, as for ``init.apply``; None: the usual one for the activation.
        norm: batch normalization; convolutions have a bias only without it.
        order: "post", ``act(x + norm(conv(act(norm(conv(x))))))``, the original; or "pre",
            ``x + conv(act(norm(conv(act(norm(x))))))``, which leaves the sum as it is. Where "pre" changes the shape,
            and in the first block, the branch and the shortcut share the first activation.
        scale: a learned number (``nn.Scale``) at the end of every branch, for networks without normalization.
        in_shape: (C, H, W) of an image, at least 8×8.
        num_classes: number of outputs.
        seed: of the weights.

    Raises:
        ValueError: images too small, an unknown name, order, activation or scheme.

    Source: He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition", table 1 and section 4.2; order
    "pre": the same 2016, "Identity Mappings in Deep Residual Networks", figure 1b and appendix.
    """
    if name not in STAGES:
        raise unknown("ResNet", name, STAGES)
    check_image(name, in_shape, smallest=8)
    if order not in ("post", "pre"):
        raise ValueError(f"{name}: order must be 'post' or 'pre'; got {order!r}")
    if plain_name(activation) == "crelu":
        raise ValueError(
            f"{name}: crelu doubles the channels, so a block's output does not fit its input; take another"
        )
    plan = _Plan(bottleneck=name == "resnet50", pre=order == "pre", scale=scale)
    net = Stack(in_shape, activation, norm, bias=not norm)
    if is_small(in_shape) or len(STAGES[name]) == 3:
        width = 16
        net.conv_block(1, width, 3, padding=1)
    else:
        width = 64
        net.conv_block(1, width, 7, stride=2, padding=3).pool(1, 3, stride=2, padding=1)
    for stage, count in enumerate(STAGES[name], start=1):
        for b in range(1, count + 1):
            halves = stage > 1 and b == 1
            plan.add_block(net, f"{stage}_{b}", width * 2 ** (stage - 1), 2 if halves else 1)
    if plan.pre:
        net.normalize("_last").activate("_last")
    net.global_pool().linear("output", num_classes)
    return finished(net.sequential(), activation, init, seed)


@dataclass(frozen=True)
class _Plan:
    """How the blocks of a network are built."""

    bottleneck: bool
    pre: bool
    scale: bool

    def add_block(self, net: Stack, label: str, width: int, stride: int) -> None:
        """One block at the end of ``net``: the branch, and a shortcut where the shape changes."""
        convs = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)] if self.bottleneck else []
        convs = convs or [(width, 3, stride), (width, 3, 1)]  # (channels, kernel, stride)
        reshapes = stride > 1 or net.channels != convs[-1][0]
        active = label == "1_1"  # the first block gets an input that is activated already
        if self.pre and reshapes and not active:  # here branch and shortcut share an activation, so it stands before
            net.normalize(label).activate(label)
            active = True
        branch = self._branch(net.branch(), convs, active)
        shortcut = self._shortcut(net.branch(), branch.channels, stride).sequential() if reshapes else None
        block = nn.Residual(branch.sequential(), shortcut, None if self.pre else net.activation)
        net.add(f"block{label}", block, like=branch)

    def _branch(self, net: Stack, convs: list[tuple[int, int, int]], active: bool) -> Stack:
        """What the block learns to add; ``active``: whether its input is activated already."""
        for i, (channels, kernel, stride) in enumerate(convs, start=1):
            if self.pre and not (active and i == 1):
                net.normalize(i).activate(i)
            net.conv(i, channels, kernel, stride, padding=kernel // 2)
            if not self.pre:
                net.normalize(i)
                if i < len(convs):  # the last activation comes after the sum
                    net.activate(i)
        return net.add("scale", nn.Scale()) if self.scale else net

    def _shortcut(self, net: Stack, channels: int, stride: int) -> Stack:
        net.conv("", channels, 1, stride)
        return net if self.pre else net.normalize("")


def resnet18(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-18, 11 689 512 parameters; options as for ``resnet``."""
    return resnet("resnet18", activation, init, **options)


def resnet34(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-34, 21 797 672 parameters; options as for ``resnet``."""
    return resnet("resnet34", activation, init, **options)


def resnet50(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-50, 25 557 032 parameters; options as for ``resnet``."""
    return resnet("resnet50", activation, init, **options)


CIFAR: dict[str, Any] = {"in_shape": (3, 32, 32), "num_classes": 10}


def resnet20(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-20 for CIFAR, 272 474 parameters; options as for ``resnet``."""
    return resnet("resnet20", activation, init, **CIFAR | options)


def resnet32(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-32 for CIFAR, 466 906 parameters; options as for ``resnet``."""
    return resnet("resnet32", activation, init, **CIFAR | options)


def resnet56(activation: str = "relu", init: Init = None, **options: Any) -> nn.Sequential:
    """ResNet-56 for CIFAR, 855 770 parameters; options as for ``resnet``."""
    return resnet("resnet56", activation, init, **CIFAR | options)
