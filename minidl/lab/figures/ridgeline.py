"""What the outputs of a layer look like: one histogram a layer, with the density that theory predicts behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import ops
from minidl.lab.figures.base import SMALL, Display, by_call, check_same_layers, evenly, heading, short
from minidl.lab.measure import SATURATED

__all__ = ["Ridge", "Ridgeline"]

ROWS = 12  # layers drawn
BARS, DEAD, THEORY = "#9DB8CE", "#D55E00", "#000000"
FAR = 10.0  # if scales differ by more, every layer is drawn in units of its own rms
XI = np.linspace(-8, 8, 200_001)  # a Gaussian, pushed through φ point by point


@dataclass(frozen=True, eq=False)
class Ridge:
    """One layer.

    Args:
        layer: its path.
        kind: class name.
        edges: of the bins, one more than bins.
        density: measured, per bin.
        predicted: density of a Gaussian pushed through φ, per bin; None without theory.
        low, high: beyond these an output is saturated; infinite where that has no meaning.
        rms: of the output.
        says: the masses at the edges, in words.
    """

    layer: str
    kind: str
    edges: NDArray[np.float64]
    density: NDArray[np.float64]
    predicted: NDArray[np.float64] | None
    low: float
    high: float
    rms: float
    says: str

    @property
    def ends(self) -> NDArray[np.bool_]:
        """The bins whose middle is saturated, or that hold the zeros of a ReLU."""
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        zero = (self.edges[:-1] <= 0) & (self.edges[1:] > 0) if self.kind == "ReLU" else np.zeros(len(middle), bool)
        return (middle <= self.low) | (middle >= self.high) | zero


@dataclass(frozen=True, eq=False)
class Ridgeline(Display):
    """Histograms of the outputs, first layer on top; black: a Gaussian of the predicted variance, pushed through φ.

    Saturated outputs, and the zeros of ReLU, are coloured and hatched and given in per cent, with the prediction in
    brackets. Every ridge has a height of its own; a spike that would hide the others is cut.

    Args:
        ridges: the layers, from above.
        title: of the figure.
    """

    ridges: Sequence[Ridge]
    title: str = ""

    @classmethod
    def from_report(cls, report: Any, prediction: Any = None, layers: Sequence[str] | None = None) -> Ridgeline:
        """Of ``lab.probe(model, x, y, histograms=True)``, and of a ``lab.predict`` of the same model.

        Args:
            report: of the probe.
            prediction: what theory says, or None.
            layers: paths to show; default: the activations, or without any the layers with weights, 12 at most.

        Raises:
            ValueError: no histograms, or none of a layer that was asked for; a prediction of another model.
        """
        if report.histograms is None:
            raise ValueError("this report has no histograms: call lab.probe(model, x, y, histograms=True)")
        names = [r["layer"] for r in report.records]
        missing = [layer for layer in layers or () if layer not in names]
        if missing:
            raise ValueError(f"no histogram of {', '.join(missing)}; there are: {', '.join(dict.fromkeys(names))}")
        chosen = (
            _chosen(report.records) if layers is None else [i for n in layers for i, m in enumerate(names) if m == n]
        )
        theory = [(None, None)] * len(names) if prediction is None else _theory(report, prediction)
        histograms = by_call(report.histograms)
        ridges = [_ridge(report.records[i], histograms[i], *theory[i]) for i in chosen]
        return cls(ridges, report.title or "Outputs by layer")

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per layer and bin: its edges, the measured and the predicted density."""
        return [
            {"layer": r.layer, "low": float(low), "high": float(high), "density": float(density)}
            | {"predicted": None if r.predicted is None else float(r.predicted[i])}
            for r in self.ridges
            for i, (low, high, density) in enumerate(zip(r.edges[:-1], r.edges[1:], r.density, strict=True))
        ]

    def _size(self) -> tuple[float, float]:
        return 7.5, 0.55 * len(self.ridges) + 1.6

    def _draw(self, ax: Any) -> None:
        sizes = [r.rms for r in self.ridges if 0 < r.rms < math.inf]
        own = bool(sizes) and max(sizes) > FAR * min(sizes)
        for row, ridge in enumerate(self.ridges):
            self._draw_ridge(ax, row, ridge, ridge.rms if own and 0 < ridge.rms < math.inf else 1.0)
        ax.set_ylim(max(len(self.ridges), 1) - 0.85, -1.0)
        ax.set_yticks(range(len(self.ridges)), [short(r.layer) for r in self.ridges])
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("output / rms of the layer" if own else "output of the layer")
        heading(ax, self.title)

    def _draw_ridge(self, ax: Any, row: int, ridge: Ridge, unit: float) -> None:
        edges = ridge.edges / unit
        tallest = _tallest(ridge)
        ax.axhline(row, color="#BBBBBB", linewidth=0.6, zorder=row)
        if tallest > 0:
            height = row - np.minimum(0.85 * ridge.density / tallest, 1.0)
            ax.stairs(height, edges, baseline=row, fill=True, color=BARS, zorder=row + 0.2)
            marked = np.where(ridge.ends, height, row)
            ax.stairs(
                marked,
                edges,
                baseline=row,
                fill=True,
                facecolor=DEAD,
                edgecolor="white",
                hatch="////",
                zorder=row + 0.3,
            )
            if ridge.predicted is not None:
                predicted = row - np.minimum(0.85 * ridge.predicted / tallest, 1.0)
                ax.stairs(predicted, edges, baseline=None, color=THEORY, linewidth=1.2, zorder=row + 0.4)
        place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
        ink = ax.xaxis.label.get_color()
        ax.annotate(ridge.says, (1.0, row), (6, 6), va="center", fontsize=SMALL, color=ink, **place)


def _chosen(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Activations, or the layers with weights where there are none; evenly spread if they are many."""
    found = [i for i, r in enumerate(records) if r["kind"] in ops.ACTIVATIONS]
    found = found or [i for i, r in enumerate(records) if r["weight_std"] is not None]
    return [found[i] for i in evenly(len(found), ROWS)]


def _theory(report: Any, prediction: Any) -> list[tuple[float | None, float | None]]:
    """Of every layer: the variance of the Gaussian that its output is a function of, and the share of dead units."""
    check_same_layers(report, prediction)
    found: list[tuple[float | None, float | None]] = []
    last: float | None = None  # second moment of the layer before, unless that is an activation
    for record in prediction.records:
        activation = record["kind"] in ops.ACTIVATIONS
        variance = last if activation else record["second_moment"]
        last = None if activation else variance
        found.append((variance, record["dead"]))
    return found


def _ridge(
    record: Mapping[str, Any], bins: Sequence[Mapping[str, Any]], variance: float | None, dead: float | None
) -> Ridge:
    edges = np.array([b["low"] for b in bins] + [bins[-1]["high"]], dtype=np.float64)
    density = np.array([b["density"] for b in bins], dtype=np.float64)
    low, high = SATURATED.get(record["kind"], (-math.inf, math.inf))
    values = None
    if variance is not None and math.isfinite(variance) and np.isfinite(edges).all():
        values = _pushed(record["kind"], variance)
    predicted = None if values is None or record["kind"] == "CReLU" else _density(values, edges)
    rms = math.nan if record["rms"] is None else record["rms"]
    says = _says(record, values, low, high)
    ridge = Ridge(record["layer"], record["kind"], edges, density, predicted, low, high, rms, says)
    if record["kind"] != "ReLU" or record.get("nonfinite") or record.get("dead") is None:
        return ridge
    return replace(ridge, says=_zeros(ridge, dead, record["dead"]))


def _pushed(kind: str, variance: float) -> NDArray[np.float64]:
    """φ of an even sample of N(0, variance); weights go with it in ``_density``."""
    phi = ops.ACTIVATIONS.get(kind, ops.identity) if kind != "CReLU" else ops.identity
    return np.asarray(phi(math.sqrt(variance) * XI), dtype=np.float64)


def _weights() -> NDArray[np.float64]:
    weights = np.exp(-0.5 * XI**2)
    return weights / weights.sum()


def _density(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mass per bin over its width."""
    mass, _ = np.histogram(values, edges, weights=_weights())
    return mass / np.diff(edges)


def _says(record: Mapping[str, Any], values: NDArray[np.float64] | None, low: float, high: float) -> str:
    """``5.4 % saturated (5.4)``: what is measured, and in brackets what theory says."""
    if record.get("nonfinite"):
        return f"✕ {100 * record['nonfinite']:.3g} % not finite"
    if record.get("saturated") is not None:
        theory = math.nan if values is None else float(_weights()[(values <= low) | (values >= high)].sum())
        return f"{100 * record['saturated']:.2g} % saturated{_brackets(theory)}"
    return f"rms {record['rms']:.3g}" if record["rms"] is not None else ""


def _zeros(ridge: Ridge, predicted_dead: float | None, dead: float) -> str:
    """Of ReLU: the mass of the bin that holds the zeros, and the units that are zero on the whole batch."""
    masses = [
        None if d is None else float((d * np.diff(ridge.edges))[ridge.ends].sum())
        for d in (ridge.density, ridge.predicted)
    ]
    near = f"{100 * (masses[0] or 0.0):.2g} % near 0{_brackets(masses[1])}"
    return f"{near}\n{100 * dead:.2g} % of units dead{_brackets(predicted_dead)}"


def _brackets(share: float | None) -> str:
    return "" if share is None or math.isnan(share) else f" ({100 * share:.2g})"


def _tallest(ridge: Ridge) -> float:
    """The height of a ridge: that of its tallest bin, without the spike of zeros or of saturated outputs."""
    kept = ridge.density[~ridge.ends & np.isfinite(ridge.density)]
    if not kept.size or kept.max() <= 0:
        kept = ridge.density[np.isfinite(ridge.density)]
    return float(kept.max()) if kept.size else 0.0
