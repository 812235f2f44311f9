"""Layers and containers. Activations are layers too: ``nn.Tanh()``, ``nn.LeakyReLU(negative_slope=0.2)``."""

from typing import Any

from minidl.nn.activation import LAYERS, Activation, activation
from minidl.nn.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Concat,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    Residual,
    Scale,
    Sequential,
    WeightNorm,
)
from minidl.nn.linear import Conv2d, ConvTranspose2d, Linear, Weighted
from minidl.nn.module import Module, Parameter

__all__ = [
    "Activation",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "Residual",
    "Scale",
    "Sequential",
    "WeightNorm",
    "Weighted",
    "activation",
]


def __getattr__(name: str) -> type[Any]:
    """The activation layers, which are made from their operations."""
    if name in LAYERS:
        return LAYERS[name]
    raise AttributeError(f"module 'minidl.nn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *LAYERS])
