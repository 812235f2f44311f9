"""Variance scaling: zero-mean weights with variance ``scale/fan``, the family of LeCun, Glorot and He.

A pre-activation is a sum of ``fan_in`` products, so its second moment is ``fan_in Var(w) E h²``. Choosing
``Var(w) = scale/fan`` keeps it the same from layer to layer; ``scale`` makes up for what the activation takes away.
Going back, ``fan_out`` plays the same part for the gradient.

Three names differ between frameworks. "normal" is the whole normal law here and in PyTorch, but cut at ±2 standard
deviations and restored to its variance in Keras and JAX: that is ``*_truncated_normal``. PyTorch cuts at absolute
bounds, not at multiples of σ. And Keras restored nothing up to 2.0.9: ``correct_truncation=False``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, check_finite, check_not_negative, register
from minidl.init.sample import standard_normal, standard_uniform, truncated_normal, truncated_std
from minidl.text import unknown

__all__ = [
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "mup",
    "variance_scaling",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]

#: What "fan" means in ``variance = scale/fan``.
FANS: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geometric": lambda fan_in, fan_out: math.sqrt(fan_in * fan_out),
}

#: Laws of mean 0 and variance 1. The limit of a uniform law is √3 times its standard deviation.
UNIT_LAWS: dict[str, Callable[[Request], NDArray[Any]]] = {
    "normal": lambda r: standard_normal(r.rng, r.shape, r.dtype),
    "uniform": lambda r: math.sqrt(3.0) * standard_uniform(r.rng, r.shape, r.dtype),
    "truncated_normal": lambda r: truncated_normal(r.rng, r.shape, r.dtype, CUT) / truncated_std(CUT),
}

CUT = 2.0  # of the truncated laws, in standard deviations of the uncut one, as everywhere

ROLES = ("input", "hidden", "output")  # of a layer in the µ-parametrization


@register()
def variance_scaling(
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "normal",
    correct_truncation: bool = True,
) -> Initializer:
    """``Var(W) = scale/fan``, mean 0: the family that LeCun (1), Glorot (1, fan_avg) and He (2) belong to.

    Args:
        scale: the variance times the fan.
        mode: "fan_in", "fan_out", their mean "fan_avg" or their geometric mean "fan_geometric".
        distribution: "normal", "uniform" (on ``±√(3 scale/fan)``) or "truncated_normal" (cut at ±2 of its uncut
            standard deviations).
        correct_truncation: False leaves out the factor 1/0.8796 that restores the variance the cut takes away, as
            Keras did up to 2.0.9 (``keras_2_0_9``); the variance is then 0.774 ``scale/fan``.

    Raises:
        ValueError: an unknown mode or distribution, or a scale that is negative or not finite.
    """
    law = _law(distribution, f"scale/{mode}", f"√(3 scale/{mode})", correct_truncation)
    return _scaled(scale, mode, distribution, law, correct_truncation)


@register()
def lecun_normal(mode: str = "fan_in") -> Initializer:
    """``W ~ N(0, 1/fan_in)``: keeps the signal through linear units, and near 0 through tanh.

    Halves the second moment in every ReLU layer. With SELU, mean 0 and variance 1 are a stable fixed point.

    Args:
        mode: "fan_in" keeps the signal, "fan_out" the gradient; "fan_avg" and "fan_geometric" lie between.

    Raises:
        ValueError: an unknown ``mode``.

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.6; Klambauer et al. 2017, "Self-Normalizing Networks".
    """
    return _lecun(mode, "normal")


@register()
def lecun_uniform(mode: str = "fan_in") -> Initializer:
    """``W ~ U(±√(3/fan_in))``: variance ``1/fan_in``, see ``lecun_normal``."""
    return _lecun(mode, "uniform")


@register()
def lecun_truncated_normal(mode: str = "fan_in", correct_truncation: bool = True) -> Initializer:
    """Normal with variance ``1/fan_in`` after the cut at ±2σ', see ``lecun_normal`` and ``variance_scaling``."""
    return _lecun(mode, "truncated_normal", correct_truncation)


@register(aliases=("xavier_normal",))
def glorot_normal(gain: float = 1.0, mode: str = "fan_avg") -> Initializer:
    """``W ~ N(0, gain² · 2/(fan_in + fan_out))``: a compromise between the signal up and the gradient down.

    Derived for units that are linear near 0 and symmetric, such as tanh. Where the two fans differ neither direction is
    exact: the forward factor is ``2 fan_in/(fan_in + fan_out)``.

    Args:
        gain: factor on the standard deviation, for instance ``init.gain("tanh")``.
        mode: "fan_avg" is Glorot's mean of the fans; "fan_geometric" takes √(fan_in · fan_out), "fan_in" and "fan_out"
            one direction alone.

    Raises:
        ValueError: ``gain`` is not finite, or an unknown ``mode``.

    Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 12.
    """
    return _glorot(gain, mode, "normal")


@register(aliases=("xavier_uniform",))
def glorot_uniform(gain: float = 1.0, mode: str = "fan_avg") -> Initializer:
    """``W ~ U(±gain √(6/(fan_in + fan_out)))``: the paper's own form (eq. 16), variance as in ``glorot_normal``."""
    return _glorot(gain, mode, "uniform")


@register(aliases=("xavier_truncated_normal",))
def glorot_truncated_normal(gain: float = 1.0, mode: str = "fan_avg", correct_truncation: bool = True) -> Initializer:
    """``glorot_normal`` cut at ±2σ', with its variance restored; Keras and JAX call this glorot_normal."""
    return _glorot(gain, mode, "truncated_normal", correct_truncation)


@register(aliases=("kaiming_normal",))
def he_normal(mode: str = "fan_in", negative_slope: float = 0.0) -> Initializer:
    """``W ~ N(0, 2/((1 + a²) fan))``: keeps the second moment through (leaky) ReLU, which halves it.

    Args:
        mode: "fan_in" keeps the forward signal, "fan_out" the gradient; "fan_avg" and "fan_geometric" lie between.
        negative_slope: the slope *a* of a leaky ReLU; 0 for ReLU.

    Returns:
        An initializer ``(shape, *, fan_in, fan_out, rng, dtype) -> array of shape``.

    Raises:
        ValueError: an unknown ``mode``, or a slope that is not finite.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10 and 14. Kaiming is He's first name: one scheme.
    """
    return _he(mode, negative_slope, "normal")


@register(aliases=("kaiming_uniform",))
def he_uniform(mode: str = "fan_in", negative_slope: float = 0.0) -> Initializer:
    """``W ~ U(±√(6/((1 + a²) fan)))``: the variance of ``he_normal``, see there."""
    return _he(mode, negative_slope, "uniform")


@register(aliases=("kaiming_truncated_normal",))
def he_truncated_normal(
    mode: str = "fan_in", negative_slope: float = 0.0, correct_truncation: bool = True
) -> Initializer:
    """Normal with the variance of ``he_normal`` after the cut at ±2σ'; Keras and JAX call this he_normal."""
    return _he(mode, negative_slope, "truncated_normal", correct_truncation)


@register()
def mup(role: str = "hidden", base_width: int = 1, scale: float = 1.0) -> Initializer:
    """``Var(W) = scale/fan_in``, in the output layer ``scale base_width/fan_in²``: with its rates, µ-parametrization.

    A network of twice the width then learns with the same learning rate: every layer changes its output by an amount
    that does not depend on the width. That needs the rates as well, ``optim.layerwise_lr(model, "mup")``; biases may
    be zero. ``{"layers.0.*": init.mup("input"), "head.*": init.mup("output"), "*": init.mup()}``. It regulates
    the width alone: depth and activation are up to ``scale`` (2 for ReLU).

    Args:
        role: "input" (its fan_in is that of the data), "hidden" (both fans grow with the width) or "output" (its
            fan_out is the number of classes).
        base_width: the fan_in of the output layer in the network whose rate was tuned; there nothing differs from
            ``scale/fan_in``.
        scale: the variance times fan_in at the base width.

    Raises:
        ValueError: another role, ``base_width`` below 1, or ``scale`` negative or not finite.

    Source: Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
    table 3.
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    if base_width < 1:
        raise ValueError(f"mup: base_width must be at least 1, got {base_width}")
    if role != "output":
        return _scaled(scale, "fan_in", "normal", "W ~ N(0, scale/fan_in)")
    check_not_negative("mup", scale=scale)
    return Initializer(
        "W ~ N(0, scale base_width/fan_in²)",
        lambda r: math.sqrt(scale * base_width) / r.fan_in * standard_normal(r.rng, r.shape, r.dtype),
        needs_fans=True,
    )


xavier_normal = glorot_normal
xavier_uniform = glorot_uniform
xavier_truncated_normal = glorot_truncated_normal
kaiming_normal = he_normal
kaiming_uniform = he_uniform
kaiming_truncated_normal = he_truncated_normal


def _lecun(mode: str, distribution: str, corrected: bool = True) -> Initializer:
    return _scaled(1.0, mode, distribution, _law(distribution, f"1/{mode}", f"√(3/{mode})", corrected), corrected)


def _glorot(gain: float, mode: str, distribution: str, corrected: bool = True) -> Initializer:
    check_finite("glorot", gain=gain)
    doubled = "(fan_in + fan_out)"  # the mean of the fans, times two
    variance, limit = (f"2/{doubled}", f"6/{doubled}") if mode == "fan_avg" else (f"1/{mode}", f"3/{mode}")
    law = _law(distribution, f"gain² · {variance}", f"gain √({limit})", corrected)
    return _scaled(gain**2, mode, distribution, law, corrected)


def _he(mode: str, negative_slope: float, distribution: str, corrected: bool = True) -> Initializer:
    check_finite("he", negative_slope=negative_slope)
    fan = f"((1+a²) {mode})"
    law = _law(distribution, f"2/{fan}", f"√(6/{fan})", corrected)
    return _scaled(2.0 / (1.0 + negative_slope**2), mode, distribution, law, corrected)


def _scaled(scale: float, mode: str, distribution: str, law: str, corrected: bool = True) -> Initializer:
    """The core of the family: a law of variance 1 times ``√(scale/fan)``."""
    if mode not in FANS:
        raise unknown("mode", mode, FANS)
    if distribution not in UNIT_LAWS:
        raise unknown("distribution", distribution, UNIT_LAWS)
    check_not_negative("variance scaling", scale=scale)
    if distribution == "truncated_normal" and not corrected:
        scale *= truncated_std(CUT) ** 2
    fan, unit = FANS[mode], UNIT_LAWS[distribution]
    return Initializer(law, lambda r: math.sqrt(scale / fan(r.fan_in, r.fan_out)) * unit(r), needs_fans=True)


def _law(distribution: str, variance: str, limit: str, corrected: bool = True) -> str:
    """The law in signs, for the repr."""
    if distribution == "uniform":
        return f"W ~ U(±{limit})"
    if distribution == "normal":
        return f"W ~ N(0, {variance})"
    return f"W ~ N(0, {variance}) cut at ±2σ'" + (", variance restored" if corrected else ", variance not restored")
