"""Judges: each compares arrays with theory and says what is wrong in a student's words.

Nothing is compared with the stream of another implementation: only laws count. The statistical limits leave a false
alarm, for right code, a chance below 1e-6 in each check, for arrays of at least ``SMALLEST`` values: std within 2 % is
5.7 standard errors of the normal law (more for the others), a mean within 5.5 is 4e-8, an excess kurtosis within 0.3
is 12 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.course.assignment import Array, Verdict
from minidl.init.ratios import TOLERANCE, explain_ratio

__all__ = ["SMALLEST", "Layer", "fans", "form", "generator", "haar", "law", "number", "orthonormal", "scale", "spread"]
__all__ += ["variant"]

SMALLEST = 40_000  # values of an array whose std, mean or kurtosis is judged
MEAN_LIMIT, KURTOSIS_LIMIT = 5.5, 0.3
FAN_SLIPS = frozenset(
    {"fan_out for fan_in", "fan_in for fan_out", "kernel forgotten", "groups forgotten", "groups twice"}
)
GAIN_SLIPS = frozenset({"gain forgotten", "gain twice"})
SHAPE_SLIP = "shape[0] and shape[1] are no fans of a convolution: use the fan_in and fan_out that are passed"


class Layer(NamedTuple):
    """A layer's weights: their shape, and what the table of ratios wants to know."""

    shape: tuple[int, ...]
    fan_in: float
    fan_out: float
    receptive_field: int = 1
    groups: int = 1

    def numbers(self) -> dict[str, Any]:
        """All but the shape, by name."""
        return {name: value for name, value in self._asdict().items() if name != "shape"}


def form(*arrays: Array) -> Verdict:
    """float32. Shapes were looked at before, and that all values are finite."""
    wrong = sorted({str(array.dtype) for array in arrays} - {"float32"})
    return Verdict(not wrong, f"the dtype is {', '.join(wrong)}, float32 was asked for" if wrong else "")


def generator(first: Array, again: Array, other: Array) -> Verdict:
    """``again``: equal rng, other global state. ``other``: another rng, equal global state."""
    repeats, varies = np.array_equal(first, again), not np.array_equal(first, other)
    if repeats and varies:
        return Verdict(1, "")
    if repeats:
        return Verdict(0, "the weights are the same for every rng: is there a seed inside? Draw from rng alone")
    if not varies:
        return Verdict(0, "the weights come from NumPy's global generator (np.random.…): draw from rng alone")
    return Verdict(
        0, "the same rng gives other weights the second time: is a generator made inside? Draw from rng alone"
    )


def spread(layers: Sequence[Layer], stds: Sequence[float], slips: Mapping[str, float], *arrays: Array) -> Verdict:
    """The standard deviation of each array against that of its layer; the slip that explains *every* wrong ratio."""
    ratios = [_ratio(array, std) for array, std in zip(arrays, stds, strict=True)]
    wrong = [i for i, ratio in enumerate(ratios) if not abs(ratio - 1) <= TOLERANCE]
    if not wrong:
        return Verdict(1, "")
    measured = ", ".join(f"{ratio:.3g}" for ratio in ratios)
    found = [_slips(ratios[i], layers[i], stds[i], slips) for i in wrong]
    hints = [hint for hint in found[0] if all(hint in others for others in found)]
    says = f"std / expected std is {measured} in {len(ratios)} layer{'s' * (len(ratios) > 1)}: "
    return Verdict(1 - len(wrong) / len(ratios), says + (hints[0] if hints else "no usual slip gives this"))


def variant(
    layer: Layer, std: float, slips: Mapping[str, float], plain_std: float, plain: Array, array: Array
) -> Verdict:
    """The spread where an argument is given, beside that of ``plain``, the same layer without it.

    If that is wrong already, two slips can multiply to the ratio of a third one: then only what explains both ratios is
    named, or what explains the rest.
    """
    verdict, base, ratio = spread([layer], [std], slips, array), _ratio(plain, plain_std), _ratio(array, std)
    if verdict.share == 1 or abs(base - 1) <= TOLERANCE or 0 in (base, ratio):
        return verdict
    before = _slips(base, layer, plain_std, slips)
    both = [hint for hint in _slips(ratio, layer, std, slips) if hint in before]
    rest = [f"beside what is wrong in spread: {hint}" for hint in _slips(ratio / base, layer, std, slips)]
    says = [*both, *rest, "spread is wrong too: mend that first"][0]
    return Verdict(verdict.share, f"std / expected std is {ratio:.3g} in 1 layer: {says}")


def _ratio(array: Array, std: float) -> float:
    return float(array.std(dtype=np.float64)) / std


def _slips(ratio: float, layer: Layer, std: float, slips: Mapping[str, float]) -> list[str]:
    """The hints that fit one ratio: those of the task first, then those of the table."""
    if ratio == 0:
        return ["all weights are equal"]
    known = dict(slips)
    if len(layer.shape) > 2:
        known[SHAPE_SLIP] = math.sqrt((layer.fan_in + layer.fan_out) / sum(layer.shape[:2]))
    own = [hint for hint, expected in known.items() if abs(math.log(ratio / expected)) <= TOLERANCE]
    table = explain_ratio(ratio, std=std, **layer.numbers())
    return own + [suspect.hint for suspect in table]


def law(name: str, kurtosis: float, bound: float | None, array: Array) -> Verdict:
    """Mean 0, and the form of the law whatever its width: excess kurtosis, and the largest value in stds."""
    values = array.astype(np.float64).ravel()
    std, mean = float(values.std()), float(values.mean())
    if std == 0:
        return Verdict(0, "all weights are equal")
    if abs(mean) > MEAN_LIMIT * std / math.sqrt(values.size):
        return Verdict(0, f"the mean is {mean:.3g} (std {std:.3g}), it should be 0")
    found = float(np.mean(((values - mean) / std) ** 4)) - 3
    largest = float(np.abs(values).max())
    if bound is not None and np.mean(np.abs(values) > 0.999 * largest) > 0.01:
        return Verdict(0, "many values lie exactly at the cut: draw them again instead of moving them there")
    if bound is not None and abs(largest / std / bound - 1) > TOLERANCE:
        return Verdict(
            0, f"the largest value is {largest / std:.3g} std, for a {name} law it is {bound:.3g}: where is the cut?"
        )
    if abs(found - kurtosis) > KURTOSIS_LIMIT:
        return Verdict(0, f"this is no {name} law: its excess kurtosis is {found:.2f}, not {kurtosis:.2f}")
    return Verdict(1, "")


def orthonormal(*arrays: Array) -> Verdict:
    """The fewer of rows and columns are orthogonal and equally long, whatever their length."""
    errors = []
    for array in arrays:
        gram = _gram(array)
        length = float(np.trace(gram)) / len(gram)
        errors.append(float(np.abs(gram / length - np.eye(len(gram))).max()) if length > 0 else math.inf)
    right = [error < 1e-4 for error in errors]
    worst = f"an entry of W Wᵀ / gain² (or WᵀW where there are fewer columns) is off by {max(errors):.2g}"
    return Verdict(sum(right) / len(right), "" if all(right) else worst)


def scale(gain: float, *arrays: Array) -> Verdict:
    """Rows or columns have length ``gain``."""
    ratios = [math.sqrt(float(np.trace(gram)) / len(gram)) / gain for gram in map(_gram, arrays)]
    wrong = [ratio for ratio in ratios if abs(ratio - 1) >= 1e-3]
    if not wrong:
        return Verdict(1, "")
    found = [s.hint for s in explain_ratio(wrong[0] or 1e-9, fan_in=1, fan_out=1, gain=gain) if s.name in GAIN_SLIPS]
    return Verdict(0, f"lengths are {wrong[0]:.3g} times the gain: {found[0] if found else 'no usual slip gives this'}")


def _gram(array: Array) -> Array:
    matrix = array.astype(np.float64).reshape(array.shape[0], -1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    product: Array = matrix @ matrix.T
    return product


def haar(*arrays: Array) -> Verdict:
    """The first entry is as often positive as negative: at most 2 of 40 alike has chance 1.5e-9, without the sign 1."""
    positive = sum(bool(array.flat[0] > 0) for array in arrays)
    if 0.05 * len(arrays) < positive < 0.95 * len(arrays):
        return Verdict(1, "")
    says = f"W[0, 0] is positive in {positive} of {len(arrays)} draws: mend the signs of Q with those of R's diagonal"
    return Verdict(0, says)


def fans(layers: Sequence[Layer], slips: Sequence[Mapping[str, float]], *answers: Array) -> Verdict:
    """Pairs of fans against those of the layers; a slip's value is how many times too large it makes a fan."""
    right, hints = 0, []
    for layer, own, answer in zip(layers, slips, answers, strict=True):
        for name, want, other, got in zip(
            ("fan_in", "fan_out"), layer[1:3], layer[2:0:-1], answer.tolist(), strict=True
        ):
            if math.isclose(got, want, rel_tol=1e-6):
                right += 1
            else:
                hints.append(f"{name}: {_fan_slip(got, want, other, layer, own)}")
    return Verdict(right / (2 * len(answers)), "; ".join(dict.fromkeys(hints)))


def _fan_slip(got: float, want: float, other: float, layer: Layer, slips: Mapping[str, float]) -> str:
    if got <= 0:
        return f"a fan is a positive number, got {got:g}"
    found = [hint for hint, factor in slips.items() if math.isclose(got, factor * want, rel_tol=1e-6)]
    # a fan too large by f makes a std too small by √f: so the table of ratios knows it
    numbers = layer._replace(fan_in=want, fan_out=other).numbers()
    table = explain_ratio(math.sqrt(want / got), **numbers, tolerance=1e-6)
    found += [suspect.hint for suspect in table if suspect.name in FAN_SLIPS]
    return found[0] if found else f"{got / want:.3g} times what it should be; no usual slip gives this"


def number(want: float, slips: Mapping[str, float], answer: Array) -> Verdict:
    """A number to four digits; half of the points for two."""
    got = float(answer)
    error = abs(got / want - 1)
    if error <= 1e-4:
        return Verdict(1, "")
    if error <= 0.02:
        return Verdict(
            0.5, f"the first digits are right, but it is off by {error:.2g}; 1e-4 was asked for: integrate more finely"
        )
    found = [hint for hint, value in slips.items() if math.isclose(got, value, rel_tol=5e-3)]
    return Verdict(0, found[0] if found else f"{got / want:.4g} times what it should be; no usual slip gives this")
