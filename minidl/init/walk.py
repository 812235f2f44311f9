"""The walk through a network by calculation: where a signal goes, and where the gradient comes back.

What each layer does is in ``layer_rules.py``; here are the ways between them: one after the other, side by side, around
a branch, or as ``trace`` saw them in a module of one's own. AutoInit fits weights on the walk; ``lab.predict`` reads
off the whole theory of a network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.init.layer_rules import LAYERS, activation, slopes_at, times, weighted
from minidl.init.model_level import is_weighted
from minidl.init.signal import Back, Batch, Call, Signal
from minidl.meanfield.law import Law

__all__ = ["Walk", "kept_on", "sum_of"]


class Walk:
    """The way through a network; subclasses see every step of it, or change weights on it.

    Args:
        method: who walks, for messages.
        otherwise: what to do where it cannot go on, for messages.
        inputs: how many inputs a batch has; 0 if nothing is known of them.
        trained: follow what layers do in training, whatever their mode.
    """

    def __init__(self, method: str, otherwise: str, inputs: int = 0, trained: bool = False) -> None:
        self.method, self.otherwise, self.batch = method, otherwise, Batch(inputs, trained)
        self.steps: list[tuple[Signal, list[tuple[Signal, Back, float]]]] = []

    # ---- up

    def through(self, call: Call, signal: Signal) -> Any:
        """What comes out of a module for a signal: a Signal, or a list of them where it has several outputs."""
        module, kind = call.module, call.kind
        if is_weighted(module):
            return self.step(call, signal, *self.weighted(call, signal))
        if kind in CONTAINERS:
            return CONTAINERS[kind](self, call, signal)
        if kind in LAYERS:
            return self.step(call, signal, *LAYERS[kind](self.batch, call, signal))
        if hasattr(module, "function") and hasattr(module, "options"):
            return self.step(call, signal, *activation(self.batch, call, signal))
        if call.inside or kind == "Sequential":
            return self.along(call, signal)
        raise ValueError(
            f"{self.method}: {call}, and it is not known what that does to a signal. "
            f"Known: weighted layers, activations, {', '.join(['Sequential', *CONTAINERS, *LAYERS])}; {self.otherwise}"
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
            f"{self.method}: {call} whose forward computes by itself, and that cannot be followed: {why}. "
            f"Build it of nn layers (nn.Flatten, nn.ReLU, nn.Residual …), or {self.otherwise}"
        )

    def step(self, call: Call, before: Signal, after: Signal, back: Back) -> Signal:
        """Note that ``after`` came of ``before``, and what becomes of ``E δ²`` on the way back."""
        self.steps.append((after, [(before, back, after.favoured)]))
        return after

    def weighted(self, call: Call, signal: Signal) -> tuple[Signal, Back]:
        """What a layer with a weight does."""
        return weighted(self.batch, call, signal)

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


def _residual(walk: Walk, call: Call, signal: Signal) -> Signal:
    """Branch plus shortcut, taken as independent; the activation, if any, of the sum."""
    calls = {id(inner.module): inner for inner in call.inside}
    module = call.module
    added = walk.through(calls[id(module.branch)], signal)
    kept = signal if module.shortcut is None else walk.through(calls[id(module.shortcut)], signal)
    total = sum_of(added, kept)
    favoured = kept_on(module.activation, kept, added) if module.activation is not None else 1.0
    walk.steps.append((total, [(added, times(1.0), 1.0), (kept, times(1.0), favoured)]))
    return total if module.activation is None else walk.through(calls[id(module.activation)], total)


def kept_on(activation: Any, kept: Signal, added: Signal) -> float:
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
    after = slopes_at(phi, Law(at.ravel(), np.full(at.size, 1 / at.size))).reshape(at.shape) @ weight
    product = (chances @ after) * (chances @ before)
    return float((chances @ (after * before)) * chances.sum() / product) if product else 1.0


def sum_of(a: Signal, b: Signal) -> Signal:
    """``a + b``, taken as independent."""
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
    walk.steps.append((after, [(part, times(1.0), 1.0) for part in parts]))
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


#: Modules with others inside that compute by themselves.
CONTAINERS: dict[str, Callable[[Walk, Call, Signal], Any]] = {
    "Residual": _residual,
    "Concat": _concat,
}
