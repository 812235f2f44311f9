"""From a scheme to a model: which parameter gets which initializer, and which random numbers.

Works on any object with ``named_modules()``. A module declares ``initializers`` (parameter name -> its own initializer)
and, if it has a weight that fans apply to, ``fans = (fan_in, fan_out)`` and ``weight``; a grouped convolution also
``groups``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl.backend import device_of, to_device
from minidl.init.registry import InitializerLike, drawn, get, title
from minidl.text import table

__all__ = ["Report", "apply", "stream"]

Spec: TypeAlias = str | InitializerLike
Rules: TypeAlias = Mapping[str, Spec]


@dataclass(frozen=True)
class Report:
    """What ``apply`` did: print it for a table, or read ``records``.

    Args:
        records: one flat dict per parameter that was set: parameter, shape, fan_in, fan_out (None without fans), scheme
            (short), law (the initializer's full repr), std (measured).
        untouched: paths of the parameters without a declared initializer, which were left as they are.
        seed: the seed of the streams.
    """

    records: list[dict[str, Any]]
    untouched: list[str]
    seed: int

    def __str__(self) -> str:
        lines = [table(self.records, ["parameter", "shape", "fan_in", "fan_out", "scheme", "std"]), f"seed {self.seed}"]
        lines += dict.fromkeys(record["law"] for record in self.records)  # each once, in order
        if self.untouched:
            lines.append(f"not drawn, for no initializer is declared: {', '.join(self.untouched)}")
        return "\n".join(lines)


def apply(model: Any, scheme: Spec | Rules | None = None, seed: int = 0) -> Report:
    """Set every parameter of ``model`` that declares an initializer, repeatably.

    Then every module with a method ``after_init(rng)`` is told, with its own stream: dropout starts its masks anew,
    batch normalization its running averages.

    Each parameter that was set keeps a note, ``drawn_by``, of the initializer that drew it. What its layer declares
    (``init=``) stays as it is: so what a call gives depends on the model as it was built, the scheme and the seed, and
    not on the calls before it. Training and ``load_state_dict`` change values and leave the note: it tells of the draw.

    Args:
        model: any object with ``named_modules()``.
        scheme: what the weights get.

            * None: every parameter gets the initializer its own layer declares, whatever drew it last.
            * A name or an initializer: for the weights of layers that have fans. Biases and the parameters of
              normalizations keep what their layer declares.
            * ``{pattern: scheme}``: shell patterns over the parameter path, ``{"layers.0.*": "he_normal", "*": ...}``.
              The first pattern that fits wins. A pattern speaks of the weights with fans it fits; if it fits none, of
              the other parameters: ``"*"`` is every weight and no bias, ``"*.bias"`` every bias. What no pattern fits
              keeps what its layer declares.
        seed: a whole number >= 0. Parameter ``path`` draws from ``stream(seed, path)``: so its values depend on its
            name, and neither on the order of construction nor on the backend or the other layers.

    Returns:
        A printable report of what was applied to what. Values keep the parameter's dtype and device. A parameter
        without a declared initializer (a ``Parameter`` of a student's own) is left as it is, and the report lists it.

    Raises:
        ValueError: an unknown scheme, a pattern that changes nothing, an initializer that does not fit a shape. No
            parameter has been changed then.
        TypeError: ``seed`` is no whole number, or ``scheme`` no scheme.
    """
    slots, untouched = _slots(model)
    chosen = slots if scheme is None else _choose(slots, scheme)
    values = [slot.draw(seed) for slot in chosen]
    for slot, value in zip(chosen, values, strict=True):  # nothing is set before everything has been drawn
        slot.parameter.data = to_device(value, device_of(slot.parameter.data))
        slot.parameter.drawn_by = slot.initializer  # with the tensor, not the layer: another layer may share it
    for path, module in model.named_modules():
        if hasattr(module, "after_init"):  # what depends on new weights, or draws by itself: running averages, dropout
            module.after_init(stream(seed, path))
    return Report([slot.record(value) for slot, value in zip(chosen, values, strict=True)], untouched, seed)


def stream(seed: int, path: str) -> np.random.Generator:
    """The random numbers of one parameter: an independent generator for every pair (seed, path).

    It is ``PCG64(SeedSequence(seed, spawn_key=bytes of path in UTF-8))``: the hash of ``SeedSequence`` makes streams of
    different names independent, and the name alone (not a counter) selects the stream.

    Args:
        seed: a whole number >= 0.
        path: dotted path of the parameter, "layers.0.weight".

    Raises:
        TypeError: ``seed`` is not a whole number.
        ValueError: ``seed`` is negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be a whole number >= 0, got {type(seed).__name__}: {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed}")
    sequence = np.random.SeedSequence(int(seed), spawn_key=tuple(path.encode("utf-8")))
    return np.random.Generator(np.random.PCG64(sequence))


@dataclass(frozen=True)
class _Slot:
    """A parameter, where it sits, and the initializer it is going to get."""

    path: str
    parameter: Any
    initializer: InitializerLike
    fans: tuple[float, float] | None
    is_weight: bool  # a weight with fans: what a scheme's name alone speaks of
    groups: int  # of the weight of a grouped convolution, else 1

    def draw(self, seed: int) -> NDArray[Any]:
        shape, dtype = tuple(self.parameter.data.shape), self.parameter.data.dtype
        try:
            return drawn(self.initializer, shape, self.fans, stream(seed, self.path), dtype, self.groups)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.path}: {error}") from error

    def record(self, value: NDArray[Any]) -> dict[str, Any]:
        fan_in, fan_out = self.fans or (None, None)
        return {
            "parameter": self.path,
            "shape": value.shape,
            "fan_in": fan_in,
            "fan_out": fan_out,
            "scheme": title(self.initializer),
            "law": repr(self.initializer),
            "std": float(np.std(value, dtype=np.float64)) if value.size else math.nan,
        }


def _slots(model: Any) -> tuple[list[_Slot], list[str]]:
    """The parameters with a declared initializer, each once, and the paths of the others."""
    slots: list[_Slot] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        for slot in _declared(path, module):
            if id(slot.parameter) not in seen:  # a parameter two layers share has one value, under its first name
                seen.add(id(slot.parameter))
                slots.append(slot)
    everything = model.named_parameters() if hasattr(model, "named_parameters") else ()
    return slots, [path for path, parameter in everything if id(parameter) not in seen]


def _declared(path: str, module: Any) -> Iterator[_Slot]:
    fans = getattr(module, "fans", None)
    for name, initializer in getattr(module, "initializers", {}).items():
        parameter = getattr(module, name)
        if parameter is not None:  # a layer without its bias
            full_path = f"{path}.{name}" if path else name
            is_weight = fans is not None and name == "weight"
            groups = getattr(module, "groups", 1) if is_weight else 1
            yield _Slot(full_path, parameter, get(initializer), fans, is_weight, groups)


def _choose(slots: list[_Slot], scheme: Spec | Rules) -> list[_Slot]:
    """The slots with the initializers that ``scheme`` gives them."""
    if isinstance(scheme, Mapping):
        return _by_rules(slots, {pattern: get(spec) for pattern, spec in scheme.items()})
    initializer = get(scheme)
    if not any(slot.is_weight for slot in slots):
        raise ValueError(f"{title(initializer)} has nothing to set: no layer of this model has a weight with fans")
    return [replace(slot, initializer=initializer) if slot.is_weight else slot for slot in slots]


def _by_rules(slots: list[_Slot], rules: dict[str, InitializerLike]) -> list[_Slot]:
    """Each slot with the initializer of the first rule that speaks of it."""
    chosen = {slot.path: slot for slot in slots}
    taken: dict[str, str] = {}
    for pattern, initializer in rules.items():
        fitting = _spoken_of(pattern, slots)
        new = [slot for slot in fitting if slot.path not in taken]
        if not new:
            raise ValueError(_why_useless(pattern, fitting, taken, slots))
        for slot in new:
            taken[slot.path] = pattern
            chosen[slot.path] = replace(slot, initializer=initializer)
    return list(chosen.values())


def _spoken_of(pattern: str, slots: list[_Slot]) -> list[_Slot]:
    fitting = [slot for slot in slots if fnmatchcase(slot.path, pattern)]
    return [slot for slot in fitting if slot.is_weight] or fitting


def _why_useless(pattern: str, fitting: list[_Slot], taken: dict[str, str], slots: list[_Slot]) -> str:
    if fitting:
        earlier = ", ".join(sorted({repr(taken[slot.path]) for slot in fitting}))
        return (
            f"pattern {pattern!r} never applies: {earlier} comes first and takes all it fits; put {pattern!r} before "
            "it, or leave it out (of biases '*.bias' speaks: a pattern that fits weights is for weights alone)"
        )
    return (
        f"pattern {pattern!r} fits no parameter; the parameters are: {', '.join(slot.path for slot in slots) or 'none'}"
    )
