"""The spectrum of the Jacobian: by how much a network stretches and squeezes small changes of its input, in depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minidl.lab.draw import ladder_axes, ladder_limits, theory_line
from minidl.lab.figures.base import BOX, SMALL, Display, evenly, heading, label_ends

__all__ = ["Spectrum", "lyapunov"]

RAIN = 64  # singular values shown of one layer
TINY = 1e-7  # of the largest: smaller ones are rounding of float32
LINES = {"largest": ("#000000", "-", "o"), "median": ("#0072B2", "--", "s"), "smallest": ("#009E73", "-.", "v")}


@dataclass(frozen=True, eq=False)
class Spectrum(Display):
    """Singular values of ∂(pre-activation of layer l)/∂x for one input, one column per layer.

    Points: the values, at most 64 of a layer. Lines: largest, median and smallest. Pale:
    theory of a *linear* network of square layers. With independent weights of variance ``σ_w²/n`` the i-th value goes
    as ``ln s_i = L (ψ((n - i + 1)/2) + ln(2/n))/2 + L ln σ_w``, the exponents of Lyapunov; with orthogonal ones every
    value is σ_w^L.

    Source: Newman 1986, "The distribution of Lyapunov exponents: exact results for random matrices".

    Args:
        layers: paths of the layers with weights.
        values: the singular values of each, largest first.
        theory: "largest", "median", "smallest" -> one value per layer; empty without theory.
        title: of the figure.
    """

    layers: Sequence[str]
    values: Sequence[Sequence[float]]
    theory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    title: str = ""

    @classmethod
    def from_report(cls, report: Any, law: str | None = None, sigma_w: float = 1.0) -> Spectrum:
        """Of ``lab.probe(model, x, y, jacobian=True)``.

        Args:
            report: of the probe.
            law: "gaussian" or "orthogonal", of the weights of a linear network of square layers; None: no theory.
            sigma_w: ``√(n Var w)``.

        Raises:
            ValueError: the probe did not measure the Jacobian, an unknown law, or a scale that is not above 0.
        """
        if report.jacobian is None:
            raise ValueError("this report has no Jacobian: call lab.probe(model, x, y, jacobian=True)")
        layers: list[str] = []
        values: list[list[float]] = []
        for record in report.jacobian:
            if record["index"] == 0:  # a layer that runs twice has two columns
                layers.append(record["layer"])
                values.append([])
            values[-1].append(float(record["value"]))
        if law not in (None, "gaussian", "orthogonal"):
            raise ValueError(f"the law of the weights is 'gaussian', 'orthogonal' or None; got {law!r}")
        if not 0 < sigma_w < math.inf:
            raise ValueError(f"sigma_w is √(n Var w), a number above 0; got {sigma_w}")
        theory = {} if law is None else _theory(law, len(values), max(map(len, values), default=1), sigma_w)
        return cls(layers, values, theory, report.title or "Singular values of the Jacobian")

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per layer and value; then the theory, one per layer and line."""
        measured = [
            {"number": i, "layer": layer, "kind": "measured", "index": j, "value": v}
            for i, (layer, values) in enumerate(zip(self.layers, self.values, strict=True), start=1)
            for j, v in enumerate(values, start=1)
        ]
        return measured + [
            {"number": i, "layer": layer, "kind": f"theory, {name}", "index": None, "value": v}
            for name, line in self.theory.items()
            for i, (layer, v) in enumerate(zip(self.layers, line, strict=True), start=1)
        ]

    def summary(self) -> dict[str, list[float]]:
        """Largest, median and smallest value per layer; nan where there is none.

        Where half of the values and more are zero up to rounding, as with ReLU, the median is that of the others. The
        smallest is nan as soon as one is lost to rounding.
        """
        kept = [[v for v in values if v > TINY * values[0] and math.isfinite(v)] for values in self.values]
        found = {
            "largest": [max(v, default=math.nan) for v in kept],
            "median": [_median(values, v) for values, v in zip(self.values, kept, strict=True)],
        }
        whole = [len(v) == len(values) for v, values in zip(kept, self.values, strict=True)]
        return found | {
            "smallest": [min(v) if all_there else math.nan for v, all_there in zip(kept, whole, strict=True)]
        }

    def _draw(self, ax: Any) -> None:
        lines = self.summary()
        low, high = ladder_limits([v for line in (*lines.values(), *self.theory.values()) for v in line])
        for number, values in enumerate(self.values, start=1):
            drops = [values[i] for i in evenly(len(values), RAIN)]
            drops = [v for v in drops if low / 2 <= v <= high * 2]
            ax.plot([number] * len(drops), drops, "_", color="#7F7F7F", markersize=9, alpha=0.45, zorder=1)
        for name, (colour, dash, marker) in LINES.items():
            inside = [v if low / 2 <= v <= high * 2 else math.nan for v in lines[name]]
            every = max(1, len(inside) // 10)
            layers = range(1, len(inside) + 1)
            ax.plot(layers, inside, color=colour, linestyle=dash, marker=marker, markevery=every, markersize=4)
            if name in self.theory:
                theory_line(ax, self.theory[name], colour, low, high)
        ladder_axes(ax, low, high)
        ax.set_xlabel("layer with weights")
        ax.set_xlim(0.5, max(len(self.values), 1) + 0.5)
        if self.values:
            ends = {name: lines[name][-1] for name in LINES if math.isfinite(lines[name][-1])}
            label_ends(ax, [(end, name, LINES[name][0]) for name, end in ends.items()])
            _name_inside(ax, {name: lines[name] for name in LINES if name not in ends})
        heading(ax, self.title, self._says(lines))

    def _says(self, lines: Mapping[str, Sequence[float]]) -> str:
        if not self.values:
            return ""
        values = self.values[-1]
        rank = sum(v > TINY * values[0] for v in values) if math.isfinite(values[0]) else 0
        uneven = lines["largest"][-1] / lines["median"][-1] if rank else math.nan
        return f"last layer: rank {rank} of {len(values)}, largest / median {uneven:.3g}"


def _median(values: Sequence[float], kept: Sequence[float]) -> float:
    if not kept:
        return math.nan
    return statistics.median(values if 2 * len(kept) > len(values) + 1 else kept)


def _name_inside(ax: Any, lines: Mapping[str, Sequence[float]]) -> None:
    """The names of lines that end before the last layer, where they end."""
    for name, values in lines.items():
        there = [(i, v) for i, v in enumerate(values, start=1) if math.isfinite(v)]
        if there:
            how = {"textcoords": "offset points", "fontsize": SMALL, "color": LINES[name][0], "bbox": BOX}
            ax.annotate(f"{name}; then lost to rounding", there[-1], (8, -4), **how)


def lyapunov(n: int, index: float) -> float:
    """``(ψ((n - i + 1)/2) + ln(2/n))/2``: growth per layer of ln s_i in a product of n×n Gaussians of variance 1/n.

    Args:
        n: width, at least 1.
        index: i, 1 for the largest to n for the smallest, (n + 1)/2 for the median.
    """
    return (_digamma((n - index + 1) / 2) + math.log(2 / n)) / 2


def _digamma(x: float) -> float:
    """``ψ(x) = d ln Γ(x)/dx``, to 1e-7."""
    h = 1e-4
    return (math.lgamma(x + h) - math.lgamma(x - h)) / (2 * h)


def _theory(law: str, depth: int, n: int, sigma_w: float) -> dict[str, list[float]]:
    places = {"largest": 1, "median": (n + 1) / 2, "smallest": n}
    growth = {name: 0.0 if law == "orthogonal" else lyapunov(n, i) for name, i in places.items()}
    return {
        name: [math.exp(layer * (rate + math.log(sigma_w))) for layer in range(1, depth + 1)]
        for name, rate in growth.items()
    }
