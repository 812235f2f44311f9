"""The figure of a passport: density and spectrum of one layer, and the three ladders."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np

from minidl.lab.draw import STYLES, on_paper, plot_ladders
from minidl.lab.law import marchenko_pastur

__all__ = ["passport_figure"]

BARS, CURVE = "#9DB8CE", "#D55E00"
SMALL = 9
MOSTLY = 0.2  # share of zeros that are left out of the histogram


@on_paper()
def passport_figure(passport: Any) -> Any:
    """Above: the histogram of the weights, that of their singular values, the facts. Below: the ladders."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(12.0, 7.2), facecolor="white")  # all have the same places: finding them takes half the time
    fig.subplots_adjust(left=0.055, right=0.985, top=0.88, bottom=0.125, wspace=0.22, hspace=0.42)
    fig.suptitle("\n".join(textwrap.wrap(passport.formula, 110)), fontsize=12)
    grid = fig.subplots(2, 3)
    _density(grid[0, 0], passport)
    _spectrum(grid[0, 1], passport)
    _facts(grid[0, 2], passport)
    _ladders(grid[1], passport)
    return fig


def _density(ax: Any, passport: Any) -> None:
    """The weights, and the law that the formula means."""
    sample, law = passport.sample, passport.law
    zeros = passport.weights["zeros"]
    if MOSTLY < zeros < 1 and len(np.unique(sample)) > 3:  # beside their bar no other would be seen
        sample = sample[sample != 0]
        ax.text(
            0.03, 0.95, f"without the {100 * zeros:.3g} %\nthat are 0", transform=ax.transAxes, va="top", fontsize=SMALL
        )
    _bars(ax, sample, "weight")
    if law is not None and law.kind != "constant" and np.ptp(sample) > 0:
        low, high = ax.get_xlim()
        x = np.linspace(low, high, 400)
        curve = law.density(x)
        if np.isfinite(curve).all():
            ax.plot(x, curve, color=CURVE, linewidth=1.8, label="exact law")
            ax.set_ylim(0, 1.25 * max(ax.get_ylim()[1] / 1.05, curve.max()))
            ax.legend(frameon=False, fontsize=SMALL, loc="upper right")
    ax.set_title("weights of one layer", fontsize=11)


def _spectrum(ax: Any, passport: Any) -> None:
    """The singular values, and the law of Marchenko and Pastur where the weights are independent."""
    singular = passport.singular
    _bars(ax, singular, "singular value", bins=40)
    law = passport.law
    if law is not None and law.independent and law.std > 0:
        shape = passport.settings["shape"]
        rows, columns = shape[0], math.prod(shape[1:])
        s = np.linspace(0, ax.get_xlim()[1], 400)
        curve = marchenko_pastur(s, rows, columns, law.std)
        ax.plot(s, curve, color=CURVE, linewidth=1.8, label="Marchenko–Pastur")
        ax.set_ylim(0, 1.3 * max(ax.get_ylim()[1] / 1.05, curve.max()))
        ax.legend(frameon=False, fontsize=SMALL, loc="upper right")
    ax.set_title("singular values of its matrix", fontsize=11)


def _bars(ax: Any, values: Any, label: str, bins: int = 60) -> None:
    """A histogram as a density; values that are all the same, up to rounding, or two of them, as spikes."""
    values = np.asarray(values, dtype=np.float64)
    distinct = np.unique(np.round(values, 6))
    if len(distinct) <= 3:
        shares = [np.mean(np.abs(values - v) < 1e-5) for v in distinct]
        ax.vlines(distinct, 0, shares, color="#0072B2", linewidth=5)
        for v, share in zip(distinct, shares, strict=True):
            ax.annotate(f"{v:.4g}", (v, share), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=SMALL)
        reach = max(np.abs(distinct).max(), 0.1)
        ax.set(xlim=(distinct.min() - reach, distinct.max() + reach), ylim=(0, 1.25), ylabel="share")
    else:
        ax.hist(values, bins=bins, density=True, color=BARS, edgecolor="none")
        ax.set_ylabel("density")
    ax.set_xlabel(label)


def _facts(ax: Any, passport: Any) -> None:
    """The table of the page, and the layer in words."""
    ax.set_axis_off()
    text = textwrap.fill(passport.layer(), 49)  # wider text would leave the paper
    ax.text(0, 1.08, text, transform=ax.transAxes, va="top", fontsize=SMALL, linespacing=1.4)
    top = 0.5
    heads = ("factor per layer", "rms", "std over\ninputs", "gradient")
    places = (0.0, 0.42, 0.62, 0.84)
    for place, head in zip(places, heads, strict=True):
        ax.text(place, top, head, transform=ax.transAxes, va="bottom", fontsize=SMALL, color="#444444")
    for i, record in enumerate(passport.records):
        cells = (record["network"], *(f"×{record[key]:.3g}" for key in ("rms", "signal", "gradient")))
        for place, cell in zip(places, cells, strict=True):
            y = top - 0.06 - 0.115 * i
            ax.text(place, y, cell, transform=ax.transAxes, va="top", fontsize=SMALL)


def _ladders(axes: Any, passport: Any) -> None:
    """Pre-activation, spread over inputs, gradient; theory as a pale band where there is one."""
    panels = {
        "rms": "rms of the pre-activation",
        "batch_std": "its std over inputs",
        "delta_rms": "rms of the gradient there",
    }
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        lines = {label: report.ladder(key) for label, report in passport.ladders.items()}
        theory = {label: found[key] for label, found in passport.theory.items() if key in found}
        plot_ladders(lines, ax=ax, theory=theory)
        depth = passport.settings["depth"]
        ax.minorticks_off()
        ax.set_xlim(0, depth + 1)
        drawn = [v for values in lines.values() for v in values[:-1]]
        if not any(0 < v < math.inf for v in drawn):
            said = "exactly 0" if not any(drawn) else "0 or infinite"
            ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", fontsize=11)
        ax.set_title(title + (" (bands: theory)" if theory else ""), fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    assert len(labels) <= len(STYLES)
    fig = axes[0].get_figure()
    fig.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=10)
    beyond = "×  from here on 0, infinite or beyond the picture"
    fig.text(0.985, 0.025, beyond, ha="right", fontsize=SMALL, color="#444444")
