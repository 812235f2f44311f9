"""Looking at a data set: examples of each class side by side, and how many there are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.part import Part
from minidl.data.seeds import stream
from minidl.data.split import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure", "plot_examples", "plot_histogram"]

ROWS, COLUMNS = 10, 10  # a class a row, up to this many classes
MANY = 54  # tiles for more classes than that, one each
POINTS = 2000


def figure(split: Split, seed: int = 0) -> Figure:
    """Examples of the training part beside the class histogram, for ``minidl data show``.

    Args:
        split: the data set, best loaded with ``normalize=False``, so that colours are the original ones.
        seed: names the draw of the examples.
    """
    from matplotlib.figure import Figure

    page = Figure(figsize=(12, 6), layout="constrained", facecolor="white")
    left, right = page.subplots(1, 2, width_ratios=(3, 2))
    plot_examples(split.train, ax=left, seed=seed)
    left.set_title(f"{split.name}: {len(split.train)} training examples")
    plot_histogram(split, ax=right)
    return page


def plot_examples(part: Part, *, ax: Axes | None = None, seed: int = 0) -> Axes:
    """A labelled contact sheet of images, or the points of a vector set.

    Up to ten classes get a row each; of more classes, one image each is shown. Points of more than two dimensions
    are projected on their first two principal components.
    """
    ax = ax or _new_axes()
    if len(part.shape) == 1:
        return _plot_points(part, ax, seed)
    rng = stream(seed, "contact sheet")
    if len(part.classes) > ROWS:
        return _plot_sheet(part, _drawn(part, 1, rng)[:MANY], ax)
    return _plot_rows(part, _drawn(part, COLUMNS, rng), ax)


def _plot_rows(part: Part, groups: list[NDArray[np.int64]], ax: Axes) -> Axes:
    """One class a row, its name beside it."""
    sheet = _Sheet(part, len(groups), COLUMNS)
    for row, indices in enumerate(groups):
        for column, image in enumerate(_pictures(part, indices)):
            sheet.put(image, row, column)
    ax.imshow(sheet.canvas, interpolation="nearest")
    ax.set_xticks([])
    names = [part.classes[part.y[indices[0]]] for indices in groups]
    ax.set_yticks((np.arange(len(groups)) + 0.5) * sheet.pitch[0], names)
    return ax


def _plot_sheet(part: Part, groups: list[NDArray[np.int64]], ax: Axes) -> Axes:
    """One image a class, its name in its corner."""
    columns = math.ceil(math.sqrt(1.5 * len(groups)))
    sheet = _Sheet(part, math.ceil(len(groups) / columns), columns)
    box: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    images = _pictures(part, np.concatenate(groups))
    for place, (image, indices) in enumerate(zip(images, groups, strict=True)):
        row, column = divmod(place, columns)
        sheet.put(image, row, column)
        name = part.classes[part.y[indices[0]]][:16]
        ax.text(column * sheet.pitch[1], row * sheet.pitch[0], name, va="top", fontsize=6, color="black", bbox=box)
    ax.imshow(sheet.canvas, interpolation="nearest")
    ax.set_axis_off()
    return ax


class _Sheet:
    """A white page with places for ``rows`` × ``columns`` images."""

    def __init__(self, part: Part, rows: int, columns: int) -> None:
        self.size = part.shape[1:]
        self.pitch = [length + math.ceil(length / 10) for length in self.size]
        self.canvas = np.ones((rows * self.pitch[0], columns * self.pitch[1], 3), np.float32)

    def put(self, image: NDArray[np.float32], row: int, column: int) -> None:
        top, left = row * self.pitch[0], column * self.pitch[1]
        self.canvas[top : top + self.size[0], left : left + self.size[1]] = image


def plot_histogram(split: Split, *, ax: Axes | None = None) -> Axes:
    """The number of examples of each class in the training, validation and test part."""
    ax = ax or _new_axes()
    start = np.zeros(len(split.classes))
    for name in ("train", "val", "test"):
        part: Part = getattr(split, name)
        if len(part):
            ax.barh(np.arange(len(start)), part.counts(), left=start, label=f"{name} ({len(part)})")
            start = start + part.counts()
    if len(start) <= 2 * ROWS:
        ax.set_yticks(np.arange(len(start)), split.classes)
    else:
        ax.set_ylabel("class number")
    ax.invert_yaxis()
    ax.set_xlabel("examples")
    ax.set_title("class histogram")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)  # below: no bar is hidden
    return ax


def _drawn(part: Part, count: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """For each class that has examples, up to ``count`` of them."""
    members = (np.flatnonzero(part.y == k) for k in range(len(part.classes)))
    return [rng.permutation(of_class)[:count] for of_class in members if len(of_class)]


def _pictures(part: Part, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Images (N, H, W, 3) with values in [0, 1]."""
    x, _ = part[indices]
    x = np.clip(x * part.std[:, None, None] + part.mean[:, None, None], 0, 1)
    return np.broadcast_to(x, (len(x), 3, *x.shape[2:])).transpose(0, 2, 3, 1)


def _plot_points(part: Part, ax: Axes, seed: int) -> Axes:
    chosen = stream(seed, "contact sheet").permutation(len(part))[:POINTS]
    x, y = part[chosen]
    if x.shape[1] > 2:
        x = x - x.mean(axis=0)
        x = x @ np.linalg.svd(x, full_matrices=False)[2][:2].T
        ax.set_xlabel("first principal component")
        ax.set_ylabel("second principal component")
    for k, name in enumerate(part.classes):
        ax.plot(*x[y == k].T, ".", markersize=4, label=name)
    ax.legend(title="class", fontsize=8)
    return ax


def _new_axes() -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]
