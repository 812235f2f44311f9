"""The outputs of some layers over a training: one column per look, one picture per layer, with real units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.lab.figures.base import SMALL, Display, by_call, evenly, heading, short

__all__ = ["HeatStrip", "TrainingHeatmap"]

LAYERS, BINS = 5, 60
RAREST = 1e-3  # share of the outputs in a bin below which the colour stays the same
QUANTILES = (0.05, 0.5, 0.95)
DEAD = 0.5  # share of dead units from which a look is marked
GAP = 0.25  # between two strips, of the height of one


@dataclass(frozen=True, eq=False)
class HeatStrip:
    """One layer.

    Args:
        layer: its path.
        edges: of the bins, the same for all looks.
        shares: (looks, bins): the share of the outputs in each bin.
        lost: per look: outputs that are not finite, or no histogram.
        dead: per look: half of the units or more are dead.
        theory: the 5, 50 and 95 % quantiles that theory predicts before training; None without.
    """

    layer: str
    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    lost: Sequence[bool]
    dead: Sequence[bool]
    theory: Sequence[float] | None = None

    def quantiles(self) -> NDArray[np.float64]:
        """(looks, 3): 5, 50 and 95 % of the outputs lie below; nan where a look was lost."""
        found = np.full((len(self.shares), len(QUANTILES)), np.nan)
        for row, shares in zip(found, self.shares, strict=True):
            if shares.sum() > 0:
                below = np.concatenate([[0.0], np.cumsum(shares) / shares.sum()])
                row[:] = np.interp(QUANTILES, below, self.edges)
        return found


@dataclass(frozen=True, eq=False)
class TrainingHeatmap(Display):
    """Histograms over training as a picture: steps to the right, for every layer the size of its outputs upwards.

    Dark to light: the share of the outputs in a bin, on a logarithmic scale. White lines: 5, 50 and 95 % lie below.
    Dashes at the left edge: the same as theory predicts them before training. Crosses: outputs that are not finite;
    triangles: at least half of the units are dead.

    Args:
        steps: of the looks.
        strips: the layers, from above.
        title: of the figure.
    """

    steps: Sequence[int]
    strips: Sequence[HeatStrip]
    title: str = ""

    @classmethod
    def from_records(
        cls,
        histograms: Sequence[Mapping[str, Any]],
        records: Sequence[Mapping[str, Any]] = (),
        layers: Sequence[str] | None = None,
        prediction: Any = None,
        title: str = "",
    ) -> TrainingHeatmap:
        """Of what ``lab.watch`` collected. A layer that runs several times in one pass is shown by its first output.

        Args:
            histograms: one per step, layer and bin: ``step``, ``layer``, ``low``, ``high``, ``density``.
            records: of the probes, with ``step``; they say where units are dead and outputs not finite.
            layers: paths to show; default: five of those there are, evenly spread.
            prediction: a ``lab.predict`` of the network before training, or None.
            title: of the figure.

        Raises:
            ValueError: no histogram of a layer that was asked for.
        """
        names = list(dict.fromkeys(h["layer"] for h in histograms))
        chosen = [names[i] for i in evenly(len(names), LAYERS)] if layers is None else list(layers)
        missing = [layer for layer in chosen if layer not in names]
        if missing:
            raise ValueError(f"no histogram of {', '.join(missing)}; there are: {', '.join(names) or 'none'}")
        steps = sorted({h["step"] for h in histograms} | {r["step"] for r in records})
        states = {(r["step"], r["layer"]): r for r in reversed(records)}
        predicted = {} if prediction is None else {r["layer"]: r for r in reversed(prediction.records)}
        strips = []
        for layer in chosen:
            looks = _looks(histograms, layer, steps)
            strips.append(_strip(layer, looks, [states.get((step, layer), {}) for step in steps], predicted.get(layer)))
        return cls(steps, strips, title or "Outputs over training")

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per layer, step and bin with outputs: its edges and its share; one with no bin where a look was lost."""
        found = []
        for strip in self.strips:
            for i, step in enumerate(self.steps):
                base = {"layer": strip.layer, "step": step, "lost": strip.lost[i], "dead": strip.dead[i]}
                bins = zip(strip.edges[:-1], strip.edges[1:], strip.shares[i], strict=True)
                rows = [base | {"low": float(a), "high": float(b), "share": float(s)} for a, b, s in bins if s > 0]
                found += rows or [base | {"low": None, "high": None, "share": None}]
        return found

    def _size(self) -> tuple[float, float]:
        return 8.0, 1.15 * max(len(self.strips), 1) + 1.3

    def _draw(self, ax: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm

        norm = LogNorm(RAREST, 1.0)
        ticks: list[tuple[float, str]] = []
        for place, strip in enumerate(reversed(self.strips)):
            bottom = place * (1 + GAP)
            ticks += self._draw_strip(ax, strip, bottom, norm)
        ax.set_xlim(self._columns()[0], self._columns()[-1])
        ax.set_ylim(-GAP / 2, max(len(self.strips), 1) * (1 + GAP))
        ax.set_yticks([y for y, _ in ticks], [text for _, text in ticks], fontsize=SMALL)
        ax.set_xlabel("step")
        bar = ax.inset_axes((1.02, 0.0, 0.025, 1.0))
        ax.figure.colorbar(ScalarMappable(norm, "cividis"), cax=bar)
        ink = ax.xaxis.label.get_color()
        bar.set_ylabel("share of the outputs in a bin", fontsize=SMALL, color=ink)
        bar.tick_params(labelsize=SMALL, labelcolor=ink, color=ink)
        heading(ax, self.title)

    def _columns(self) -> NDArray[np.float64]:
        """Edges of the columns, halfway between the looks."""
        steps = np.asarray(self.steps, dtype=np.float64)
        if len(steps) < 2:
            at = steps[0] if len(steps) else 0.0
            return np.array([at - 0.5, at + 0.5])
        middle = (steps[1:] + steps[:-1]) / 2
        return np.concatenate([[steps[0] - (middle[0] - steps[0])], middle, [steps[-1] + (steps[-1] - middle[-1])]])

    def _draw_strip(self, ax: Any, strip: HeatStrip, bottom: float, norm: Any) -> list[tuple[float, str]]:
        """The picture of one layer between ``bottom`` and ``bottom + 1``; returns the ticks of its own scale."""
        from matplotlib.patheffects import withStroke
        from matplotlib.ticker import MaxNLocator

        low, high = strip.edges[0], strip.edges[-1]

        def up(values: Any) -> Any:
            return bottom + (np.asarray(values) - low) / (high - low)

        shares = np.ma.masked_equal(np.where(strip.shares > 0, np.maximum(strip.shares, RAREST), 0.0).T, 0.0)
        ax.pcolormesh(self._columns(), up(strip.edges), shares, norm=norm, cmap="cividis")
        outline = [withStroke(linewidth=2.4, foreground="black")]
        for line, dash in zip(strip.quantiles().T, ("--", "-", "--"), strict=True):
            marker = "." if len(self.steps) == 1 else ""
            ax.plot(self.steps, up(line), dash, marker=marker, color="white", linewidth=1.1, path_effects=outline)
        for value in strip.theory or ():
            if low <= value <= high:
                ax.plot([0.0, 0.025], [up(value)] * 2, color="#D55E00", linewidth=3, transform=ax.get_yaxis_transform())
        for marks, marker in ((strip.lost, "x"), (strip.dead, "v")):
            places = [step for step, here in zip(self.steps, marks, strict=True) if here]
            ax.plot(places, [bottom + 1.05] * len(places), marker, color="#D55E00", markersize=6, clip_on=False)
        ax.text(
            0.01,
            bottom + 1.03,
            short(strip.layer, 40),
            transform=ax.get_yaxis_transform(),
            va="bottom",
            fontsize=SMALL,
        )
        ticks = [v for v in MaxNLocator(3).tick_values(low, high) if low <= v <= high]
        return [(float(up(v)), f"{v:.3g}") for v in ticks]


def _looks(histograms: Sequence[Mapping[str, Any]], layer: str, steps: Sequence[int]) -> list[list[Mapping[str, Any]]]:
    """The bins of one layer at each step."""
    found: dict[int, list[Mapping[str, Any]]] = {step: [] for step in steps}
    for h in histograms:
        if h["layer"] == layer:
            found[h["step"]].append(h)
    return [by_call(look)[0] if look else [] for look in found.values()]


def _strip(
    layer: str, looks: Sequence[Sequence[Mapping[str, Any]]], states: Sequence[Mapping[str, Any]], predicted: Any
) -> HeatStrip:
    good = [[b for b in look if all(math.isfinite(b[key]) for key in ("low", "high", "density"))] for look in looks]
    ends = [edge for look in good for b in look for edge in (b["low"], b["high"])] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    shares = np.array([_rebinned(look, edges) for look in good])
    lost = [not look or bool(state.get("nonfinite")) for look, state in zip(good, states, strict=True)]
    dead = [(state.get("dead") or 0.0) >= DEAD for state in states]
    theory = None
    if predicted is not None and predicted.get("mean") is not None and predicted.get("std") is not None:
        mean, std = float(predicted["mean"]), float(predicted["std"])
        theory = [mean - 1.6449 * std, mean, mean + 1.6449 * std]
    return HeatStrip(layer, edges, shares, lost, dead, theory)


def _rebinned(look: Sequence[Mapping[str, Any]], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of a histogram in other bins: what a bin holds is spread evenly over its width."""
    if not look:
        return np.zeros(len(edges) - 1)
    own = np.array([b["low"] for b in look] + [look[-1]["high"]])
    below = np.concatenate([[0.0], np.cumsum([b["density"] * (b["high"] - b["low"]) for b in look])])
    return np.diff(np.interp(edges, own, below))
