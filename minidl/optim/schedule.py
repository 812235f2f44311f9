"""Schedules and clipping. A schedule is a function: step, counted from 0 -> factor on the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

from minidl.backend import Array, array_module
from minidl.tensor import Tensor

__all__ = ["Schedule", "clip_grad_norm", "clip_grad_value", "constant", "cosine", "step", "warmup"]

Schedule: TypeAlias = Callable[[int], float]


def constant() -> Schedule:
    """Factor 1, always."""
    return lambda t: 1.0


def step(every: int, factor: float = 0.1) -> Schedule:
    """``factor ^ floor(t / every)``: a fall by ``factor`` every so many steps."""
    if every < 1:
        raise ValueError(f"every must be at least 1 step; got {every}")
    return lambda t: factor ** (t // every)


def cosine(total: int, end: float = 0.0) -> Schedule:
    """From 1 at step 0 to ``end`` at step ``total`` along half a cosine, then constant."""
    if total < 1:
        raise ValueError(f"total must be at least 1 step; got {total}")
    return lambda t: end + (1 - end) * (1 + math.cos(math.pi * min(t / total, 1.0))) / 2


def warmup(steps: int, then: Schedule | None = None) -> Schedule:
    """Up in a straight line, ``(t + 1) / steps``, for so many steps; after that ``then``, counted from its own 0."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    after = constant() if then is None else then
    return lambda t: (t + 1) / steps if t < steps else after(t - steps)


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Array:
    """Scale all gradients by one factor so that their joint length ``√Σ g²`` is at most ``max_norm``.

    Returns:
        The length before, as a 0-d float64 array on the gradients' device (reading it there would make a GPU wait).
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive; got {max_norm}")
    parameters = list(params)
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        raise ValueError("no parameter has a gradient; call backward() first")
    xp = array_module(grads[0])
    squares = [(g.astype("float64") ** 2).sum() for g in grads]  # in float32 1e20 would square to infinity
    norm = xp.sqrt(sum(squares))
    factor = xp.minimum(1.0, max_norm / (norm + 1e-6))
    for p in parameters:
        p.grad = None if p.grad is None else p.grad * factor.astype(p.grad.dtype)
    return norm


def clip_grad_value(params: Iterable[Tensor], limit: float) -> None:
    """Limit every element of every gradient to [-``limit``, ``limit``]."""
    if not limit > 0:
        raise ValueError(f"limit must be positive; got {limit}")
    for p in params:
        if p.grad is not None:
            p.grad = array_module(p.grad).clip(p.grad, -limit, limit)
