"""The law of a scheme as a density, read from the formula that the scheme itself prints: "W ~ N(0, 2/fan_in)".

So what a passport draws over the histogram of the weights is what the formula says, not what the code does. A formula
that is no plain law of one weight (a sparse matrix, the identity) has none, and ``read_law`` returns None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.init.sample import truncated_std

__all__ = ["Law", "marchenko_pastur", "read_law"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """The distribution of one weight.

    Args:
        kind: "normal", "uniform", "constant", or "sphere": one coordinate of a uniformly random vector of length
            ``width`` in ``dimension`` dimensions, as in a random orthogonal matrix.
        centre: the middle of the law before ``side``.
        width: σ of the normal law before it is cut, half the length of the uniform one.
        cut: of the normal law, in units of ``width``.
        side: 1 or -1 for ``±|W|``, 0 for a law on both sides.
        dimension: of the sphere.
        independent: whether the weights are independent of each other. Those of an orthogonal matrix are not, nor those
            whose formula says more than the law of one weight ("…, correlation ρ between rows").
    """

    kind: str
    centre: float = 0.0
    width: float = 0.0
    cut: float = math.inf
    side: int = 0
    dimension: int = 0
    independent: bool = True

    @property
    def mean(self) -> float:
        """``E W``."""
        if not self.side:
            return self.centre
        height = 1.0 / math.sqrt(2.0 * math.pi)
        inside = math.erf(self.cut / math.sqrt(2.0))
        return self.side * self.width * 2.0 * height * (1.0 - math.exp(-0.5 * self.cut**2)) / inside

    @property
    def std(self) -> float:
        """``√Var W``."""
        both_sides = {
            "constant": 0.0,
            "uniform": self.width / math.sqrt(3.0),
            "normal": self.width * (1.0 if math.isinf(self.cut) else truncated_std(self.cut)),
            "sphere": self.width / math.sqrt(max(self.dimension, 1)),
        }[self.kind]
        return math.sqrt(both_sides**2 - self.mean**2) if self.side else both_sides

    def density(self, x: Values) -> Values:
        """The density at ``x``; a constant has none (zero everywhere)."""
        if self.kind == "constant" or self.width == 0:
            return np.zeros_like(x)
        t = (x - self.centre) / self.width
        if self.kind == "uniform":
            return np.where(np.abs(t) <= 1, 0.5 / self.width, 0.0)
        if self.kind == "sphere":
            return self._on_the_sphere(t)
        inside = math.erf(self.cut / math.sqrt(2.0))
        bell = np.exp(-0.5 * t**2) / (math.sqrt(2.0 * math.pi) * inside * self.width)
        kept = (np.abs(t) <= self.cut) & ((t * self.side >= 0) | (self.side == 0))
        return np.where(kept, bell * (2.0 if self.side else 1.0), 0.0)

    def _on_the_sphere(self, t: Values) -> Values:
        """``(1 - t²)^((d - 3)/2)`` over its integral ``B(1/2, (d - 1)/2)``."""
        if self.dimension < 4:  # there the density is largest at the ends
            return np.full_like(t, math.nan)
        d = self.dimension
        log_integral = math.lgamma(0.5) + math.lgamma((d - 1) / 2) - math.lgamma(d / 2)
        inside = np.clip(1.0 - t**2, 0.0, None)
        return inside ** ((d - 3) / 2) * math.exp(-log_integral) / self.width


def read_law(text: str, values: Mapping[str, Any], shape: tuple[int, ...]) -> Law | None:
    """The law that a formula means.

    Args:
        text: such as "W ~ N(0, gain² · 2/(fan_in + fan_out))" or "W ~ U[low, high]".
        values: what its words stand for: the scheme's parameters and the fans.
        shape: of the weight, for a matrix that is orthogonal.

    Returns:
        The law, or None if the formula is of another kind.
    """
    if text.startswith("W Wᵀ = gain² I"):
        width = _value("gain", values)
        rest = math.prod(shape[1:])
        return (
            None if width is None else Law("sphere", width=abs(width), dimension=max(shape[0], rest), independent=False)
        )
    found = re.fullmatch(r"W = ([\w.]+)", text)
    if found:
        value = _value(found[1], values)
        return None if value is None else Law("constant", value)
    found = re.match(r"W ~ (-?)(\|?)([NU])(?=[(\[])", text)
    if not found:
        return None
    inside, rest_of_text = _bracket(text[found.end() :])
    side = (-1 if found[1] else 1) if found[2] else 0
    law = _uniform(inside, values) if found[3] == "U" else _normal(inside, rest_of_text, values, side)
    says_more = bool(re.sub(r"^\|?( cut at .*)?(, where .*)?$", "", rest_of_text))
    return replace(law, independent=not says_more) if law is not None else None


def _uniform(inside: str, values: Mapping[str, Any]) -> Law | None:
    """``±limit`` or ``low, high``."""
    low, comma, high = inside.partition(", ")
    ends = [_value(low, values), _value(high, values)] if comma else [0.0, _value(inside.removeprefix("±"), values)]
    if ends[0] is None or ends[1] is None:
        return None
    return Law("uniform", (ends[0] + ends[1]) / 2 if comma else 0.0, (ends[1] - ends[0]) / (2 if comma else 1))


def _normal(inside: str, tail: str, values: Mapping[str, Any], side: int) -> Law | None:
    """``mean, variance`` and what is said of the cut; "restored": the variance is that of the cut law."""
    centre_text, _, variance_text = inside.partition(", ")
    restored = "√Var" in tail or ("restored" in tail and "not restored" not in tail)
    centre, variance = _value(centre_text, values), _value(variance_text.replace("σ'", "std"), values)
    if centre is None or variance is None or variance < 0:
        return None
    where = re.search(r"cut at ±?(.+?) ?σ'", tail)
    cut = _value(where[1], values) if where else math.inf
    if cut is None:
        return None
    return Law("normal", centre, math.sqrt(variance) / (truncated_std(cut) if restored else 1.0), cut, side)


def _bracket(text: str) -> tuple[str, str]:
    """What stands inside the bracket with which ``text`` begins, and what follows it."""
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return text[1:i], text[i + 1 :]
    return text[1:], ""


WORD = r"[A-Za-zα-ω_][A-Za-z0-9α-ω_]*"  # not \w, which takes ² for a letter
TOKEN = re.compile(rf"\d+\.?\d*|{WORD}|[√²+\-/()·]")


def _value(text: str, values: Mapping[str, Any]) -> float | None:
    """The value of a formula such as "2/((1+a²) fan_in)"; None if it has words or signs that are not known."""
    tokens = TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        return None
    try:
        result = eval(_as_python(tokens), {"__builtins__": {}, "root": math.sqrt}, dict(values))
    except (NameError, SyntaxError, TypeError, ValueError, ZeroDivisionError):
        return None
    return float(result) if isinstance(result, int | float) else None


def _as_python(tokens: list[str]) -> str:
    """Signs as operators; two factors beside each other are multiplied; √ takes what follows it."""
    written: list[str] = []
    before = "+"
    for token in tokens:
        if before not in "√+-/(·" and token not in "²+-/)·":
            written.append("*")
        sign = {"²": "**2", "·": "*", "√": "root"}.get(token, token)
        written.append(f"({sign})" if before == "√" and token != "(" else sign)
        before = token
    return "".join(written)


def marchenko_pastur(s: Values, rows: int, columns: int, std: float) -> Values:
    """The density of the singular values of a large matrix of independent entries with mean 0.

    In units of ``std √max(rows, columns)`` they lie between ``1 ± √β``, ``β = min/max``, with the density
    ``√((s₊² - s²)(s² - s₋²))/(π β s)``; for a square matrix a quarter of a circle.

    Source: Marchenko & Pastur 1967, "Distribution of eigenvalues for some sets of random matrices".
    """
    beta = min(rows, columns) / max(rows, columns)
    unit = std * math.sqrt(max(rows, columns))
    t = s / unit
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)
    inside = (t > max(low, 1e-9)) & (t < high)
    safe = np.where(inside, t, 1.0)
    curve = np.sqrt(np.clip((high**2 - safe**2) * (safe**2 - low**2), 0.0, None)) / (math.pi * beta * safe)
    return np.where(inside, curve, 0.0) / unit
