"""The multi-layer perceptron: dense layers with an activation between them. Depth is easiest to see here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from minidl import init as _init
from minidl import nn

__all__ = ["mlp", "scheme_for"]

#: Activations that pass the positive half, so that half of the signal is lost: He's factor 2 makes up for it.
HALF_PASSING = ("relu", "leaky_relu", "elu", "gelu", "silu", "crelu")


def scheme_for(activation: str) -> str:
    """The usual scheme: He for ReLU and its relatives, LeCun for SELU, Glorot for the rest."""
    activation = _plain_name(activation)
    return "he_normal" if activation in HALF_PASSING else "lecun_normal" if activation == "selu" else "glorot_normal"


def _plain_name(activation: str) -> str:
    """Also for "ReLU" it is "relu": same names, same scheme. A misspelt name is reported before anything is drawn."""
    layer: Any = nn.activation(activation)
    return str(layer.function.__name__)


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    init: str | _init.InitializerLike | Mapping[str, Any] | None = None,
    norm: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """Dense layers of the given sizes with an activation after each but the last; images are flattened first.

    Layers are named "linear1", "tanh1", "linear2", … and the last "output"; with ``norm`` also "norm1", ….

    Args:
        sizes: inputs, hidden widths, outputs: ``[64, *[100] * 20, 10]`` is 20 hidden layers of width 100.
        activation: name of an activation, see ``nn.activation``.
        init: scheme of the weights, as for ``init.apply``; None: the usual one for the activation (``scheme_for``).
        norm: batch normalization before each activation.
        seed: of the weights.

    Raises:
        ValueError: fewer than two sizes, or an unknown activation or scheme.
    """
    if len(sizes) < 2:
        raise ValueError(f"an mlp needs at least the number of inputs and of outputs; got sizes={list(sizes)}")
    activation = _plain_name(activation)
    scheme = scheme_for(activation) if init is None else init
    declared = "he_normal" if isinstance(scheme, Mapping) else scheme  # so that the printed model tells the truth
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, (width_in, width) in enumerate(pairwise(sizes[:-1]), start=1):
        doubled = 2 if activation == "crelu" and i > 1 else 1
        layers[f"linear{i}"] = nn.Linear(width_in * doubled, width, init=declared)
        if norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"{activation}{i}"] = nn.activation(activation)
    doubled = 2 if activation == "crelu" and len(sizes) > 2 else 1
    layers["output"] = nn.Linear(sizes[-2] * doubled, sizes[-1], init=declared)
    model = nn.Sequential(**layers)
    _init.apply(model, scheme, seed=seed)
    return model
