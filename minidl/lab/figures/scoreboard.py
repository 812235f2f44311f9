"""Claimed, predicted, measured: accuracies of several seeds beside what somebody said and what theory says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minidl.lab.draw import STYLES
from minidl.lab.figures.base import SMALL, Display, heading

__all__ = ["Score", "Scoreboard"]

GRID = {"color": "#DDDDDD", "linewidth": 0.6}
TICKS = (0, 25, 50, 70, 80, 90, 95, 98, 99, 99.5, 99.8)  # in percent
CLAIMED = {"marker": "D", "color": "#7F7F7F", "markerfacecolor": "none", "markersize": 8, "linestyle": "none"}
PREDICTED = {"marker": "|", "color": "#D55E00", "markersize": 17, "markeredgewidth": 2.5, "linestyle": "none"}
BEST = 0.9999  # an error of 0 would lie infinitely far to the right


@dataclass(frozen=True)
class Score:
    """One line of a scoreboard.

    Args:
        name: of the row, such as the scheme.
        values: measured, one per seed, as shares of 1; nan where a network had left the range of float32.
        series: what tells apart the lines of one row, such as the optimizer.
        claimed: the number that somebody gave, or None.
        predicted: lowest and highest number that theory allows, or None.
        diverged: how many of the seeds met a value that is not finite.
    """

    name: str
    values: Sequence[float]
    series: str = ""
    claimed: float | None = None
    predicted: tuple[float, float] | None = None
    diverged: int = 0

    @property
    def finite(self) -> list[float]:
        """The values that are numbers, inside the figure."""
        return [min(v, BEST) for v in self.values if math.isfinite(v)]

    @property
    def mean(self) -> float:
        """Over seeds; nan without any."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds; nan for fewer than two."""
        values = self.values
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


@dataclass(frozen=True, eq=False)
class Scoreboard(Display):
    """Hollow: claimed. Upright tick: predicted. Dot and bar: measured, mean ± s.d. with every seed as a small tick.

    The axis is logarithmic in the *errors*: 98 % and 99 % are as far apart as 50 % and 75 %.

    Args:
        scores: the lines; rows and series come in the order in which they first appear.
        title: of the figure.
        quantity: on the axis.
    """

    scores: Sequence[Score]
    title: str = ""
    quantity: str = "test accuracy"

    @property
    def rows(self) -> list[str]:
        """Names of the rows, from above."""
        return list(dict.fromkeys(score.name for score in self.scores))

    @property
    def series(self) -> list[str]:
        """Names of what is told apart within a row."""
        return list(dict.fromkeys(score.series for score in self.scores))

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per line: claimed, predicted, mean, standard deviation, number of seeds."""
        return [
            {"name": s.name, "series": s.series, "claimed": s.claimed}
            | dict(zip(("predicted_low", "predicted_high"), s.predicted or (None, None), strict=True))
            | {"mean": s.mean, "sd": s.sd, "seeds": len(s.values), "diverged": s.diverged}
            for s in self.scores
        ]

    def _size(self) -> tuple[float, float]:
        lines = max(0.22 * len(self.series), 0.42) * len(self.rows)
        return 8.5, 1.2 * lines + 1.4

    def limits(self) -> tuple[float, float]:
        """Lowest and highest number in the figure."""
        found = [v for score in self.scores for v in (*score.finite, score.claimed, *(score.predicted or ()))]
        numbers = [v for v in found if v is not None] or [0.0]
        return min(numbers), min(max(numbers), BEST)

    def draw_rows(self, ax: Any, limits: tuple[float, float], rows: Sequence[str], series: Sequence[str]) -> None:
        """The rows of one panel among several: ``limits``, ``rows`` and ``series`` are those of all together."""
        for score in self.scores:
            self._draw_score(ax, score, rows.index(score.name), series.index(score.series), len(series))
        _accuracy_axis(ax, *limits)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        ax.grid(True, axis="x", **GRID)
        for i in range(1, len(rows)):
            ax.axhline(i - 0.5, **GRID)
        heading(ax, self.title)

    def _draw(self, ax: Any) -> None:
        self.draw_rows(ax, self.limits(), self.rows, self.series)
        ax.set_xlabel(f"{self.quantity} in %, mean ± s.d.; small: single seeds")
        self._name_marks(ax)
        if len(self.series) > 1:
            ax.legend(handles=self._handles(), loc="best", framealpha=0.9, fontsize=SMALL + 0.5, labelcolor="black")

    def _handles(self) -> list[Any]:
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], color=colour, marker=marker, linestyle="-", linewidth=1.6, label=name)
            for name, (colour, _, marker) in zip(self.series, STYLES, strict=False)
        ]

    def _name_marks(self, ax: Any) -> None:
        """What each kind of mark is, written at the first of its kind."""
        places: dict[str, tuple[float, int, str]] = {}
        for score in self.scores:
            row = self.rows.index(score.name)
            if score.claimed is not None:
                places.setdefault("claimed", (score.claimed, row, "top"))
            if score.predicted is not None:
                places.setdefault("predicted", (score.predicted[1], row, "top"))
            if score.finite:
                places.setdefault("measured", (statistics.fmean(score.finite), row, "bottom"))
        for name, (value, row, where) in places.items():
            y = row - 0.3 if where == "top" else row + 0.3
            ax.text(_place(value), y, name, ha="center", va="center", fontsize=SMALL, color="#444444")

    def _draw_score(self, ax: Any, score: Score, row: int, number: int, count: int) -> None:
        colour, _, marker = STYLES[number % len(STYLES)]
        y = row + (number - (count - 1) / 2) * 0.8 / count
        if score.claimed is not None:
            ax.plot([_place(score.claimed)], [row], zorder=3, **CLAIMED)
        if score.predicted is not None:
            ax.plot([_place(v) for v in set(score.predicted)], [row] * len(set(score.predicted)), **PREDICTED)
        values = score.finite
        if not values:
            ax.plot([0.01], [y], marker="x", color=colour, markersize=7, transform=ax.get_yaxis_transform())
            return
        mean = statistics.fmean(values)
        if math.isfinite(score.sd):
            ends = [_place(mean - score.sd), _place(min(mean + score.sd, BEST))]
            ax.plot(ends, [y, y], color=colour, linewidth=1.6)
        ax.plot([_place(v) for v in values], [y] * len(values), "|", color=colour, markersize=7, alpha=0.6)
        face = "white" if score.diverged else colour
        ax.plot([_place(mean)], [y], marker=marker, color=colour, markersize=6.5, markerfacecolor=face)


def _place(accuracy: float) -> float:
    """``-log₁₀`` of the error: where an accuracy lies on the axis."""
    return -math.log10(max(1 - accuracy, 1 - BEST))


def _accuracy_axis(ax: Any, worst: float, best: float) -> None:
    low, high = _place(worst), _place(best)
    margin = 0.06 * max(high - low, 0.1)
    ticks = [t for t in TICKS if low - margin <= _place(t / 100) <= high + margin]
    if len(ticks) < 3:
        ticks = _round(*(100 * (1 - 10**-end) for end in (low - margin, high + margin)))
    ax.set_xticks([_place(t / 100) for t in ticks], [f"{t:g}" for t in ticks])
    ax.set_xlim(low - margin, high + margin)


def _round(low: float, high: float) -> list[float]:
    """Round percentages between two, three at least."""
    for step in (10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02):
        ticks = [round(step * i, 2) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) >= 3:
            return ticks
    return [low, high]
