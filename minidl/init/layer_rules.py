"""What each kind of layer does to a signal, and on the way back to ``E δ²``.

Exact for wide layers with independent weights; what is approximate says so. Adding a layer takes one function here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from minidl.backend import to_host
from minidl.init.model_level import effective_weight
from minidl.init.signal import Back, Batch, Call, Signal
from minidl.meanfield import ACTIVATIONS, gaussian_moments, half_difference
from minidl.meanfield.gaussian import Values, evaluate
from minidl.meanfield.law import Law
from minidl.ops.conv import pair

__all__ = ["LAYERS", "activation", "slopes_at", "through_weight", "times", "weight_moments", "weighted"]

NOISE = 5.0  # standard errors: a mean of weights that is smaller is taken for 0


def weighted(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """``z = Σ w h + b``: Gaussian, with variance ``n E w² Var h + n Var w (E h)² + Var b``."""
    module = call.module
    square, mean = weight_moments(effective_weight(module))
    if not math.isfinite(square):
        raise ValueError(f"{call.path or call.kind} has weights that are not finite, or too large to be squared")
    shift, spread = (0.0, 0.0) if module.bias is None else _bias_moments(module.bias.data)
    gain, profile, back = through_weight(call, signal, square)
    drift = mean**2 / square if square else 0.0
    variance = gain * (signal.variance + (1 - drift) * signal.mean**2) + spread
    if not math.isfinite(variance):
        raise ValueError(f"the second moment after {call.path} is beyond 1e308, too large to go on")
    half = {kind: gain * value for kind, value in _strided(call, signal.half).items()}
    after = Signal.normal(module.fans[0] * mean * signal.mean + shift, variance, half, profile=profile)
    handed_on = 1 - (spread + shift**2) / after.square if after.square else 0.0
    after.luck = handed_on**2 * signal.luck
    after.own = 2 * _shared(batch, after) / call.output.shape[1]
    return after, back


def _shared(batch: Batch, signal: Signal) -> float:
    """Mean ρ² of two elements of one unit over the whole batch: what averaging over inputs leaves of its luck."""
    if not batch.inputs:
        return 1.0
    rho = 1 - signal.apart("across" if "across" in signal.half else "pair")
    return rho**2 + (1 - rho**2) / batch.inputs


def weight_moments(weight: Any) -> tuple[float, float]:
    """``E w²`` and ``E w``; a mean within the error of so many zero-mean weights is 0."""
    wide = weight.astype("float64")
    square, mean = float(to_host((wide * wide).mean())), float(to_host(wide.mean()))
    return square, mean if abs(mean) > NOISE * math.sqrt(max(square - mean**2, 0.0) / wide.size) else 0.0


def _bias_moments(bias: Any) -> tuple[float, float]:
    """Mean and variance of the biases; the mean as above."""
    square, mean = weight_moments(bias)
    return mean, square - mean**2


def through_weight(call: Call, signal: Signal, square: float) -> tuple[float, Values | None, Back]:
    """What a weighted layer with ``E w² = square`` multiplies E x² by, the new profile, and the way back.

    Zero padding: at the border of an image fewer terms are summed, on the way up and on the way back.
    """
    layer = getattr(getattr(call.module, "_apply_weight", None), "__self__", call.module)  # inside weight normalization
    if not hasattr(layer, "kernel_size"):
        inputs, outputs = call.input.shape[-1], call.output.shape[-1]
        return inputs * square, None, lambda delta: outputs * square * np.mean(delta)
    groups, (first, second) = layer.groups, layer.weight.shape[:2]
    if hasattr(layer, "output_padding"):
        inputs, outputs = first // groups, second
    else:
        inputs, outputs = second, first // groups
    summed, back = _over_windows(layer, call, signal)
    gain = inputs * square * float(summed.mean())
    return gain, summed / summed.mean() if gain else None, lambda delta: outputs * square * back(delta)


def _over_windows(layer: Any, call: Call, signal: Signal) -> tuple[Values, Back]:
    """For each place of the output, the profile summed over its window; and ``E δ²`` summed for each of the input."""
    rows, columns = (_taps(layer, call, axis) for axis in (0, 1))
    profile = 1.0 if signal.profile is None else signal.profile
    summed = rows @ _at_every_place(profile, call.input) @ columns.T
    return summed, lambda delta: rows.T @ _at_every_place(delta, call.output) @ columns


def _at_every_place(value: Any, image: Any) -> Values:
    """One number as the same at every place of an image (N, C, H, W)."""
    return np.broadcast_to(np.asarray(value, np.float64), image.shape[2:])


def _taps(layer: Any, call: Call, axis: int) -> Values:
    """How often each place of the input counts for each place of the output, along one axis: (outputs, inputs)."""
    size, out = call.input.shape[2 + axis], call.output.shape[2 + axis]
    if hasattr(layer, "output_padding"):  # transposed: the roles are exchanged
        size, out = out, size
    kernel, padding = pair(layer.kernel_size)[axis], pair(layer.padding)[axis]
    stride, dilation = pair(layer.stride or layer.kernel_size)[axis], pair(getattr(layer, "dilation", 1))[axis]
    at = np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation
    if getattr(layer, "padding_mode", "zeros") == "circular":
        at %= size
    counts = np.zeros((out, size))
    inside = (at >= 0) & (at < size)
    np.add.at(counts, (np.nonzero(inside)[0], at[inside]), 1.0)
    return counts.T if hasattr(layer, "output_padding") else counts


def times(factor: float) -> Back:
    """The way back through what multiplies ``E δ²`` by a number."""
    return lambda delta: factor * delta


def _strided(call: Call, half: Mapping[str, float]) -> dict[str, float]:
    """With stride 2, what was two places apart is one place apart."""
    if len(call.output.shape) != 4 or call.output.shape[2] > 0.75 * call.input.shape[2]:
        return dict(half)
    step = 2 ** round(math.log2(call.input.shape[2] / call.output.shape[2]))
    near = {int(kind[4:]): value for kind, value in half.items() if kind.startswith("near")}
    rest = {kind: value for kind, value in half.items() if not kind.startswith("near")}
    return rest | {f"near{d // step}": value for d, value in near.items() if d >= step}


def activation(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Elementwise; from a Gaussian by the exact averages, from any other law by its values."""
    module = call.module
    if call.kind == "CReLU":
        return _crelu(batch, call, signal)
    phi = functools.partial(module.function, **module.options)
    f, params = _seen_from(module, signal.mean)
    moments = gaussian_moments(f, signal.variance, **params)
    after = Signal(signal.law.changed(lambda x: evaluate(phi, x)), gaussian=signal.gaussian and call.kind == "Identity")
    if signal.gaussian:
        after.mean, after.square = moments.mean, moments.square
    scale = after.variance / moments.variance if moments.variance > 0 else 0.0  # 1 from a Gaussian
    after.half = {
        kind: scale * half_difference(f, signal.variance, signal.apart(kind), **params) for kind in signal.half
    }
    after.neighbours = 1 - signal.apart("near1")
    elasticity = _elasticity(phi, signal, after)
    if after.square:
        fourth = after.law.average(lambda h: (h / math.sqrt(after.square)) ** 4)
        after.luck = elasticity**2 * signal.luck + (fourth - 1) * _shared(batch, signal) / call.output.shape[1]
    if signal.profile is not None:
        profile = signal.profile**elasticity
        after.profile = profile / profile.mean()
    after.slopes = functools.partial(slopes_at, phi, signal.law)
    return after, times(moments.slope_square if signal.gaussian else float(signal.law.chances @ after.slopes()))


def _seen_from(module: Any, mean: float) -> tuple[Any, dict[str, Any]]:
    """The activation as a function of the distance from the mean, for ``meanfield``: by name if the mean is 0."""
    name = getattr(module.function, "__name__", "")
    if mean == 0 and ACTIVATIONS.get(name) is module.function:
        return name, dict(module.options)
    phi = functools.partial(module.function, **module.options)
    return lambda z: phi(z + mean), {}


def _elasticity(f: Callable[[Any], Any], before: Signal, after: Signal) -> float:
    """``d ln E φ²/d ln q`` for a Gaussian: ``E φ² (ξ² - 1)/(2 E φ²)``."""
    if not (after.square and before.variance):
        return 0.0
    xi = (before.law.values - before.mean) / math.sqrt(before.variance)
    values = evaluate(f, before.law.values) / math.sqrt(after.square)
    return float(before.law.chances @ (values**2 * (xi**2 - 1))) / 2


def slopes_at(f: Callable[[Any], Any], law: Law) -> Values:
    """``f'(x)²`` by difference quotients."""
    step, x = 1e-5 * (math.sqrt(law.square) or 1.0), law.values
    result: Values = ((evaluate(f, x + step) - evaluate(f, x - step)) / (2 * step)) ** 2
    return result


def _crelu(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Half of the channels hold relu(x), half relu(-x)."""
    up, down = signal.law.changed(lambda x: np.maximum(x, 0.0)), signal.law.changed(lambda x: np.maximum(-x, 0.0))
    half = {kind: half_difference("relu", signal.variance, signal.apart(kind)) for kind in signal.half}
    after = Signal(Law.mixture([up, down], [1, 1]), half, neighbours=1 - signal.apart("near1"))
    after.luck, after.profile = signal.luck, signal.profile
    return after, times(1.0)


def _batch_norm(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """``γ (x - mean)/√(var + ε) + β``, over channels a mixture.

    In evaluation running averages that have seen data are taken for those of the batch; new ones are 0 and 1.
    """
    module = call.module
    gamma, beta = _numbers(module.weight, 1.0), _numbers(module.bias, 0.0)
    if not (module.training or batch.trained or to_host(module.running_mean).any()):
        after, square = _per_channel(signal, gamma / math.sqrt(1 + module.eps), beta)
        return after, times(square)
    variance = _batch_variance(batch, signal)
    after, square = _per_channel(_centred(signal, variance), gamma / math.sqrt(variance + module.eps), beta)
    after.luck = 0.0
    elements = batch.inputs * math.prod(call.output.shape[2:])
    return after, times(square * (1 - 2 / elements if elements > 2 else 1.0))  # mean and scale of a gradient are lost


def _numbers(parameter: Any, missing: float) -> Values:
    """A parameter on the host, in float64; one number for all channels where the layer has none."""
    return np.array([missing]) if parameter is None else to_host(parameter.data).astype(np.float64)


def _batch_variance(batch: Batch, signal: Signal) -> float:
    """Variance of a unit over the batch: the mean half difference of any two of its elements."""
    across, places = signal.half_of("across"), signal.half_of("places")
    if batch.inputs and across is not None and places is not None:
        return places / batch.inputs + across * (1 - 1 / batch.inputs)
    pair = signal.half_of("pair")
    return signal.variance if pair is None or not batch.inputs else pair * (1 - 1 / batch.inputs)


def _centred(signal: Signal, variance: float) -> Signal:
    """Mean 0 and another variance, the law else as it is."""
    stretch = math.sqrt(variance / signal.variance) if signal.variance else 0.0
    law = signal.law.changed(lambda x: stretch * (x - signal.mean))
    after = Signal(law, signal.half, signal.gaussian, signal.neighbours, mean=0.0, square=variance)
    after.profile = signal.profile
    return after


def _per_channel(signal: Signal, scale: Values, shift: Values) -> tuple[Signal, float]:
    """``scale x + shift`` with a scale and a shift for each channel; and the mean square of the scale."""
    square = float((scale**2).mean())
    half = {kind: square * value for kind, value in signal.half.items()}
    mean = float((scale * signal.mean + shift).mean())
    variance = square * signal.variance + float((scale * signal.mean + shift).var())
    if signal.gaussian or np.ptp(scale) or np.ptp(shift):
        after = Signal.normal(mean, variance, half)
    else:
        after = Signal(signal.law.changed(lambda x: scale[0] * x + shift[0]), half)
    after.neighbours, after.luck, after.profile = signal.neighbours, signal.luck, signal.profile
    return after, square


def _max_pool(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """The largest of a window; pairs keep their correlation.

    The gradient goes to the largest alone, and the slope there is not the average: a ReLU is on where it is largest.
    """
    largest = signal.law.largest_of(_window(call), max(signal.neighbours, 1 - signal.apart("near1")))
    after, back = _pooled(call, signal, largest, 1.0)
    if signal.slopes is not None:
        slopes = signal.slopes()
        order = np.argsort(signal.law.values, kind="stable")  # that of ``largest``
        average = signal.law.chances @ slopes
        after.favoured = float(largest.chances @ slopes[order] / average) if average else 1.0
    return after, back


def _avg_pool(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """The mean of a window."""
    return _pooled(call, signal, signal.law.averaged(_window(call), 1 - signal.apart("near1")), 1 / _window(call))


def _pooled(call: Call, signal: Signal, law: Law, share: float) -> tuple[Signal, Back]:
    """``share``: which part of the second moment of a gradient a window sends on to its places, together."""
    summed, back = _over_windows(call.module, call, signal)
    after = Signal(law, luck=signal.luck, profile=summed / (summed.mean() or 1.0))
    after.half = _strided(call, {kind: after.variance * signal.apart(kind) for kind in signal.half})
    after.neighbours = 1 - after.apart("near1")
    each = share / _window(call)
    return after, lambda delta: each * back(delta)


def _window(call: Call) -> int:
    return math.prod(pair(call.module.kernel_size))


def _global_pool(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """The mean over all places. How far the means of two images are apart is not known well enough to go on with."""
    count = math.prod(call.input.shape[2:])
    places = signal.half_of("places")
    left = signal.variance / count if places is None else max(signal.variance - places, 0.0)
    return Signal(Law.gaussian(signal.mean, left), luck=signal.luck), lambda delta: np.mean(delta) / count**2


def _flatten(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Every place becomes a unit of its own."""
    after, back = _same(batch, call, signal)
    if len(call.input.shape) > 2:
        after.half = {kind: value for kind, value in signal.half.items() if kind.startswith("pair")}
        after.profile = None
    return after, back


def _same(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """A copy."""
    return replace(signal, half=dict(signal.half), own=0.0, favoured=1.0, delta=0.0, surplus=0.0), times(1.0)


def _dropout(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """With probability p it is 0, else x/(1 - p)."""
    p = call.module.p
    if not (call.module.training or batch.trained) or p == 0:
        return _same(batch, call, signal)
    values = np.append(signal.law.values / (1 - p), 0.0)
    law = Law(values, np.append((1 - p) * signal.law.chances, p))
    more = signal.square * p / (1 - p)  # masks of two elements are independent
    half = {kind: value + more for kind, value in signal.half.items()}
    after = Signal(law, half, mean=signal.mean, square=signal.square + more, luck=signal.luck, profile=signal.profile)
    return after, times(1 / (1 - p))


def _scale(batch: Batch, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """One number for all channels."""
    after, square = _per_channel(signal, _numbers(call.module.scale, 1.0), _numbers(call.module.bias, 0.0))
    return after, times(square)


#: What a layer does: ``(batch, call, signal) -> (signal, way back)``, by class name.
LAYERS: dict[str, Callable[[Batch, Call, Signal], tuple[Signal, Back]]] = {
    "MaxPool2d": _max_pool,
    "AvgPool2d": _avg_pool,
    "GlobalAvgPool2d": _global_pool,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Flatten": _flatten,
    "Dropout": _dropout,
    "Scale": _scale,
}
