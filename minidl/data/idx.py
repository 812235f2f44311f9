"""The IDX format of MNIST and its relatives: a big-endian header with the sizes, then the bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.errors import DataError

__all__ = ["read_idx"]

UINT8 = 8  # the format's code for unsigned bytes, third byte of the magic number
CHUNK = 1 << 20


def read_idx(path: Path, item: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, gzip-compressed or not.

    The magic number is ``0, 0, 8, ndim``; ``ndim`` sizes follow as 32-bit integers, and then exactly their product
    of bytes.

    Args:
        path: the file; a name that ends in ".gz" is decompressed.
        item: the shape of one item: (28, 28) for the images, () for the labels.

    Returns:
        uint8 array of shape (N, *item).

    Raises:
        DataError: the file cannot be read, is no IDX file, holds other items, or more or fewer bytes than it says.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
    """
    try:
        with _opened(path) as file:
            count = _count(path, file, item)
            content = _exactly(path, file, count * math.prod(item))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error or type(error).__name__}); damaged or cut short?") from error
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _count(path: Path, file: IO[bytes], item: tuple[int, ...]) -> int:
    """The number of items, from a header that fits ``item``."""
    ndim = 1 + len(item)
    header = file.read(4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim:
        raise DataError(f"{path}: {len(header)} bytes are too few for an IDX header of {4 + 4 * ndim}")
    magic, count, *sizes = struct.unpack(f">{1 + ndim}I", header)
    expected = UINT8 << 8 | ndim
    if magic != expected:
        raise DataError(f"{path}: the magic number is {magic}, expected {expected} (unsigned bytes, {ndim} axes)")
    if tuple(sizes) != item:
        raise DataError(f"{path}: holds items of shape {tuple(sizes)}, expected {item}")
    if count == 0:
        raise DataError(f"{path}: holds no items")
    return int(count)


def _exactly(path: Path, file: IO[bytes], size: int) -> bytearray:
    """``size`` bytes and the end of the file; read in chunks, since a damaged header may promise any number."""
    content = bytearray()
    while len(content) <= size and (chunk := file.read(min(CHUNK, size + 1 - len(content)))):
        content += chunk
    if len(content) != size:
        some = "more" if len(content) > size else f"only {len(content)}"
        raise DataError(f"{path}: the header promises {size} bytes of content, the file has {some}")
    return content
