"""Which scheme to take: a rule of thumb in one function, each branch with its reason and its source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minidl.init.critical import sigmoid_glorot
from minidl.init.gain import gain
from minidl.init.orthogonal import looks_linear, orthogonal
from minidl.init.registry import Initializer
from minidl.init.scaling import glorot_normal, he_normal, lecun_normal, variance_scaling
from minidl.meanfield import activation_name, critical_point, gaussian_moments

__all__ = ["Recommendation", "recommend"]

DEEP = 20  # weight layers in a row: from here on the spread of the singular values of Gaussian weights shows
GAUSSIAN_TO_ORTHOGONAL = "Saxe et al. 2014, section 4; Pennington et al. 2017"


class Recommendation(NamedTuple):
    """What to take and why."""

    scheme: Initializer  #: for ``init.apply(model, scheme)``, or ``init=`` of a layer
    reason: str  #: one sentence
    source: str  #: where it is written

    def __str__(self) -> str:
        return f"{self.scheme}: {self.reason} [{self.source}]"


def recommend(
    activation: str | Callable[..., Any], residual: bool = False, norm: bool = False, depth: int | None = None
) -> Recommendation:
    """A scheme for the weights of a network with this activation; biases are zero.

    Args:
        activation: a name, "crelu" among them, or any elementwise function of an array.
        residual: whether its blocks add a shortcut.
        norm: whether its layers are normalized (batch normalization).
        depth: number of weight layers; None: not very many.

    Returns:
        ``Recommendation(scheme, reason, source)``; printing it gives one line.

    Raises:
        ValueError: an unknown activation, or one that lets no signal through; ``depth`` below 1.
        TypeError: ``activation`` is no activation.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"recommend: depth is the number of weight layers, at least 1; got {depth}")
    if activation == "crelu":
        plain = _of_crelu()
    else:
        plain = _plain(activation, depth is not None and depth >= DEEP and not (norm or residual))
    if not (residual or norm):
        return plain
    advice = _residual(plain, norm) if residual else _normalized(plain, depth)
    if activation == "crelu":  # what it says of the first layer holds there too
        return Recommendation(plain.scheme, f"{plain.reason}; {advice.reason}", f"{plain.source}; {advice.source}")
    return advice


def _plain(activation: str | Callable[..., Any], deep: bool) -> Recommendation:
    """For layers in a row, without shortcuts and normalization."""
    name, forward = activation_name(activation), gain(activation)
    if activation in ("relu", "leaky_relu"):
        return _of_relu(str(activation), deep)
    if activation == "selu":
        reason = "with weights of variance 1/fan_in, mean 0 and variance 1 are a stable fixed point of selu"
        return Recommendation(lecun_normal(), reason, "Klambauer et al. 2017, theorem 1")
    if activation == "sigmoid":
        reason = (
            "four times Glorot's limit makes up for the slope ¼ at 0, but inputs still become alike in depth (the edge "
            "of chaos of sigmoid lies where two units of three are saturated): take tanh, or normalize"
        )
        return Recommendation(sigmoid_glorot(), reason, "Glorot & Bengio 2010, section 4.2.1; init.critical_point")
    if _is_odd_and_a_line_at_zero(activation):
        return _of_odd(activation, name, deep)
    reason = f"the forward gain {forward:.4g} = 1/√(E φ²) keeps the second moment 1 through {name}"
    return Recommendation(variance_scaling(scale=round(forward**2, 4)), reason, "He et al. 2015, eq. 9, for any φ")


def _of_relu(name: str, deep: bool) -> Recommendation:
    factor = gain(name)
    if deep:
        reason = (
            f"the gain {factor:.4g} makes up for what {name} takes away, and orthogonal weights of a deep network "
            "keep directions that a product of Gaussian ones flattens"
        )
        return Recommendation(orthogonal(round(factor, 4)), reason, GAUSSIAN_TO_ORTHOGONAL)
    slope = 0.0 if name == "relu" else 0.01
    reason = f"{name} passes {1 / factor**2:.4g} of the second moment, and the factor {factor**2:.4g} makes up for it"
    return Recommendation(he_normal(negative_slope=slope), reason, "He et al. 2015, eq. 10 and 14")


def _of_odd(activation: str | Callable[..., Any], name: str, deep: bool) -> Recommendation:
    """For units that are symmetric and a straight line at 0: tanh and its like."""
    sigma_w = round(critical_point(activation).sigma_w, 4)
    if deep:
        reason = (
            f"{name} is linear at 0, so orthogonal weights of gain {sigma_w:.4g} put a deep network at the edge of "
            "chaos, where all directions of signal and gradient survive"
        )
        return Recommendation(orthogonal(sigma_w), reason, GAUSSIAN_TO_ORTHOGONAL)
    reason = (
        f"{name} is symmetric and linear at 0, where weights of variance {sigma_w**2:.4g}/fan keep signal and gradient"
    )
    return Recommendation(glorot_normal(gain=sigma_w), reason, "Glorot & Bengio 2010, eq. 12")


def _of_crelu() -> Recommendation:
    reason = (
        "crelu loses nothing, so weights in opposite pairs make the network start as an orthogonal linear map; "
        "its first layer takes 'orthogonal'"
    )
    return Recommendation(looks_linear(), reason, "Balduzzi et al. 2017, section 4")


def _residual(plain: Recommendation, norm: bool) -> Recommendation:
    if norm:
        reason = (
            "every block adds a branch of variance 1 to the stream, and init.zero_gamma(model) beside this scheme lets "
            "each block start as its shortcut"
        )
        return Recommendation(plain.scheme, reason, "Goyal et al. 2017, section 5.1; De & Smith 2020")
    reason = (
        "without normalization every block would add its branch and double the second moment, so after this scheme "
        "call init.fixup(model) or init.skipinit(model), which start each block as its shortcut"
    )
    return Recommendation(plain.scheme, reason, "Zhang et al. 2019; De & Smith 2020")


def _normalized(plain: Recommendation, depth: int | None) -> Recommendation:
    reason = "normalization undoes any scale on the way up, so the usual scheme serves, for its gradients' size"
    if depth is not None and depth >= DEEP:
        reason += "; without shortcuts the gradient of a ReLU layer still grows by 1.47 in second moment"
        return Recommendation(plain.scheme, reason, "Ioffe & Szegedy 2015; Yang et al. 2019")
    return Recommendation(plain.scheme, reason, "Ioffe & Szegedy 2015, section 3.3")


def _is_odd_and_a_line_at_zero(activation: str | Callable[..., Any]) -> bool:
    """Whether no mean arises, and a weak signal meets neither kink nor offset: ``E φ² = q φ'(0)²``."""
    weak = gaussian_moments(activation, 1e-6)
    kept = weak.square / (1e-6 * weak.slope_square) if weak.slope_square else 0.0
    return abs(kept - 1) < 1e-3 and abs(gaussian_moments(activation).mean) < 1e-6
