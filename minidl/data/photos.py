"""Photographs streamed from disk: decoded on threads, cut to one size, never held in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidl.data.errors import DataError
from minidl.data.part import Batch, Index, Part
from minidl.data.seeds import stream

if TYPE_CHECKING:  # Pillow comes with matplotlib, and is loaded when the first photograph is opened
    from PIL.Image import Image

__all__ = ["Photos", "centre_view", "opened", "random_view"]

AHEAD = 2  # batches that are being decoded while the caller works on one
SHORTER_SIDE, SIZE = 256, 224  # of the evaluation view; SIZE also of the training view
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the training crop, relative to the photograph
TRIES = 10

View = Callable[["Image", int], "Image"]


class Photos(Part):
    """Labelled photographs in files, read as float32 (N, 3, 224, 224).

    An index or a slice gives the evaluation view (``centre_view``). A loader over a part made for training gives the
    training view (``random_view``), with draws that belong to (seed, epoch, index) alone: the number of workers
    changes nothing but the speed. In memory are at most four batches at a time: the one that the loop works on, the
    next one, and two that are being decoded ahead.

    Args:
        folder: what the file names are relative to.
        files: one name for each example.
        y: the class numbers, int64 (N,).
        classes: the class names.
        augment: does a loader give the training view?
        workers: threads that decode; None: one for each processor.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        y: NDArray[np.int64],
        classes: tuple[str, ...],
        augment: bool = False,
        workers: int | None = None,
    ) -> None:
        self.folder, self.files, self.y, self.classes = folder, list(files), y, classes
        self.augment = augment
        self.workers = workers or os.cpu_count() or 1
        self.mean, self.std = np.zeros(3, np.float32), np.ones(3, np.float32)

    def __getitem__(self, index: Index) -> tuple[NDArray[np.float32], Any]:
        if isinstance(index, int | np.integer):
            x, y = self[[index]]
            return x[0], y[0]
        order = np.arange(len(self))[list(index) if isinstance(index, tuple) else index]
        return next(self._read([order], lambda image, _: centre_view(image)))

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, 224, 224)."""
        return (3, SIZE, SIZE)

    @property
    def x(self) -> NoReturn:
        """Not there: photographs are not held in memory."""
        raise AttributeError("photographs are streamed and have no .x; take a slice, or iterate over a DataLoader")

    def __repr__(self) -> str:
        return f"Photos({len(self)} × {self.shape} from {self.folder}, {len(self.classes)} classes)"

    def subset(self, indices: NDArray[Any]) -> Photos:
        """The photographs at ``indices``, in that order."""
        part = copy(self)
        part.files, part.y = [self.files[i] for i in indices], self.y[indices]
        return part

    def standardized(self, mean: ArrayLike, std: ArrayLike) -> Photos:
        """The same photographs read as ``(x − mean) / std``, with one number a channel."""
        part = copy(self)
        part.mean, part.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        return part

    def held_out(self) -> Photos:
        """The same photographs, always in the evaluation view."""
        part = copy(self)
        part.augment = False
        return part

    def batches(self, orders: Iterable[NDArray[Any]], seed: int, epoch: int) -> Generator[Batch, None, None]:
        """One batch for each index array, decoded ahead on the threads."""

        def varied(image: Image, index: int) -> Image:
            return random_view(image, stream(seed, "photographs", epoch, index))

        yield from self._read(orders, varied if self.augment else lambda image, _: centre_view(image))

    def _read(self, orders: Iterable[NDArray[Any]], view: View) -> Generator[Batch, None, None]:
        """Keep ``AHEAD`` batches under way; the pool ends with the generator, however that ends."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="photos")
        try:
            started = (self._start(pool, order, view) for order in orders)
            waiting = deque(islice(started, 1 + AHEAD))
            while waiting:
                x, y, slots = waiting.popleft()
                for slot in slots:
                    slot.result()
                yield x, y
                waiting.extend(islice(started, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, order: NDArray[Any], view: View
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Future[None]]]:
        """Begin a batch: each thread writes its photographs into their places."""
        x = np.empty((len(order), *self.shape), np.float32)
        return x, self.y[order], [pool.submit(self._place, x[k], int(i), view) for k, i in enumerate(order)]

    def _place(self, out: NDArray[np.float32], index: int, view: View) -> None:
        pixels = np.asarray(view(opened(self.folder / self.files[index]), index))
        out[...] = pixels.transpose(2, 0, 1)
        out -= 255 * self.mean[:, None, None]
        out /= 255 * self.std[:, None, None]


def opened(path: Path) -> Image:
    """The photograph in RGB, whatever its file holds: grey, CMYK, or a PNG under the name of a JPEG.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders meet damage with exceptions of many kinds
        raise DataError(f"{path}: cannot be decoded ({error or type(error).__name__}); damaged or no image?") from error


def centre_view(image: Image) -> Image:
    """The evaluation view: shorter side to 256, then the central square of 224 (both in one resampling)."""
    width, height = image.size
    side = min(image.size) * SIZE / SHORTER_SIDE
    left, top = (width - side) / 2, (height - side) / 2
    return _cut(image, (left, top, left + side, top + side))


def random_view(image: Image, rng: np.random.Generator) -> Image:
    """The training view: a random part of the photograph, resized to 224 × 224, mirrored half of the time.

    The part has 8 to 100 % of the area and a width : height between 3 : 4 and 4 : 3 (log-uniform). Where ten draws
    do not fit into the photograph, it is the largest central square.

    Source: C. Szegedy et al. 2015, "Going deeper with convolutions", section 6.
    """
    width, height = image.size
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREA)
        ratio = np.exp(rng.uniform(*np.log(RATIO)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            break
    else:
        w = h = min(image.size)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    view = _cut(image, (left, top, left + w, top + h))
    return _mirrored(view) if rng.random() < 0.5 else view


def _cut(image: Image, box: tuple[float, float, float, float]) -> Image:
    """The part inside ``box`` (left, top, right, bottom), which may lie between pixels, at 224 × 224."""
    from PIL.Image import Resampling

    return image.resize((SIZE, SIZE), Resampling.BILINEAR, box=box)


def _mirrored(image: Image) -> Image:
    from PIL.ImageOps import mirror

    return mirror(image)
