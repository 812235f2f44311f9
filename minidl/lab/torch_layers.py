"""Layers and functions of PyTorch as layers of minidl: what the rules and the theory have to know of them.

PyTorch is not imported here: whoever hands in a module has done so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import nn
from minidl.tensor import Tensor

__all__ = ["FUNCTIONS", "called", "host", "standin", "twin"]

Shape = Sequence[int]
SIZES = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "groups", "stride")


class Standin:
    """A layer that minidl does not have, by its name, its sizes and its weight."""

    forward = None
    training = True


def host(tensor: Any) -> NDArray[Any]:
    """A tensor of PyTorch as an array on the host, without a copy where it lies there; halves as float32."""
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.cpu().numpy())


def twin(torch: Any, module: Any, x: Shape, y: Shape) -> Any:
    """The layer of minidl that computes what ``module`` does from shape ``x`` to shape ``y``, with the same weights.

    One that minidl does not have, or that computes by a ``forward`` of its own, gets a ``Standin``.
    """
    for kind in type(module).__mro__:
        if kind is getattr(torch.nn, kind.__name__, None) and kind.__name__ in LAYERS:
            made = LAYERS[kind.__name__](module, x, y) if type(module).forward is kind.forward else None
            return _weighted_standin(module) if made is None else _filled(made, module)
    return _weighted_standin(module)


def called(name: str, args: Sequence[Any], options: Mapping[str, Any], x: Shape, y: Shape) -> Any:
    """The same for a call of a function, ``torch.relu(x)``; None if minidl has no layer for it."""
    kind, usual = FUNCTIONS[name]
    given = usual | dict(zip(usual, args, strict=False)) | {k: v for k, v in options.items() if k in usual}
    return LAYERS[kind](SimpleNamespace(**given), x, y)


def standin(module: Any) -> Any:
    """A ``Standin`` by the name of the module's class."""
    return type(type(module).__name__, (Standin,), {"__module__": "torch"})()


def _weighted_standin(module: Any) -> Any:
    layer = standin(module)
    for name in SIZES:
        if hasattr(module, name):
            setattr(layer, name, getattr(module, name))
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if getattr(weight, "ndim", 0) >= 2:
        layer.fans, layer.weight = None, _trained(weight)
        layer.bias = Tensor(host(bias)) if hasattr(bias, "detach") else None
    return layer


def _filled(layer: Any, module: Any) -> Any:
    """With the numbers of ``module``. A layer of PyTorch does not say by what its weight was drawn."""
    layer.initializers = {}
    for name in ("weight", "bias"):
        if getattr(module, name, None) is not None:
            setattr(layer, name, _trained(getattr(module, name)))
    if getattr(module, "running_mean", None) is not None:
        layer.running_mean, layer.running_var = host(module.running_mean), host(module.running_var)
    layer.training = module.training
    return layer


def _trained(parameter: Any) -> Tensor:
    return Tensor(host(parameter), requires_grad=parameter.requires_grad)


def _linear(m: Any, _x: Shape, _y: Shape) -> Any:
    return nn.Linear(m.in_features, m.out_features, m.bias is not None, init="zeros")


def _conv(m: Any, _x: Shape, _y: Shape) -> Any:
    padding = m.padding
    if padding == "valid":
        padding = 0
    if padding == "same" and not any(d * (k - 1) % 2 for d, k in zip(m.dilation, m.kernel_size, strict=True)):
        padding = tuple(d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True))
    if padding == "same" or m.padding_mode not in ("zeros", "circular"):
        return None
    sizes = (m.in_channels, m.out_channels, m.kernel_size, m.stride, padding, m.dilation, m.groups)
    return nn.Conv2d(*sizes, m.bias is not None, m.padding_mode, init="zeros")


def _transposed(m: Any, _x: Shape, _y: Shape) -> Any:
    sizes = (m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.output_padding, m.groups)
    return nn.ConvTranspose2d(*sizes, m.bias is not None, m.dilation, init="zeros")


def _norm(kind: Any) -> Callable[[Any, Shape, Shape], Any]:
    def made(m: Any, _x: Shape, _y: Shape) -> Any:
        return kind(m.num_features, m.eps, affine=m.weight is not None) if m.running_mean is not None else None

    return made


def _max_pool(m: Any, _x: Shape, _y: Shape) -> Any:
    return nn.MaxPool2d(m.kernel_size, m.stride, m.padding) if m.dilation in (1, (1, 1)) else None


def _mean_pool(m: Any, _x: Shape, _y: Shape) -> Any:
    return nn.AvgPool2d(m.kernel_size, m.stride, m.padding) if m.divisor_override is None else None


def _pool_to_size(_m: Any, x: Shape, y: Shape) -> Any:
    """The mean over all places, or over windows that do not overlap."""
    if math.prod(y[2:]) == 1:
        return nn.GlobalAvgPool2d()
    if any(a % b for a, b in zip(x[2:], y[2:], strict=True)):
        return None
    return nn.AvgPool2d((x[2] // y[2], x[3] // y[3]))


def _flatten(_m: Any, x: Shape, y: Shape) -> Any:
    return nn.Flatten() if len(y) == 2 and len(x) >= 2 and x[0] == y[0] else None


def _dropout(m: Any, _x: Shape, _y: Shape) -> Any:
    layer = nn.Dropout(m.p) if m.p < 1 else None
    if layer is not None:
        layer.training = m.training
    return layer


def _activation(kind: str, *options: str, **needed: Any) -> Callable[[Any, Shape, Shape], Any]:
    """An activation with these options, if the others have the value that minidl's has."""

    def made(m: Any, _x: Shape, _y: Shape) -> Any:
        if any(getattr(m, name, value) != value for name, value in needed.items()):
            return None
        return nn.activation(kind) if not options else getattr(nn, kind)(**{name: getattr(m, name) for name in options})

    return made


#: By the name of the class in ``torch.nn``: ``(module, shape of the input, of the output) -> layer`` or None.
LAYERS: dict[str, Callable[[Any, Shape, Shape], Any]] = {
    "Linear": _linear,
    "Conv2d": _conv,
    "ConvTranspose2d": _transposed,
    "BatchNorm1d": _norm(nn.BatchNorm1d),
    "BatchNorm2d": _norm(nn.BatchNorm2d),
    "MaxPool2d": _max_pool,
    "AvgPool2d": _mean_pool,
    "AdaptiveAvgPool2d": _pool_to_size,
    "Flatten": _flatten,
    "Dropout": _dropout,
    "ReLU": _activation("ReLU"),
    "Tanh": _activation("Tanh"),
    "Sigmoid": _activation("Sigmoid"),
    "SELU": _activation("SELU"),
    "SiLU": _activation("SiLU"),
    "Softsign": _activation("Softsign"),
    "GELU": _activation("GELU", approximate="none"),
    "Softplus": _activation("Softplus", beta=1),
    "Hardtanh": _activation("HardTanh", min_val=-1, max_val=1),
    "ELU": _activation("ELU", "alpha"),
    "LeakyReLU": _activation("LeakyReLU", "negative_slope"),
}

_WINDOW = {"kernel_size": 1, "stride": None, "padding": 0}
#: By name of the function, without the _ of one that works in place: class of the same thing, and its arguments behind
#: the input with their default values.
FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("ReLU", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "selu": ("SELU", {}),
    "silu": ("SiLU", {}),
    "softsign": ("Softsign", {}),
    "gelu": ("GELU", {"approximate": "none"}),
    "softplus": ("Softplus", {"beta": 1}),
    "hardtanh": ("Hardtanh", {"min_val": -1.0, "max_val": 1.0}),
    "elu": ("ELU", {"alpha": 1.0}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "max_pool2d": ("MaxPool2d", {**_WINDOW, "dilation": 1}),
    "avg_pool2d": ("AvgPool2d", {**_WINDOW, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}),
    "adaptive_avg_pool2d": ("AdaptiveAvgPool2d", {}),
    "dropout": ("Dropout", {"p": 0.5, "training": True}),
    "flatten": ("Flatten", {}),
    "view": ("Flatten", {}),
    "reshape": ("Flatten", {}),
}
