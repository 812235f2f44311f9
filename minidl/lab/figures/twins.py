"""Two gradients that behave differently: δ at the pre-activation, and ∂L/∂W of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minidl.lab.draw import ladder_axes, ladder_limits, ladder_line
from minidl.lab.figures.base import SMALL, Display, heading, label_ends, or_nan, times
from minidl.lab.measure import change_per_layer

__all__ = ["GradientTwins"]

DELTA, WEIGHT = ("#D55E00", ":", "^"), ("#0072B2", "-", "s")
EPSILON = 1e-8  # of Adam: a gradient below it makes a step that is smaller than the learning rate


@dataclass(frozen=True, eq=False)
class GradientTwins(Display):
    """The rms of δ = ∂L/∂z and that of ∂L/∂W at every hidden layer with weights: one may fall where the other is level.

    ``rms(∂L/∂W) ~ rms(h below) · rms(δ)``: where the signal shrinks upwards by the factor by which δ shrinks downwards,
    the weights' gradients are small by the same factor everywhere, which Adam divides away and SGD does not.

    Args:
        layers: paths of the hidden layers with weights, in order.
        delta: rms of δ, one per layer.
        weight: rms of ∂L/∂W, one per layer.
        title: of the figure.
    """

    layers: Sequence[str]
    delta: Sequence[float]
    weight: Sequence[float]
    title: str = ""

    @classmethod
    def from_report(cls, report: Any) -> GradientTwins:
        """Of a ``lab.probe``."""
        rows = [r for r in report.records if r["weight_std"] is not None][:-1]  # the scores have other fans
        delta, weight = ([or_nan(r[key]) for r in rows] for key in ("delta_rms", "weight_grad_rms"))
        return cls([r["layer"] for r in rows], delta, weight, report.title or "Two gradients by layer")

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per layer: its number and name, both gradients."""
        rows = zip(self.layers, self.delta, self.weight, strict=True)
        return [
            {"number": i, "layer": layer, "delta_rms": delta, "weight_grad_rms": weight}
            for i, (layer, delta, weight) in enumerate(rows, start=1)
        ]

    @property
    def spans(self) -> tuple[float, float]:
        """First over last layer, of δ and of ∂L/∂W; nan where that has no answer."""
        return _span(self.delta), _span(self.weight)

    def _draw(self, ax: Any) -> None:
        low, high = ladder_limits([*self.delta, *self.weight])
        ladder_line(ax, self.delta, DELTA, low, high, "δ")
        ladder_line(ax, self.weight, WEIGHT, low, high, "∂L/∂W")
        ladder_axes(ax, low, high)
        ax.set_xlim(0.5, max(len(self.layers), 1) + 0.5)
        if low / 2 < EPSILON < high * 2:
            ax.axhline(EPSILON, color="#7F7F7F", linewidth=0.8, linestyle=(0, (6, 3)))
            place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            ax.text(0.99, EPSILON, "Adam's ε", fontsize=SMALL, **place)
        if self.layers:
            ends = [(self.delta[-1], _named("rms of δ", self.delta), DELTA[0])]
            ends += [(self.weight[-1], _named("rms of ∂L/∂W", self.weight), WEIGHT[0])]
            label_ends(ax, ends)
        heading(ax, self.title, self._says())

    def _says(self) -> str:
        if len(self.layers) < 2:
            return ""
        delta, weight = (f"{v:.2g}" if math.isfinite(v) else "∞" for v in self.spans)
        return f"first layer over last: δ {delta}, ∂L/∂W {weight}"


def _span(values: Sequence[float]) -> float:
    if len(values) < 2 or not values[-1]:
        return math.nan if len(values) < 2 or not values[0] else math.inf
    return values[0] / values[-1]


def _named(name: str, values: Sequence[float]) -> str:
    factor = change_per_layer(list(values)[::-1])
    return f"{name}\n{times(factor)} / layer down" if math.isfinite(factor) else f"{name}\nnot finite"
