"""Gains: by how much the weights must be larger because an activation takes part of the signal away."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minidl.meanfield import ACTIVATIONS, activation_name, gaussian_moments, resolve
from minidl.text import unknown

__all__ = ["gain"]

CRITERIA = ("forward", "backward", "torch")

# PyTorch's table, as people know it. 5/3 and 3/4 are empirical: no moment of tanh or SELU gives them.
TORCH_GAINS = {
    "linear": 1.0,
    **{f"conv{transposed}{axes}d": 1.0 for transposed in ("", "_transpose") for axes in (1, 2, 3)},
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1.0 + 0.01**2)),
    "selu": 3.0 / 4.0,
}


def gain(activation: str | Callable[..., Any], criterion: str = "forward", **params: Any) -> float:
    """The factor on ``1/√fan`` that makes a layer with activation φ keep the size of its signal.

    * "forward": ``1/√(E φ(ξ)²)`` keeps the second moment 1 on the way up;
    * "backward": ``1/√(E φ'(ξ)²)`` keeps the gradient's on the way down;
    * "torch": PyTorch's table (``nn.init.calculate_gain``), known names only.

    It is the *second moment* that propagates through zero-mean weights, not the variance: the popular recipe
    ``1/std(φ(ξ))`` gives ReLU 1.71 instead of √2.

    Args:
        activation: a name ("relu"), or any elementwise function of an array.
        criterion: "forward", "backward" or "torch".
        params: parameters of the activation, such as ``negative_slope=0.2`` for "leaky_relu".

    Returns:
        The gain, a positive number.

    Raises:
        ValueError: an unknown activation or criterion, or an activation for which that gain does not exist.
        TypeError: ``activation`` is no activation, or has no such parameter.

    Source: He et al. 2015, eq. 9 and 14, for any φ; Glorot & Bengio 2010 for the linear case.
    """
    if criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    if criterion == "torch":
        return _torch_gain(activation, params)
    moments = gaussian_moments(activation, **params)
    kept = moments.square if criterion == "forward" else moments.slope_square
    if kept <= 0:
        raise ValueError(
            f"activation {activation_name(activation)!r} has no {criterion} gain: "
            "it takes away the whole signal of a standard normal input"
        )
    return 1.0 / math.sqrt(kept)


def _torch_gain(activation: str | Callable[..., Any], params: dict[str, Any]) -> float:
    if not isinstance(activation, str):
        resolve(activation)  # says so if it is no activation at all
        raise ValueError(
            f"criterion 'torch' is a table of names, got the function {activation_name(activation)!r}; "
            "pass a name, or criterion='forward' to compute the gain"
        )
    if activation not in TORCH_GAINS:
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, TORCH_GAINS)
        raise ValueError(
            f"PyTorch's table has no gain for {activation!r}, only for {', '.join(TORCH_GAINS)}; "
            "criterion='forward' computes it"
        )
    if activation == "leaky_relu" and list(params) == ["negative_slope"]:
        return math.sqrt(2.0 / (1.0 + params["negative_slope"] ** 2))
    if params:
        accepted = "negative_slope" if activation == "leaky_relu" else "no parameters"
        raise TypeError(f"PyTorch's gain of {activation!r} got {', '.join(params)}; it accepts: {accepted}")
    return TORCH_GAINS[activation]
