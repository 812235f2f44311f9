"""AutoInit: the law of the signal is followed through the network by calculation, and the weights are fitted to it.

No data are needed, only their mean and variance. The walk is that of ``walk.py``; here every weighted layer it comes to
gets the factor that brings its output to variance 1, before the walk goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import threads
from minidl.backend import array_module, device_of, to_device
from minidl.init.layer_rules import through_weight
from minidl.init.model_level import ModelReport, as_in_training, effective_weight, layers_to_set, rescale, rms
from minidl.init.signal import Back, Call, Signal, trace
from minidl.init.walk import Walk
from minidl.tensor import Tensor

__all__ = ["autoinit"]


def autoinit(model: Any, in_shape: Sequence[int], *, mean: float = 0.0, variance: float = 1.0) -> ModelReport:
    """Scale every weighted layer so that by calculation its output has variance 1; biases become 0.

    A layer with independent zero-mean weights turns inputs with second moment E h² into outputs of mean 0 and variance
    ``n E w² E h²``, n being fan_in (in a convolution with zero padding, the part of the kernel that lies inside the
    image on average): ``w ← w/√(n E w² E h²)``. Between them the law of h is followed: through activations and
    normalization exactly, through pooling as if neighbours were independent, through sums of branches as if these were;
    a module of your own is followed where every module inside gets just what came out of another.

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
        ValueError: a layer it cannot follow or that does not run, weights that are all zero, a signal that is lost on
            the way. No parameter has been changed then.

    Source: Bingham & Miikkulainen 2021, "AutoInit: Analytic Signal-Preserving Weight Initialization for Neural
    Networks"; following the whole law rather than its two moments is ours.
    """
    if not (0 <= variance < math.inf and math.isfinite(mean)) or variance + mean**2 == 0:
        raise ValueError(f"autoinit: inputs need a finite mean and variance, not both 0; got {mean} and {variance}")
    layers = layers_to_set("autoinit", model)
    first = next(parameter for _, parameter in model.named_parameters())
    zeros = Tensor(to_device(np.zeros((2, *in_shape), first.dtype), device_of(first.data)))
    with as_in_training(model):
        call = trace(model, zeros)
    walk = _Fitting()
    with threads.limited(1):  # sums of some thousand terms: more threads only wait for each other
        walk.through(call, Signal.normal(mean, variance, {}))
    idle = [path for path, module in layers if id(module) not in walk.found]
    if idle:
        raise ValueError(f"autoinit: {', '.join(idle)} did not run, so its input is not known; call it in forward")
    records = []
    for path, module in layers:
        square, factor = walk.found[id(module)]
        rescale(module, factor)
        if module.bias is not None:
            module.bias.data = array_module(module.bias.data).zeros_like(module.bias.data)
        record = {"layer": path, "shape": module.weight.shape, "input_square": square, "factor": factor}
        records.append(record | {"weight_rms": rms(effective_weight(module))})
    return ModelReport("autoinit: variance 1 after every layer, by calculation", records)


class _Fitting(Walk):
    """A walk that fits each weighted layer; ``found``: (second moment of the input, factor) by the id of the layer."""

    def __init__(self) -> None:
        super().__init__("autoinit", "take init.lsuv, which measures", trained=True)
        self.found: dict[int, tuple[float, float]] = {}

    def weighted(self, call: Call, signal: Signal) -> tuple[Signal, Back]:
        """Of mean 0 and variance 1, or what the factor found before makes of it, where a layer is used again."""
        gain, profile, back = through_weight(call, signal, rms(effective_weight(call.module)) ** 2)
        square = signal.square
        if not 0 < gain * square < math.inf:
            why = "its weights are all zero" if gain == 0 else f"the second moment of its input is {square:g}"
            raise ValueError(f"autoinit: no factor brings {call.path} to variance 1, for {why}")
        _, factor = self.found.setdefault(id(call.module), (square, 1 / math.sqrt(gain * square)))
        return Signal.normal(0.0, gain * square * factor**2, {}, profile=profile), back
