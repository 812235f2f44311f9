"""Layers with weights: dense, convolution, transposed convolution. Each declares its fans and its initializers."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.init import get
from minidl.init.fans import conv_fans, conv_transpose_fans, dense_fans
from minidl.init.registry import InitializerLike, drawn
from minidl.nn.module import Module, Parameter
from minidl.ops.conv import Pair

__all__ = ["Conv2d", "ConvTranspose2d", "Linear", "Weighted"]


class Weighted(Module):
    """A layer with a ``weight`` that has fans, and perhaps a ``bias``. Drawn at once, from fresh entropy.

    ``init.apply(model, seed=...)`` draws again, repeatably.

    Args:
        shape: of the weight.
        fans: (fan_in, fan_out), see ``init.fans``.
        bias: number of biases, 0 for none.
        init: scheme of the weight, a name or an initializer.
        bias_init: scheme of the bias.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        fans: tuple[float, float],
        bias: int,
        init: str | InitializerLike,
        bias_init: str | InitializerLike,
    ) -> None:
        self.fans = fans
        self.initializers = {"weight": get(init)} | ({"bias": get(bias_init)} if bias else {})
        rng = np.random.default_rng()
        groups = getattr(self, "groups", 1)
        self.weight = Parameter(drawn(self.initializers["weight"], shape, fans, rng, groups=groups))
        self.bias = None
        if bias:
            self.bias = Parameter(drawn(self.initializers["bias"], (bias,), fans, rng))

    def apply_weight(self, x: Any, weight: Any) -> Any:
        """What the layer does to ``x`` when its weight is ``weight``."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        """The layer's output for ``x``."""
        return self.apply_weight(x, self.weight)


class Linear(Weighted):
    """Dense layer ``y = x Wᵀ + b``: (..., in_features) -> (..., out_features).

    Args:
        in_features: length of the input's last axis.
        out_features: number of units.
        bias: False leaves b out.
        init: scheme of W (out_features, in_features).
        bias_init: scheme of b (out_features,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: str | InitializerLike = "he_normal",
        bias_init: str | InitializerLike = "zeros",
    ) -> None:
        _positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        fans = dense_fans(in_features, out_features)
        super().__init__((out_features, in_features), fans, out_features if bias else 0, init, bias_init)

    def apply_weight(self, x: Any, weight: Any) -> Any:
        """``x weightᵀ + b``."""
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            flat = " Flatten images first (nn.Flatten())." if x.ndim == 4 else ""
            raise ValueError(
                f"Linear({self.in_features} → {self.out_features}): the input's last axis has length "
                f"{x.shape[-1] if x.ndim else 0}, expected {self.in_features}. Got shape {tuple(x.shape)}.{flat}"
            )
        return ops.linear(x, weight, self.bias)

    def describe(self) -> str:
        """Sizes and scheme."""
        return f"{self.in_features} -> {self.out_features}{_scheme(self)}"


class Conv2d(Weighted):
    """Convolution (N, in_channels, H, W) -> (N, out_channels, H', W'), see ``ops.conv2d``.

    Args:
        in_channels, out_channels: numbers of channels.
        kernel_size, stride, padding, dilation: one number, or (vertical, horizontal).
        groups: so many independent convolutions, each on its share of the channels.
        bias: False leaves the bias out.
        padding_mode: "zeros", or "circular" (the image continues periodically).
        init: scheme of the weight (out_channels, in_channels/groups, kh, kw).
        bias_init: scheme of the bias (out_channels,).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        init: str | InitializerLike = "he_normal",
        bias_init: str | InitializerLike = "zeros",
    ) -> None:
        _positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if padding_mode not in ("zeros", "circular"):
            raise ValueError(f"padding_mode must be 'zeros' or 'circular'; got {padding_mode!r}")
        _divisible("Conv2d", groups, in_channels, out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = _sizes("Conv2d", kernel_size, stride, dilation)
        self.padding, self.padding_mode = _pair("Conv2d", "padding", padding, least=0), padding_mode
        fans = conv_fans(in_channels, out_channels, self.kernel_size, groups)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        super().__init__(shape, fans, out_channels if bias else 0, init, bias_init)

    def apply_weight(self, x: Any, weight: Any) -> Any:
        """The convolution of ``x`` with ``weight``, plus bias."""
        _check_channels(self, x)
        padding = self.padding
        if self.padding_mode == "circular":
            (ph, pw), padding = padding, (0, 0)
            x = ops.circular_pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        how = {"stride": self.stride, "padding": padding, "dilation": self.dilation, "groups": self.groups}
        return ops.conv2d(x, weight, self.bias, **how)  # type: ignore[arg-type]

    def describe(self) -> str:
        """Channels, kernel, and what differs from the defaults."""
        return _describe_conv(self)


class ConvTranspose2d(Weighted):
    """Transposed convolution (N, in_channels, H, W) -> (N, out_channels, H', W'), see ``ops.conv_transpose2d``.

    Arguments as ``Conv2d``; ``output_padding`` adds rows and columns at the bottom and right. The weight has shape
    (in_channels, out_channels/groups, kh, kw).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        *,
        init: str | InitializerLike = "he_normal",
        bias_init: str | InitializerLike = "zeros",
    ) -> None:
        _positive("ConvTranspose2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        _divisible("ConvTranspose2d", groups, in_channels, out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = _sizes("ConvTranspose2d", kernel_size, stride, dilation)
        self.padding = _pair("ConvTranspose2d", "padding", padding, least=0)
        self.output_padding = _pair("ConvTranspose2d", "output_padding", output_padding, least=0)
        fans = conv_transpose_fans(in_channels, out_channels, self.kernel_size, self.stride, groups)
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        super().__init__(shape, fans, out_channels if bias else 0, init, bias_init)

    def apply_weight(self, x: Any, weight: Any) -> Any:
        """The transposed convolution of ``x`` with ``weight``, plus bias."""
        _check_channels(self, x)
        return ops.conv_transpose2d(
            x,
            weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def describe(self) -> str:
        """Channels, kernel, and what differs from the defaults."""
        return _describe_conv(self)


def _positive(layer: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{layer}: {name} must be a whole number of at least 1; got {size!r}")


def _pair(layer: str, name: str, value: Pair, least: int) -> tuple[int, int]:
    """``3`` -> (3, 3), checked."""
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    if not (isinstance(both, (tuple, list)) and len(both) == 2) or not all(
        isinstance(n, (int, np.integer)) and n >= least for n in both
    ):
        raise ValueError(f"{layer}: {name} must be a whole number of at least {least}, or two of them; got {value!r}")
    return int(both[0]), int(both[1])


def _sizes(layer: str, kernel_size: Pair, stride: Pair, dilation: Pair) -> tuple[tuple[int, int], ...]:
    sizes = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    return tuple(_pair(layer, name, value, least=1) for name, value in sizes.items())


def _divisible(layer: str, groups: int, in_channels: int, out_channels: int) -> None:
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"{layer}: {in_channels} and {out_channels} channels do not both divide into {groups} groups")


def _check_channels(layer: Conv2d | ConvTranspose2d, x: Any) -> None:
    if x.ndim != 4 or x.shape[1] != layer.in_channels:
        kh, kw = layer.kernel_size
        name = f"{type(layer).__name__}({layer.in_channels} → {layer.out_channels}, {kh}×{kw})"
        if x.ndim != 4:
            raise ValueError(
                f"{name}: input has {x.ndim} axes, expected 4, (N, C, H, W). Got shape {tuple(x.shape)}; "
                "images without a channel axis get one with x[:, None]."
            )
        channels = x.shape[1]
        raise ValueError(
            f"{name}: input has {channels} channel{'s' * (channels != 1)}, expected {layer.in_channels}. Got shape "
            f"{tuple(x.shape)}; pass in_channels={channels}, or check the channel axis (N, C, H, W)."
        )


def _describe_conv(layer: Conv2d | ConvTranspose2d) -> str:
    kh, kw = layer.kernel_size
    usual = {
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "output_padding": (0, 0),
        "padding_mode": "zeros",
    }
    changed = [
        f", {name}={_short(getattr(layer, name))}"
        for name, value in usual.items()
        if getattr(layer, name, value) != value
    ]
    return f"{layer.in_channels} -> {layer.out_channels}, {kh}x{kw}{''.join(changed)}{_scheme(layer)}"


def _short(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value[0] == value[1] else value


def _scheme(layer: Weighted) -> str:
    bias = "" if layer.bias is not None else ", bias=False"
    name = getattr(layer.initializers["weight"], "name", None)  # a function of the user's own has none
    return bias if name is None else f"{bias}, init={name}"
