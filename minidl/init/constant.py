"""Schemes that look at no layer: constants, and laws whose width the user chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, check_finite, check_not_negative, register
from minidl.init.sample import standard_normal, standard_uniform, truncated_std
from minidl.init.sample import truncated_normal as cut_normal

__all__ = ["constant", "normal", "ones", "prior_bias", "truncated_normal", "uniform", "zeros"]


@register()
def zeros() -> Initializer:
    """``W = 0``: right for biases and for the last layer of a residual branch, never for a hidden layer.

    With ReLU or tanh every weight gradient of a network of zeros is exactly zero: only the output bias learns.
    """
    return Initializer("W = 0", lambda r: np.zeros(r.shape, r.dtype))


@register()
def ones() -> Initializer:
    """``W = 1``: the scale of a normalization. In a hidden layer all units stay equal for ever."""
    return Initializer("W = 1", lambda r: np.ones(r.shape, r.dtype))


@register()
def constant(value: float = 0.1) -> Initializer:
    """``W = value``: all units of a layer stay equal, so a network of any width learns like one of width 1.

    Raises:
        ValueError: ``value`` is not finite.
    """
    check_finite("constant", value=value)
    return Initializer("W = value", lambda r: np.full(r.shape, value, r.dtype))


@register()
def prior_bias(p: float | Sequence[float] = 0.01) -> Initializer:
    """``b = ln(p/(1 - p))``, or of classes ``b_c = ln p_c``: a last bias that answers with the frequencies in the data.

    With small weights before it, a network starts at the loss of guessing by frequency, the entropy of the classes, and
    need not spend its first steps on learning how rare what is. For ``bias_init=`` of the last layer, or
    ``{"head.bias": init.prior_bias(counts), ...}``; as a weight it would be a constant.

    Args:
        p: one number, the probability of "yes" in every unit of a sigmoid layer; or one for every class of a softmax
            layer, counts or shares: they are divided by their sum.

    Raises:
        ValueError: a probability outside (0, 1), a class without examples; when called, a shape that is not that of as
            many biases as classes.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1 (p = 0.01).
    """
    shares = np.asarray(p, np.float64)
    if shares.ndim == 0:
        if not 0 < shares < 1:
            raise ValueError(f"prior_bias: a probability lies between 0 and 1, got {p}")
        return Initializer("b = ln(p/(1 - p))", lambda r: np.full(r.shape, np.log(shares / (1 - shares)), r.dtype))
    if shares.ndim != 1 or not shares.size or not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(f"prior_bias: every class needs a positive count or share, got {p}")

    def draw(r: Request) -> NDArray[Any]:
        if r.shape != shares.shape:
            raise ValueError(f"prior_bias: {shares.size} classes have a bias of shape {shares.shape}, not {r.shape}")
        return np.log(shares / shares.sum()).astype(r.dtype)

    return Initializer("b = ln(p_c/Σp)", draw)


@register()
def normal(mean: float = 0.0, std: float = 0.01) -> Initializer:
    """``W ~ N(mean, std²)``; ``std`` is the standard deviation, not the variance.

    The same at every width, so it is right for at most one: a ReLU layer multiplies the second moment by ``n std²/2``.

    Raises:
        ValueError: a parameter is not finite, or ``std`` is negative.

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks" (std = 0.01).
    """
    check_finite("normal", mean=mean)
    check_not_negative("normal", std=std)
    return Initializer("W ~ N(mean, std²)", lambda r: standard_normal(r.rng, r.shape, r.dtype, mean, std))


@register()
def uniform(low: float = -0.05, high: float = 0.05) -> Initializer:
    """``W ~ U[low, high]``, whose standard deviation is ``(high - low)/√12``.

    The default is that of Keras; JAX's ``uniform(scale)`` is [0, scale), which is not centred.

    Raises:
        ValueError: a parameter is not finite, or ``low > high``.
    """
    check_finite("uniform", low=low, high=high)
    if low > high:
        raise ValueError(f"uniform: low={low} is above high={high}")
    middle, half = (low + high) / 2, (high - low) / 2
    return Initializer("W ~ U[low, high]", lambda r: middle + half * standard_uniform(r.rng, r.shape, r.dtype))


@register()
def truncated_normal(mean: float = 0.0, std: float = 0.01, cut: float = 2.0, correct: bool = True) -> Initializer:
    """``W ~ N(mean, σ'²)`` given ``|W - mean| ≤ cut σ'``: a normal law without its tails.

    Cutting takes variance away (22.6 % at cut 2). ``correct=True`` starts from the wider
    ``σ' = std/truncated_std(cut)``, so that what remains has the standard deviation ``std``, as Keras and JAX do for
    their scaled schemes; ``correct=False`` takes ``σ' = std``. (PyTorch's ``trunc_normal_`` corrects nothing, and its
    bounds are absolute numbers: with std = 0.02 its default ±2 never cuts.)

    Args:
        mean: the centre.
        std: the standard deviation of the result (of the uncut law if not ``correct``).
        cut: where to cut, in units of σ'.
        correct: whether to make up for the lost variance.

    Raises:
        ValueError: a parameter is not finite, ``std`` is negative or ``cut`` below 0.1 (that is a uniform law: take
            ``uniform``, drawing again would take for ever).
    """
    check_finite("truncated_normal", mean=mean, cut=cut)
    check_not_negative("truncated_normal", std=std)
    if cut < 0.1:
        raise ValueError(
            f"truncated_normal: cut must be at least 0.1, got {cut}; so narrow a law is uniform: use 'uniform'"
        )
    wide = std / truncated_std(cut) if correct else std
    return Initializer(
        "W ~ N(mean, σ'²) cut at ±cut σ', σ' = " + ("std/√Var(cut normal)" if correct else "std"),
        lambda r: mean + wide * cut_normal(r.rng, r.shape, r.dtype, cut),
    )
