"""Refusing bad arrays and counts early, with the numbers and the cure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["checked_count", "checked_images", "checked_labels"]


def checked_count(name: str, count: Any, least: int = 1) -> int:
    """``count`` itself, if it is a whole number of at least ``least``.

    Raises:
        ValueError: it is not; ``name`` says in the text which one.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"{name}={count!r}: expected a whole number ≥ {least}")
    return int(count)


def checked_images(x: ArrayLike) -> NDArray[Any]:
    """``x`` as an array of examples: images (N, C, H, W) or vectors (N, D), uint8 or finite float32.

    Other types are refused rather than converted: the reader of an error knows what his numbers mean, a
    silent conversion does not.

    Raises:
        TypeError: the type is neither uint8 nor float32.
        ValueError: wrong number of axes, an empty axis, NaN or infinity.
    """
    array = np.asarray(x)
    if array.dtype not in (np.uint8, np.float32):
        raise TypeError(f"images have type {array.dtype}, expected uint8 or float32: {_cure(array.dtype)}")
    if array.ndim == 3:
        raise ValueError(f"images have shape {array.shape}; without a channel axis? Pass x[:, None] for (N, 1, H, W)")
    if array.ndim not in (2, 4):
        raise ValueError(f"images have shape {array.shape}; expected images (N, C, H, W) or vectors (N, D)")
    if 0 in array.shape[1:]:
        raise ValueError(f"images have shape {array.shape}: an example without any value")
    if array.dtype == np.float32:
        _refuse_non_finite(array)
    return array


def checked_labels(y: ArrayLike, classes: int, length: int) -> NDArray[np.int64]:
    """``y`` as int64 class numbers in ``0 … classes - 1``, one for each of ``length`` examples.

    Raises:
        TypeError: the labels are not whole numbers.
        ValueError: wrong shape, wrong length, or a label outside the range.
    """
    array = np.asarray(y)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"labels have type {array.dtype}, expected whole numbers 0 … {classes - 1}: "
            'pass class numbers, for example y.astype("int64")'
        )
    if array.ndim != 1:
        raise ValueError(
            f"labels have shape {array.shape}, expected (N,): one class number an example, not one-hot rows"
        )
    if len(array) != length:
        raise ValueError(f"{length} images but {len(array)} labels; every image needs exactly one label")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise ValueError(
            f"label {array[wrong[0]]} at position {wrong[0]} is outside 0 … {classes - 1} "
            f"({len(wrong)} of {length} labels are); classes are numbered from 0"
        )
    return array.astype(np.int64, copy=False)


def _cure(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return 'minidl computes in float32, pass x.astype("float32")'
    if dtype.kind in "iu":
        return 'pass x.astype("uint8") for pixels 0 … 255, x.astype("float32") for any other numbers'
    return "pass an array of numbers, all examples of one shape"


def _refuse_non_finite(array: NDArray[np.float32]) -> None:
    finite = np.isfinite(array)
    if finite.all():
        return
    where = tuple(int(i) for i in np.argwhere(~finite)[0])
    raise ValueError(
        f"images hold {array.size - int(finite.sum())} values that are NaN or infinite, the first at {where}: "
        "drop those examples or fill them in before training"
    )
