"""``cupy.random``: the generator and nothing global. From one seed it draws other numbers than NumPy's."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from strict.array import StrictArray, wrap
from strict.names import check_call, missing


class BitGenerator:
    """CuPy's XORWOW: its state lies on the device, and cannot be read or set as NumPy's ``.state`` can."""

    def __init__(self, seed: Any) -> None:
        self._seed_seq = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cupy.random.XORWOW keeps no {name} that the host could read")


class Generator:
    """``cupy.random.Generator``."""

    def __init__(self, bit_generator: BitGenerator) -> None:
        self.bit_generator = bit_generator
        own = np.random.SeedSequence([*bit_generator._seed_seq.generate_state(1).tolist(), 0xC0])
        self._draw = np.random.Generator(np.random.Philox(own))

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> StrictArray:
        """Uniform in [0, 1)."""
        return self._drawn("random", size, dtype, out)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> StrictArray:
        """Normal, mean 0, variance 1."""
        return self._drawn("standard_normal", size, dtype, out)

    def _drawn(self, name: str, size: Any, dtype: Any, out: Any) -> StrictArray:
        options = {} if out is None else {"out": out}
        check_call("Generator", name, (self,), {"size": size, "dtype": dtype, **options})
        drawn = wrap(np.asarray(getattr(self._draw, name)(size, dtype=np.dtype(dtype))))
        if out is None:
            return drawn
        out[...] = drawn
        return out  # type: ignore[no-any-return]

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None, dtype: Any = np.float64) -> StrictArray:
        """Uniform in [low, high)."""
        check_call("Generator", "uniform", (self, low, high), {"size": size, "dtype": dtype})
        return wrap(np.asarray(self._draw.uniform(low, high, size)).astype(dtype))

    def integers(
        self, low: int, high: int | None = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False
    ) -> StrictArray:
        """Whole numbers."""
        check_call("Generator", "integers", (self, low, high), {"size": size, "dtype": dtype, "endpoint": endpoint})
        return wrap(np.asarray(self._draw.integers(low, high, size, dtype, endpoint)))

    def __getattr__(self, name: str) -> NoReturn:
        raise missing("Generator", name)


def default_rng(seed: Any = None) -> Generator:
    """A generator from a whole number, a SeedSequence, or fresh entropy."""
    return seed if isinstance(seed, Generator) else Generator(BitGenerator(seed))


RANDOM: dict[str, Any] = {"default_rng": default_rng, "Generator": Generator}
