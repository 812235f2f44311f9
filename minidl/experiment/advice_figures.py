"""The figures of the experiments on the article's advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.lab.draw import STYLES, new_figure, on_paper
from minidl.lab.figures.ribbon import RateRibbon
from minidl.lab.figures.scoreboard import GRID

__all__ = ["FIGURES"]


@on_paper()
def warm_start(finding: Any) -> Any:
    """The training loss over all gradient steps; the warm start's part of them is shaded."""
    panels = list(dict.fromkeys((r["hidden layers"], r["base"]) for r in finding.records))
    fig = new_figure(11, 3.6 * -(-len(panels) // 2))
    fig.suptitle(finding.title, fontsize=12)
    grid = fig.subplots(-(-len(panels) // 2), 2, sharex=True, sharey=True, squeeze=False)
    for ax, (depth, base) in zip(grid.flat, panels, strict=False):
        rows = [r for r in finding.table if (r["hidden layers"], r["base"]) == (str(depth), base)]
        ax.axvspan(0, finding.extra["warm"], color="#EEEEEE", zorder=0)
        for row, (colour, dash, marker) in zip(rows, STYLES, strict=False):
            own = [
                r["losses"]
                for r in finding.records
                if (r["hidden layers"], r["base"], r["method"]) == (depth, base, row["method"])
                and f"{r['lr']:g}" == row["rate"]
            ]
            mean = np.mean([losses[: min(map(len, own))] for losses in own], axis=0)
            steps = (np.arange(len(mean)) + 0.5) * finding.extra["stretch"]
            ax.plot(steps, mean, color=colour, linestyle=dash, marker=marker, markevery=6, ms=4.5, label=row["method"])
        ax.set_title(f"{depth} hidden layers, base {base}", fontsize=11)
        ax.grid(True, axis="y", **GRID)
        ax.set_ylim(0, 2.6)
    for ax in grid[-1]:
        ax.set_xlabel("gradient step (shaded: warm start)")
    for ax in grid[:, 0]:
        ax.set_ylabel("training loss")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return fig


@on_paper()
def layer_rates(finding: Any) -> Any:
    """Test accuracy of every method, each seed a dot; beside it the gradients that call for different rates."""
    fig = new_figure(11, 4.2)
    fig.suptitle(finding.title, fontsize=12)
    left, right = fig.subplots(1, 2, width_ratios=(3, 2))
    rows = finding.table
    for place, row in enumerate(rows):
        own = [
            100 * r["test_accuracy"]
            for r in finding.records
            if r["method"] == row["method"] and f"{r['lr']:g}" == row["rate"]
        ]
        left.plot(own, [place] * len(own), "o", color="#0072B2", ms=5, alpha=0.7)
        left.plot([np.mean(own)], [place], "|", color="#000000", ms=16, mew=2)
    left.set_yticks(range(len(rows)), [f"{r['method']} ({r['rate']})" for r in rows])
    left.invert_yaxis()
    left.set(xlim=(0, 100), xlabel="test accuracy in percent (bar: mean; dots: seeds)")
    left.grid(True, axis="x", **GRID)
    gradients = finding.extra["gradients"]
    right.semilogy(range(1, len(gradients) + 1), gradients, color="#D55E00", marker="o")
    right.set(xlabel="layer with weights", ylabel="rms of its weights' gradient")
    right.set_title("before training", fontsize=11)
    right.grid(True, axis="y", **GRID)
    return fig


def rate_windows(finding: Any) -> Any:
    """Which rates train, a ribbon for each scheme and optimizer."""
    return RateRibbon.from_records(finding.records, title=finding.title).figure()


@on_paper()
def correlation(finding: Any) -> Any:
    """Test accuracy against ρ, at the best of the rates for each: means, in a band from the worst seed to the best."""
    fig = new_figure(8, 4.4)
    ax = fig.subplots()
    rhos = finding.extra["rhos"]
    networks = dict.fromkeys(r["network"] for r in finding.records)
    for network, (colour, dash, marker) in zip(networks, STYLES, strict=False):
        own = [r for r in finding.records if r["network"] == network]
        values = [_at_best_rate([r for r in own if r["ρ"] == rho]) for rho in rhos]
        places, means = range(len(rhos)), [np.mean(v) for v in values]
        ax.plot(places, means, color=colour, linestyle=dash, marker=marker, ms=5, label=network)
        ax.fill_between(places, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0)
    ax.set_xticks(range(len(rhos)), [f"{rho:g}" for rho in rhos])
    ax.set(xlabel="correlation ρ of any two units' weights", ylabel="test accuracy in percent", title=finding.title)
    ax.set_ylim(0, 100)
    ax.grid(True, axis="y", **GRID)
    ax.legend(frameon=False, fontsize=10, loc="lower left")
    return fig


def _at_best_rate(records: list[dict[str, Any]]) -> list[float]:
    """The test accuracies in percent at the rate that is best on the held-out images, as the table has it."""
    rates = dict.fromkeys(r["lr"] for r in records)
    best = max(rates, key=lambda rate: np.mean([r["val_accuracy"] for r in records if r["lr"] == rate]))
    return [100 * r["test_accuracy"] for r in records if r["lr"] == best]


FIGURES: dict[str, Callable[[Any], Any]] = {
    "warm-start": warm_start,
    "layer-rates": layer_rates,
    "rate-windows": rate_windows,
    "correlation": correlation,
}
