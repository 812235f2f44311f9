"""How a measurement looks at a network and leaves it as it was, also when it fails or is interrupted half-way."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.nn import Module
from minidl.ops.reduce import channels_last
from minidl.tensor import Tensor

__all__ = ["each_output", "is_channels_last", "leaves", "left_as_it_was", "path_of", "placed", "rows_of", "weight_of"]


@contextmanager
def left_as_it_was(model: Module) -> Iterator[None]:
    """Inside, a network may be run, differentiated, hooked and switched; afterwards nothing of that is left.

    Put back are, of every module, all attributes (mode, buffers, hooks, generators of masks), of every parameter its
    array and its gradient, and the global generators of NumPy and Python. Inside, there are no gradients yet, buffers
    and generators are copies, and dropout begins its stream of masks anew, so that two looks see the same masks.
    """
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    attributes = [(m, dict(vars(m))) for _, m in model.named_modules()]
    drawn, drawn_by_python = np.random.get_state(), random.getstate()  # a layer of the user may draw from them
    try:
        for p, *_ in parameters:
            p.grad = None
        for module, before in attributes:
            vars(module).update(_copies(before))
            if hasattr(module, "restart"):
                module.restart(vars(module)["number"])
        yield
    finally:
        for module, before in attributes:
            vars(module).update(before)
            for name in vars(module).keys() - before.keys():
                del vars(module)[name]
        for p, array, g, wanted in parameters:
            p.requires_grad = False  # so that any dtype may come back
            p.data, p.grad = array, g
            p.requires_grad = wanted
        np.random.set_state(drawn)
        random.setstate(drawn_by_python)


def _copies(attributes: dict[str, Any]) -> dict[str, Any]:
    """What a forward pass may change in place: buffers, generators, hooks; one level deep what a user's layer keeps."""
    kept = (list, dict, set, np.ndarray)
    found: dict[str, Any] = {name: x.copy() for name, x in attributes.items() if type(x) in kept}
    found |= {name: attributes[name].copy() for name in attributes.get("_buffer_names", ())}
    found |= {name: copy.deepcopy(x) for name, x in attributes.items() if isinstance(x, np.random.Generator)}
    return found | {"_forward_hooks": dict(attributes.get("_forward_hooks", {}))}


def leaves(model: Module) -> Iterator[tuple[str, Module]]:
    """The modules without modules inside, with their paths."""
    return ((path, m) for path, m in model.named_modules() if not any(True for _ in m.named_children()))


def path_of(path: str, module: Module) -> str:
    """What a layer is called in a record: its path; a model that is one layer, by its kind."""
    return path or type(module).__name__


def weight_of(module: Any) -> Any:
    """The weight of a layer that has one, a matrix or a kernel, not the scale of a normalization; else None."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim >= 2 else None


def each_output(model: Module, look: Callable[[str, Module, Tensor], None]) -> None:
    """Call ``look(path, module, output)`` whenever a leaf has run. To be used inside ``left_as_it_was``."""

    def hook_of(path: str) -> Callable[[Module, Any, Any], None]:
        def hook(module: Module, _inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, Tensor) and tensor.size and tensor.dtype.kind == "f":
                    look(path_of(path, module), module, tensor)

        return hook

    for path, module in leaves(model):
        module.register_forward_hook(hook_of(path))


def placed(model: Module, x: Any) -> Tensor:
    """The inputs on the model's device, where there is one.

    Raises:
        ValueError: no inputs, or a NaN or infinity among them: it would make every number below it meaningless.
        TypeError: inputs that are no floating-point numbers; a model that is no Module.
    """
    if not isinstance(model, Module):
        raise TypeError(f"the model must be an nn.Module; got {type(model).__name__}")
    array = Tensor(x).data
    _, parameter = next(model.named_parameters(), ("", Tensor(array)))
    inputs = Tensor(to_device(array, device_of(parameter.data)))
    if inputs.dtype.kind != "f":
        raise TypeError(f'the inputs are {inputs.dtype}; pass x.astype("float32"), images standardized')
    if not inputs.size:
        raise ValueError(f"no inputs: got shape {inputs.shape}")
    xp = array_module(inputs.data)
    bad = inputs.size - int(to_host(xp.count_nonzero(xp.isfinite(inputs.data))))
    if bad:
        raise ValueError(f"{bad} of {inputs.size} input values are NaN or infinite; clean the data first")
    return inputs


def rows_of(h: Array) -> Array:
    """(N, …) as N rows, without a copy where the memory allows: images lie in memory with their channels last."""
    if is_channels_last(h):
        h = channels_last(h)
    return h.reshape(h.shape[0] if h.ndim else 1, -1)


def is_channels_last(h: Array) -> bool:
    """Whether a row of ``rows_of`` has its channels last."""
    return h.ndim == 4 and not h.flags.c_contiguous
