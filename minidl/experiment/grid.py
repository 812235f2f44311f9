"""What is to be measured, as plain values: a *cell* is one training, a *grid* the product of several axes.

A cell is its settings and nothing else: the same cell gives the same numbers whenever, wherever and after whatever it
runs. Names are checked when a cell is made, so a misspelt one is reported before anything is computed.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from minidl import data, init, nn, ops, optim
from minidl.backend import array_module
from minidl.experiment import networks
from minidl.init import Initializer, InitializerLike
from minidl.text import unknown

__all__ = ["AXES", "LABELS", "LOSSES", "OPTIMIZERS", "Cell", "Grid", "initializer", "label", "make_optimizer", "spec"]

#: Short names of schemes: label -> what ``initializer`` reads.
LABELS = {
    "zeros": "zeros",
    "constant 0.1": "constant",
    "N(0, 0.001²)": "normal(std=0.001)",
    "N(0, 0.01²)": "normal",
    "N(0, 0.05²)": "normal(std=0.05)",
    "N(0, 0.1²)": "normal(std=0.1)",
    "N(0, 1)": "normal(std=1.0)",
    "Glorot": "glorot_normal",
    "Glorot uniform": "glorot_uniform",
    "He": "he_normal",
    "He truncated": "he_truncated_normal",
    "He cut, Keras 2.0.9": ("variance_scaling(scale=2.0, distribution='truncated_normal', correct_truncation=False)"),
    "orthogonal": "orthogonal",
    "article: √(2/n) is σ": "as_written_gaussian",
    "article: √(2/n) is σ²": "as_written_gaussian(second_argument='variance')",
    "article: √(2/n) is σ², n inputs": "as_written_gaussian(neurons='fan_in', second_argument='variance')",
    "article: Xavier": "as_written_xavier",
    "article: Xavier(784, 10)": "as_written_xavier_global",
    "article: Kaiming": "as_written_kaiming",
}
_BY_SPEC = {written: name for name, written in LABELS.items()}


def _squares(logits: Any, labels: Any) -> Any:
    """Mean squared error between the scores and the label as a one-hot vector."""
    xp = array_module(labels)
    return ops.mse(logits, (xp.arange(logits.shape[1]) == labels[:, None]).astype(logits.dtype))


LOSSES: dict[str, Callable[[Any, Any], Any]] = {"cross_entropy": ops.cross_entropy, "mse": _squares}
OPTIMIZERS: dict[str, Callable[[Any, float], optim.Optimizer]] = {
    "sgd": lambda params, lr: optim.SGD(params, lr=lr),
    "momentum": lambda params, lr: optim.SGD(params, lr=lr, momentum=0.9),
    "adam": lambda params, lr: optim.Adam(params, lr=lr),
}


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        dataset: name for ``data.load``.
        network: a name of ``networks.names()``.
        norm: batch normalization in the network.
        activation: name for ``nn.activation``.
        loss: "cross_entropy", or "mse" against one-hot labels.
        optimizer: name and learning rate, "adam:0.001".
        scheme: of the weights, as ``initializer`` reads it.
        seed: of the weights, the choice of the images and the order of the batches.
        epochs: passes over the training images; 0: the network is probed and not trained.
        batch_size: images per update.
        train_images: how many are used, in each class alike; None: all.
        steps: end after so many updates; None: after the epochs.
        depth, width: of the mlp; other networks have none.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    dataset: str = "digits"
    network: str = "mlp"
    norm: bool = False
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "momentum:0.01"
    scheme: str = "he_normal"
    seed: int = 0
    epochs: int = 10
    batch_size: int = 64
    train_images: int | None = None
    steps: int | None = None
    depth: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        data.registry.entry(self.dataset)
        networks.check(self.network)
        nn.activation(self.activation)
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        object.__setattr__(self, "optimizer", _optimizer_spec(self.optimizer))
        object.__setattr__(self, "scheme", spec(self.scheme))
        initializer(self.scheme, self.activation)
        for name, least in (("seed", 0), ("epochs", 0), ("batch_size", 1)):
            _at_least(name, getattr(self, name), least)
        for name in ("train_images", "steps", "depth", "width"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)

    @property
    def key(self) -> str:
        """Name of the cell's file: a hash of what differs from the defaults, so that a new setting renames nothing."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """All settings, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        words = [self.dataset, self.network, *(["norm"] if self.norm else []), self.activation, self.loss]
        return f"{' '.join(words)} {self.optimizer} {label(self.scheme)}, seed {self.seed}"


#: The axes of a grid, in the order in which tables show them; seeds apart.
AXES = ("dataset", "network", "norm", "activation", "loss", "optimizer", "scheme")


@dataclass(frozen=True)
class Grid:
    """The product of its axes. What is one value in a cell is a tuple of values here, for those of ``AXES`` and seeds.

    The defaults are those of the quick comparison on handwritten digits.
    """

    dataset: tuple[str, ...] = ("digits",)
    network: tuple[str, ...] = ("mlp",)
    norm: tuple[bool, ...] = (False,)
    activation: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    loss: tuple[str, ...] = ("cross_entropy",)
    optimizer: tuple[str, ...] = ("momentum:0.01",)
    scheme: tuple[str, ...] = (
        "zeros",
        "constant 0.1",
        "N(0, 0.01²)",
        "N(0, 1)",
        "Glorot",
        "He",
        "He truncated",
        "orthogonal",
    )
    seed: tuple[int, ...] = (0,)
    epochs: int = 10
    batch_size: int = 64
    train_images: int | None = None
    steps: int | None = None
    depth: int = 20
    width: int = 100

    def cells(self) -> list[Cell]:
        """Every cell once. Seeds are outermost, so that a run that is stopped early has compared all that it began.

        A scheme that says nothing of an activation (those as the article wrote them) is left out where others remain.

        Raises:
            ValueError: an unknown name, a number out of range, or a scheme that fits none of the activations.
        """
        shared: dict[str, Any] = {
            name: getattr(self, name) for name in ("epochs", "batch_size", "train_images", "steps")
        }
        for scheme in self.scheme:
            if not any(_suits(scheme, activation) for activation in self.activation):
                initializer(scheme, self.activation[0])  # raises, and says what does not fit
        found: dict[Cell, None] = {}
        for seed, *values in itertools.product(self.seed, *(getattr(self, axis) for axis in AXES)):
            chosen = dict(zip(AXES, values, strict=True))
            if _suits(chosen["scheme"], chosen["activation"]):
                size: dict[str, Any] = {"depth": self.depth, "width": self.width} if chosen["network"] == "mlp" else {}
                found[Cell(**chosen, **shared, **size, seed=seed)] = None
        return list(found)

    def with_(self, **changes: Any) -> Grid:
        """The same grid with other values; None leaves one as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def initializer(text: str, activation: str = "relu") -> InitializerLike:
    """The initializer that a label, a name or a call in signs such as "normal(std=0.05)" means.

    A scheme with a parameter ``activation`` that is not set (the article's) gets that of the network.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or no call of a scheme with plain values.
    """
    name, params = _parsed(text)
    found = _made(name, params)
    if isinstance(found, Initializer) and "activation" in found.params and "activation" not in params:
        return _made(name, {**params, "activation": activation})
    return found


def spec(text: str) -> str:
    """The one way to write a scheme: "He" and "kaiming_normal" both become "he_normal"."""
    name, params = _parsed(text)
    return str(_made(name, params))


def label(text: str) -> str:
    """The short name of a scheme, for tables and figures."""
    return _BY_SPEC.get(text, text)


def make_optimizer(text: str, params: Any) -> optim.Optimizer:
    """The optimizer that "adam:0.001" means."""
    name, _, lr = text.partition(":")
    return OPTIMIZERS[name](params, float(lr))


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a scheme."""
    text = LABELS.get(text, text)
    call = re.fullmatch(r"(\w+)\((.*)\)", text)
    if call is None:
        if text not in init.names():
            _check_name(text)
        return text, {}
    try:
        tree: Any = ast.parse(text, mode="eval").body
        params = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except (SyntaxError, ValueError):
        raise _no_call(text) from None
    if tree.args or None in params:
        raise _no_call(text)
    return call[1], params


def _check_name(text: str) -> None:
    try:
        init.get(text)
    except ValueError:
        raise unknown("scheme", text, list(dict.fromkeys([*LABELS, *init.names()]))) from None


def _made(name: str, params: dict[str, Any]) -> InitializerLike:
    try:
        found = init.get(name, **params)
    except TypeError as error:  # a parameter that the scheme does not have: the user's text, not the program, is wrong
        said = str(error)
        raise ValueError(said if name in said else f"scheme {name} with these parameters: {said}") from None
    try:  # some parameters show only when something is drawn, and that shall not be after the first hour
        found((3, 2), fan_in=2, fan_out=3, rng=np.random.default_rng(0))
    except (TypeError, ValueError) as error:
        raise ValueError(f"scheme {name} with these parameters draws no weights: {error}") from None
    return found


def _no_call(text: str) -> ValueError:
    return ValueError(f"scheme {text!r} is not readable; write a name, or name(parameter=value): normal(std=0.05)")


def _optimizer_spec(text: str) -> str:
    name, colon, rate = text.partition(":")
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    try:
        lr = float(rate)
    except ValueError:
        lr = math.nan
    if not colon or not 0 < lr < math.inf:
        raise ValueError(f"optimizer {text!r}: write name:learning rate, with a positive rate; for example {name}:0.01")
    return f"{name}:{lr:g}"


def _suits(scheme: str, activation: str) -> bool:
    """Whether a scheme knows the activation; a scheme or activation that nobody knows raises elsewhere."""
    name, params = _parsed(scheme)
    try:
        initializer(scheme, activation)
    except ValueError:
        return not name.startswith("as_written_") or "activation" in params
    return True


def _at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        said = "depth is the number of hidden layers" if name == "depth" else f"{name} is a whole number"
        raise ValueError(f"{said}, at least {least}; got {value!r}")
