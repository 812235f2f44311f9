"""Activations as layers, each made from its operation: ``nn.Tanh`` is ``ops.tanh``."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.nn.module import Module
from minidl.ops.nonlinear import ACTIVATIONS
from minidl.text import unknown

__all__ = ["LAYERS", "Activation", "activation"]


class Activation(Module):
    """A layer without parameters that applies one function elementwise; keyword options go to the function."""

    function: Any = staticmethod(ops.identity)

    def __init__(self, **options: Any) -> None:
        known = getattr(self.function, "static", [])
        for name in options:
            if name not in known:
                raise TypeError(f"{type(self).__name__} takes {known or 'no options'}; got {name!r}")
        self.options = options

    def forward(self, x: Any) -> Any:
        """The function of ``x``."""
        return self.function(x, **self.options)

    def describe(self) -> str:
        """The options that were given."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


def _layer(name: str, function: Any) -> type[Activation]:
    members = {"function": staticmethod(function), "__doc__": function.__doc__, "__module__": "minidl.nn"}
    return type(name, (Activation,), members)


#: layer class by its name, "Tanh"
LAYERS: dict[str, type[Activation]] = {name: _layer(name, function) for name, function in ACTIVATIONS.items()}


def activation(which: str | Module) -> Module:
    """The activation layer of a name: ``"tanh"``, ``"relu"``, ``"leaky_relu"`` or ``"Tanh"``; a module stays as it is.

    Raises:
        ValueError: an unknown name; the message suggests the nearest.
    """
    if isinstance(which, Module):
        return which
    by_name = {function.__name__: LAYERS[name] for name, function in ACTIVATIONS.items()} | {
        "linear": LAYERS["Identity"]
    }
    layer = (by_name | LAYERS).get(which)
    if layer is None:
        raise unknown("activation", which, by_name)
    return layer()
