"""Random inputs for the examples that operations declare beside themselves: ``op.example(lambda draw: ...)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

AWAY = 0.03  # how far values stay from the points where a function has no derivative

SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (1, 4), (3, 1, 2), (2, 2, 2)]


class Draw:
    """What ``example(draw)`` is called with. Shapes, layouts and options are picked; values come from a generator.

    Args:
        rng: where the values come from.
        pick: chooses one of a list; by default at random, with hypothesis in such a way that a failure shrinks to the
            earliest choices.
    """

    def __init__(self, rng: np.random.Generator, pick: Callable[[Sequence[Any]], Any] | None = None) -> None:
        self.rng = rng
        self._pick = pick or (lambda options: options[int(rng.integers(len(options)))])

    @classmethod
    def of(cls, data: Any) -> Draw:
        """Driven by hypothesis: ``data`` is what ``st.data()`` gives."""
        seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
        return cls(np.random.default_rng(seed), lambda options: data.draw(st.sampled_from(options)))

    def choice(self, options: Sequence[Any]) -> Any:
        """One of ``options``."""
        return self._pick(options)

    def integers(self, shape: tuple[int, ...], high: int) -> np.ndarray:
        """int64 in 0 … high - 1."""
        return self.rng.integers(high, size=shape)

    def array(
        self,
        shape: tuple[int, ...] | None = None,
        low: float = -2.0,
        high: float = 2.0,
        avoid: Sequence[float] = (),
        distinct: bool = False,
    ) -> np.ndarray:
        """float64, in a random memory layout; ``avoid`` lists kinks, ``distinct`` keeps all values apart."""
        shape = self.choice(SHAPES) if shape is None else shape
        size = int(np.prod(shape))
        if distinct:
            values = np.linspace(low, high, max(size, 2))[:size]
            values = self.rng.permutation(values)
        else:
            values = self.rng.uniform(low, high, size)
        for point in avoid:
            off = values - point
            values = np.where(np.abs(off) < AWAY, point + np.copysign(AWAY + np.abs(off), off), values)
        return self._laid_out(values.reshape(shape))

    def broadcastable(
        self, n: int, low: float = -2.0, high: float = 2.0, apart: bool = False, first_boolean: bool = False
    ) -> tuple[np.ndarray, ...]:
        """``n`` arrays whose shapes broadcast; ``apart``: wherever two of them meet they differ by more than 0.05."""
        full = self.choice([(2, 3), (3,), (2, 1, 3), (), (3, 2, 2)])
        arrays = [self.array(self._narrowed(full), low, high) for _ in range(n)]
        if apart:  # array i lives near the multiples of 0.1 n, shifted by 0.1 i
            arrays = [0.1 * n * np.round(a / (0.1 * n)) + 0.1 * i + 0.01 * np.sin(9 * a) for i, a in enumerate(arrays)]
        if first_boolean:
            arrays[0] = arrays[0] > (low + high) / 2
        return tuple(np.asarray(a) for a in arrays)

    def _narrowed(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to ``full``: leading axes dropped, some lengths 1."""
        shape = full[self.choice(range(len(full) + 1)) :]
        return tuple(self.choice([n, 1]) for n in shape)

    def _laid_out(self, a: np.ndarray) -> np.ndarray:
        """The same values, in another memory order, with gaps between them, or backwards."""
        a = np.asarray(a)  # arithmetic on an array of shape () leaves a scalar
        layout = self.choice(["plain", "transposed", "gaps", "backwards"])
        if layout == "transposed":
            return np.asfortranarray(a)
        if layout == "gaps" and a.ndim:
            wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
            wide[..., ::2] = a
            return wide[..., ::2]
        if layout == "backwards" and a.ndim:
            return np.ascontiguousarray(a[::-1])[::-1]
        return np.ascontiguousarray(a).reshape(a.shape)
