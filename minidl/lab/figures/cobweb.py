"""Layer by layer on the map from one layer's variance, or correlation, to the next one's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from minidl.lab.figures.base import SMALL, Display, heading
from minidl.meanfield import activation_name, chi, correlation_map, variance_map

__all__ = ["Cobweb"]

POINTS = 81  # of the curve
MOST = 1e12  # a variance beyond ends the walk


@dataclass(frozen=True, eq=False)
class Cobweb(Display):
    """The map, the diagonal, and the steps between them: up to the curve is one layer, across to the diagonal the next.

    ``q' = σ_w² E φ(√q ξ)² + σ_b²`` for the variance of the pre-activation, ``c'`` for the correlation of two inputs.
    Where the curve crosses the diagonal with a slope below 1, all starts end; the c-map's slope at 1 is χ₁.

    Args:
        quantity: "q" or "c".
        curve: (x, y) of the map.
        steps: the values of layer 1, 2, ….
        title: of the figure.
        says: of the map, in one line.
    """

    SIZE = (5.6, 5.2)
    quantity: str
    curve: tuple[Sequence[float], Sequence[float]]
    steps: Sequence[float]
    title: str = ""
    says: str = ""

    @classmethod
    def variance(
        cls,
        activation: str | Callable[..., Any],
        sigma_w: float,
        sigma_b: float = 0.0,
        start: float = 1.0,
        depth: int = 20,
    ) -> Cobweb:
        """The variance q from ``start`` in the first of ``depth`` layers.

        Raises:
            ValueError: an unknown activation, or a start or scale that is negative or not finite.
        """
        steps = [start]
        while len(steps) < depth and steps[-1] <= MOST:
            steps.append(variance_map(activation, steps[-1], sigma_w, sigma_b))
        x = np.linspace(0, 1.15 * max(steps) or 1.0, POINTS)
        y = [variance_map(activation, q, sigma_w, sigma_b) for q in x]
        return cls("q", (x.tolist(), y), steps, _title(activation, sigma_w, sigma_b), _ends(steps))

    @classmethod
    def correlation(
        cls,
        activation: str | Callable[..., Any],
        sigma_w: float,
        sigma_b: float = 0.0,
        start: float = 0.0,
        depth: int = 20,
        q: float = 1.0,
    ) -> Cobweb:
        """The correlation c of two inputs, from ``start`` in the first of ``depth`` layers, at the variance ``q``.

        Args:
            activation: φ.
            sigma_w: √(fan_in Var w).
            sigma_b: std of the biases.
            start: c in the first layer, from -1 to 1.
            depth: layers.
            q: the variance of the pre-activation in all of them, such as ``meanfield.fixed_point(…)``; for ReLU
                without biases any will do.

        Raises:
            ValueError: an unknown activation, or numbers outside their range.
        """

        def after(c: float) -> float:
            return float(correlation_map(activation, c, q, sigma_w, sigma_b))

        steps = [start]
        while len(steps) < depth:
            steps.append(min(max(after(steps[-1]), -1.0), 1.0))
        x = np.linspace(min(0.0, *steps), 1.0, POINTS)
        slope = chi(activation, q, sigma_w)
        says = f"slope at 1: χ₁ = {slope:.3g}, {'order' if slope < 0.999 else 'chaos' if slope > 1.001 else 'the edge'}"
        return cls("c", (x.tolist(), [after(c) for c in x]), steps, _title(activation, sigma_w, sigma_b), says)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The points of the curve, then one per layer."""
        points = [{"kind": "map", "layer": None, "value": x, "next": y} for x, y in zip(*self.curve, strict=True)]
        after = [*self.steps[1:], None]
        walk = zip(self.steps, after, strict=True)
        return points + [{"kind": "step", "layer": i, "value": v, "next": n} for i, (v, n) in enumerate(walk, start=1)]

    def _draw(self, ax: Any) -> None:
        x, y = self.curve
        low, high = min(x), max(x)
        ax.plot(
            [low, high],
            [low, high],
            color="#7F7F7F",
            linewidth=1.0,
            linestyle="--",
            label=f"{self.quantity}' = {self.quantity}",
        )
        ax.plot(x, y, color="#0072B2", linewidth=2.2, label="one layer")
        ups = list(pairwise(self.steps))
        corners = [(self.steps[0], low), *(corner for now, after in ups for corner in ((now, after), (after, after)))]
        ax.plot(*zip(*corners, strict=True), color="#D55E00", linewidth=1.2, label="layer by layer")
        if ups:
            ax.plot(*zip(*ups, strict=True), "o", color="#D55E00", markersize=4)
        _name_layers(ax, ups, high - low)
        ax.set_xlim(low, high)
        ax.set_ylim(low, max(high, min(max(y), 1.2 * high)))
        names = {"q": "variance q of the pre-activation", "c": "correlation c of two inputs"}
        ax.set_xlabel(f"{names[self.quantity]} in one layer")
        ax.set_ylabel("in the next layer")
        ax.legend(loc="best", fontsize=SMALL, framealpha=0.9, labelcolor="black")
        heading(ax, self.title, self.says)


def _name_layers(ax: Any, ups: Sequence[tuple[float, float]], span: float) -> None:
    """The number of a layer at its step, as long as the steps are far enough apart to carry one."""
    last: tuple[float, float] | None = None
    for layer, place in enumerate(ups, start=2):
        if last is None or math.dist(place, last) > 0.05 * span:
            ax.annotate(str(layer), place, (5, -10), textcoords="offset points", fontsize=SMALL, zorder=4)
            last = place


def _title(activation: str | Callable[..., Any], sigma_w: float, sigma_b: float) -> str:
    biases = f", σ_b = {sigma_b:.4g}" if sigma_b else ""
    return f"{activation_name(activation)}, σ_w = {sigma_w:.4g}{biases}"


def _ends(steps: Sequence[float]) -> str:
    return f"layer 1: q = {steps[0]:.3g}; layer {len(steps)}: q = {steps[-1]:.3g}"
