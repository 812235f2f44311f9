"""What every part of a data set offers, be it held in memory or streamed from disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Batch", "Index", "Part"]

Index = int | slice | Sequence[int] | NDArray[Any]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


class Part(ABC):
    """Labelled examples: ``part[i]`` is one of them, ``part[a:b]`` (or an index array, or a mask) a batch ``(x, y)``.

    Attributes:
        y: the class numbers of all examples, int64 (N,).
        classes: the class names, in the order of the class numbers.
        mean: what reading subtracts, one number a channel or feature.
        std: what reading divides by.
    """

    y: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def __getitem__(self, index: Index) -> tuple[NDArray[np.float32], Any]: ...

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], Any]]:
        return (self[i] for i in range(len(self)))

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (D,)."""

    @property
    @abstractmethod
    def x(self) -> NDArray[np.float32]:
        """All examples as float32."""

    @abstractmethod
    def subset(self, indices: NDArray[Any]) -> Self:
        """The examples at ``indices``, in that order, read the same way."""

    @abstractmethod
    def standardized(self, mean: ArrayLike, std: ArrayLike) -> Self:
        """The same examples read as ``(x − mean) / std``, with one number a channel or feature."""

    def counts(self) -> NDArray[np.int64]:
        """The number of examples of each class, shape (K,)."""
        return np.bincount(self.y, minlength=len(self.classes))

    def batches(self, orders: Iterable[NDArray[Any]], seed: int, epoch: int) -> Generator[Batch, None, None]:
        """One batch for each index array of ``orders``: what a loader reads in epoch ``epoch``.

        A part that varies its examples in training draws that from streams named by ``seed`` and ``epoch``.
        """
        yield from (self[order] for order in orders)

    def held_out(self) -> Self:
        """The same examples as they are looked at outside training: never varied."""
        return self
