"""Generated points for lessons: Gaussian clusters, spirals, two moons. Any number of them, in no time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minidl.data.check import checked_count
from minidl.data.dataset import Dataset
from minidl.data.registry import Parts, register
from minidl.data.seeds import stream

__all__ = ["clusters", "moons", "spirals"]

Labels = NDArray[np.int64]
Points = Callable[[Labels, np.random.Generator], NDArray[np.float64]]


@register("clusters")
def clusters(
    seed: int = 0, classes: int = 10, dims: int = 64, noise: float = 1.5, train: int = 4096, test: int = 1024
) -> Parts:
    """Gaussian clusters in many dimensions: ``x = c_k + noise · z``, centres ``c_k ~ N(0, I)``, ``z ~ N(0, I)``.

    With the defaults two centres lie about √128 = 11.3 apart, 7.5 standard deviations of the noise: the nearest
    centre is the right one for more than 99.9 % of the points.

    Args:
        seed: names the centres and the points.
        classes: the number of clusters, of equal size.
        dims: the dimension D of a point.
        noise: standard deviation of a cluster in each direction.
        train: the number of training points.
        test: the number of test points.
    """
    checked_count("classes", classes, least=2)
    checked_count("dims", dims)
    centres = stream(seed, "clusters centres").normal(size=(classes, dims))

    def around(y: Labels, rng: np.random.Generator) -> NDArray[np.float64]:
        return centres[y] + noise * rng.normal(size=(len(y), dims))

    return _parts("clusters", around, classes, train, test, seed)


@register("spirals")
def spirals(
    seed: int = 0, classes: int = 3, turns: float = 0.75, noise: float = 0.2, train: int = 1536, test: int = 768
) -> Parts:
    """Spiral arms in the plane: ``x = t (cos φ, sin φ)``, ``φ = 2π (k/K + turns · t) + noise · z``, t in [0, 1].

    Args:
        seed: names the points.
        classes: the number of arms K.
        turns: how far an arm winds round the centre.
        noise: standard deviation of the angle, in radians.
        train: the number of training points.
        test: the number of test points.
    """
    checked_count("classes", classes, least=2)

    def along(y: Labels, rng: np.random.Generator) -> NDArray[np.float64]:
        t = rng.uniform(size=len(y))
        angle = 2 * np.pi * (y / classes + turns * t) + noise * rng.normal(size=len(y))
        return np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1)

    return _parts("spirals", along, classes, train, test, seed)


@register("moons")
def moons(seed: int = 0, noise: float = 0.1, train: int = 1024, test: int = 512) -> Parts:
    """Two interleaved half circles: ``(cos t, sin t)`` and ``(1 − cos t, ½ − sin t)``, t uniform in [0, π].

    Args:
        seed: names the points.
        noise: standard deviation of the displacement of a point in each direction.
        train: the number of training points.
        test: the number of test points.
    """

    def along(y: Labels, rng: np.random.Generator) -> NDArray[np.float64]:
        t = rng.uniform(0, np.pi, size=len(y))
        upper = np.stack([np.cos(t), np.sin(t)], axis=1)
        lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
        return np.where(y[:, None] == 0, upper, lower) + noise * rng.normal(size=(len(y), 2))

    return _parts("moons", along, 2, train, test, seed)


def _parts(name: str, points: Points, classes: int, train: int, test: int, seed: int) -> Parts:
    """Two independent draws with classes of equal size: more test points change no training point."""

    def drawn(part: str, count: int) -> Dataset:
        rng = stream(seed, f"{name} {part}")
        checked_count(part, count)
        y = rng.permutation(np.arange(count) % classes)
        return Dataset(points(y, rng).astype(np.float32), y, [str(k) for k in range(classes)])

    return Parts(drawn("train", train), drawn("test", test))
