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
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from minidl.backend import to_host
from minidl.init.model_level import effective_weight
from minidl.meanfield import ACTIVATIONS, gaussian_moments, half_difference
from minidl.meanfield.gaussian import Values, evaluate
from minidl.meanfield.law import Law
from minidl.tensor import no_grad

__all__ = ["Back", "Call", "Signal", "Walk", "trace"]

#: ``E δ²`` of an output, one number or one for each place -> that of the input
Back: TypeAlias = Callable[[Any], Any]

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
        """The class of ours whose ``forward`` this module has; the name of a class of the user's with " (own)"."""
        own: Any = type(self.module)
        ours = (k.__name__ for k in own.__mro__ if k.__module__.startswith("minidl.") and k.forward is own.forward)
        return str(next(ours, f"{own.__name__} (own)"))


def _which(call: Call) -> str:
    return f"{call.path or 'the model'} is a {type(call.module).__name__}"


def trace(model: Any, x: Any) -> Call:
    """Run ``model(x)`` without a graph and return its call, with all calls inside."""
    inside = {id(m): {id(n) for _, n in m.named_modules()} - {id(m)} for _, m in model.named_modules()}
    done: list[Call] = []

    def hook_of(path: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            start = len(done)
            while start and id(done[start - 1].module) in inside[id(module)]:
                start -= 1
            done[start:] = [Call(path, module, inputs[0] if inputs else None, output, done[start:])]

        return hook

    handles = [module.register_forward_hook(hook_of(path)) for path, module in model.named_modules()]
    try:
        with no_grad(), np.errstate(all="ignore"):  # the values do not matter
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
        slopes: gives φ'² of the activation that it came out of, for each value of the law; None for other layers.
        favoured: how much more than the average ``E δ²`` reaches those elements of the signal before where the slope of
            the activation that it came out of is not 0.
        profile: of an image, E x² at each place (H, W) over that of all; None: everywhere the same.
        delta: ``E δ²``, one number or one for each place; set on the way back.
        surplus: what of it comes on top where the slope of the activation before is not 0.
    """

    law: Law
    half: dict[str, float] = field(default_factory=dict)
    gaussian: bool = False
    neighbours: float = 0.0
    luck: float = 0.0
    own: float = 0.0
    mean: float = math.nan
    square: float = math.nan
    profile: Values | None = None
    slopes: Callable[[], Values] | None = None
    favoured: float = 1.0
    delta: Any = 0.0
    surplus: Any = 0.0

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
        trained: follow what layers do in training, whatever their mode.
    """

    def __init__(self, method: str, otherwise: str, inputs: int = 0, trained: bool = False) -> None:
        self.method, self.otherwise, self.inputs, self.trained = method, otherwise, inputs, trained
        self.steps: list[tuple[Signal, list[tuple[Signal, Back, float]]]] = []

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
            f"{self.method}: {_which(call)}, and it is not known what that does to a signal. "
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
            f"{self.method}: {_which(call)} whose forward computes by itself, and that cannot be followed: {why}. "
            f"Build it of nn layers (nn.Flatten, nn.ReLU, nn.Residual …), or {self.otherwise}"
        )

    def step(self, call: Call, before: Signal, after: Signal, back: Back) -> Signal:
        """Note that ``after`` came of ``before``, and what becomes of ``E δ²`` on the way back."""
        self.steps.append((after, [(before, back, after.favoured)]))
        return after

    def weighted(self, call: Call, signal: Signal) -> tuple[Signal, Back]:
        """``z = Σ w h + b``: Gaussian, with variance ``n E w² Var h + n Var w (E h)² + Var b``."""
        module = call.module
        square, mean = weight_moments(effective_weight(module))
        shift, spread = (0.0, 0.0) if module.bias is None else _bias_moments(module.bias.data)
        gain, profile, back = through_weight(call, signal, square)
        drift = mean**2 / square if square else 0.0
        variance = gain * (signal.variance + (1 - drift) * signal.mean**2) + spread
        if not math.isfinite(variance):
            raise ValueError(f"{self.method}: the second moment after {call.path} is beyond 1e308")
        half = {kind: gain * value for kind, value in _strided(call, signal.half).items()}
        after = Signal.normal(module.fans[0] * mean * signal.mean + shift, variance, half, profile=profile)
        handed_on = 1 - (spread + shift**2) / after.square if after.square else 0.0
        after.luck = handed_on**2 * signal.luck
        after.own = 2 * self.shared(after) / call.output.shape[1]
        return after, back

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
            signal.delta = signal.delta + delta
        for after, sources in reversed(self.steps):
            for before, back, favoured in sources:
                sent = back(after.delta + after.surplus)
                before.delta = before.delta + sent
                before.surplus = before.surplus + (favoured - 1) * sent


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
    rows, columns = (_taps(layer, call, axis) for axis in (0, 1))
    groups, (first, second) = layer.groups, layer.weight.shape[:2]
    if hasattr(layer, "output_padding"):
        inputs, outputs = first // groups, second
    else:
        inputs, outputs = second, first // groups
    summed = inputs * square * (rows @ _over_places(signal.profile, call.input, 1.0) @ columns.T)
    gain = float(summed.mean())
    return (
        gain,
        summed / gain if gain else None,
        lambda delta: outputs * square * (rows.T @ _over_places(delta, call.output) @ columns),
    )


def _over_places(value: Any, image: Any, default: float = 0.0) -> Values:
    """One number as the same at every place of an image (N, C, H, W)."""
    return np.broadcast_to(np.asarray(default if value is None else value, np.float64), image.shape[2:])


def _taps(layer: Any, call: Call, axis: int) -> Values:
    """How often each place of the input counts for each place of the output, along one axis: (outputs, inputs)."""
    size, out = call.input.shape[2 + axis], call.output.shape[2 + axis]
    if hasattr(layer, "output_padding"):  # transposed: the roles are exchanged
        size, out = out, size
    kernel, padding = _on(layer.kernel_size, axis), _on(layer.padding, axis)
    stride, dilation = _on(layer.stride or layer.kernel_size, axis), _on(getattr(layer, "dilation", 1), axis)
    at = np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation
    if getattr(layer, "padding_mode", "zeros") == "circular":
        at %= size
    counts = np.zeros((out, size))
    inside = (at >= 0) & (at < size)
    np.add.at(counts, (np.nonzero(inside)[0], at[inside]), 1.0)
    return counts.T if hasattr(layer, "output_padding") else counts


def _on(pair: Any, axis: int) -> int:
    """``3`` and ``(3, 3)`` along one axis."""
    return int(pair if isinstance(pair, int | np.integer) else pair[axis])


def _times(factor: float) -> Back:
    return lambda delta: factor * delta


def _strided(call: Call, half: Mapping[str, float]) -> dict[str, float]:
    """With stride 2, what was two places apart is one place apart."""
    if len(call.output.shape) != 4 or call.output.shape[2] > 0.75 * call.input.shape[2]:
        return dict(half)
    step = 2 ** round(math.log2(call.input.shape[2] / call.output.shape[2]))
    near = {int(kind[4:]): value for kind, value in half.items() if kind.startswith("near")}
    rest = {kind: value for kind, value in half.items() if not kind.startswith("near")}
    return rest | {f"near{d // step}": value for d, value in near.items() if d >= step}


# --------------------------------------------------------------------------------------- what each kind of layer does


def _activation(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Elementwise; from a Gaussian by the exact averages, from any other law by its values."""
    module = call.module
    if call.kind == "CReLU":
        return _crelu(walk, call, signal)
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
        after.luck = elasticity**2 * signal.luck + (fourth - 1) * walk.shared(signal) / call.output.shape[1]
    if signal.profile is not None:
        profile = signal.profile**elasticity
        after.profile = profile / profile.mean()
    after.slopes = functools.partial(_slopes, phi, signal.law)
    return after, _times(moments.slope_square if signal.gaussian else float(signal.law.chances @ after.slopes()))


def _seen_from(module: Any, mean: float) -> tuple[Any, dict[str, Any]]:
    """The activation as a function of the distance from the mean, for ``meanfield``: by name if the mean is 0."""
    name = getattr(module.function, "__name__", "")
    if mean == 0 and ACTIVATIONS.get(name) is module.function:
        return name, dict(module.options)
    phi = functools.partial(module.function, **module.options)
    return functools.partial(_shifted, phi, mean), {}


def _shifted(f: Callable[[Any], Any], mean: float, z: Any) -> Any:
    return f(z + mean)


def _elasticity(f: Callable[[Any], Any], before: Signal, after: Signal) -> float:
    """``d ln E φ²/d ln q`` for a Gaussian: ``E φ² (ξ² - 1)/(2 E φ²)``."""
    if not (after.square and before.variance):
        return 0.0
    xi = (before.law.values - before.mean) / math.sqrt(before.variance)
    return float(before.law.chances @ (evaluate(f, before.law.values) ** 2 * (xi**2 - 1))) / (2 * after.square)


def _slopes(f: Callable[[Any], Any], law: Law) -> Values:
    """``f'(x)²`` by difference quotients."""
    step, x = 1e-5 * (math.sqrt(law.square) or 1.0), law.values
    result: Values = ((evaluate(f, x + step) - evaluate(f, x - step)) / (2 * step)) ** 2
    return result


def _crelu(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Half of the channels hold relu(x), half relu(-x)."""
    up, down = signal.law.changed(lambda x: np.maximum(x, 0.0)), signal.law.changed(lambda x: np.maximum(-x, 0.0))
    half = {kind: half_difference("relu", signal.variance, signal.apart(kind)) for kind in signal.half}
    after = Signal(Law.mixture([up, down], [1, 1]), half, neighbours=1 - signal.apart("near1"))
    after.luck, after.profile = signal.luck, signal.profile
    return after, _times(1.0)


def _batch_norm(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """``γ (x - mean)/√(var + ε) + β``, over channels a mixture; of the batch in training, else by running averages."""
    module = call.module
    ones = np.ones(module.num_features)
    gamma = ones if module.weight is None else to_host(module.weight.data).astype(np.float64)
    beta = 0 * ones if module.bias is None else to_host(module.bias.data).astype(np.float64)
    if not (module.training or walk.trained):
        scale = gamma / np.sqrt(to_host(module.running_var).astype(np.float64) + module.eps)
        after, square = _per_channel(signal, scale, beta - scale * to_host(module.running_mean).astype(np.float64))
        return after, _times(square)
    variance = _batch_variance(walk, signal)
    after, square = _per_channel(_centred(signal, variance), gamma / math.sqrt(variance + module.eps), beta)
    after.luck = 0.0
    elements = walk.inputs * math.prod(call.output.shape[2:])
    return after, _times(square * (1 - 2 / elements if elements > 2 else 1.0))  # mean and scale of a gradient are lost


def _batch_variance(walk: Walk, signal: Signal) -> float:
    """Variance of a unit over the batch: the mean half difference of any two of its elements."""
    across, places = signal.half_of("across"), signal.half_of("places")
    if walk.inputs and across is not None and places is not None:
        return places / walk.inputs + across * (1 - 1 / walk.inputs)
    pair = signal.half_of("pair")
    return signal.variance if pair is None or not walk.inputs else pair * (1 - 1 / walk.inputs)


def _centred(signal: Signal, variance: float) -> Signal:
    """Mean 0 and another variance, the law else as it is."""
    stretch = math.sqrt(variance / signal.variance) if signal.variance else 0.0
    law = signal.law.changed(lambda x: stretch * (x - signal.mean))
    more = {"gaussian": signal.gaussian, "neighbours": signal.neighbours, "profile": signal.profile}
    return Signal(law, signal.half, mean=0.0, square=variance, **more)  # type: ignore[arg-type]


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


def _max_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
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


def _avg_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """The mean of a window."""
    return _pooled(call, signal, signal.law.averaged(_window(call), 1 - signal.apart("near1")), 1 / _window(call))


def _pooled(call: Call, signal: Signal, law: Law, share: float) -> tuple[Signal, Back]:
    """``share``: which part of the second moment of a gradient a window sends on to its places, together."""
    rows, columns = (_taps(call.module, call, axis) for axis in (0, 1))
    summed = rows @ _over_places(signal.profile, call.input, 1.0) @ columns.T
    after = Signal(law, luck=signal.luck, profile=summed / summed.mean())
    after.half = _strided(call, {kind: after.variance * signal.apart(kind) for kind in signal.half})
    after.neighbours = 1 - after.apart("near1")
    each = share / _window(call)
    return after, lambda delta: each * (rows.T @ _over_places(delta, call.output) @ columns)


def _window(call: Call) -> int:
    return _on(call.module.kernel_size, 0) * _on(call.module.kernel_size, 1)


def _global_pool(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """The mean over all places. How far the means of two images are apart is not known well enough to go on with."""
    count = math.prod(call.input.shape[2:])
    places = signal.half_of("places")
    left = signal.variance / count if places is None else max(signal.variance - places, 0.0)
    return Signal(Law.gaussian(signal.mean, left), luck=signal.luck), lambda delta: np.mean(delta) / count**2


def _flatten(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """Every place becomes a unit of its own."""
    after, back = _same(walk, call, signal)
    if len(call.input.shape) > 2:
        after.half = {kind: value for kind, value in signal.half.items() if kind.startswith("pair")}
        after.profile = None
    return after, back


def _same(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """A copy."""
    return replace(signal, half=dict(signal.half), own=0.0, favoured=1.0, delta=0.0, surplus=0.0), _times(1.0)


def _dropout(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """With probability p it is 0, else x/(1 - p)."""
    p = call.module.p
    if not (call.module.training or walk.trained) or p == 0:
        return _same(walk, call, signal)
    values = np.append(signal.law.values / (1 - p), 0.0)
    law = Law(values, np.append((1 - p) * signal.law.chances, p))
    more = signal.square * p / (1 - p)  # masks of two elements are independent
    half = {kind: value + more for kind, value in signal.half.items()}
    after = Signal(law, half, mean=signal.mean, square=signal.square + more, luck=signal.luck, profile=signal.profile)
    return after, _times(1 / (1 - p))


def _scale(walk: Walk, call: Call, signal: Signal) -> tuple[Signal, Back]:
    """One number for all channels."""
    module = call.module
    scale = to_host(module.scale.data).astype(np.float64)
    shift = 0 * scale if module.bias is None else to_host(module.bias.data).astype(np.float64)
    after, square = _per_channel(signal, scale, shift)
    return after, _times(square)


def _residual(walk: Walk, call: Call, signal: Signal) -> Signal:
    """Branch plus shortcut, taken as independent; the activation, if any, of the sum."""
    calls = {id(inner.module): inner for inner in call.inside}
    module = call.module
    added = walk.through(calls[id(module.branch)], signal)
    kept = signal if module.shortcut is None else walk.through(calls[id(module.shortcut)], signal)
    total = _sum(added, kept)
    favoured = _kept_on(module.activation, kept, added) if module.activation is not None else 1.0
    walk.steps.append((total, [(added, _times(1.0), 1.0), (kept, _times(1.0), favoured)]))
    return total if module.activation is None else walk.through(calls[id(module.activation)], total)


def _kept_on(activation: Any, kept: Signal, added: Signal) -> float:
    """``E φ'(x + y)² φ'(x)²`` over the product of the averages: a ReLU that is on is rather on after a sum, too."""
    if kept.slopes is None:
        return 1.0
    phi = functools.partial(activation.function, **activation.options)
    slopes, noise = kept.slopes(), math.sqrt(added.variance)
    step = max(len(slopes) // 500, 1)  # 24 001 values are more than it takes
    x, before, chances = kept.law.values[::step], slopes[::step], kept.law.chances[::step]
    y = np.linspace(-4.0, 4.0, 41)
    weight = np.exp(-0.5 * y * y) / np.exp(-0.5 * y * y).sum()
    at = x[:, None] + added.mean + noise * y
    after = _slopes(phi, Law(at.ravel(), np.full(at.size, 1 / at.size))).reshape(at.shape) @ weight
    product = (chances @ after) * (chances @ before)
    return float((chances @ (after * before)) * chances.sum() / product) if product else 1.0


def _sum(a: Signal, b: Signal) -> Signal:
    half = {kind: value + b.half[kind] for kind, value in a.half.items() if kind in b.half}
    mean, variance = a.mean + b.mean, a.variance + b.variance
    total = Signal.normal(mean, variance, half)
    if not (a.gaussian and b.gaussian):
        total = Signal(a.law.plus(b.law), half, mean=mean, square=variance + mean**2)
    _mix(total, [a, b], [a.square, b.square])
    return total


def _concat(walk: Walk, call: Call, signal: Signal) -> Signal:
    """A mixture: each branch counts with its share of the channels."""
    parts: list[Signal] = [walk.through(inner, signal) for inner in call.inside]
    shares = [inner.output.shape[1] / call.output.shape[1] for inner in call.inside]

    def mixed(values: list[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    common = [kind for kind in parts[0].half if all(kind in part.half for part in parts)]
    half = {kind: mixed([part.half[kind] for part in parts]) for kind in common}
    after = Signal(Law.mixture([part.law for part in parts], shares), half)
    after.mean, after.square = mixed([part.mean for part in parts]), mixed([part.square for part in parts])
    _mix(after, parts, [share * part.square for share, part in zip(shares, parts, strict=True)])
    walk.steps.append((after, [(part, _times(1.0), 1.0) for part in parts]))
    return after


def _mix(after: Signal, parts: list[Signal], squares: list[float]) -> None:
    """What each part hands on in proportion to its second moment; luck as if it were all the same."""
    whole = sum(squares)
    if not whole:
        return
    shares = [square / whole for square in squares]
    after.luck = sum(share * math.sqrt(part.luck) for share, part in zip(shares, parts, strict=True)) ** 2
    after.neighbours = sum(share * part.neighbours for share, part in zip(shares, parts, strict=True))
    if any(part.profile is not None for part in parts):
        profiles = [1.0 if part.profile is None else part.profile for part in parts]
        after.profile = sum(share * profile for share, profile in zip(shares, profiles, strict=True))  # type: ignore


def _sequential(walk: Walk, call: Call, signal: Signal) -> Any:
    return walk.along(call, signal)


#: What a layer does: ``(walk, call, signal) -> (signal, way back)``, by class name.
LAYERS: dict[str, Callable[[Walk, Call, Signal], tuple[Signal, Back]]] = {
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
