"""The walk through a network by calculation: what each layer does to the law of a signal, and to the gradient.

``trace`` runs the network once and sees which module's output went into which. ``Walk`` then follows a ``Signal`` along
these ways: how one element is distributed, and how far apart two elements of the same unit are, those of two inputs or
of two places of an image. Weighted layers make it Gaussian. On the way back the walk knows what every step multiplies
``E δ²`` by. AutoInit fits weights to it; ``lab.predict`` reads off the whole theory of a network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl.backend import to_host
from minidl.init.model_level import effective_weight
from minidl.meanfield import ACTIVATIONS, gaussian_moments, half_difference
from minidl.meanfield.law import Law
from minidl.tensor import no_grad

__all__ = ["Call", "Signal", "Walk", "trace"]

NOISE = 5.0  # standard errors: a mean of weights that is smaller is taken for 0


@dataclass
class Call:
    """One run of a module: what went in, what came out, and the calls inside it."""

    path: str
    module: Any
    input: Any
    output: Any
    inside: list[Call]

    @property
    def kind(self) -> str:
        """The class of ours whose ``forward`` this module has, or the name of a class of the user's."""
        owner = next(k for k in type(self.module).__mro__ if "forward" in vars(k))
        return owner.__name__ if owner.__module__.startswith("minidl.") else type(self.module).__name__


def trace(model: Any, x: Any) -> Call:
    """Run ``model(x)`` without a graph and return its call, with all calls inside."""
    inside = {id(m): {id(n) for _, n in m.named_modules()} - {id(m)} for _, m in model.named_modules()}
    done: list[Call] = []

    def hook_of(path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            start = len(done)
            while start and id(done[start - 1].module) in inside[id(module)]:
                start -= 1
            done[start:] = [Call(path, module, inputs[0], output, done[start:])]

        return hook

    handles = [module.register_forward_hook(hook_of(path)) for path, module in model.named_modules()]
    try:
        with no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return done[-1]


@dataclass
class Signal:
    """What one element of an output may be, and how it differs from another of the same unit.

    Args:
        law: of one element, over units, inputs and places.
        half: ``½ E (x - x')²`` of two elements of one unit, by what they are: "pair…" two inputs, "near1", "near2", …
            two places of one image so far apart, "places" any two places of one image, "across" any two places of two
            images. Empty where nothing is known: elements count as independent then.
        gaussian: whether the law is Gaussian.
        neighbours: correlation of neighbouring places before the last activation.
        luck: variance of ln E x² over draws of the weights, as it is handed on.
        own: the same, of this layer's few units alone.
        delta: ``E δ²``, set on the way back.
    """

    law: Law
    half: dict[str, float] = field(default_factory=dict)
    gaussian: bool = False
    neighbours: float = 0.0
    luck: float = 0.0
    own: float = 0.0
    mean: float = math.nan
    square: float = math.nan
    delta: float = 0.0

    def __post_init__(self) -> None:
        self.mean = self.law.mean if math.isnan(self.mean) else self.mean
        self.square = self.law.square if math.isnan(self.square) else self.square

    @classmethod
    def normal(cls, mean: float, variance: float, half: dict[str, float], **more: Any) -> Signal:
        """A Gaussian one."""
        law = Law.gaussian(mean, variance)
        return cls(law, half, gaussian=True, mean=mean, square=variance + mean**2, **more)

    @property
    def variance(self) -> float:
        """E x² - (E x)²."""
        return max(self.square - self.mean**2, 0.0)

    def apart(self, kind: str) -> float:
        """``1 - ρ`` of two elements of this kind; 1 where nothing is known."""
        half = self.half_of(kind)
        return min(half / self.variance, 2.0) if self.variance and half is not None else 1.0

    def half_of(self, kind: str) -> float | None:
        """The mean over all kinds that begin so ("pair" has several), or None."""
        found = [value for name, value in self.half.items() if name.startswith(kind)]
        return sum(found) / len(found) if found else None


class Walk:
    """The way through a network; subclasses see every step of it, or change weights on it.

    Args:
        method: who walks, for messages.
        otherwise: what to do where it cannot go on, for messages.
        inputs: how many inputs a batch has; 0 if nothing is known of them.
    """

    def __init__(self, method: str, otherwise: str, inputs: int = 0) -> None:
        self.method, self.otherwise, self.inputs = method, otherwise, inputs
        self.steps: list[tuple[Signal, list[tuple[Signal, float]]]] = []

    # ---- up

    def through(self, call: Call, signal: Signal) -> Any:
        """What comes out of a module for a signal: a Signal, or a list of them where it has several outputs."""
        module, kind = call.module, call.kind
        if getattr(module, "fans", None) is not None and getattr(module, "weight", None) is not None:
            return self.step(call, signal, *self.weighted(call, signal))
        if kind in CONTAINERS:
            return CONTAINERS[kind](self, call, signal)
        if kind in LAYERS:
            return self.step(call, signal, *LAYERS[kind](self, call, signal))
        if hasattr(module, "function"):
            return self.step(call, signal, *_activation(self, call, signal))
        if call.inside:
            return self.along(call, signal)
        raise ValueError(
            f"{self.method}: {call.path or 'the model'} is a {kind}, and it is not known what that does to a signal. "
            f"Known: the weighted layers, activations, {', '.join([*CONTAINERS, *LAYERS])}; {self.otherwise}"
        )

    def along(self, call: Call, signal: Signal) -> Any:
        """Through the modules inside, by which output went into which."""
        known = {id(call.input): signal}
        for inner in call.inside:
            if id(inner.input) not in known:
                raise self._lost(call, f"{inner.path} gets something that neither went in nor came out of a module")
            known[id(inner.output)] = self.through(inner, known[id(inner.input)])
        outputs = call.output if isinstance(call.output, tuple | list) else [call.output]
        if any(id(output) not in known for output in outputs):
            raise self._lost(call, "what it gives did not come out of a module")
        found = [known[id(output)] for output in outputs]
        return found if isinstance(call.output, tuple | list) else found[0]

    def _lost(self, call: Call, why: str) -> ValueError:
        return ValueError(
            f"{self.method}: {call.path or 'the model'} is a {call.kind} whose forward computes by itself, and that "
            f"cannot be followed: {why}. Build it of nn layers (nn.Flatten, nn.ReLU, nn.Residual …), or "
            f"{self.otherwise}"
        )

    def step(self, call: Call, before: Signal, after: Signal, factor: float) -> Signal:
        """Note that ``after`` came of ``before``, and that ``E δ²`` is multiplied by ``factor`` on the way back."""
        self.steps.append((after, [(before, factor)]))
        return after

    def weighted(self, call: Call, signal: Signal) -> tuple[Signal, float]:
        """``z = Σ w h + b``: Gaussian, with variance ``n E w² Var h + n Var w (E h)² + Var b``."""
        module = call.module
        square, mean = weight_moments(effective_weight(module))
        shift, spread = (0.0, 0.0) if module.bias is None else _bias_moments(module.bias.data)
        n = module.fans[0] * inside_share(call)
        variance = n * square * signal.variance + n * (square - mean**2) * signal.mean**2 + spread
        half = {kind: n * square * value for kind, value in _strided(call, signal.half).items()}
        after = Signal.normal(n * mean * signal.mean + shift, variance, half)
        handed_on = 1 - (spread + shift**2) / after.square if after.square else 0.0
        after.luck = handed_on**2 * signal.luck
        after.own = 2 * self.shared(after) / call.output.shape[1]
        return after, n * square * _per_input(call)

    def shared(self, signal: Signal) -> float:
        """Mean ρ² of two elements of one unit over the whole batch: what averaging over inputs leaves of its luck."""
        if not self.inputs:
            return 1.0
        rho = 1 - signal.apart("across" if "across" in signal.half else "pair")
        return rho**2 + (1 - rho**2) / self.inputs

    # ---- and down

    def back(self, outputs: list[tuple[Signal, float]]) -> None:
        """Set ``delta`` of every signal from those of the outputs."""
        for signal, delta in outputs:
            signal.delta += delta
        for after, sources in reversed(self.steps):
            for before, factor in sources:
                before.delta += factor * after.delta


def weight_moments(weight: Any) -> tuple[float, float]:
    """``E w²`` and ``E w``; a mean within the error of so many zero-mean weights is 0."""
    wide = weight.astype("float64")
    square, mean = float(to_host((wide * wide).mean())), float(to_host(wide.mean()))
    return square, mean if abs(mean) > NOISE * math.sqrt(max(square - mean**2, 0.0) / wide.size) else 0.0


def _bias_moments(bias: Any) -> tuple[float, float]:
    """Mean and variance of the biases; the mean as above."""
    square, mean = weight_moments(bias)
    return mean, square - mean**2


def inside_share(call: Call) -> float:
    """Which part of a convolution's kernel lies inside the image, on average; the rest meets zeros."""
    module = call.module
    if not hasattr(module, "padding_mode") or module.padding_mode == "circular":
        return 1.0
    share = 1.0
    for axis, (size, out) in enumerate(zip(call.input.shape[2:], call.output.shape[2:], strict=True)):
        starts = np.arange(out) * module.stride[axis] - module.padding[axis]
        taps = starts[:, None] + np.arange(module.kernel_size[axis]) * module.dilation[axis]
        share *= float(((taps >= 0) & (taps < size)).mean())
    return share


def _per_input(call: Call) -> float:
    """Outputs per input of a layer: it turns the number of terms of an output into that of a gradient."""
    return math.prod(call.output.shape[1:]) / math.prod(call.input.shape[1:])


def _strided(call: Call, half: Mapping[str, float]) -> dict[str, float]:
    """With stride 2, what was two places apart is one place apart."""
    stride = getattr(call.module, "stride", None) or getattr(call.module, "kernel_size", 1)
    first = stride if isinstance(stride, int | np.integer) else stride[0]
    if len(call.output.shape) != 4 or first < 2 or call.output.shape[2] > call.input.shape[2]:
        return dict(half)
    step = 2 ** round(math.log2(first))
    near = {int(kind[4:]): value for kind, value in half.items() if kind.startswith("near")}
    rest = {kind: value for kind, value in half.items() if not kind.startswith("near")}
    return rest | {f"near{d // step}": value for d, value in near.items() if d >= step}


# ------------------------------------------------------------------------------------------- what each kind of layer does


def _activation(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """Elementwise; from a Gaussian by the exact averages, from any other law by its values."""
    module = call.module
    if call.kind == "CReLU":
        return _crelu(walk, call, signal)
    mean, variance = signal.mean, signal.variance
    name, params = module.function.__name__, dict(module.options)
    f: Any = name if name in ACTIVATIONS else functools.partial(module.function, **params)
    if mean:  # the same function, seen from the mean
        f = functools.partial(_shifted, functools.partial(module.function, **params), mean)
    params = params if isinstance(f, str) else {}
    moments = gaussian_moments(f, variance, **params)
    law = signal.law.changed(functools.partial(module.function, **dict(module.options)))
    spread = moments.variance
    after = Signal(law, gaussian=name == "identity" and signal.gaussian)
    if signal.gaussian:
        after.mean, after.square = moments.mean, moments.square
    scale = after.variance / spread if spread and not signal.gaussian else 1.0
    after.half = {kind: scale * half_difference(f, variance, signal.apart(kind), **params) for kind in signal.half}
    after.neighbours = 1 - signal.apart("near1")
    values = functools.partial(module.function, **dict(module.options))
    after.luck = _elasticity(values, signal, after) ** 2 * signal.luck
    after.luck += (
        (law.average(lambda h: h**4) / after.square**2 - 1) * walk.shared(signal) / call.output.shape[1]
        if after.square
        else 0.0
    )
    slope = moments.slope_square if signal.gaussian else _slope_square(values, signal.law)
    return after, slope


def _shifted(f: Callable[[Any], Any], mean: float, z: Any) -> Any:
    return f(z + mean)


def _elasticity(f: Callable[[Any], Any], before: Signal, after: Signal) -> float:
    """``d ln E φ²/d ln q`` for a Gaussian: ``E φ² (ξ² - 1)/(2 E φ²)``."""
    if not (after.square and before.variance):
        return 0.0
    xi = (before.law.values - before.mean) / math.sqrt(before.variance)
    return float(before.law.chances @ (np.asarray(f(before.law.values)) ** 2 * (xi**2 - 1))) / (2 * after.square)


def _slope_square(f: Callable[[Any], Any], law: Law) -> float:
    """``E f'(x)²`` by difference quotients."""
    step = 1e-5 * (math.sqrt(law.square) or 1.0)
    return law.average(lambda x: ((f(x + step) - f(x - step)) / (2 * step)) ** 2)


def _crelu(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """Half of the channels hold relu(x), half relu(-x)."""
    up, down = signal.law.changed(lambda x: np.maximum(x, 0.0)), signal.law.changed(lambda x: np.maximum(-x, 0.0))
    law = Law.mixture([up, down], [1, 1])
    half = {kind: half_difference("relu", signal.variance, signal.apart(kind)) for kind in signal.half}
    return Signal(law, half, neighbours=1 - signal.apart("near1"), luck=signal.luck), 1.0


def _batch_norm(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """``γ (x - mean)/√(var + ε) + β``, over channels a mixture; of the batch in training, else by running averages."""
    module = call.module
    ones = np.ones(module.num_features)
    gamma = ones if module.weight is None else to_host(module.weight.data).astype(np.float64)
    beta = 0 * ones if module.bias is None else to_host(module.bias.data).astype(np.float64)
    if not module.training:
        scale = gamma / np.sqrt(to_host(module.running_var).astype(np.float64) + module.eps)
        return _per_channel(signal, scale, beta - scale * to_host(module.running_mean).astype(np.float64))
    variance = _batch_variance(walk, signal)
    if variance == 0:
        raise ValueError(f"{walk.method}: {call.path} normalizes a signal that is constant")
    scale = gamma / math.sqrt(variance + module.eps)
    centred = Signal.normal(0.0, variance, signal.half) if signal.gaussian else _moved(signal, variance)
    after, factor = _per_channel(centred, scale, beta)
    after.luck = 0.0
    elements = walk.inputs * math.prod(call.output.shape[2:])
    return after, factor * (1 - 2 / elements if elements > 2 else 1.0)


def _batch_variance(walk: Walk, signal: Signal) -> float:
    """Variance of a unit over the batch: the mean half difference of any two of its elements."""
    across, places = signal.half_of("across"), signal.half_of("places")
    if walk.inputs and across is not None and places is not None:
        return places / walk.inputs + across * (1 - 1 / walk.inputs)
    pair = signal.half_of("pair")
    return signal.variance if pair is None or not walk.inputs else pair * (1 - 1 / walk.inputs)


def _moved(signal: Signal, variance: float) -> Signal:
    """Mean 0 and another variance, the law else as it is."""
    stretch = math.sqrt(variance / signal.variance) if signal.variance else 0.0
    return Signal(signal.law.changed(lambda x: stretch * (x - signal.mean)), signal.half, neighbours=signal.neighbours)


def _per_channel(signal: Signal, scale: Any, shift: Any) -> tuple[Signal, float]:
    """``scale x + shift`` with a scale and a shift for each channel."""
    square = float((scale**2).mean())
    half = {kind: square * value for kind, value in signal.half.items()}
    mean = float((scale * signal.mean + shift).mean())
    variance = square * signal.variance + float((scale * signal.mean + shift).var())
    if signal.gaussian or np.ptp(scale) or np.ptp(shift):
        after = Signal.normal(mean, variance, half)
    else:
        after = Signal(signal.law.changed(lambda x: scale[0] * x + shift[0]), half)
    after.neighbours, after.luck = signal.neighbours, signal.luck
    return after, square


def _max_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """The largest of a window; pairs keep their correlation."""
    count = _window(call)
    return _pooled(call, signal, signal.law.largest_of(count, max(signal.neighbours, 1 - signal.apart("near1"))))


def _avg_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    count = _window(call)
    after, factor = _pooled(call, signal, signal.law.averaged(count, 1 - signal.apart("near1")))
    return after, factor / count


def _pooled(call: Call, signal: Signal, law: Law) -> tuple[Signal, float]:
    after = Signal(law, luck=signal.luck)
    after.half = {kind: after.variance * signal.apart(kind) for kind in signal.half}
    after.half = _strided(call, after.half)
    after.neighbours = 1 - after.apart("near1")
    return after, _per_input(call)


def _window(call: Call) -> int:
    size = call.module.kernel_size
    return int(size) ** 2 if isinstance(size, int | np.integer) else math.prod(size)


def _global_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """The mean over all places: what is left are the differences between images."""
    count = math.prod(call.input.shape[2:])
    places, across = signal.half_of("places"), signal.half_of("across")
    if places is None or across is None:
        return Signal(signal.law.averaged(count), luck=signal.luck), 1 / count**2
    after = Signal(Law.gaussian(signal.mean, max(signal.variance - places, 0.0)), luck=signal.luck)
    after.half = {"pair": max(across - places, 0.0)}
    return after, 1 / count**2


def _flatten(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """Every place becomes a unit of its own."""
    if len(call.input.shape) < 3:
        return _same(walk, call, signal)
    half = {kind: value for kind, value in signal.half.items() if kind.startswith("pair")}
    kept = {"mean": signal.mean, "square": signal.square, "gaussian": signal.gaussian}
    return Signal(signal.law, half, luck=signal.luck, **kept), 1.0


def _same(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    kept = {"mean": signal.mean, "square": signal.square, "gaussian": signal.gaussian}
    return Signal(signal.law, dict(signal.half), luck=signal.luck, neighbours=signal.neighbours, **kept), 1.0


def _dropout(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    """With probability p it is 0, else x/(1 - p)."""
    p = call.module.p
    if not call.module.training or p == 0:
        return _same(walk, call, signal)
    values = np.append(signal.law.values / (1 - p), 0.0)
    law = Law(values, np.append((1 - p) * signal.law.chances, p))
    more = signal.square * p / (1 - p)  # masks of two elements are independent
    half = {kind: value + more for kind, value in signal.half.items()}
    after = Signal(law, half, mean=signal.mean, square=signal.square + more, luck=signal.luck)
    return after, 1 / (1 - p)


def _scale(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, float]:
    module = call.module
    scale = to_host(module.scale.data).astype(np.float64)
    shift = 0 * scale if module.bias is None else to_host(module.bias.data).astype(np.float64)
    return _per_channel(signal, scale, shift)


def _residual(walk: Walk, call: Call, signal: Signal) -> Signal:
    """Branch plus shortcut, taken as independent; the activation, if any, of the sum."""
    calls = {id(inner.module): inner for inner in call.inside}
    module = call.module
    added = walk.through(calls[id(module.branch)], signal)
    kept = signal if module.shortcut is None else walk.through(calls[id(module.shortcut)], signal)
    total = _sum(added, kept)
    walk.steps.append((total, [(added, 1.0), (kept, 1.0)]))
    return total if module.activation is None else walk.through(calls[id(module.activation)], total)


def _sum(a: Signal, b: Signal) -> Signal:
    half = {kind: value + b.half[kind] for kind, value in a.half.items() if kind in b.half}
    mean, variance = a.mean + b.mean, a.variance + b.variance
    total = Signal.normal(mean, variance, half)
    if not (a.gaussian and b.gaussian):
        total = Signal(a.law.plus(b.law), half, mean=mean, square=variance + mean**2)
    if total.square:
        total.luck = ((a.square * math.sqrt(a.luck) + b.square * math.sqrt(b.luck)) / (a.square + b.square)) ** 2
    return total


def _concat(walk: Walk, call: Call, signal: Signal) -> Signal:
    """A mixture: each branch counts with its share of the channels."""
    parts: list[Signal] = [walk.through(inner, signal) for inner in call.inside]
    channels = [inner.output.shape[1] for inner in call.inside]
    shares = [c / sum(channels) for c in channels]

    def mixed(value: Callable[[Signal], float]) -> float:
        return sum(share * value(part) for share, part in zip(shares, parts, strict=True))

    kinds = set.intersection(*(set(part.half) for part in parts))
    after = Signal(
        Law.mixture([part.law for part in parts], channels),
        {kind: mixed(lambda part, kind=kind: part.half[kind]) for kind in parts[0].half if kind in kinds},
        neighbours=mixed(lambda part: part.neighbours),
        mean=mixed(lambda part: part.mean),
        square=mixed(lambda part: part.square),
        luck=mixed(lambda part: math.sqrt(part.luck)) ** 2,
    )
    walk.steps.append((after, [(part, 1.0) for part in parts]))
    return after


def _sequential(walk: Walk, call: Call, signal: Signal) -> Any:
    return walk.along(call, signal)


#: What a layer does: ``(walk, call, signal) -> (signal, factor of E δ²)``, by class name.
LAYERS: dict[str, Callable[[Walk, Call, Signal], tuple[Signal, float]]] = {
    "MaxPool2d": _max_pool,
    "AvgPool2d": _avg_pool,
    "GlobalAvgPool2d": _global_pool,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Flatten": _flatten,
    "Dropout": _dropout,
    "Scale": _scale,
}

#: The same of modules with others inside.
CONTAINERS: dict[str, Callable[[Walk, Call, Signal], Any]] = {
    "Sequential": _sequential,
    "Residual": _residual,
    "Concat": _concat,
}
