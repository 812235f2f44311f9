"""Batches of a data set, in an order that depends on (seed, epoch) alone and can be re-entered anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import Array, to_device
from minidl.data.part import Batch, Part
from minidl.data.seeds import checked_seed, stream

__all__ = ["DataLoader", "Transform"]

Transform = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


class DataLoader:
    """Iterates over a data set in batches ``(x, y)``: x float32 (B, …), y int64 (B,). One ``for`` loop is one epoch.

    Epoch e is shuffled by a generator that belongs to (seed, e), and batch b of it is transformed with one that
    belongs to (seed, e, b). No state is hidden in between, so ``state_dict`` is a few numbers, and a
    restored loader goes on bit for bit.

    Args:
        dataset: what to read, for example ``split.train``.
        batch_size: examples in a batch; the last one of an epoch may be smaller.
        shuffle: a new order in each epoch; False: the order of the data set.
        seed: names the orders and the draws of ``transform``.
        drop_last: leave out a last batch that is smaller than ``batch_size``.
        transform: ``transform(x, rng) -> x`` on whole batches, for augmentation: x is the standardized float32
            batch, and all randomness must come from the generator ``rng``.
        device: "cpu" or "gpu", where the batches are wanted.

    Raises:
        TypeError: ``dataset`` is not a data set, or a number is not whole.
        ValueError: an empty data set, ``batch_size`` < 1, or no batch left with ``drop_last``.
    """

    def __init__(
        self,
        dataset: Part,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Transform | None = None,
        device: str = "cpu",
    ) -> None:
        _check(dataset, batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = checked_seed(seed)
        self.drop_last = drop_last
        self.transform = transform
        self.device = device
        to_device(np.empty(0), device)  # a missing GPU shows here and not in the first batch
        self._epoch, self._batch = 0, 0  # the next batch to hand out
        self._restored = False

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """One epoch; after ``load_state_dict``, the rest of the saved one. A loop left early ends its epoch."""
        if self._batch and not self._restored:
            self._epoch, self._batch = self._epoch + 1, 0
        self._restored = False
        epoch, first, order = self._epoch, self._batch, self._order()
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        orders = (order[start : start + self.batch_size] for start in starts)
        with closing(self.dataset.batches(orders, self.seed, epoch)) as batches:
            for batch, pair in enumerate(batches, first):
                x, y = self._transformed(pair, epoch, batch)
                self._epoch, self._batch = epoch, batch + 1
                yield to_device(x, self.device), to_device(y, self.device)
        self._epoch, self._batch = epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The position: the epoch, the number of its batches already handed out, and what their order depends on."""
        return {"epoch": self._epoch, "batch": self._batch} | self._order_from()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved position: the next loop yields the batches that its epoch still has.

        Raises:
            ValueError: the state comes from a loader with other batches, or is no position of this one.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"a loader's state has the keys {', '.join(self.state_dict())}; got {sorted(state)}")
        for key, own in self._order_from().items():
            if state[key] != own:
                raise ValueError(f"the state was saved with {key}={state[key]}, this loader has {own}")
        if state["epoch"] < 0 or not 0 <= state["batch"] <= len(self):
            raise ValueError(f"the state {state} lies outside this loader's epochs of {len(self)} batches")
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._restored = True

    def _order_from(self) -> dict[str, int]:
        """What decides which examples are in which batch."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shuffle": bool(self.shuffle),
            "examples": len(self.dataset),
        }

    def _order(self) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return stream(self.seed, "shuffle", self._epoch).permutation(len(self.dataset))

    def _transformed(self, pair: Batch, epoch: int, batch: int) -> Batch:
        x, y = pair
        if self.transform is None:
            return x, y
        x = self.transform(x, stream(self.seed, "transform", epoch, batch))
        if getattr(x, "dtype", None) != np.float32 or len(x) != len(y):
            raise ValueError(
                f"transform returned {getattr(x, 'dtype', type(x).__name__)} of shape {np.shape(x)}, "
                f"expected float32 with {len(y)} examples, as it was given"
            )
        return x, y


def _check(dataset: Any, batch_size: Any, drop_last: bool) -> None:
    """Refuse what cannot be iterated over."""
    if not isinstance(dataset, Part):
        raise TypeError(
            f"DataLoader needs a data set, got {type(dataset).__name__}; "
            "pass split.train of data.load(…), or data.Dataset(x, y) for arrays of your own"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"batch_size must be a whole number, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(dataset) == 0:
        raise ValueError("the data set is empty; an empty .val part? Pass val=0.1 to data.load(…)")
    if drop_last and batch_size > len(dataset):
        raise ValueError(
            f"batch_size={batch_size} with drop_last leaves no batch of {len(dataset)} examples; "
            "use a smaller batch_size or drop_last=False"
        )
