"""Figures. Each takes ``ax=`` and returns Axes; matplotlib is imported when the first one is drawn.

Every line has its own colour, dash and marker, so that it can be told apart in print and by the colour-blind. Where a
line becomes infinite, NaN, or zero on a logarithmic axis, a cross at the edge says so. No global setting is touched,
and the background is opaque (labels stay readable in a dark notebook).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

__all__ = ["plot_ladders"]  # the rest is for the figures of minidl

# Okabe & Ito's colours for all kinds of colour vision, darkest first, with a dash and a marker each
STYLES = (
    ("#000000", "-", "o"),
    ("#0072B2", "--", "s"),
    ("#D55E00", "-.", "^"),
    ("#009E73", ":", "v"),
    ("#CC79A7", "-", "D"),
    ("#56B4E9", "--", "P"),
    ("#E69F00", "-.", "X"),
    ("#7F7F7F", ":", "<"),
)
FLOOR, CEILING = 1e-12, 1e8  # a ladder is drawn inside these; what lies beyond is marked at the edge


def plot_ladders(
    ladders: Mapping[str, Sequence[float]],
    ax: Any = None,
    limits: Sequence[float] | None = None,
    theory: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """Several values per layer, one line each, on a log scale.

    Args:
        ladders: label -> the values at layers 1, 2, ….
        ax: Axes to draw into; without it a new figure of pyplot.
        limits: values that the y axis shall cover, for panels that share it; default: those of the ladders.
        theory: label -> what was predicted for that ladder: a wide pale band under the line of the measurement.
    """
    ax = new_axes((7.0, 4.2)) if ax is None else ax
    low, high = ladder_limits([v for values in ladders.values() for v in values] if limits is None else limits)
    for (label, values), style in zip(ladders.items(), cycle(STYLES), strict=False):
        if theory is not None and label in theory:
            theory_line(ax, theory[label], style[0], low, high)
        ladder_line(ax, values, style, low, high, label)
    ladder_axes(ax, low, high)
    return ax


def ladder_line(
    ax: Any, values: Sequence[float], style: tuple[str, str, str], low: float, high: float, label: str
) -> None:
    """One ladder from layer 1 on; where it leaves ``low`` … ``high``, a cross at the edge."""
    colour, dash, marker = style
    layers = range(1, len(values) + 1)
    inside = [v if low <= v <= high else math.nan for v in values]
    every = max(1, len(values) // 7)
    ax.plot(layers, inside, color=colour, linestyle=dash, marker=marker, markevery=every, markersize=4.5, label=label)
    _mark_lost(ax, values, low, high, colour)


def theory_line(ax: Any, values: Sequence[float], colour: str, low: float, high: float) -> None:
    """What was predicted for a ladder: a wide pale line under it, to the edge of the figure."""
    predicted = [v if low / 2 <= v <= high * 2 else math.nan for v in values]
    layers = range(1, len(values) + 1)
    ax.plot(layers, predicted, color=colour, linewidth=7, alpha=0.22, solid_capstyle="butt", zorder=1)


def ladder_axes(ax: Any, low: float, high: float) -> None:
    """Layers to the right, a logarithmic scale upwards."""
    ax.set_yscale("log")
    ax.set_ylim(low / 2, high * 2)
    ax.set_xlabel("hidden layer")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # there is no layer 2.5
    ax.grid(True, which="major", axis="y", color="#DDDDDD", linewidth=0.6)


def _mark_lost(ax: Any, values: Sequence[float], low: float, high: float, colour: str) -> None:
    """A cross where a line leaves the figure: at the top for explosion, at the bottom for vanishing."""
    lost = [not low <= v <= high for v in values]
    if not any(lost):
        return
    leaving = [i for i, gone in enumerate(lost) if gone and not all(lost[max(i - 1, 0) : i + 2])]
    layer = (leaving or [0])[0]
    edge = low if values[layer] < low else high
    ax.plot([layer + 1], [edge], marker="x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False)


def ladder_limits(values: Sequence[float]) -> tuple[float, float]:
    """Whole decades around the values, never wider than FLOOR … CEILING."""
    finite = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    low, high = max(min(finite), FLOOR), min(max(finite), CEILING)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(max(high, low * 10)))


def new_axes(size: tuple[float, float]) -> Any:
    """Axes in a new figure of pyplot, black on white; the size in inches."""
    import matplotlib.pyplot as plt

    with on_paper():
        return plt.subplots(figsize=size, layout="constrained")[1]


def new_figure(width: float, height: float) -> Any:
    """A Figure outside pyplot, for saving; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


@contextmanager
def on_paper() -> Iterator[None]:
    """Black on white for what is made inside, also where the user's style is dark; the settings come back after."""
    import matplotlib

    ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = dict.fromkeys(ink, "black") | {"axes.facecolor": "white", "figure.facecolor": "white"}
    with matplotlib.rc_context(settings):
        yield
