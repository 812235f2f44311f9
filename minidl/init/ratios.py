"""Which slip explains a wrong spread of weights: the ratio of the measured to the expected standard deviation tells.

Errors in an initializer are structured: a variance passed where a standard deviation is wanted, one fan in place of the
other, a kernel that was forgotten. Each gives a ratio of its own, computed here from the layer's own fans and never for
square shapes, where several of them coincide or hide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from minidl.init.sample import truncated_std

__all__ = ["TOLERANCE", "Suspect", "explain_ratio", "suspects"]

TOLERANCE = 0.02  # relative; the standard error of a standard deviation from 1 250 weights


class Suspect(NamedTuple):
    """A slip, the ratio it gives, and a hint for whoever made it."""

    name: str  #: short and stable: "fan_out for fan_in"
    ratio: float  #: measured over expected standard deviation
    hint: str  #: what happened, and what to write instead


def suspects(
    *,
    fan_in: float,
    fan_out: float,
    receptive_field: float = 1,
    groups: float = 1,
    gain: float = 1.0,
    std: float | None = None,
) -> list[Suspect]:
    """Every slip of the table with the ratio it gives in this layer; those that cannot be seen here are left out.

    Args:
        fan_in, fan_out: of the layer.
        receptive_field: places of the kernel, kh·kw; 1 for a dense layer.
        groups: of a convolution.
        gain: the factor on ``1/√fan`` that was asked for: √2 for He.
        std: the standard deviation that was expected; None: ``gain/√fan_in``.

    Raises:
        ValueError: a number that is not positive.
    """
    numbers = {"fan_in": fan_in, "fan_out": fan_out, "receptive_field": receptive_field, "groups": groups, "gain": gain}
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"explain_ratio: {name} must be a positive number; got {value!r}")
    expected = gain / math.sqrt(fan_in) if std is None else std
    if not 0 < expected < math.inf:
        raise ValueError(f"explain_ratio: the expected std must be a positive number; got {std!r}")
    n, m = fan_in, fan_out
    table = [
        ("limit as std", math.sqrt(3), "the limit √3·std of a uniform law was used as a standard deviation"),
        ("std as limit", 1 / math.sqrt(3), "the standard deviation was used as the limit of U(±limit): take √3·std"),
        ("uncorrected truncation", truncated_std(2.0), "cutting at ±2σ shrinks the spread: divide σ by 0.8796"),
        ("variance as std", expected, "the variance was passed where a standard deviation is wanted: take its root"),
        ("std as variance", expected**-0.5, "the standard deviation was taken for a variance: one root too many"),
        ("fan_out for fan_in", math.sqrt(n / m), "fan_out was used where fan_in was expected"),
        ("fan_in for fan_out", math.sqrt(m / n), "fan_in was used where fan_out was expected"),
        ("one fan for the mean", math.sqrt((n + m) / n), "He's 2/fan_in was used for Glorot's 2/(fan_in + fan_out)"),
        ("mean fan for fan_in", math.sqrt(n / (n + m)), "Glorot's 2/(fan_in + fan_out) was used for He's 2/fan_in"),
        ("kernel forgotten", math.sqrt(receptive_field), "the fan counts channels alone: times kh·kw"),
        ("groups forgotten", 1 / math.sqrt(groups), "the fan counts the channels of all groups: divide by groups"),
        ("groups twice", math.sqrt(groups), "the fan was divided by groups once too often"),
        ("gain forgotten", 1 / gain, "the gain of the activation is missing"),
        ("gain twice", gain, "the gain of the activation was applied twice"),
    ]  # fmt: skip
    return [Suspect(name, ratio, hint) for name, ratio, hint in table if abs(math.log(ratio)) > TOLERANCE]


def explain_ratio(
    ratio: float,
    *,
    fan_in: float,
    fan_out: float,
    receptive_field: float = 1,
    groups: float = 1,
    gain: float = 1.0,
    std: float | None = None,
    tolerance: float = TOLERANCE,
) -> list[Suspect]:
    """``std/expected`` → the slips that give this ratio in a layer with these fans, the nearest first.

    Args:
        ratio: measured over expected standard deviation.
        fan_in, fan_out, receptive_field, groups, gain, std: of the layer, as for ``suspects``.
        tolerance: how far from the ratio of a slip still counts, relative.

    Returns:
        The suspects; none if the ratio is that of no known slip, 1 within the tolerance, or no positive number.

    Raises:
        ValueError: a number of the layer that is not positive.
    """
    if not 0 < ratio < math.inf or abs(math.log(ratio)) <= tolerance:
        return []
    known = suspects(fan_in=fan_in, fan_out=fan_out, receptive_field=receptive_field, groups=groups, gain=gain, std=std)
    near = [(abs(math.log(ratio / s.ratio)), i) for i, s in enumerate(known)]
    return [known[i] for distance, i in sorted(near) if distance <= tolerance]
