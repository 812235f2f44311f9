"""What an initializer of a whole model did: the scale of every layer before and after, with He's as a line."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minidl.backend import to_host
from minidl.init.model_level import effective_weight, weighted_layers
from minidl.lab.figures.base import SMALL, Display, evenly, heading, label_ends, short
from minidl.lab.untouched import path_of

__all__ = ["BeforeAfter"]

HE = math.sqrt(2)
FAR = 1e5


@dataclass(frozen=True, eq=False)
class BeforeAfter(Display):
    """``σ_w = std(W) √fan_in`` of every layer with weights, before and after: LeCun's law has 1, that of He √2.

    Args:
        layers: paths, in order.
        before: σ_w of each.
        after: σ_w of each.
        method: what was done.
        title: of the figure.
    """

    SIZE = (6.0, 4.8)
    layers: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    method: str
    title: str = ""

    @classmethod
    def from_model(cls, model: Any, change: Callable[[Any], Any], method: str = "", title: str = "") -> BeforeAfter:
        """Measure a copy of ``model``, call ``change(copy)``, measure it again; the model is left as it is.

        Args:
            model: any tree of modules.
            change: ``lambda m: init.lsuv(m, x)``.
            method: its name; default: that of the function.
            title: of the figure.
        """
        twin = copy.deepcopy(model)
        before = _scales(twin)
        change(twin)
        after = _scales(twin)
        method = method or getattr(change, "__name__", "after")
        title = title or f"{method}: the scale of every layer"
        return cls(tuple(before), tuple(before.values()), tuple(after.values()), method, title)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per layer: its number and name, σ_w before and after."""
        rows = zip(self.layers, self.before, self.after, strict=True)
        return [
            {"number": i, "layer": layer, "before": before, "after": after}
            for i, (layer, before, after) in enumerate(rows, start=1)
        ]

    def _draw(self, ax: Any) -> None:
        low, high = self._limits()
        ax.axhline(HE, color="#009E73", linewidth=1.2, linestyle="--", zorder=1)
        ax.text(0.02, HE, "He, √2", transform=ax.get_yaxis_transform(), va="bottom", fontsize=SMALL)
        named = evenly(len(self.layers), 6)
        for i, (first, last) in enumerate(zip(self.before, self.after, strict=True)):
            self._slope(ax, _inside(first, low, high), _inside(last, low, high), i)
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        _plain_ticks(ax, low, high)
        ax.set_xlim(-0.12, 1.12)
        ax.set_xticks([0, 1], ["before", self.method or "after"])
        ax.set_ylabel("σ_w = std(W) √fan_in")
        ax.grid(True, axis="y", which="major", color="#DDDDDD", linewidth=0.6)
        ends = [(_inside(self.after[i], low, high), short(self.layers[i]), "#000000") for i in named]
        label_ends(ax, ends)
        heading(ax, self.title)

    def _limits(self) -> tuple[float, float]:
        """Around the scales and that of He; what is further off than a factor of 1e5 is put at the edge."""
        found = [v for v in (*self.before, *self.after, HE) if HE / FAR <= v <= HE * FAR]
        margin = (max(found) / min(found)) ** 0.08 * 1.1
        return min(found) / margin, max(found) * margin

    def _slope(self, ax: Any, first: float, last: float, number: int) -> None:
        """One layer: pale for the first, dark for the last; a cross where a scale is zero or not finite."""
        from matplotlib import colormaps

        share = number / max(len(self.layers) - 1, 1)
        colour = colormaps["cividis_r"](0.15 + 0.85 * share)
        ax.plot([0, 1], [first, last], color=colour, linewidth=1.4, zorder=2)
        for x, y, value, marker in ((0, first, self.before[number], "o"), (1, last, self.after[number], "s")):
            good = 0 < value < math.inf
            ax.plot([x], [y], marker=marker if good else "x", color=colour, markersize=6, clip_on=False, zorder=3)


def _inside(value: float, low: float, high: float) -> float:
    """The value, or the edge of the figure where it lies outside."""
    return high if math.isnan(value) else min(max(value, low), high)


def _plain_ticks(ax: Any, low: float, high: float) -> None:
    """1, 2, 5 and so on where powers of ten would be too few."""
    if high / low > 100:
        return
    steps = [m * 10.0**e for e in range(-7, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    ax.set_yticks(steps, [f"{v:g}" for v in steps])
    ax.minorticks_off()


def _scales(model: Any) -> dict[str, float]:
    """σ_w of every layer with weights, by its path."""
    found = {}
    for path, module in weighted_layers(model):
        weight = to_host(effective_weight(module)).astype("float64")
        found[path_of(path, module)] = float(weight.std()) * math.sqrt(module.fans[0])
    return found
