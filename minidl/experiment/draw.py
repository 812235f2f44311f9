"""The figures of an experiment: final accuracy, learning curves, ladders before training.

No panel holds more than eight lines, each with its own colour, dash and marker. Where there are more schemes than
that, each scheme has a panel of its own, and the lines are what else varies.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.experiment.grid import label
from minidl.experiment.summary import Group, caption, groups, varying, word
from minidl.lab import plot_ladders
from minidl.lab.draw import STYLES, new_figure, on_paper
from minidl.lab.figures.scoreboard import CLAIMED, GRID, Score, Scoreboard

__all__ = ["accuracy_figure", "curves_figure", "figures", "ladders_figure"]

Records = Sequence[Mapping[str, Any]]
MOST = len(STYLES)  # lines in a panel
LARGE = 100.0  # losses beyond leave the figure, so that those of networks that learn can be told apart
CURVES = {  # key of the history -> what is drawn; None is the curve within the first epoch
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    None: "training loss\nin the first epoch",
}


def figures(records: Records, title: str, claimed: Mapping[str, float] | None = None) -> dict[str, Any]:
    """File name -> figure, of all that can be drawn of these cells.

    Args:
        records: of the store.
        title: of the figures; what was used is written below it.
        claimed: scheme -> the accuracy that the article gives for it.
    """
    title = f"{title}\n{textwrap.fill(caption(records, short=True), 100)}"
    found = {"ladders.png": ladders_figure(records, title)}
    trained = [record for record in records if "history" in record["result"]]
    if trained:
        found["accuracy.png"] = accuracy_figure(trained, title, claimed)
        found |= {f"curves{n}.png": fig for n, fig in curves_figures(trained, title).items()}
    return found


@dataclass(frozen=True)
class Layout:
    """Which axes tell panels apart, and which the lines within a panel."""

    panels: tuple[str, ...]
    lines: tuple[str, ...]

    def panel_of(self, group: Group) -> str:
        """The title of the panel a group belongs to."""
        return _named(group, self.panels)

    def line_of(self, group: Group) -> str:
        """The label of its line."""
        return _named(group, self.lines)


def layout(records: Records) -> Layout:
    """Schemes as lines if a panel can hold them; else the other axes, as many as fit."""
    axes = varying(records)
    counts = {axis: len({record["cell"][axis] for record in records}) for axis in axes}
    if counts.get("scheme", MOST + 1) <= MOST:
        return Layout(tuple(axis for axis in axes if axis != "scheme"), ("scheme",))
    lines: list[str] = []
    for axis in sorted((axis for axis in axes if axis != "scheme"), key=lambda axis: -counts[axis]):
        if math.prod(counts[name] for name in (*lines, axis)) <= MOST:
            lines.append(axis)
    return Layout(tuple(axis for axis in axes if axis not in lines), tuple(lines))


def _named(group: Group, axes: Sequence[str]) -> str:
    return ", ".join(word(axis, group.settings[axis]) for axis in axes)


# ------------------------------------------------------------------------------------------------- final accuracy


@on_paper()
def accuracy_figure(records: Records, title: str, claimed: Mapping[str, float] | None = None) -> Any:
    """Schemes from top to bottom, test accuracy to the right: mean, standard deviation and every single seed.

    The axis is logarithmic in the *errors*: 98 % and 99 % are as far apart as 50 % and 75 %.
    """
    plan = _markers_and_panels(records)
    found = groups(records)
    schemes = list(dict.fromkeys(group.settings["scheme"] for group in found))
    panels = list(dict.fromkeys(plan.panel_of(group) for group in found))
    markers = list(dict.fromkeys(plan.line_of(group) for group in found))
    longest = max(len(label(scheme)) for scheme in schemes)
    height = max(0.22 * len(markers), 0.34) * len(schemes) + 1.9
    across = max(0.085 * longest + 1.2 + 4.6 * min(len(panels), 3), 9.0)
    fig = new_figure(across, height * math.ceil(len(panels) / 3))
    grid = fig.subplots(math.ceil(len(panels) / 3), min(len(panels), 3), sharey=True, sharex=True, squeeze=False)
    limits = Scoreboard([_score(group, plan, {}) for group in found]).limits()
    for ax, panel in itertools.zip_longest(grid.flat, panels):
        if panel is None:
            ax.set_axis_off()
            continue
        scores = [_score(group, plan, claimed or {}) for group in found if plan.panel_of(group) == panel]
        Scoreboard(scores, panel).draw_rows(ax, limits, [label(scheme) for scheme in schemes], markers)
        ax.set_xlabel("test accuracy in %, mean ± s.d.; small: single seeds")
        ax.tick_params(labelbottom=True)  # also where there is no panel below
    _legend(fig, markers, dashes=False, claimed=bool(claimed))
    fig.suptitle(title, fontsize=11)
    return fig


def _markers_and_panels(records: Records) -> Layout:
    """Markers for the axes behind, as many as can be told apart beside each other; panels for the others."""
    axes = [axis for axis in varying(records) if axis != "scheme"]
    counts = {axis: len({record["cell"][axis] for record in records}) for axis in axes}
    markers: list[str] = []
    for axis in reversed(axes):
        if math.prod(counts[name] for name in (*markers, axis)) <= 4:
            markers.insert(0, axis)
    return Layout(tuple(axis for axis in axes if axis not in markers), tuple(markers))


def _score(group: Group, plan: Layout, claimed: Mapping[str, float]) -> Score:
    """The test accuracies of a group as one line of a scoreboard."""
    scheme = group.settings["scheme"]
    values = group.values("test_accuracy")
    return Score(label(scheme), values, plan.line_of(group), claimed.get(scheme), diverged=group.diverged)


# ------------------------------------------------------------------------------------------------ learning curves


def curves_figures(records: Records, title: str) -> dict[str, Any]:
    """Ending of the file name -> figure. Where schemes have panels of their own there is one figure per quantity."""
    plan = layout(records)
    panels = list(dict.fromkeys(plan.panel_of(group) for group in groups(records)))
    if len(panels) <= 4:
        return {"": curves_figure(records, title)}
    endings = {"test_accuracy": "-accuracy", "test_loss": "-loss", None: "-first-epoch"}
    return {ending: curves_figure(records, title, [key]) for key, ending in endings.items()}


@on_paper()
def curves_figure(records: Records, title: str, quantities: Sequence[str | None] = tuple(CURVES)) -> Any:
    """Over epochs, accuracy and loss on the test part; over steps, the training loss within the first epoch.

    A line is the mean over seeds, the band around it reaches from the lowest to the highest seed.
    """
    plan = layout(records)
    found = groups(records)
    panels = list(dict.fromkeys(plan.panel_of(group) for group in found))
    lines = list(dict.fromkeys(plan.line_of(group) for group in found))
    across = len(panels) if len(quantities) > 1 else min(4, len(panels))
    down = len(quantities) if len(quantities) > 1 else math.ceil(len(panels) / across)
    fig = new_figure(max(3.5 * across + 0.6, 7.5), 2.6 * down + 1.3)
    grid = fig.subplots(down, across, sharey="row" if len(quantities) > 1 else True, squeeze=False)
    places = list(itertools.product(quantities, panels))
    limits = {key: _curve_limits(found, key) for key in quantities}
    for ax, place in itertools.zip_longest(grid.flat, places):
        if place is None:
            ax.set_axis_off()
            continue
        key, panel = place
        for group in found:
            if plan.panel_of(group) == panel:
                _curve(ax, group, key, STYLES[lines.index(plan.line_of(group))])
        _curve_axes(ax, key, limits[key])
        ax.set_title(panel if key == quantities[0] else "", fontsize=9.5 if len(quantities) == 1 else 11)
    for row, key in zip(grid, itertools.cycle(quantities), strict=False):  # a row for each, or all rows for the one
        row[0].set_ylabel(CURVES[key])
    _legend(fig, lines)
    fig.suptitle(title, fontsize=11)
    return fig


def _curve(ax: Any, group: Group, key: str | None, style: tuple[str, str, str]) -> None:
    colour, dash, marker = style
    runs = [_points(result, key) for result in group.results]
    longest = max(runs, key=len)
    if not longest:
        return
    x = [step for step, _ in longest]
    values = np.full((len(runs), len(longest)), np.nan)
    for row, run in zip(values, runs, strict=True):
        row[: len(run)] = [math.nan if v is None else v for _, v in run]
    here = np.isfinite(values).any(axis=0)  # of a run that diverged there is nothing more
    mean, low, high = (_over_seeds(f, values, here) for f in (np.nanmean, np.nanmin, np.nanmax))
    every = max(1, len(x) // 6)
    ax.plot(x, mean, color=colour, linestyle=dash, marker=marker, markersize=4, markevery=every, linewidth=1.5)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _over_seeds(f: Callable[..., Any], values: Any, here: Any) -> Any:
    found = np.full(values.shape[1], np.nan)
    found[here] = f(values[:, here], axis=0)
    return found


def _points(result: Mapping[str, Any], key: str | None) -> list[tuple[float, float | None]]:
    if key is None:
        return [(point["step"], point["loss"]) for point in result["first_epoch"]]
    scale = 100 if key.endswith("accuracy") else 1
    return [(r["epoch"], None if r[key] is None else scale * r[key]) for r in result["history"] if key in r]


def _curve_limits(found: Sequence[Group], key: str | None) -> tuple[float, float]:
    """Limits that hold all lines of a row, losses not beyond what a figure can show."""
    if key == "test_accuracy":
        return 0.0, 102.0
    values = [v for group in found for result in group.results for _, v in _points(result, key)]
    finite = [v for v in values if v is not None and 1e-4 <= v <= LARGE] or [1.0]
    return min(finite) / 1.3, max(finite) * 1.3


def _curve_axes(ax: Any, key: str | None, limits: tuple[float, float]) -> None:
    ax.grid(True, **GRID)
    ax.set_xlabel("step" if key is None else "epoch")
    if key == "test_accuracy":
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g} %")
    else:
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(_one_two_five if limits[1] < 50 * limits[0] else "")
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set_ylim(*limits)
    if key is not None:
        ax.xaxis.get_major_locator().set_params(integer=True)


def _one_two_five(value: float, _place: int) -> str:
    """1, 2 and 5 times a power of ten: a short axis has hardly a major tick."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


# -------------------------------------------------------------------------------------------------------- ladders


@on_paper()
def ladders_figure(records: Records, title: str) -> Any:
    """Before training, of the first seed: signal and gradient at every hidden layer, one line per scheme."""
    seed, optimizer = records[0]["cell"]["seed"], records[0]["cell"]["optimizer"]
    chosen = [r for r in records if r["cell"]["seed"] == seed and r["cell"]["optimizer"] == optimizer]
    axes = [axis for axis in varying(chosen) if axis != "scheme"]
    by_panel: dict[str, dict[str, Mapping[str, Any]]] = {}
    for group in groups(chosen):
        by_panel.setdefault(_named(group, axes), {})[label(group.settings["scheme"])] = group.results[0]
    columns = [(name, part) for name, of in by_panel.items() for part in _parts(list(of))]
    together = len(columns) > 1 and all(part == columns[0][1] for _, part in columns)  # one legend says it for all
    fig = new_figure(max(4.0 * len(columns) + 0.6, 7.5), 7.4)
    rows = fig.subplots(2, len(columns), squeeze=False)
    for row, key in enumerate(("batch_std", "delta_rms")):
        everything = [v for of in by_panel.values() for result in of.values() for v in _ladder(result, key)]
        for column, (name, part) in enumerate(columns):
            ax = rows[row][column]
            plot_ladders({scheme: _ladder(by_panel[name][scheme], key) for scheme in part}, ax=ax, limits=everything)
            ax.set_title(name if row == 0 else "", fontsize=11)
            ax.set_xlabel("layer with weights" if row else "")
            if row and not together:
                ax.legend(
                    *rows[0][column].get_legend_handles_labels(),
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.16),
                    frameon=False,
                    fontsize=9,
                )
    if together:
        _legend(fig, columns[0][1])
    rows[0][0].set_ylabel("signal: std over inputs\nof the pre-activation")
    rows[1][0].set_ylabel("gradient: rms of the loss gradient\nat the pre-activation")
    fig.suptitle(f"{title}\nBefore training; a cross marks where a line leaves float32 or the figure", fontsize=11)
    return fig


def _parts(schemes: list[str]) -> list[list[str]]:
    """Schemes in parts that a panel can hold, of about equal size."""
    count = math.ceil(len(schemes) / MOST)
    size = math.ceil(len(schemes) / count)
    return [schemes[i : i + size] for i in range(0, len(schemes), size)]


def _ladder(result: Mapping[str, Any], key: str) -> list[float]:
    """As ``lab.Report.ladder``, of what a file holds: null there is what was not finite."""
    values = [r[key] for r in result["ladder"] if r["weight_std"] is not None][:-1]
    return [math.inf if v is None else v for v in values]


def _legend(fig: Any, lines: Sequence[str], dashes: bool = True, claimed: bool = False) -> None:
    """One legend for all panels, below them."""
    if len(lines) < 2 and not claimed:
        return
    from matplotlib.lines import Line2D

    handles = []
    for line, (colour, dash, marker) in zip(lines, STYLES, strict=False):
        handles.append(Line2D([], [], color=colour, marker=marker, label=line or "measured"))  # a single one is unnamed
        handles[-1].set(linestyle=dash if dashes else "none")
    if claimed:
        handles.append(Line2D([], [], label="the article's number"))
        handles[-1].set(**CLAIMED)
    longest = max(len(str(handle.get_label())) for handle in handles) + 8  # the sample of the line counts too
    fits = max(int(11 * fig.get_figwidth() / longest), 1)  # letters in an inch at this size
    columns = min(len(handles), 4, fits)
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
