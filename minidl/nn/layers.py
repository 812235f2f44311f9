"""Layers around the weights: containers, branches, pooling, normalization, dropout, scaling."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from minidl import init, ops
from minidl.backend import array_module, device_of, to_host
from minidl.nn.activation import activation as activation_layer
from minidl.nn.linear import ConvTranspose2d, Weighted
from minidl.nn.module import Module, Parameter
from minidl.ops.conv import Pair
from minidl.tensor import Tensor

__all__ = [
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "MaxPool2d",
    "Residual",
    "Scale",
    "Sequential",
    "WeightNorm",
]


class Sequential(Module):
    """Modules one after the other: ``Sequential(a, b)`` names them "0", "1"; ``Sequential(conv=a, act=b)`` as given."""

    def __init__(self, *modules: Module, **named: Module) -> None:
        _hold(self, modules, named)

    def forward(self, x: Any) -> Any:
        """The last module's output."""
        for module in vars(self).values():
            if isinstance(module, Module):
                x = module(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, i: int) -> Module:
        return list(self)[i]


class Concat(Module):
    """The same input through several branches, their outputs joined along the channel axis: an inception block."""

    def __init__(self, *branches: Module, **named: Module) -> None:
        _hold(self, branches, named)

    def forward(self, x: Any) -> Any:
        """(N, C, ...) -> (N, ΣCᵢ, ...)."""
        return ops.concat([branch(x) for _, branch in self.named_children()], axis=1)


def _hold(container: Module, modules: tuple[Module, ...], named: dict[str, Module]) -> None:
    """Make ``modules`` attributes "0", "1", … of ``container``, and ``named`` ones by their names."""
    for name, module in {**{str(i): m for i, m in enumerate(modules)}, **named}.items():
        if not isinstance(module, Module):
            raise TypeError(f"{type(container).__name__} holds modules; {name} is a {type(module).__name__}")
        setattr(container, name, module)


class Residual(Module):
    """``activation(branch(x) + shortcut(x))``; without shortcut x itself, without activation the sum as it is.

    Args:
        branch: what is learned on top.
        shortcut: for branches that change the shape, usually a 1×1 convolution.
        activation: name or module.
    """

    def __init__(self, branch: Module, shortcut: Module | None = None, activation: str | Module | None = None) -> None:
        self.branch = branch
        self.shortcut = shortcut
        self.activation = None if activation is None else activation_layer(activation)

    def forward(self, x: Any) -> Any:
        """Branch plus shortcut.

        Raises:
            ValueError: their shapes differ; a sum that broadcasts is never meant here.
        """
        y, kept = self.branch(x), x if self.shortcut is None else self.shortcut(x)
        if y.shape != kept.shape:
            raise ValueError(
                f"Residual: the branch gives {tuple(y.shape)}, the shortcut {tuple(kept.shape)}; pass a shortcut that "
                "changes the shape in the same way, such as a 1×1 Conv2d"
            )
        y = y + kept
        return y if self.activation is None else self.activation(y)


class Flatten(Module):
    """(N, C, H, W) -> (N, C·H·W): all axes from ``start_axis`` on as one."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Any) -> Any:
        """``x`` flattened."""
        return x if x.ndim == self.start_axis + 1 else ops.flatten(x, self.start_axis)


class _Pool(Module):
    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def describe(self) -> str:
        """Kernel, stride, padding."""
        return f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"


class MaxPool2d(_Pool):
    """The largest value of every window, see ``ops.max_pool2d``; the stride defaults to the kernel."""

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, C, H', W')."""
        return ops.max_pool2d(x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding)


class AvgPool2d(_Pool):
    """The mean of every window, see ``ops.avg_pool2d``; the stride defaults to the kernel."""

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, C, H', W')."""
        return ops.avg_pool2d(x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding)


class GlobalAvgPool2d(Module):
    """The mean of every channel: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Any) -> Any:
        """Means over all places."""
        return ops.global_avg_pool2d(x)


class _BatchNorm(Module):
    """What both batch normalizations share; ``axes_allowed`` is the number of axes each accepts."""

    axes_allowed: tuple[int, ...] = ()
    running_mean: Any
    running_var: Any

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features, "float32")) if affine else None
        self.bias = Parameter(np.zeros(num_features, "float32")) if affine else None
        if affine:
            self.initializers = {"weight": init.get("ones"), "bias": init.get("zeros")}
        self.register_buffer("running_mean", np.zeros(num_features, "float32"))
        self.register_buffer("running_var", np.ones(num_features, "float32"))

    def after_init(self, rng: np.random.Generator) -> None:
        """Forget the running averages: they belong to the weights that were there before."""
        xp = array_module(self.running_mean)
        self.running_mean, self.running_var = xp.zeros_like(self.running_mean), xp.ones_like(self.running_var)

    def forward(self, x: Any) -> Any:
        """Normalized ``x``, same shape.

        Raises:
            ValueError: the shape does not fit.
        """
        if x.ndim not in self.axes_allowed or x.shape[1] != self.num_features:
            expected = f"(N, {self.num_features}{', H, W' * (self.axes_allowed == (4,))})"
            raise ValueError(
                f"{type(self).__name__}({self.num_features}): got shape {tuple(x.shape)}, expected {expected}"
            )
        if self.training:
            count = x.size // self.num_features
            return ops.batch_norm(x, self.weight, self.bias, eps=self.eps, observe=partial(self._update, count))
        per_channel = (slice(None), *(None,) * (x.ndim - 2))
        scale = (self.running_var + self.eps) ** -0.5
        y = (x - self.running_mean[per_channel]) * scale[per_channel]
        y = y if self.weight is None else y * self.weight[per_channel]
        return y if self.bias is None else y + self.bias[per_channel]

    def _update(self, count: int, mean: Any, variance: Any) -> None:
        """Draw the running averages towards the statistics of a batch with ``count`` values per channel."""
        keep, unbiased = 1 - self.momentum, count / (count - 1)
        self.running_mean = keep * self.running_mean + self.momentum * mean
        self.running_var = keep * self.running_var + self.momentum * (unbiased * variance)

    def describe(self) -> str:
        """Number of channels."""
        return str(self.num_features)


class BatchNorm1d(_BatchNorm):
    """Batch normalization of (N, C): in training by the batch's statistics, in evaluation by their running averages.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running averages.
        affine: False leaves the scale γ (``weight``) and the shift β (``bias``) out.
    """

    axes_allowed = (2,)


class BatchNorm2d(_BatchNorm):
    """Batch normalization of images (N, C, H, W), per channel; arguments as for ``BatchNorm1d``."""

    axes_allowed = (4,)


class Dropout(Module):
    """In training sets each element to 0 with probability ``p`` and divides the others by 1 - p; else passes x on.

    The masks come from a generator of its own on the device of x, seeded from fresh entropy or by ``init.apply``. NumPy
    and CuPy draw different masks from one seed.
    """

    number: int

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability must be in [0, 1); got {p}")
        self.p = p
        self.after_init(np.random.default_rng())

    def after_init(self, rng: np.random.Generator) -> None:
        """Start the stream of masks anew from ``rng``."""
        self.seed = int(rng.integers(2**62))
        self.restart(0)

    def restart(self, number: int | None = None) -> int:
        """Begin stream ``number`` of masks (without a number the next one), from its start; returns its number."""
        self.number = self.number + 1 if number is None else number
        self._generator: Any = None
        self._device = ""
        return self.number

    def forward(self, x: Any) -> Any:
        """``x`` with a fresh mask in training, ``x`` itself in evaluation."""
        if not self.training or self.p == 0:
            return x
        array = x.data if isinstance(x, Tensor) else x
        if self._device != device_of(array):
            self._device = device_of(array)
            self._generator = array_module(array).random.default_rng(self.seed + self.number)
        return ops.dropout(x, self.p, self._generator)

    def describe(self) -> str:
        """The probability."""
        return f"p={self.p}"


class Scale(Module):
    """``scale · x + bias`` with one learnable number each: what Fixup, SkipInit and ReZero put into a residual branch.

    Args:
        scale: value at the start.
        bias: value at the start, or None for no bias.
    """

    def __init__(self, scale: float = 1.0, bias: float | None = None) -> None:
        self.initializers = {"scale": init.get("constant", value=scale)}
        self.scale = Parameter(np.full(1, scale, "float32"))
        self.bias = None if bias is None else Parameter(np.full(1, bias, "float32"))
        if bias is not None:
            self.initializers["bias"] = init.get("constant", value=bias)

    def forward(self, x: Any) -> Any:
        """The scaled and shifted input."""
        y = x * self.scale
        return y if self.bias is None else y + self.bias

    def describe(self) -> str:
        """The values now."""
        bias = "" if self.bias is None else f", bias={to_host(self.bias.data)[0]:.3g}"
        return f"{to_host(self.scale.data)[0]:.3g}{bias}"


class WeightNorm(Module):
    """A weighted layer with ``w = gain · v / ‖v‖`` per output unit: length and direction are learned apart.

    Args:
        layer: a Linear, Conv2d or ConvTranspose2d; its weight becomes v, its bias stays.

    Right after initialization ``gain = ‖v‖``, so the layer computes what it computed without.
    Source: Salimans & Kingma 2016, "Weight Normalization".
    """

    def __init__(self, layer: Weighted) -> None:
        if not isinstance(layer, Weighted):
            raise TypeError(f"WeightNorm wraps a Linear, Conv2d or ConvTranspose2d; got {type(layer).__name__}")
        self.fans, self.initializers = layer.fans, dict(layer.initializers)
        self.groups = getattr(layer, "groups", 1)
        self.weight, self.bias = layer.weight, layer.bias
        self._axis = 1 if isinstance(layer, ConvTranspose2d) else 0  # where the output units lie
        self.gain = Parameter(self._length(self.weight.detach()).data)
        self._apply_weight = layer.apply_weight

    def after_init(self, rng: np.random.Generator) -> None:
        """Make the gain the length of the new v."""
        self.gain.data = self._length(self.weight.detach()).data

    def _length(self, v: Any) -> Any:
        return (v * v).sum(axis=tuple(i for i in range(v.ndim) if i != self._axis), keepdims=True).sqrt()

    def forward(self, x: Any) -> Any:
        """The layer with the normalized weight."""
        return self._apply_weight(x, self.weight * (self.gain / self._length(self.weight)))

    def describe(self) -> str:
        """Shape of the weight."""
        return str(tuple(self.weight.shape))
