"""Where is my network? Order and chaos in the plane of the standard deviations of weights and biases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.lab.figures.base import BOX, SMALL, Display, heading
from minidl.meanfield import activation_name, gaussian_moments

__all__ = ["PhaseDiagram"]

#: σ_w = √(fan_in Var w) of the named schemes, in square layers
SCHEMES = {"PyTorch": 1 / math.sqrt(3), "LeCun, Glorot": 1.0, "He": math.sqrt(2), "Glorot · 5/3": 5 / 3}
VARIANCES = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, 500)])  # q* along a curve
ROUNDING = 1e-6  # relative error of an integral over a kink
EDGE, ORDER, CHAOS = ("#000000", "-"), ("#0072B2", "--"), ("#D55E00", "-.")


@dataclass(frozen=True, eq=False)
class PhaseDiagram(Display):
    """The edge of chaos, where ``χ₁ = σ_w² E φ'(z)² = 1``, and on both sides the contours of six depth scales.

    Left of the edge, in order, any two inputs become alike; right of it, in chaos, neighbours part, and gradients
    explode. A network of L layers trains between the two contours ``6ξ = L``, ``ξ = 1/|ln χ₁|``. At a fixed point
    q both follow from the two averages at q alone: ``σ_w² = χ₁/E φ'²`` and ``σ_b² = q - σ_w² E φ²``.

    Source: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz
    et al. 2017, "Deep Information Propagation".

    Args:
        activation: its name.
        curves: name -> (points, 3): σ_w, σ_b, q*; empty where there is no such fixed point.
        schemes: name -> σ_w, at σ_b = 0.
        network: σ_w and σ_b of the user's model, or None.
        depth: its number of layers with weights, or None.
    """

    SIZE = (7.2, 4.8)
    activation: str
    curves: Mapping[str, NDArray[np.float64]]
    schemes: Mapping[str, float] = field(default_factory=lambda: SCHEMES)
    network: tuple[float, float] | None = None
    depth: int | None = None

    @classmethod
    def from_activation(
        cls,
        activation: str | Callable[..., Any] = "tanh",
        depths: Sequence[int] = (10, 30, 100),
        schemes: Mapping[str, float] = SCHEMES,
        network: tuple[float, float] | None = None,
    ) -> PhaseDiagram:
        """Of a name, or any elementwise function of an array.

        Args:
            activation: φ.
            depths: L of the contours ``6ξ = L``.
            schemes: name -> σ_w of the dots at σ_b = 0.
            network: σ_w and σ_b of a network to be marked.

        Raises:
            ValueError: an unknown activation, or a depth below 1.
        """
        if any(depth < 1 for depth in depths):
            raise ValueError(f"6ξ = L is drawn for depths of 1 and more; got {list(depths)}")
        moments = np.array([gaussian_moments(activation, q)[1:] for q in VARIANCES])
        curves = {"edge of chaos": _curve(moments, 1.0)}
        for depth in depths:
            curves[f"6ξ = {depth}, order"] = _curve(moments, math.exp(-6 / depth))
            curves[f"6ξ = {depth}, chaos"] = _curve(moments, math.exp(6 / depth))
        return cls(activation_name(activation), curves, schemes, network)

    @classmethod
    def from_prediction(cls, prediction: Any, depths: Sequence[int] = (10, 30, 100)) -> PhaseDiagram:
        """Of a ``lab.predict``: its activation, its place, and the contours of its own depth too.

        Raises:
            ValueError: its hidden layers have several activations or several scales, and so no one place.
        """
        names = ("activation", "sigma_w", "sigma_b")
        missing = [name for name in names if getattr(prediction, name) is None]
        if missing:
            raise ValueError(
                f"the hidden layers of this model do not share {' and '.join(missing)}: it has no one place"
            )
        network = prediction.sigma_w, prediction.sigma_b
        found = cls.from_activation(prediction.activation, sorted({*depths, max(prediction.depth, 1)}), network=network)
        return replace(found, depth=prediction.depth)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per point of a curve and per mark."""
        marks = [{"curve": name, "sigma_w": w, "sigma_b": 0.0, "q": None} for name, w in self.schemes.items()]
        if self.network is not None:
            marks.append({"curve": "network", "sigma_w": self.network[0], "sigma_b": self.network[1], "q": None})
        return [
            {"curve": name, "sigma_w": float(w), "sigma_b": float(b), "q": float(q)}
            for name, points in self.curves.items()
            for w, b, q in points
        ] + marks

    def _window(self) -> tuple[float, float]:
        """Largest σ_w and σ_b in the figure."""
        edge = self.curves["edge of chaos"]
        across = [3.0, *(1.15 * w for w in self.schemes.values()), *(edge[:1, 0] * 1.4)]
        up = [1.0]
        if self.network is not None:
            across.append(1.2 * self.network[0])
            up.append(1.2 * self.network[1])
        return min(max(across), 30.0), min(max(up), 30.0)

    def _draw(self, ax: Any) -> None:
        right, top = self._window()
        ax.set_xlim(0, right)
        ax.set_ylim(-0.04 * top, top)
        ax.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
        for place, (name, points) in enumerate(self.curves.items()):
            self._draw_curve(ax, name, points, (0.5, 0.9, 0.64, 0.78, 0.3, 0.66, 0.42)[place % 7] * top)
        for name, sigma_w in self.schemes.items():
            ax.plot([sigma_w], [0], "o", color="#444444", markersize=6, clip_on=False, zorder=4)
            how = {"textcoords": "offset points", "rotation": 50, "fontsize": SMALL, "bbox": BOX, "zorder": 3}
            ax.annotate(name, (sigma_w, 0), (2, 8), **how)
        if self.network is not None:
            self._draw_network(ax, min(self.network[0], right), min(self.network[1], top), top)
        how = {"transform": ax.transAxes, "va": "top", "fontsize": SMALL + 1, "bbox": BOX, "zorder": 3}
        ax.text(0.02, 0.96, "order: inputs\nbecome alike", **how)
        if any(len(points) for name, points in self.curves.items() if name.endswith("chaos") and "," in name):
            ax.text(0.98, 0.96, "chaos:\nneighbours part", ha="right", **how)
        ax.set_xlabel("σ_w = √(fan_in · Var w)")
        ax.set_ylabel("σ_b, std of the biases")
        heading(ax, f"Order and chaos with {self.activation}")

    def _draw_network(self, ax: Any, x: float, y: float, top: float) -> None:
        """A star at the place of the user's model, or at the edge that it lies beyond."""
        ax.plot(x, y, "*", color="#D55E00", markeredgecolor="#000000", markersize=16, clip_on=False, zorder=5)
        said = f"this network,\n{self.depth} layers" if self.depth else "this network"
        how = {"textcoords": "offset points", "arrowprops": {"arrowstyle": "-", "color": "#000000"}, "zorder": 5}
        up = 90 if y < 0.5 * top else -60  # clear of the names of the schemes
        ax.annotate(said, (x, y), (24, up), fontsize=SMALL + 1, bbox=BOX, **how)

    def _draw_curve(self, ax: Any, name: str, points: NDArray[np.float64], height: float) -> None:
        """One curve, with its name at about ``height``; one that is a single point, as a diamond."""
        edge = name == "edge of chaos"
        colour, dash = EDGE if edge else ORDER if name.endswith("order") else CHAOS
        if edge and not len(points):
            ax.text(0.5, 0.6, "no edge of chaos", transform=ax.transAxes, ha="center", fontsize=SMALL + 2)
        if not len(points):
            return
        if np.ptp(points[:, :2], axis=0).max() < 1e-3:
            ax.plot(points[:1, 0], points[:1, 1], "D", color=colour, markersize=10, clip_on=False, zorder=4)
            ax.axvline(points[0, 0], color=colour, linewidth=0.8, linestyle=":")
            said = f"{name}: this point;\nbeyond, q grows without end"
            ax.text(points[0, 0] + 0.05, height, said, fontsize=SMALL, bbox=BOX)
            return
        own = self.depth is not None and name.startswith(f"6ξ = {self.depth},")
        width = 2.4 if edge or own else 1.2
        ax.plot(points[:, 0], points[:, 1], color=colour, linestyle=dash, linewidth=width, zorder=2)
        if edge:
            ax.fill_betweenx(points[:, 1], points[:, 0], 100, color="#000000", alpha=0.06, linewidth=0, zorder=0)
        self._name_curve(ax, name.split(",")[0], points, height)

    def _name_curve(self, ax: Any, name: str, points: NDArray[np.float64], height: float) -> None:
        """The name on the curve, along its direction; none where that point is outside."""
        if not points[0, 1] <= height <= points[-1, 1]:
            return
        x, left, right = (
            float(np.interp(y, points[:, 1], points[:, 0])) for y in (height, 0.95 * height, 1.05 * height)
        )
        if not 0 < x < ax.get_xlim()[1]:
            return
        angle = math.degrees(math.atan2(0.1 * height, right - left))
        how = {"rotation_mode": "anchor", "transform_rotates_text": True, "ha": "center", "va": "center", "zorder": 3}
        box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        ax.text(x, height, name, rotation=angle, fontsize=SMALL, bbox=box, **how)


def _curve(moments: NDArray[np.float64], chi: float) -> NDArray[np.float64]:
    """(σ_w, σ_b, q*) with this χ₁, where q* is a stable fixed point; ``moments``: E φ², E φ'² at ``VARIANCES``."""
    square, slope_square = moments.T
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = chi / slope_square
        bias = VARIANCES - weight * square
        steepness = weight * np.gradient(square, VARIANCES)
    bias = np.where(np.abs(bias) <= ROUNDING * np.maximum(VARIANCES, weight * square), 0.0, bias)
    points = np.stack([weight, bias, VARIANCES], axis=1)
    kept = np.isfinite(weight) & (bias >= 0) & (steepness <= 1 + 1e-3)
    found = [*_crossings(points, kept), *points[kept]]
    found.sort(key=lambda point: point[2])
    result = np.array(found).reshape(-1, 3)
    result[:, :2] = np.sqrt(result[:, :2])
    return result


def _crossings(points: NDArray[np.float64], kept: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Where a curve meets σ_b = 0 between two points: on the straight line through them."""
    found = []
    for before, after, good in zip(points[:-1], points[1:], kept[1:], strict=True):
        if good and np.isfinite(before[0]) and before[1] < 0 < after[1]:
            share = before[1] / (before[1] - after[1])
            found.append(before + share * (after - before))
    return found
