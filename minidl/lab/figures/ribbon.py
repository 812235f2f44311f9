"""Which learning rates train: a ribbon for every scheme and optimizer, as wide as the choice it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minidl.lab.draw import STYLES
from minidl.lab.figures.base import SMALL, Display, heading

__all__ = ["RateRibbon", "Ribbon"]

HALF = 0.42  # height of an accuracy of 1 above and below the middle of its row


@dataclass(frozen=True)
class Ribbon:
    """One row: the accuracy at every rate that was tried, and the window of those that train.

    Args:
        scheme: of the weights.
        optimizer: name.
        rates: in rising order.
        accuracies: mean over seeds at each of them, as shares of 1; nan where a training diverged.
        window: the longest run of neighbouring rates that train, (lowest, highest), or None.
    """

    scheme: str
    optimizer: str
    rates: tuple[float, ...]
    accuracies: tuple[float, ...]
    window: tuple[float, float] | None

    @property
    def decades(self) -> float:
        """``log₁₀`` of highest over lowest rate of the window; nan without one."""
        return math.log10(self.window[1] / self.window[0]) if self.window else math.nan

    @property
    def best(self) -> float | None:
        """The rate with the highest accuracy, if any rate trains."""
        if self.window is None:
            return None
        return max(pair for pair in zip(self.accuracies, self.rates, strict=True) if math.isfinite(pair[0]))[1]


@dataclass(frozen=True, eq=False)
class RateRibbon(Display):
    """For each scheme and optimizer, the learning rates that train: a long ribbon is a forgiving start.

    A ribbon is as thick as the accuracy. Filled dots: rates that train; hollow: those that do not; a ring around the
    best.

    Args:
        ribbons: the rows.
        trains: the accuracy from which a network counts as trained.
        title: of the figure.
    """

    ribbons: Sequence[Ribbon]
    trains: float
    title: str = ""

    @classmethod
    def from_records(
        cls, records: Sequence[Mapping[str, Any]], trains: float = 0.5, key: str = "test_accuracy", title: str = ""
    ) -> RateRibbon:
        """Of trainings: flat records with ``scheme``, ``optimizer``, ``lr`` and an accuracy, one per seed.

        Args:
            records: what ``experiment.advice.rate_windows`` holds, or your own.
            trains: the mean accuracy over seeds from which a rate trains.
            key: which accuracy.
            title: of the figure.
        """
        rows: dict[tuple[str, str], dict[float, list[float]]] = {}
        for r in records:
            value = math.nan if r[key] is None else float(r[key])
            rows.setdefault((r["scheme"], r["optimizer"]), {}).setdefault(float(r["lr"]), []).append(value)
        return cls([_ribbon(*names, found, trains) for names, found in rows.items()], trains, title)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per row and rate: the mean accuracy, whether it trains, and whether it belongs to the window."""
        return [
            {"scheme": r.scheme, "optimizer": r.optimizer, "lr": lr, "accuracy": accuracy}
            | {"trains": accuracy >= self.trains}
            | {"in_window": r.window is not None and r.window[0] <= lr <= r.window[1], "decades": r.decades}
            for r in self.ribbons
            for lr, accuracy in zip(r.rates, r.accuracies, strict=True)
        ]

    def _size(self) -> tuple[float, float]:
        return 8.0, 0.5 * len(self.ribbons) + 1.5

    def _draw(self, ax: Any) -> None:
        optimizers = list(dict.fromkeys(r.optimizer for r in self.ribbons))
        for row, ribbon in enumerate(self.ribbons):
            self._draw_ribbon(ax, row, ribbon, STYLES[(optimizers.index(ribbon.optimizer) + 1) % len(STYLES)])
        rates = sorted({rate for r in self.ribbons for rate in r.rates}) or [1.0]
        ax.set_xscale("log")
        ax.set_xlim(rates[0] / 2, rates[-1] * 2)
        ax.set_ylim(max(len(self.ribbons), 1) - 0.5, -0.5)
        ax.set_yticks(range(len(self.ribbons)), [f"{r.scheme}, {r.optimizer}" for r in self.ribbons])
        for row in range(1, len(self.ribbons)):
            new = self.ribbons[row].scheme != self.ribbons[row - 1].scheme
            ax.axhline(row - 0.5, color="#888888" if new else "#DDDDDD", linewidth=0.8 if new else 0.5)
        ax.set_xlabel(f"learning rate; trains: accuracy of {100 * self.trains:.3g} % and more")
        heading(ax, self.title)

    def _draw_ribbon(self, ax: Any, row: int, ribbon: Ribbon, style: tuple[str, str, str]) -> None:
        colour, _, marker = style
        heights = [HALF * a if math.isfinite(a) else 0.0 for a in ribbon.accuracies]
        low, high = [row - h for h in heights], [row + h for h in heights]
        ax.fill_between(ribbon.rates, low, high, color="#BBBBBB", alpha=0.45, linewidth=0)
        if ribbon.window:
            inside = [ribbon.window[0] <= lr <= ribbon.window[1] for lr in ribbon.rates]
            ax.fill_between(ribbon.rates, low, high, where=inside, color=colour, alpha=0.5, linewidth=0)
            ax.plot(ribbon.window, [row, row], color=colour, linewidth=1.6)
        for lr, accuracy in zip(ribbon.rates, ribbon.accuracies, strict=True):
            good = accuracy >= self.trains
            shape = marker if math.isfinite(accuracy) else "x"
            ax.plot([lr], [row], shape, color=colour, markerfacecolor=colour if good else "white", markersize=5.5)
        if ribbon.best is not None:
            ax.plot([ribbon.best], [row], "o", color="#000000", markerfacecolor="none", markersize=11)
        said = f"{ribbon.decades:.1f} decades" if ribbon.window else "none trains"
        ax.annotate(
            said,
            (1.0, row),
            (6, 0),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=SMALL + 0.5,
            color=ax.xaxis.label.get_color(),
            annotation_clip=False,
        )


def _ribbon(scheme: str, optimizer: str, found: Mapping[float, Sequence[float]], trains: float) -> Ribbon:
    rates = tuple(sorted(found))
    means = tuple(sum(found[lr]) / len(found[lr]) for lr in rates)
    return Ribbon(scheme, optimizer, rates, means, _window(rates, [mean >= trains for mean in means]))


def _window(rates: Sequence[float], good: Sequence[bool]) -> tuple[float, float] | None:
    """The longest run of rates that train; of two equally long ones the first."""
    best: tuple[float, float] | None = None
    start: float | None = None
    for rate, trains in zip(rates, good, strict=True):
        start = (rate if start is None else start) if trains else None
        if start is not None and (best is None or rate / start > best[1] / best[0]):
            best = (start, rate)
    return best
