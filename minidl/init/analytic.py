"""AutoInit: the law of the signal is followed through the network by calculation, and the weights are fitted to it.

No data are needed, only their mean and variance. A *law* is a list of values with their chances: an activation changes
the values, the maximum of a window changes the chances, and a weighted layer, a sum of many terms, makes it Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from minidl.backend import array_module, device_of, to_device, to_host
from minidl.init.model_level import (
    ModelReport,
    as_in_training,
    effective_weight,
    rescale,
    rms,
    weighted_layers,
)
from minidl.tensor import Tensor, no_grad

__all__ = ["Law", "autoinit"]

Values = NDArray[np.float64]

_XI = np.linspace(-12.0, 12.0, 24_001)  # the grid of ``meanfield``: see there why plain points are the best nodes
_CHANCES = np.exp(-0.5 * _XI**2)
_CHANCES /= _CHANCES.sum()


class Law(NamedTuple):
    """What one element of a layer's output may be: ``values[i]`` with probability ``chances[i]``."""

    values: Values
    chances: Values

    @classmethod
    def gaussian(cls, mean: float, variance: float) -> Self:
        """N(mean, variance), on 24 001 points."""
        return cls(mean + math.sqrt(variance) * _XI, _CHANCES)

    @property
    def mean(self) -> float:
        """E x."""
        return float(self.chances @ self.values)

    @property
    def square(self) -> float:
        """E x²: what a layer with zero-mean weights makes its variance of."""
        return float(self.chances @ self.values**2)

    @property
    def variance(self) -> float:
        """E x² - (E x)²."""
        return max(self.square - self.mean**2, 0.0)

    def changed(self, f: Callable[[Values], Any]) -> Law:
        """The law of ``f(x)``."""
        return Law(np.asarray(f(self.values), np.float64), self.chances)

    def largest_of(self, count: int) -> Law:
        """The law of the largest of ``count`` independent ones: ``P(max ≤ x) = P(x)^count``."""
        order = np.argsort(self.values, kind="stable")
        below = np.minimum(np.cumsum(self.chances[order]), 1.0)
        return Law(self.values[order], np.diff(below**count, prepend=0.0))

    def averaged(self, count: int) -> Law:
        """The law of the mean of ``count`` independent ones, nearly Gaussian."""
        return Law.gaussian(self.mean, self.variance / count)


def autoinit(model: Any, in_shape: Sequence[int], *, mean: float = 0.0, variance: float = 1.0) -> ModelReport:
    """Scale every weighted layer so that by calculation its output has variance 1; biases become 0.

    A layer with independent zero-mean weights turns inputs with second moment E h² into outputs of mean 0 and variance
    ``n E w² E h²``, n being fan_in (in a convolution with zero padding, the part of the kernel that lies inside the
    image on average): ``w ← w/√(n E w² E h²)``. Between them the law of h is followed: through activations and
    normalization exactly, through pooling as if neighbours were independent, through sums of branches as if these were.

    What it does not see: the correlation between inputs and between neighbouring pixels (the mean of a window varies
    more than calculated), weights whose mean is not zero, and the luck of one draw (``init.lsuv`` sees all three).

    Args:
        model: made of ``nn`` layers and the containers Sequential, Concat and Residual.
        in_shape: shape of one input, (C, H, W) or (features,).
        mean: of the inputs.
        variance: of the inputs.

    Returns:
        A report with one record per layer: calculated second moment of its input, the factor, the weight's rms.

    Raises:
        ValueError: a layer it cannot follow, weights that are all zero, a signal that is lost on the way. No parameter
            has been changed then.

    Source: Bingham & Miikkulainen 2021, "AutoInit: Analytic Signal-Preserving Weight Initialization for Neural
    Networks"; following the whole law rather than its two moments is ours.
    """
    if not (0 <= variance < math.inf and math.isfinite(mean)) or variance + mean**2 == 0:
        raise ValueError(f"autoinit: inputs need a finite mean and variance, not both 0; got {mean} and {variance}")
    layers = weighted_layers(model)
    if not layers:
        raise ValueError("autoinit has nothing to set: no layer of this model has a weight with fans")
    walk = _Walk(_shapes(model, in_shape))
    walk.through("", model, Law.gaussian(mean, variance))
    records = []
    for path, module in layers:
        square, factor = walk.found[id(module)]
        rescale(module, factor)
        if module.bias is not None:
            module.bias.data = array_module(module.bias.data).zeros_like(module.bias.data)
        record = {"layer": path, "shape": tuple(module.weight.shape), "input_square": square, "factor": factor}
        records.append(record | {"weight_rms": rms(effective_weight(module))})
    return ModelReport("autoinit: variance 1 after every layer, by calculation", records)


def _shapes(model: Any, in_shape: Sequence[int]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shape of every module, by its id, from a pass with zeros."""
    shapes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def look(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if hasattr(output, "shape"):  # networks with several outputs give a tuple
            shapes[id(module)] = tuple(inputs[0].shape), tuple(output.shape)

    first = next(parameter for _, parameter in model.named_parameters())
    zeros = np.zeros((2, *in_shape), first.dtype)
    handles = [module.register_forward_hook(look) for _, module in model.named_modules()]
    try:
        with no_grad(), as_in_training(model):
            model(Tensor(to_device(zeros, device_of(first.data))))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


class _Walk:
    """The way through the network; ``found``: (second moment of the input, factor) by the id of a weighted layer."""

    def __init__(self, shapes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        self.shapes = shapes
        self.found: dict[int, tuple[float, float]] = {}

    def through(self, path: str, module: Any, law: Law) -> Law:
        """The law of what ``module`` gives for inputs that follow ``law``."""
        kind = type(module).__name__
        if getattr(module, "fans", None) is not None and getattr(module, "weight", None) is not None:
            return self._weighted(path, module, law)
        if kind in RULES:
            return RULES[kind](self, path, module, law)
        if hasattr(module, "function"):
            return law.changed(lambda x: module.function(x, **module.options))
        raise ValueError(
            f"autoinit: {path or 'the model'} is a {kind}, and it is not known what that does to a signal. Known: the "
            f"weighted layers, activations and {', '.join(RULES)}; take init.lsuv, which measures"
        )

    def _weighted(self, path: str, module: Any, law: Law) -> Law:
        square = law.square
        gain = module.fans[0] * self._inside(module) * rms(effective_weight(module)) ** 2  # n E w²
        if not 0 < gain * square < math.inf:
            why = "its weights are all zero" if gain == 0 else f"the second moment of its input is {square:g}"
            raise ValueError(f"autoinit: no factor brings {path} to variance 1, for {why}")
        if id(module) not in self.found:  # one that is used again has its factor already
            self.found[id(module)] = square, 1 / math.sqrt(gain * square)
        return Law.gaussian(0.0, gain * square * self.found[id(module)][1] ** 2)

    def _inside(self, module: Any) -> float:
        """Which part of the kernel lies inside the image, on average; the rest meets zeros."""
        if not hasattr(module, "padding_mode") or module.padding_mode == "circular":
            return 1.0
        (_, _, *sizes), (_, _, *outs) = self.shapes[id(module)]
        share = 1.0
        for axis, (size, out) in enumerate(zip(sizes, outs, strict=True)):
            starts = np.arange(out) * module.stride[axis] - module.padding[axis]
            taps = starts[:, None] + np.arange(module.kernel_size[axis]) * module.dilation[axis]
            share *= float(((taps >= 0) & (taps < size)).mean())
        return share


def _sequential(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    for name, child in module.named_children():
        law = walk.through(f"{path}.{name}" if path else name, child, law)
    return law


def _residual(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    added = walk.through(f"{path}.branch", module.branch, law)
    kept = law if module.shortcut is None else walk.through(f"{path}.shortcut", module.shortcut, law)
    total = Law.gaussian(added.mean + kept.mean, added.variance + kept.variance)
    return total if module.activation is None else walk.through(f"{path}.activation", module.activation, total)


def _concat(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    """A mixture: each branch counts with its share of the channels."""
    children = list(module.named_children())
    laws = [walk.through(f"{path}.{name}" if path else name, child, law) for name, child in children]
    channels = np.array([walk.shapes[id(child)][1][1] for _, child in children], np.float64)
    chances = [part.chances * c / channels.sum() for part, c in zip(laws, channels, strict=True)]
    return Law(np.concatenate([part.values for part in laws]), np.concatenate(chances))


def _crelu(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    """Half of the channels hold relu(x), half relu(-x)."""
    both = np.concatenate([law.values, -law.values])
    return Law(np.maximum(both, 0.0), np.concatenate([law.chances, law.chances]) / 2)


def _window(kernel_size: Any) -> int:
    return int(kernel_size) ** 2 if isinstance(kernel_size, (int, np.integer)) else math.prod(kernel_size)


def _batch_norm(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    """Mean 0 and variance 1, then γ x + β: over channels a mixture, of which two moments are kept."""
    if law.variance == 0:
        raise ValueError(f"autoinit: {path} normalizes a signal that is constant")
    law = law.changed(lambda x: (x - law.mean) / math.sqrt(law.variance))
    if module.weight is None:
        return law
    gamma = to_host(module.weight.data).astype(np.float64)
    beta = 0 * gamma if module.bias is None else to_host(module.bias.data).astype(np.float64)
    if np.ptp(gamma) == 0 and np.ptp(beta) == 0:
        return law.changed(lambda x: gamma[0] * x + beta[0])
    return Law.gaussian(float(beta.mean()), float((gamma**2).mean() + beta.var()))


def _dropout(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    """With probability p it is 0, else x/(1 - p)."""
    values = np.append(law.values / (1 - module.p), 0.0)
    return Law(values, np.append((1 - module.p) * law.chances, module.p))


def _scale(walk: _Walk, path: str, module: Any, law: Law) -> Law:
    scale = float(to_host(module.scale.data)[0])
    shift = 0.0 if module.bias is None else float(to_host(module.bias.data)[0])
    return law.changed(lambda x: scale * x + shift)


#: What a layer does to a law, by class name.
RULES: dict[str, Callable[[_Walk, str, Any, Law], Law]] = {
    "Sequential": _sequential,
    "Residual": _residual,
    "Concat": _concat,
    "CReLU": _crelu,
    "MaxPool2d": lambda walk, path, module, law: law.largest_of(_window(module.kernel_size)),
    "AvgPool2d": lambda walk, path, module, law: law.averaged(_window(module.kernel_size)),
    "GlobalAvgPool2d": lambda walk, path, module, law: law.averaged(math.prod(walk.shapes[id(module)][0][2:])),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Flatten": lambda walk, path, module, law: law,
    "Dropout": _dropout,
    "Scale": _scale,
}
