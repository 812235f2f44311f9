"""A signal on its way through a network, and the way: which module's output went into which.

``trace`` runs the network once and writes down every call. A ``Signal`` says how one element of a layer's output is
distributed, and how far apart two elements of the same unit are, those of two inputs or of two places of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minidl.meanfield.gaussian import Values
from minidl.meanfield.law import Law
from minidl.tensor import no_grad

__all__ = ["Back", "Batch", "Call", "Signal", "trace"]

#: ``E δ²`` of an output, one number or one for each place -> that of the input
Back: TypeAlias = Callable[[Any], Any]


class Batch(NamedTuple):
    """What a layer may have to know of the batch that it runs on."""

    inputs: int = 0  #: how many; 0 if nothing is known of them
    trained: bool = False  #: layers do what they do in training, whatever their mode


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

    def __str__(self) -> str:
        return f"{self.path or 'the model'} is a {type(self.module).__name__}"


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
