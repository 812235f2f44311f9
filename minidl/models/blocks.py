"""What the networks share: layers in a row that know the shape they give, and the drawing of the weights at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias, TypeVar

from minidl import init as _init
from minidl import nn
from minidl.ops.conv import out_length

__all__ = [
    "Init",
    "Shape",
    "Stack",
    "check_image",
    "finished",
    "is_small",
    "plain_name",
    "scheme_for",
]

#: What a network's ``init`` may be, see ``init.apply``; None: the usual scheme of the activation.
Init: TypeAlias = str | _init.InitializerLike | Mapping[str, Any] | None
#: (channels, height, width) of one image
Shape: TypeAlias = Sequence[int]
Model = TypeVar("Model", bound=nn.Module)

#: Activations that pass the positive half, so that half of the signal is lost: He's factor 2 makes up for it.
HALF_PASSING = ("relu", "leaky_relu", "elu", "gelu", "silu", "crelu")

#: Networks made for 224×224 take their published form where both sides have so many pixels, else their small form.
PUBLISHED_FROM = 96


def scheme_for(activation: str) -> str:
    """The usual scheme: He for ReLU and its relatives, LeCun for SELU, Glorot for the rest."""
    activation = plain_name(activation)
    return "he_normal" if activation in HALF_PASSING else "lecun_normal" if activation == "selu" else "glorot_normal"


def plain_name(activation: str) -> str:
    """Also for "ReLU" it is "relu": same names, same scheme. A misspelt name is reported before anything is drawn."""
    layer: Any = nn.activation(activation)
    return str(layer.function.__name__)


def is_small(in_shape: Shape) -> bool:
    """Whether images are so small that a network takes its small form: a side below ``PUBLISHED_FROM``."""
    return min(in_shape[1:]) < PUBLISHED_FROM


def check_image(network: str, in_shape: Shape, smallest: int) -> None:
    """Refuse a shape that is none of an image, or an image of which nothing would be left on the way.

    Raises:
        ValueError: it names the smallest image the network takes.
    """
    if len(in_shape) != 3:
        raise ValueError(f"{network}: in_shape is (channels, height, width); got {tuple(in_shape)}")
    if min(in_shape[1:]) < smallest:
        raise ValueError(
            f"{network}: images of {in_shape[1]}×{in_shape[2]} are too small, nothing would be left of them at the "
            f"end; the smallest are {smallest}×{smallest}"
        )


class Stack:
    """Layers in a row, and the shape (channels, *size) of what they give; every method adds to the row.

    Labels tell layers of a kind apart: ``conv_block(1, …)`` adds "conv1", "norm1" and "relu1". Weights are zeros until
    ``finished`` draws them: so nothing is drawn twice, and a network of zeros costs neither time nor memory.

    Args:
        shape: (C, H, W) of the input.
        activation: name of the activation.
        norm: whether ``normalize`` adds batch normalization or nothing.
        bias: whether convolutions have one.
    """

    def __init__(self, shape: Shape, activation: str, norm: bool = False, bias: bool = True) -> None:
        self.channels, self.size = shape[0], tuple(shape[1:])
        self.activation, self.norm, self.bias = plain_name(activation), norm, bias
        self.layers: dict[str, nn.Module] = {}

    def branch(self) -> Stack:
        """An empty row that starts where this one ends."""
        return Stack((self.channels, *self.size), self.activation, self.norm, self.bias)

    def sequential(self) -> nn.Sequential:
        """The layers as a module."""
        return nn.Sequential(**self.layers)

    def add(self, name: str, layer: nn.Module, like: Stack | None = None) -> Self:
        """Any layer, which gives the shape that the row ``like`` gives; without, it keeps the shape."""
        self.layers[name] = layer
        if like is not None:
            self.channels, self.size = like.channels, like.size
        return self

    def conv(self, label: object, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> Self:
        """A convolution alone."""
        conv = nn.Conv2d(self.channels, channels, kernel, stride, padding, bias=self.bias, init="zeros")
        self.channels = channels
        return self.add(f"conv{label}", conv)._shrink(kernel, stride, padding)

    def normalize(self, label: object) -> Self:
        """Batch normalization, if this network has any."""
        return self.add(f"norm{label}", nn.BatchNorm2d(self.channels)) if self.norm else self

    def activate(self, label: object) -> Self:
        """The activation; CReLU doubles the channels."""
        self.add(f"{self.activation}{label}", nn.activation(self.activation))
        self.channels *= 2 if self.activation == "crelu" else 1
        return self

    def conv_block(self, label: object, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> Self:
        """Convolution, batch normalization if any, activation."""
        return self.conv(label, channels, kernel, stride, padding).normalize(label).activate(label)

    def pool(self, label: object, kernel: int, stride: int | None = None, padding: int = 0, kind: str = "max") -> Self:
        """The largest value of every window, or with kind "avg" the mean."""
        layer = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
        self.add(f"pool{label}", layer(kernel, stride, padding))
        return self._shrink(kernel, stride or kernel, padding)

    def _shrink(self, kernel: int, stride: int, padding: int) -> Self:
        self.size = tuple(out_length(length, kernel, stride, padding) for length in self.size)
        return self

    def flatten(self) -> Self:
        """(C, H, W) -> (C·H·W,)."""
        self.channels, self.size = self.channels * math.prod(self.size), ()
        return self.add("flatten", nn.Flatten())

    def global_pool(self) -> Self:
        """The mean of every channel: (C, H, W) -> (C,)."""
        self.size = ()
        return self.add("pool", nn.GlobalAvgPool2d())

    def linear(self, name: str, units: int) -> Self:
        """A dense layer alone."""
        self.add(name, nn.Linear(self.channels, units, init="zeros"))
        self.channels = units
        return self

    def dense(self, label: object, units: int) -> Self:
        """Dense layer, activation."""
        return self.linear(f"linear{label}", units).activate(label)

    def dropout(self, label: object, p: float) -> Self:
        """Dropout with probability p."""
        return self.add(f"dropout{label}", nn.Dropout(p))


def finished(model: Model, activation: str, init: Init, seed: int) -> Model:
    """``model`` with its weights drawn: by ``init``, or if that is None by the usual scheme of its activation.

    The layers declare what they got too, so that the printed model tells the truth and ``init.apply(model)`` repeats
    it. What no rule fits gets He's scheme, the default of all layers.
    """
    for _, layer in model.named_modules():
        if isinstance(layer, nn.Weighted):
            layer.initializers["weight"] = _init.get("he_normal")
    _init.apply(model, scheme_for(activation) if init is None else init, seed=seed)
    for _, module in model.named_modules():
        for name in module.initializers:
            if (parameter := getattr(module, name)) is not None:
                module.initializers[name] = parameter.drawn_by
    return model
