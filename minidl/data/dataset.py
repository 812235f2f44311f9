"""A labelled data set in memory: stored as it came, standardized when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidl.data.check import checked_images, checked_labels
from minidl.data.part import Index, Part

__all__ = ["Dataset", "moments"]


class Dataset(Part):
    """Examples and their class numbers, read as ``x = (raw / full − mean) / std`` in float32.

    ``dataset[i]`` is one example ``(x, y)`` with x of shape (C, H, W) or (D,); ``dataset[a:b]``, an index array
    or a boolean mask gives a batch ``(x, y)`` with x float32 (N, C, H, W) or (N, D) and y int64 (N,). Images
    stay uint8 in memory; only what is asked for becomes float32.

    Args:
        x: images (N, C, H, W) or vectors (N, D), uint8 or float32.
        y: class numbers 0 … K − 1, shape (N,).
        classes: the K class names; left out, they are the numbers "0" … up to the largest label.
        full: the stored value that reads as 1; left out, 255 for uint8 and 1 for float32.

    Raises:
        TypeError: the images are neither uint8 nor float32, or the labels are not whole numbers.
        ValueError: shapes or lengths do not fit, labels out of range, NaN or infinity in the images.
    """

    def __init__(
        self, x: ArrayLike, y: ArrayLike, classes: Sequence[str] | None = None, full: float | None = None
    ) -> None:
        self.raw = checked_images(x)
        self.classes = _numbered(y) if classes is None else tuple(classes)
        self.y = checked_labels(y, len(self.classes), len(self.raw))
        self.full = full or (255.0 if self.raw.dtype == np.uint8 else 1.0)
        self._read_with(np.zeros(self.raw.shape[1]), np.ones(self.raw.shape[1]))

    def __getitem__(self, index: Index) -> tuple[NDArray[np.float32], Any]:
        rows = list(index) if isinstance(index, tuple) else index  # a tuple would be an index for every axis
        x: NDArray[np.float32] = self.raw[rows].astype(np.float32)
        # converted first: three passes beat one that converts as it subtracts
        x -= self._shift
        x *= self._factor
        return x, self.y[rows]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} × {self.shape} {self.raw.dtype}, {len(self.classes)} classes)"

    @property
    def x(self) -> NDArray[np.float32]:
        """All examples as float32, computed anew at each access: keep it in a variable if you need it twice."""
        return self[:][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (D,)."""
        return self.raw.shape[1:]

    def subset(self, indices: NDArray[Any]) -> Dataset:
        """The examples at ``indices``, in that order, read the same way."""
        part = Dataset(self.raw[indices], self.y[indices], self.classes, self.full)
        return part.standardized(self.mean, self.std)

    def standardized(self, mean: ArrayLike, std: ArrayLike) -> Dataset:
        """The same examples read as ``(raw / full − mean) / std``, with one number a channel (or feature)."""
        twin = object.__new__(Dataset)
        twin.__dict__.update(self.__dict__)
        twin._read_with(np.asarray(mean, np.float64), np.asarray(std, np.float64))
        return twin

    def _read_with(self, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        """Fold ``full``, ``mean`` and ``std`` into one subtraction and one product for the reading."""
        self.mean, self.std = mean.astype(np.float32), std.astype(np.float32)
        axes = (-1,) + (1,) * (self.raw.ndim - 2)  # a channel's number meets all its pixels
        self._shift = (self.full * mean).astype(np.float32).reshape(axes)
        self._factor = (1 / (self.full * std)).astype(np.float32).reshape(axes)


def moments(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel (images) or feature (vectors), in units of ``full``.

    A channel that never varies gets the standard deviation 1, so that reading it gives 0 and not NaN.
    The sums run in float64 over blocks of examples: a large uint8 set is never copied as a whole.

    Raises:
        ValueError: the data set is empty.
    """
    if len(dataset) == 0:
        raise ValueError("no examples: mean and standard deviation need at least one")
    axes = (0, *range(2, dataset.raw.ndim))
    blocks = [dataset.raw[i : i + 1024] for i in range(0, len(dataset), 1024)]
    count = dataset.raw.size / dataset.raw.shape[1]
    mean = np.sum([b.sum(axis=axes, dtype=np.float64) for b in blocks], axis=0) / count
    centre = mean.reshape((-1,) + (1,) * (dataset.raw.ndim - 2))
    std = np.sqrt(np.sum([np.square(b - centre).sum(axis=axes) for b in blocks], axis=0) / count)
    return mean / dataset.full, np.where(std > 0, std / dataset.full, 1.0)


def _numbered(y: ArrayLike) -> tuple[str, ...]:
    """Class names for labels that came without: one number for each value up to the largest."""
    labels = np.asarray(y)
    top = int(labels.max()) if labels.size and labels.dtype.kind in "iu" else 0
    return tuple(str(k) for k in range(top + 1))
