"""Rendered triangles, parallelograms and ellipses, one or two in an image of 32 × 32 pixels."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from minidl.data.check import checked_count
from minidl.data.dataset import Dataset
from minidl.data.registry import Parts, register
from minidl.data.seeds import stream

__all__ = ["shapes"]

SIZE, FINER = 32, 2  # pixels along a side; samples along the side of a pixel
KINDS = ("triangle", "parallelogram", "ellipse")
ALONE = [(kind,) for kind in range(3)]
PAIRS = list(combinations_with_replacement(range(3), 2))  # (front, back) in either order
CLASSES = tuple(" + ".join(KINDS[kind] for kind in group) for group in ALONE + PAIRS)
AREA = (0.06, 0.2)  # of an object, relative to the image
STRETCH = 2.0  # the largest ratio of the two axes of the affine map
CONTRAST = 0.2  # the least difference of two grey levels
HIDDEN = 0.5  # the largest part of the back object that the front one may cover
BLOCK = 256  # images rendered together

Masks = NDArray[np.bool_]
Plane = NDArray[np.float32]


@register("shapes")
def shapes(seed: int = 0, train: int = 5000, test: int = 1000) -> Parts:
    """Rendered shapes of three kinds, alone or in pairs: which are in the image? Nine classes.

    Every triangle is an affine image of one triangle, every parallelogram of a square, every ellipse of a disc: an
    object is a base shape, a random linear map (turn, stretch, turn, size) and a random place. Grey levels of
    background and objects are random and at least 0.2 apart. The front object covers at most half of the back one.

    Args:
        seed: names the images.
        train: the number of training images.
        test: the number of test images.

    Returns:
        uint8 images (N, 1, 32, 32); classes of equal size.

    Source: after X. Glorot and Y. Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks", section 2.1 (Shapeset-3 × 2). The rendering is our own; the numbers are not comparable to the paper's.
    """
    return Parts(_drawn("train", train, seed), _drawn("test", test, seed))


def _drawn(part: str, count: int, seed: int) -> Dataset:
    checked_count(part, count)
    rng = stream(seed, f"shapes {part}")
    y = rng.permutation(np.arange(count) % len(CLASSES))
    blocks = [_rendered(y[start : start + BLOCK], rng) for start in range(0, count, BLOCK)]
    return Dataset(np.concatenate(blocks)[:, None], y, CLASSES)


def _rendered(y: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images of these classes, uint8 (N, 32, 32): the back object is painted first, then the front one."""
    groups = [(ALONE + PAIRS)[k] for k in y]
    back_kind = np.array([group[-1] for group in groups])
    front_kind = np.array([group[0] for group in groups])
    swapped = rng.random(len(y)) < 0.5  # either object of a pair may be the one in front
    back_kind, front_kind = np.where(swapped, front_kind, back_kind), np.where(swapped, back_kind, front_kind)
    front = _objects(front_kind, rng)
    back = _visible_objects(back_kind, front, rng) & (y >= len(ALONE))[:, None, None]
    levels = _grey_levels(len(y), rng)[:, :, None, None]
    fine = np.where(front, levels[:, 2], np.where(back, levels[:, 1], levels[:, 0]))
    pixels = fine.reshape(-1, SIZE, FINER, SIZE, FINER).mean(axis=(2, 4))
    return np.round(255 * pixels).astype(np.uint8)


def _visible_objects(kind: NDArray[np.int64], front: Masks, rng: np.random.Generator) -> Masks:
    """Objects that ``front`` hides by no more than half; the others are drawn again."""
    masks = _objects(kind, rng)
    while True:
        covered = (masks & front).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
        again = np.flatnonzero(covered > HIDDEN)
        if not len(again):
            return masks
        masks[again] = _objects(kind[again], rng)


def _objects(kind: NDArray[np.int64], rng: np.random.Generator) -> Masks:
    """One object an image as a mask (N, 64, 64): where the inverse map leads into the base shape of area 1."""
    side = np.sqrt(rng.uniform(*AREA, size=len(kind)))
    stretch = np.exp(rng.uniform(0, np.log(STRETCH) / 2, size=len(kind)))
    scales = np.stack([1 / (side * stretch), stretch / side], axis=1)
    turn, turn_back = (_turns(rng.uniform(0, 2 * np.pi, len(kind))) for _ in range(2))
    inverse = (turn * scales[:, None] @ turn_back).astype(np.float32)
    centre = rng.uniform(0.25, 0.75, size=(len(kind), 2))
    ticks = (np.arange(SIZE * FINER) + 0.5) / (SIZE * FINER)
    offset = (ticks - centre[:, :, None]).astype(np.float32)  # (N, 2, 64): along x and along y
    masks = np.empty((len(kind), len(ticks), len(ticks)), bool)
    for number, inside in enumerate((_in_triangle, _in_square, _in_disc)):
        here = kind == number
        along_x, along_y = (inverse[here, :, axis, None] * offset[here, None, axis] for axis in range(2))
        u, v = np.moveaxis(along_x[:, :, None, :] + along_y[:, :, :, None], 1, 0)
        masks[here] = inside(u, v)
    return masks


def _turns(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices (N, 2, 2)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)


def _in_triangle(u: Plane, v: Plane) -> Masks:
    """The equilateral triangle of area 1 round the origin: its three sides are one inradius away."""
    inradius = 3**-0.75
    sides = [math.cos(angle) * u + math.sin(angle) * v <= inradius for angle in (0, math.tau / 3, -math.tau / 3)]
    return sides[0] & sides[1] & sides[2]


def _in_square(u: Plane, v: Plane) -> Masks:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.5


def _in_disc(u: Plane, v: Plane) -> Masks:
    return u * u + v * v <= 1 / math.pi


def _grey_levels(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Grey levels (N, 3) of background, back and front object, any two at least ``CONTRAST`` apart.

    Three sorted numbers of a shorter interval, spread by the contrast, in random order: no draw is thrown away.
    """
    spread = np.sort(rng.uniform(0, 1 - 2 * CONTRAST, size=(count, 3)), axis=1) + CONTRAST * np.arange(3)
    return rng.permuted(spread, axis=1)
