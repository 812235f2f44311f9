"""All networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from minidl import nn
from minidl.models.alexnet import alexnet
from minidl.models.googlenet import googlenet
from minidl.models.lenet import lenet5
from minidl.models.perceptron import image_mlp
from minidl.models.resnet import resnet, resnet18, resnet20, resnet32, resnet34, resnet50, resnet56
from minidl.models.vgg import vgg, vgg11, vgg13, vgg16, vgg19
from minidl.text import unknown

__all__ = ["build", "names"]

#: Every network, under the function whose arguments it takes.
FAMILIES: dict[Callable[..., nn.Module], tuple[Callable[..., nn.Module], ...]] = {
    image_mlp: (image_mlp,),
    lenet5: (lenet5,),
    alexnet: (alexnet,),
    vgg: (vgg11, vgg13, vgg16, vgg19),
    googlenet: (googlenet,),
    resnet: (resnet18, resnet34, resnet50, resnet20, resnet32, resnet56),
}
NETWORKS = {
    "mlp" if network is image_mlp else network.__name__: (network, family)
    for family, networks in FAMILIES.items()
    for network in networks
}


def names() -> list[str]:
    """The names that ``build`` knows."""
    return list(NETWORKS)


def build(name: str, /, **arguments: Any) -> nn.Module:
    """The network of that name: ``build("lenet5", activation="tanh", in_shape=(1, 28, 28), num_classes=10)``.

    All take ``activation``, ``init``, ``norm``, ``in_shape``, ``num_classes`` and ``seed``; what else one takes, and
    what it does without, stands in the function of the same name. "mlp" is ``image_mlp``.

    Raises:
        ValueError: an unknown name; the message suggests the nearest.
        TypeError: an argument this network does not take; the message lists those that it takes.
    """
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    network, family = NETWORKS[name]
    accepted = [argument for argument in inspect.signature(family).parameters if argument != "name"]
    for argument in arguments:
        if argument not in accepted:
            raise TypeError(f"{name} takes no argument {argument!r}; it takes: {', '.join(accepted)}")
    return network(**arguments)
