"""Training, validation and test part, and how one is drawn from another."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidl.data.dataset import Dataset, moments
from minidl.data.part import Part
from minidl.data.seeds import stream

__all__ = ["Split", "from_arrays", "hold_out", "quotas"]

Examples = TypeVar("Examples", bound=Part)


@dataclass(frozen=True)
class Split:
    """One data set in three parts that share no example.

    Training sees ``train``; early stopping and schedules see ``val``; ``test`` is looked at once, at the end.
    ``mean`` and ``std`` are those of the training images (one number a channel or feature, in units where the
    largest pixel value is 1), whether or not the parts are standardized with them.
    """

    name: str
    train: Part
    val: Part
    test: Part
    mean: NDArray[Any]
    std: NDArray[Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the class numbers."""
        return self.train.classes

    def standardized(self) -> Split:
        """The same parts, read as ``(x − mean) / std``."""
        parts = {part: getattr(self, part).standardized(self.mean, self.std) for part in ("train", "val", "test")}
        return replace(self, **parts)

    def __repr__(self) -> str:
        sizes = f"train {len(self.train)}, val {len(self.val)}, test {len(self.test)}"
        return f"Split({self.name!r}: {sizes}; {len(self.classes)} classes, examples {self.train.shape})"


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    test: float | tuple[ArrayLike, ArrayLike] = 0.2,
    val: float = 0,
    seed: int = 0,
    normalize: bool = True,
    classes: tuple[str, ...] | None = None,
) -> Split:
    """A split of your own arrays, ready for ``train.fit``.

    Args:
        x: images (N, C, H, W) or vectors (N, D), uint8 or float32.
        y: class numbers 0 … K − 1, shape (N,).
        test: the test part: a pair ``(x, y)`` of its own, or the fraction or count to draw from the examples.
        val: fraction or count of the remaining examples for validation; 0 for none.
        seed: names the draws; both are stratified by class.
        normalize: standardize by mean and std of the training part.
        classes: the class names; left out, the numbers.

    Returns:
        The three parts. Mean and std are those of the training images, validation included: they do not depend
        on ``val``.

    Raises:
        TypeError, ValueError: arrays that do not fit (see ``Dataset``), or a fraction or count out of range.
    """
    whole = Dataset(x, y, classes)
    if isinstance(test, tuple):
        rest, tested = whole, Dataset(*test, classes=whole.classes)
        if tested.shape != rest.shape:
            raise ValueError(
                f"training examples have shape {rest.shape}, test examples {tested.shape}; they must agree"
            )
    else:
        rest, tested = hold_out(whole, test, seed, "test")
    mean, std = moments(rest)
    train, held = hold_out(rest, val, seed, "val")
    split = Split("arrays", train, held, tested, mean, std)
    return split.standardized() if normalize else split


def hold_out(dataset: Examples, amount: float, seed: int, part: str = "val") -> tuple[Examples, Examples]:
    """``(rest, held)``: ``amount`` examples of ``dataset`` drawn without replacement, in each class alike.

    Both keep the order of ``dataset``. A class never leaves ``rest`` altogether: a single example stays there.

    Args:
        dataset: what to divide.
        amount: a fraction 0 < amount < 1, a count, or 0 for an empty part.
        seed: the same seed draws the same examples.
        part: "val" or "test": names the random stream and the part in messages.

    Raises:
        TypeError, ValueError: ``amount`` is not a number, or out of range.
    """
    take = _count(amount, len(dataset), part)
    if take == 0:
        return dataset, dataset.subset(np.arange(0)).held_out()  # the images themselves, not a copy
    counts = dataset.counts()
    quota = quotas(counts, take)
    if 1 in counts or quota.sum() < take:
        warnings.warn(
            f"{part}={amount}: {quota.sum()} of {take} examples were drawn; "
            f"{np.sum(counts == 1)} classes have a single example, which stays in train",
            stacklevel=3,
        )
    rng = stream(seed, f"{part} split")
    members = (np.flatnonzero(dataset.y == k) for k in range(len(quota)))
    drawn = [rng.permutation(of_class)[:n] for of_class, n in zip(members, quota, strict=True)]
    held = np.zeros(len(dataset), dtype=bool)
    held[np.concatenate(drawn)] = True
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held)).held_out()


def quotas(counts: NDArray[np.int64], take: int) -> NDArray[np.int64]:
    """How many of ``take`` places each class gets, in proportion to ``counts``: the largest-remainder rule.

    Class k first gets ``floor(take · counts[k] / total)``; the places left go one each to the largest
    remainders, ties to the smaller class number. One member of every class is not given away.

    Returns:
        Whole numbers that sum to ``take``, or to less where the classes have no more to give.
    """
    total = max(int(counts.sum()), 1)
    floor, remainder = np.divmod(take * counts.astype(np.int64), total)  # exact: no rounding decides a tie
    room = np.maximum(counts - 1, 0)
    quota = np.minimum(floor, room)
    order = np.argsort(-remainder, kind="stable")
    while quota.sum() < min(take, room.sum()):
        open_classes = order[quota[order] < room[order]]
        quota[open_classes[: take - quota.sum()]] += 1
    return quota


def _count(amount: float, total: int, part: str) -> int:
    """A fraction or a count as a count of ``total`` examples."""
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise TypeError(f"{part}={amount!r} is not a number; pass a fraction such as 0.1 or a count such as 500")
    if isinstance(amount, Integral) or amount == 0:
        if not 0 <= amount < max(total, 1):
            raise ValueError(f"{part}={amount}: a count must be at least 0 and leave some of the {total} examples")
        return int(amount)
    if not 0 < amount < 1:
        raise ValueError(f"{part}={amount}: a fraction must lie between 0 and 1 (a count is a whole number)")
    count = round(float(amount) * total)
    if count == 0:
        raise ValueError(f"{part}={amount} of {total} examples is less than one example; pass a larger fraction")
    return count
