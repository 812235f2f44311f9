"""What follows from the moments: dead units, the luck of one draw, normalization, residual sums, the first loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.meanfield.gaussian import Function, Values, evaluate, filled, gaussian_mean, gaussian_moments
from minidl.ops import erf

__all__ = [
    "ZeroInit",
    "batch_norm_growth",
    "dead_fraction",
    "growth_band",
    "initial_loss",
    "log_moments",
    "relu_log_moments",
    "residual_growth",
    "zero_init_accuracy",
]

WIDE = 20.0  # std of logits from which on the largest decides
QUANTILE = 1.6448536269514722  # of the normal law: 5 % lie above


def dead_fraction(c: float, batch: int, mean: float = 0.0) -> float:
    """``E Φ(-(μ + √c ξ)/√(1 - c))^B``: the share of ReLU units that are 0 for all of B inputs.

    Args:
        c: the correlation of the pre-activations of two inputs.
        batch: the number B of inputs.
        mean: μ, of the pre-activations, in units of their standard deviation.

    Returns:
        A share between ``2^-B`` (unrelated inputs) and ½ (equal ones), for μ = 0.

    Raises:
        ValueError: c is not between 0 and 1, or the batch is empty.
    """
    if not (0 <= c <= 1 and batch >= 1):
        raise ValueError(f"dead units: c must be between 0 and 1 and batch at least 1; got c={c!r}, batch={batch!r}")
    if c == 1:
        return float(_normal(np.array(-mean)))
    return gaussian_mean(lambda t: _normal(-(mean + math.sqrt(c) * t) / math.sqrt(1 - c)) ** batch)


def _normal(x: Values) -> Values:
    """Φ, the distribution function of N(0, 1)."""
    result: Values = 0.5 * (1 + erf(x / math.sqrt(2)))
    return result


def relu_log_moments(n: int) -> tuple[float, float]:
    """Mean and variance of ``ln M'/M``, M = mean of h², from a He layer of n ReLU units to the next: ``≈ -5/2n, 5/n``.

    Given h, ``M'/M = (2/n) χ²_K``: K of the n units are on, ``K ~ Bin(n, ½)``; conditional on K ≥ 1.

    Args:
        n: the width.

    Raises:
        ValueError: n < 1.

    Source: Hanin & Rolnick 2018, "How to Start Training: The Effect of Initialization and Architecture".
    """
    k = np.arange(1, _width(n) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k))])
    log_chance = log_factorial[-1] - log_factorial[k] - log_factorial[n - k]
    chance = np.exp(log_chance - log_chance.max())
    chance /= chance.sum()
    digamma, trigamma = _polygamma_of_halves(n)
    mean, variance = digamma + math.log(4 / n), trigamma
    average = float(chance @ mean)
    return average, float(chance @ (variance + (mean - average) ** 2))


def _polygamma_of_halves(n: int) -> tuple[Values, Values]:
    """ψ(k/2) and ψ'(k/2) for k = 1 … n, by ``ψ(x + 1) = ψ(x) + 1/x`` and ``ψ'(x + 1) = ψ'(x) - 1/x²``."""
    digamma, trigamma = np.empty(n + 1), np.empty(n + 1)
    digamma[:2] = (-np.euler_gamma - 2 * math.log(2), -np.euler_gamma)
    trigamma[:2] = (math.pi**2 / 2, math.pi**2 / 6)
    for start in (0, 1):
        x = np.arange(start + 1, n, 2) / 2  # the arguments before each step
        digamma[start + 2 : n + 1 : 2] = digamma[start] + np.cumsum(1 / x)[: len(digamma[start + 2 : n + 1 : 2])]
        trigamma[start + 2 : n + 1 : 2] = trigamma[start] - np.cumsum(1 / x**2)[: len(trigamma[start + 2 : n + 1 : 2])]
    return digamma[:n], trigamma[:n]


def log_moments(f: str | Function, n: int, q: float = 1.0, **params: Any) -> tuple[float, float]:
    """Mean and variance of ``ln M'/M`` for a layer of n units of any activation, to first order in 1/n: ``(-v/2, v)``.

    ``v = (E φ⁴/(E φ²)² - 1)/n``: 5/n for ReLU, 2/n for linear units. A difference in q is handed on by the factor
    ``d ln q'/d ln q`` then, which is 1 for both, and smaller for units that saturate: see ``meanfield.variance_slope``.

    Args:
        f: the name of an activation, or any elementwise function of an array.
        n: the width.
        q: the variance of the pre-activations.
        params: parameters of the activation.

    Raises:
        ValueError: n < 1.
    """
    phi = filled(f, params)
    square = gaussian_moments(f, q, **params).square
    fourth = gaussian_mean(lambda z: evaluate(phi, z) ** 4, q)
    spread = (fourth / square**2 - 1) / _width(n)
    return -spread / 2, spread


def growth_band(widths: Sequence[int], f: str | Function = "relu") -> tuple[float, float, float]:
    """Between which factors one draw of a deep network lies: the 5, 50 and 95 % points of ``M_L/E M_L``.

    ``ln M_L`` is nearly normal, and mean and variance add up over the layers: for ReLU ``N(-5β/2, 5β)``, ``β = Σ 1/n``,
    for linear units ``N(-β, 2β)``. Take the root for the rms.

    Args:
        widths: of the layers.
        f: "relu" (exact moments), "linear", or another activation that keeps the scale of its input.

    Returns:
        ``(low, median, high)``, factors on ``E M_L``.

    Raises:
        ValueError: a width below 1.

    Source: Hanin & Rolnick 2018, "How to Start Training: The Effect of Initialization and Architecture".
    """
    moments = [relu_log_moments(n) if f == "relu" else log_moments(f, n) for n in widths]
    mean, std = sum(m for m, _ in moments), math.sqrt(sum(v for _, v in moments))
    return math.exp(mean - QUANTILE * std), math.exp(mean), math.exp(mean + QUANTILE * std)


def _width(n: int) -> int:
    if n < 1:
        raise ValueError(f"a layer has at least one unit; got {n}")
    return n


def batch_norm_growth(f: str | Function, **params: Any) -> float:
    """``E φ'²/Var φ`` at q = 1: the factor on ``E δ²`` per layer, downwards, with batch normalization and no skips.

    ReLU: π/(π - 1) = 1.467. Normalization makes up for any scale of the weights, and for the mean that φ adds; the
    slope of what it divides by is what is left.

    Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization".
    """
    moments = gaussian_moments(f, 1.0, **params)
    return moments.slope_square / moments.variance


def residual_growth(blocks: int, *, norm: bool = False, branch: float = 1.0, shortcut: float = 1.0) -> float:
    """``E x²`` after so many residual blocks, over that before: ``(shortcut² + branch²)^blocks``.

    Args:
        blocks: how many.
        norm: whether batch normalization keeps the variance of every branch at 1: ``1 + blocks``, from ``E x² = 1``.
        branch: what each branch multiplies the rms by. He layers 1: 2^blocks; over √blocks: → e.
        shortcut: what the way past it multiplies it by.

    Source: De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function".
    """
    if not norm:
        return (shortcut**2 + branch**2) ** blocks
    square = 1.0
    for _ in range(blocks):
        square = shortcut**2 * square + branch**2
    return square


def initial_loss(logit_std: float, classes: int) -> float:
    """``E ln Σ exp(s ξ_k)``: the cross entropy of K logits that are independent ``N(0, s²)`` and know nothing of y.

    For small s ``ln K + (s²/2)(1 - 1/K)``, for large s the largest logit. Between them exact:
    ``E ln S = ∫ (exp(-eˣ) - (E exp(-e^(x + sξ)))^K) dx``.

    Args:
        logit_std: s.
        classes: K.

    Raises:
        ValueError: s is negative or not finite, or K < 1.
    """
    if not 0 <= logit_std < math.inf or classes < 1:
        raise ValueError(f"initial loss: std must be finite and >= 0, classes >= 1; got {logit_std!r} and {classes!r}")
    if logit_std <= WIDE:
        return _log_sum(logit_std, classes)
    largest = classes * gaussian_mean(lambda z: z * _normal(z) ** (classes - 1))  # of K normals, on average
    others = _log_sum(WIDE, classes) - WIDE * largest  # what the others add falls like 1/s
    return logit_std * largest + others * WIDE / logit_std


def _log_sum(logit_std: float, classes: int) -> float:
    """The integral, by the trapezoid rule: the integrands are smooth within ±iπ/2, so it is exact to rounding."""
    step = 0.3
    count = max(round(12 * logit_std / step), 60)
    xi = np.linspace(-12.0, 12.0, 2 * count + 1)
    weight = np.exp(-0.5 * xi**2) / np.exp(-0.5 * xi**2).sum()
    x = np.arange(-12 * logit_std - 40, 12 * logit_std + 5, step)
    with np.errstate(over="ignore"):
        below = np.array([weight @ np.exp(-np.exp(at + logit_std * xi)) for at in x])
        return float(step * (np.exp(-np.exp(x)) - below**classes).sum())


class ZeroInit(NamedTuple):
    """What a network with zero weights comes to: it learns the class shares, and predicts the largest class."""

    accuracy: float  #: share of the largest training class among the test labels
    classes: tuple[int, ...]  #: the training classes that are so nearly the largest that chance decides between them
    low: float  #: the smallest of their shares among the test labels
    high: float  #: the largest


def zero_init_accuracy(y_train: Any, y_test: Any, tie: float = 0.05) -> ZeroInit:
    """The test accuracy of a network whose weights are all zero: the test share of the largest training class.

    With φ(0) = 0 all hidden units and all gradients of weights are 0 for ever; the output bias alone learns, the
    logarithms of the class shares. While it learns it is noisy, so classes that nearly tie take turns.

    Args:
        y_train: labels trained on, whole numbers.
        y_test: labels of the test.
        tie: how much smaller than the largest, as a share of it, a class may be to count as nearly the largest.

    Returns:
        ``ZeroInit(accuracy, classes, low, high)``.

    Raises:
        ValueError: no labels, or labels that are no whole numbers from 0 on.
    """
    train, test = np.asarray(y_train).ravel(), np.asarray(y_test).ravel()
    for labels in (train, test):
        if labels.size and (labels.dtype.kind not in "iu" or labels.min() < 0):
            raise ValueError(f"labels are class numbers, whole and from 0 on; got {labels.dtype} from {labels.min()}")
    if not (train.size and test.size):
        raise ValueError(f"labels are needed to count; got {train.size} for training and {test.size} for the test")
    counts = np.bincount(train)
    classes = np.flatnonzero(counts >= (1 - tie) * counts.max())
    shares = {int(k): float(np.mean(test == k)) for k in classes}
    return ZeroInit(shares[int(counts.argmax())], tuple(shares), min(shares.values()), max(shares.values()))
