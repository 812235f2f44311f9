"""GoogLeNet: nine inception blocks, each of four branches side by side; two more classifiers help in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl import nn
from minidl.models.blocks import Init, Shape, Stack, check_image, finished, is_small

__all__ = ["GoogLeNet", "googlenet"]

#: Channels of the 1×1 branch; of the 3×3 branch and its 1×1 before; of the 5×5 branch and its 1×1; after the pooling.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):
    """What ``googlenet`` builds: ``upper(middle(lower(x)))``, with one more classifier after each of the first two.

    In training mode it gives ``(logits, aux1, aux2)``, in evaluation mode ``logits`` only; without auxiliary
    classifiers always ``logits``.
    """

    def __init__(
        self,
        lower: nn.Module,
        middle: nn.Module,
        upper: nn.Module,
        aux1: nn.Module | None = None,
        aux2: nn.Module | None = None,
    ) -> None:
        self.lower, self.middle, self.upper = lower, middle, upper
        self.aux1, self.aux2 = aux1, aux2

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, K), or three of them."""
        low = self.lower(x)
        mid = self.middle(low)
        logits = self.upper(mid)
        if self.aux1 is None or self.aux2 is None or not self.training:
            return logits
        return logits, self.aux1(low), self.aux2(mid)

    def training_loss(self, outputs: Any, y: Any, loss: Callable[[Any, Any], Any]) -> Any:
        """``loss(logits, y) + 0.3 (loss(aux1, y) + loss(aux2, y))``, or the first term alone if there are no others."""
        if not isinstance(outputs, tuple):
            return loss(outputs, y)
        logits, *auxiliary = outputs
        return loss(logits, y) + 0.3 * sum(loss(extra, y) for extra in auxiliary)


def googlenet(
    activation: str = "relu",
    init: Init = None,
    *,
    norm: bool = False,
    aux: bool = True,
    in_shape: Shape = (3, 224, 224),
    num_classes: int = 1000,
    seed: int = 0,
) -> GoogLeNet:
    """GoogLeNet (Inception v1): (N, 3, 224, 224) -> (N, 1000).

    6 998 552 parameters, with the auxiliary classifiers 13 378 280.

    ======================== =============== ==========================
    layers                   give            small form
    ======================== =============== ==========================
    lower: conv1 7×7, /2     64 × 112 × 112  3×3, /1: 16 × 32 × 32
    pool1 3×3, /2            64 × 56 × 56    16 × 16 × 16
    conv2 1×1, conv3 3×3     192 × 56 × 56   48 × 16 × 16
    pool3 3×3, /2            192 × 28 × 28   left out
    inception 3a, 3b         480 × 28 × 28   120 × 16 × 16
    pool4 3×3, /2; 4a        512 × 14 × 14   128 × 8 × 8
    middle: 4b, 4c, 4d       528 × 14 × 14   132 × 8 × 8
    upper: 4e                832 × 14 × 14   208 × 8 × 8
    pool5 3×3, /2; 5a, 5b    1024 × 7 × 7    256 × 4 × 4
    mean, dropout 0.4        1024            256
    ======================== =============== ==========================

    Inception: a 1×1 convolution; a 1×1 and then a 3×3; a 1×1 and then a 5×5; 3×3 pooling and then a 1×1: joined.
    Auxiliary classifier: 5×5 mean pooling of stride 3, a 1×1 convolution to 128 channels, 1024 units, dropout 0.7.

    The small form, for images with a side below 96, has a quarter of all channels and units.

    The two layers of local response normalization in the paper's first part are left out, as in AlexNet. Pooling sets a
    frame of 1 around the image where the paper says nothing about the border; the sizes are those of its table 1.

    Args:
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights or rules, as for ``init.apply``; None: the usual one for the activation.
        norm: batch normalization after every convolution. Published: none.
        aux: whether there are auxiliary classifiers; their loss counts 0.3 each.
        in_shape: (C, H, W) of an image, at least 17×17.
        num_classes: number of outputs.
        seed: of the weights.

    Raises:
        ValueError: images too small, an unknown activation or scheme.

    Source: Szegedy et al. 2014, "Going Deeper with Convolutions", table 1 and section 5.
    """
    check_image("googlenet", in_shape, smallest=17)  # so that the auxiliary classifiers find 5×5
    small = is_small(in_shape)
    part = 4 if small else 1
    lower = Stack(in_shape, activation, norm)
    if small:
        lower.conv_block(1, 16, 3, padding=1).pool(1, 3, stride=2, padding=1)
    else:
        lower.conv_block(1, 64, 7, stride=2, padding=3).pool(1, 3, stride=2, padding=1)
    lower.conv_block(2, 64 // part, 1).conv_block(3, 192 // part, 3, padding=1)
    if not small:
        lower.pool(3, 3, stride=2, padding=1)
    _add_inceptions(lower, part, "3a", "3b", "pool4", "4a")
    middle = lower.branch()
    _add_inceptions(middle, part, "4b", "4c", "4d")
    upper = middle.branch()
    _add_inceptions(upper, part, "4e", "pool5", "5a", "5b")
    upper.global_pool().dropout("", 0.4).linear("output", num_classes)
    extra = [_auxiliary(row, part, num_classes) for row in (lower, middle)] if aux else []
    parts = [row.sequential() for row in (lower, middle, upper)]
    return finished(GoogLeNet(*parts, *extra), activation, init, seed)


def _add_inceptions(net: Stack, part: int, *labels: str) -> None:
    """Inception blocks with one in ``part`` channels of the published ones, and "pool…" where the size is halved."""
    for label in labels:
        if label.startswith("pool"):
            net.pool(label.removeprefix("pool"), 3, stride=2, padding=1)
        else:
            _add_inception(net, label, *(channels // part for channels in INCEPTION[label]))


def _add_inception(net: Stack, label: str, c1: int, before3: int, c3: int, before5: int, c5: int, pooled: int) -> None:
    branches = {
        "one": net.branch().conv_block(1, c1, 1),
        "three": net.branch().conv_block(1, before3, 1).conv_block(3, c3, 3, padding=1),
        "five": net.branch().conv_block(1, before5, 1).conv_block(5, c5, 5, padding=2),
        "pooled": net.branch().pool(3, 3, stride=1, padding=1).conv_block(1, pooled, 1),
    }
    net.add(f"inception{label}", nn.Concat(**{name: branch.sequential() for name, branch in branches.items()}))
    net.channels = sum(branch.channels for branch in branches.values())


def _auxiliary(net: Stack, part: int, num_classes: int) -> nn.Sequential:
    """A classifier for what comes out of ``net``."""
    extra = net.branch().pool("", 5, stride=3, kind="avg").conv_block(1, 128 // part, 1).flatten()
    return extra.dense(2, 1024 // part).dropout("", 0.7).linear("output", num_classes).sequential()
