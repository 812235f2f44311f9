"""Losses: each is a mean over the batch, so that its size does not depend on the batch."""

from __future__ import annotations

from typing import Any

from minidl.backend import Array, array_module, device_of
from minidl.ops.nonlinear import softmax, softplus
from minidl.ops.reduce import mean
from minidl.tensor import Tensor, op

__all__ = ["binary_cross_entropy", "cross_entropy", "mse", "nll"]


def _check_labels(scores: Array, labels: Array) -> None:
    """Scores (N, K), labels (N,) in 0 … K-1. The range is read only where reading is free: on the host."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores (N, K) and labels (N,) are needed; got shapes {scores.shape} and {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f'labels are class numbers, so whole numbers; got {labels.dtype}. Use labels.astype("int64").')
    k = scores.shape[1]
    # seen as unsigned numbers, negative labels are huge: one look for both ends
    if device_of(labels) == "cpu" and labels.size and labels.astype("uint64").max() >= k:
        raise ValueError(f"labels must lie in 0 … {k - 1} for {k} scores; got {labels.min()} … {labels.max()}")


def _targets(scores: Array, labels: Array, smoothing: float) -> Array:
    """The wanted distribution (N, K): 1 at the label, or ``smoothing`` of it spread over all classes."""
    xp = array_module(scores)
    classes = scores.shape[1]
    one_hot = (xp.arange(classes) == labels[:, None]).astype(scores.dtype)
    return one_hot * (1 - smoothing) + smoothing / classes if smoothing else one_hot


@op(keeps=True)
def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """``-Σ_k t_k log softmax(logits)_k``, mean over the batch; t is the label, smoothed if asked.

    Args:
        logits: (N, K).
        labels: (N,) whole numbers in 0 … K-1.
        label_smoothing: in [0, 1): this share of the target is spread evenly over all classes.

    Raises:
        TypeError: labels that are not whole numbers.
        ValueError: shapes that do not fit, a label out of range.
    """
    _check_labels(logits, labels)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1); got {label_smoothing}")
    xp = array_module(logits)
    count, classes = logits.shape
    at_label = xp.arange(count), labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    slope = xp.exp(shifted)
    total = slope.sum(axis=1, keepdims=True)
    wanted = shifted[at_label]  # of the other classes one may be -inf
    slope /= total
    slope[at_label] -= 1 - label_smoothing
    if label_smoothing:
        wanted = (1 - label_smoothing) * wanted + label_smoothing * shifted.mean(axis=1)
        slope -= label_smoothing / classes
    return (xp.log(total[:, 0]) - wanted).sum() / count, slope


def _cross_entropy_rule(g: Any, _y: Any, logits: Any, labels: Any, label_smoothing: float, kept: Any) -> Any:
    """Softmax minus target. The forward has computed it; for higher orders it is written out, to have a history."""
    if isinstance(logits, Tensor):
        kept = softmax(logits) - _targets(logits.data, labels, label_smoothing)
    return kept * (g / kept.shape[0])


cross_entropy.derivative(_cross_entropy_rule, None)
cross_entropy.example(
    lambda draw: ((draw.array((3, 4)), draw.integers((3,), 4)), {"label_smoothing": draw.choice([0.0, 0.2])})
)


@op(keeps=True)
def nll(log_probabilities: Array, labels: Array) -> Array:
    """Negative log-likelihood ``-log_probabilities[n, labels[n]]``, mean over the batch; as ``cross_entropy`` else."""
    _check_labels(log_probabilities, labels)
    targets = _targets(log_probabilities, labels, 0.0)
    xp = array_module(log_probabilities)
    chosen = xp.take_along_axis(log_probabilities, labels[:, None].astype("int64"), axis=1)
    return -chosen.mean(), targets


nll.derivative(lambda g, _y, _x, _labels, kept: kept * (-g / kept.shape[0]), None)
nll.example(lambda draw: ((draw.array((3, 4)), draw.integers((3,), 4)), {}))


def mse(prediction: Any, target: Any) -> Any:
    """Mean squared error over all elements.

    Raises:
        ValueError: the shapes differ; (N, 1) against (N,) would silently broadcast to (N, N).
    """
    if tuple(prediction.shape) != tuple(target.shape):
        raise ValueError(f"mse: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    difference = prediction - target
    return mean(difference * difference)


def binary_cross_entropy(logits: Any, targets: Any) -> Any:
    """``-t log σ(x) - (1 - t) log(1 - σ(x))`` from logits x, mean over all elements; stable at any size of x.

    Args:
        logits: any shape.
        targets: floats in [0, 1], same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if tuple(logits.shape) != tuple(targets.shape):
        raise ValueError(
            f"binary_cross_entropy: logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ in shape"
        )
    return mean(softplus(logits) - logits * targets)
