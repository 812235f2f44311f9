"""Variances solved for from the activation itself: the edge of chaos, and what a straight line at 0 would need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.init.registry import Initializer, register
from minidl.init.scaling import glorot_uniform, variance_scaling
from minidl.meanfield import activation_name, critical_point, gaussian_moments

__all__ = ["edge_of_chaos", "kumar", "sigmoid_glorot"]

FLAT = 1e-9  # of φ'(0)²; a difference quotient over 1e-5 leaves 1e-10 to x²


@register()
def edge_of_chaos(activation: str | Callable[..., Any] = "tanh", sigma_b: float = 0.0) -> Initializer:
    """``W ~ N(0, σ_w²/fan_in)`` with ``χ₁ = σ_w² E φ'(z)² = 1``: a small difference neither dies out nor grows.

    The biases belong to it: ``b ~ N(0, σ_b²)``, ``bias_init=init.normal(std=sigma_b)``. With σ_b = 0 and tanh it is
    ``lecun_normal`` (σ_w = 1), with ReLU ``he_normal``; σ_b = 0.2236 has σ_w = 1.327. Correlations still converge,
    but as a power of the depth and not exponentially. Sigmoid has such a point only at σ_w = 10.15, where two units of
    three are saturated.

    Args:
        activation: a name, or any elementwise function of an array.
        sigma_b: standard deviation of the biases.

    Raises:
        ValueError: an unknown activation, one without an edge of chaos at this ``sigma_b``, or a bad ``sigma_b``.

    Source: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz
    et al. 2017, "Deep Information Propagation".
    """
    variance = critical_point(activation, sigma_b).sigma_w ** 2
    draw = variance_scaling(variance).draw
    return Initializer(f"W ~ N(0, {variance:.6g}/fan_in), where χ₁ = 1", draw, needs_fans=True)


@register()
def kumar(activation: str | Callable[..., Any] = "sigmoid") -> Initializer:
    """``W ~ N(0, 1/(φ'(0)² (1 + φ(0)²) fan_in))``: keeps the variance of a unit that is a straight line near 0.

    For sigmoid ``(3.58)²/fan_in``, for tanh ``lecun_normal``, for ReLU ``he_normal`` (at a kink φ'(0)² is the mean of
    both sides). Written down for pre-activations near 0: with this variance those of sigmoid are not, so in depth the
    signal still shrinks.

    Args:
        activation: a name, or any elementwise function of an array.

    Raises:
        ValueError: an unknown activation, or one that is flat at 0.

    Source: Kumar 2017, "On weight initialization in deep neural networks".
    """
    at_zero = gaussian_moments(activation, 0.0)
    if at_zero.slope_square < FLAT:
        raise ValueError(f"kumar: activation {activation_name(activation)!r} is flat at 0, no weight makes up for that")
    scale = 1.0 / (at_zero.slope_square * (1.0 + at_zero.mean**2))
    return Initializer(f"W ~ N(0, {scale:.6g}/fan_in)", variance_scaling(scale).draw, needs_fans=True)


@register()
def sigmoid_glorot(gain: float = 4.0) -> Initializer:
    """``W ~ U(±4 √(6/(fan_in + fan_out)))``: Glorot's law for a sigmoid, which is tanh(x/2)/2 + ½ with slope ¼ at 0.

    Four times the weights give the signal of a tanh network back, near 0 and apart from the mean ½. In depth it still
    is not kept: differences between inputs shrink from layer to layer.

    Args:
        gain: the factor on ``glorot_uniform``.

    Raises:
        ValueError: ``gain`` is not finite.

    Source: the Theano deep learning tutorials; the slope is Glorot & Bengio 2010, section 4.2.1.
    """
    return glorot_uniform(gain)
