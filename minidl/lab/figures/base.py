"""What all figures have in common: numbers computed once, drawn into one Axes, saved with the numbers beside them.

A figure is a frozen object that holds its numbers. ``plot(ax=None)`` draws them and returns the Axes, ``figure()``
makes a Figure outside pyplot, ``records`` are the numbers as flat dicts, ``save`` writes both. No global setting is
touched, the ground is white under any style, and what tells two things apart is never colour alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from minidl.lab.draw import new_axes, new_figure, on_paper
from minidl.text import keys

__all__ = ["Display", "by_call", "check_same_layers", "evenly", "heading", "label_ends", "or_nan", "short", "times"]

SMALL = 9  # points: the smallest text in any figure
LINE = 0.055  # height of a line of text beside the axis, as a share of the axis
BOX = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
STABLE: dict[str, dict[str, Any]] = {  # without a date two files of the same figure are the same bytes
    ".png": {},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}


class Display:
    """A figure with its numbers; the base of all others, which draw in ``_draw`` and list ``records``."""

    SIZE: ClassVar[tuple[float, float]] = (7.5, 4.5)  #: inches

    @property
    def records(self) -> list[dict[str, Any]]:
        """The numbers in the figure, one flat dict each."""
        raise NotImplementedError

    def plot(self, ax: Any = None) -> Any:
        """Draw into ``ax``, or into a new figure of pyplot; returns the Axes."""
        ax = new_axes(self._size()) if ax is None else ax
        with on_paper():
            ax.set_facecolor("white")  # the ground of the lines, also where the figure around it is dark
            self._draw(ax)
        ax.tick_params(which="both", labelcolor=ax.xaxis.label.get_color())  # they stand outside: in the user's ink
        return ax

    def figure(self) -> Any:
        """``plot`` in a Figure of its own, outside pyplot."""
        with on_paper():
            fig = new_figure(*self._size())
            self.plot(fig.subplots())
        return fig

    def save(self, path: str | Path) -> Path:
        """Write the figure to ``path`` and its numbers, as CSV, beside it; the same figure gives the same bytes.

        Args:
            path: ends in .png, .svg or .pdf; the CSV file has the same name.

        Raises:
            ValueError: another ending.
            OSError: it cannot be written there.
        """
        import matplotlib

        path = Path(path)
        if path.suffix.lower() not in STABLE:
            raise ValueError(f"a figure is saved as .png, .svg or .pdf; got {path.name!r}")
        with matplotlib.rc_context({"svg.hashsalt": "minidl", "savefig.facecolor": "auto"}):
            self.figure().savefig(path, dpi=150, transparent=False, **STABLE[path.suffix.lower()])
        write_csv(path.with_suffix(".csv"), self.records)
        return path

    def _size(self) -> tuple[float, float]:
        """Width and height in inches; figures with rows grow with them."""
        return self.SIZE

    def _draw(self, ax: Any) -> None:
        raise NotImplementedError


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Records as a table; columns in the order in which they first appear, None as an empty cell."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys(records))
        writer.writeheader()
        writer.writerows(records)


def short(name: str, longest: int = 18) -> str:
    """A long name of a layer without its middle: "stages.0.blo…onv1.weight"."""
    if len(name) <= longest:
        return name
    kept = longest - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def or_nan(value: float | None) -> float:
    """None is what a file holds for a value that was not finite, or a gradient that never came."""
    return math.nan if value is None else value


def by_call(bins: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """One histogram for each call: where a layer runs several times, its bins do not go on but begin anew."""
    found: list[list[Mapping[str, Any]]] = []
    for b in bins:
        if not found or (b["layer"], b["low"]) != (found[-1][-1]["layer"], found[-1][-1]["high"]):
            found.append([])
        found[-1].append(b)
    return found


def check_same_layers(report: Any, prediction: Any) -> None:
    """Raises ValueError if the layers of a ``lab.predict`` are not those of the ``lab.probe``."""
    if [r["layer"] for r in prediction.records] != [r["layer"] for r in report.records]:
        raise ValueError(
            f"the prediction has {len(prediction.records)} layers, the report {len(report.records)}, and they are not "
            "the same: take both of the same model"
        )


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 … count - 1, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def times(factor: float) -> str:
    """A factor for people: ×0.707, ×1.00, ×16.4, ×1.20e+05."""
    return f"×{factor:#.3g}".rstrip(".")


def heading(ax: Any, title: str, badge: str = "") -> None:
    """The title, and under it in a frame what the figure says."""
    ink = ax.title.get_color()  # of the user's style: this stands outside the white ground
    ax.set_title(title, fontsize=11, pad=13 + 15 * (badge.count("\n") + 1) if badge else 6)
    if badge:
        frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#444444", "linewidth": 1.0}
        ax.text(0.5, 1.035, badge, transform=ax.transAxes, ha="center", va="bottom", fontsize=SMALL + 1, bbox=frame)
    ax.title.set_color(ink)


def label_ends(ax: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge, at the heights where their lines end, pushed apart where they would meet.

    Args:
        ax: its limits and scales are final.
        ends: (height in data units, text, colour); a height that is not finite is put at the top, one that a
            logarithmic axis has no place for at the bottom.
    """
    places = sorted((_height(ax, y), i) for i, (y, _, _) in enumerate(ends))
    wanted = [height for height, _ in places]
    lines = [ends[i][1].count("\n") + 1 for _, i in places]
    for (height, i), y in zip(places, _apart(wanted, [LINE * n for n in lines]), strict=True):
        _, text, colour = ends[i]
        moved = abs(y - height) > LINE / 3
        ax.annotate(
            text,
            (1.0, height),
            (1.015 + 0.03 * moved, y),
            xycoords="axes fraction",
            va="center",
            fontsize=SMALL + 0.5,
            color=colour,
            bbox=BOX,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5)} if moved else None,
            annotation_clip=False,
        )


def _height(ax: Any, y: float) -> float:
    """Data to a share of the axis, inside it."""
    low, high = ax.get_ylim()
    if math.isnan(y) or y == math.inf:
        return 1.0
    if ax.get_yscale() == "log":
        low, high, y = math.log(low), math.log(high), math.log(y) if y > 0 else -math.inf
    return min(max((y - low) / (high - low), 0.0), 1.0)


def _apart(heights: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Rising heights, moved as little as keeps neighbours half their sizes apart: piles that touch merge."""
    groups: list[list[int]] = []
    for i in range(len(heights)):
        groups.append([i])
        while len(groups) > 1 and _top(groups[-2], heights, sizes) > _bottom(groups[-1], heights, sizes):
            last = groups.pop()
            groups[-1] = groups[-1] + last
    found = []
    for group in groups:
        at = _bottom(group, heights, sizes)
        for i in group:
            found.append(at + sizes[i] / 2)
            at += sizes[i]
    return found


def _bottom(group: Sequence[int], heights: Sequence[float], sizes: Sequence[float]) -> float:
    """Where a pile begins: around the mean of the heights that its members want, inside the axis if it fits."""
    whole = sum(sizes[i] for i in group)
    return max(min(sum(heights[i] for i in group) / len(group) - whole / 2, 1.0 - whole), 0.0)


def _top(group: Sequence[int], heights: Sequence[float], sizes: Sequence[float]) -> float:
    return _bottom(group, heights, sizes) + sum(sizes[i] for i in group)
