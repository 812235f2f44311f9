"""What the initializers of whole models share: their report, the layers they work on, and leaving the rest as it was.

They live in ``data_driven.py``, ``analytic.py``, ``learned.py`` and ``residual.py``. Each takes a model that has its
weights already (``init.apply``), changes values and never the structure, and returns a ``ModelReport``. One that fails
leaves the model as it found it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.tensor import Tensor, no_grad
from minidl.text import table

__all__ = [
    "ModelReport",
    "as_in_training",
    "effective_weight",
    "is_weighted",
    "layers_to_set",
    "placed",
    "rescale",
    "rms",
    "size_of",
    "undone_on_error",
    "visit_layers",
    "weighted_layers",
]

Layers: TypeAlias = Sequence[tuple[str, Any]]


@dataclass
class ModelReport:
    """What an initializer of a whole model did: print it for a table, or read ``records`` and ``history``.

    Args:
        method: the call, in words.
        records: one flat dict per layer or parameter that was looked at.
        history: one flat dict per step, where there were steps.
        gradient_steps: how often values were changed along a gradient; 0 where none was used.
        backward_passes: how many walks back that took, for comparisons at equal cost.
        notes: what else should be known, such as what was left out.
    """

    method: str
    records: list[dict[str, Any]]
    history: list[dict[str, Any]] = field(default_factory=list)
    gradient_steps: int = 0
    backward_passes: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.method, table(self.records)]
        if self.history:
            lines.append(table(self.history if len(self.history) < 3 else [self.history[0], self.history[-1]]))
        if self.backward_passes:
            lines.append(f"{self.gradient_steps} gradient steps, {self.backward_passes} backward passes")
        return "\n".join(lines + self.notes)


def is_weighted(module: Any) -> bool:
    """Whether a layer has a weight that fans apply to."""
    return getattr(module, "fans", None) is not None and getattr(module, "weight", None) is not None


def weighted_layers(model: Any) -> list[tuple[str, Any]]:
    """(path, module) of every weighted layer, each weight once."""
    found: dict[int, tuple[str, Any]] = {}
    for path, module in model.named_modules():
        if is_weighted(module):
            found.setdefault(id(module.weight), (path, module))
    return list(found.values())


def layers_to_set(method: str, model: Any) -> list[tuple[str, Any]]:
    """``weighted_layers`` of a model that has some.

    Raises:
        ValueError: it has none.
    """
    layers = weighted_layers(model)
    if not layers:
        raise ValueError(f"{method} has nothing to set: no layer of this model has a weight with fans")
    return layers


def size_of(module: Any) -> Any:
    """The parameter that says how large a layer's weight is: under weight normalization the gain, else the weight."""
    return getattr(module, "gain", module.weight)


def rescale(module: Any, factor: float) -> None:
    """Multiply what a weighted layer multiplies its input by."""
    size_of(module).data = size_of(module).data * factor


def effective_weight(module: Any) -> Array:
    """The weight that a layer works with: under weight normalization ``gain · v / ‖v‖``."""
    v = module.weight.data
    if not hasattr(module, "gain"):
        return v
    g = module.gain.data
    axes = tuple(i for i, length in enumerate(g.shape) if length == 1)
    return v * (g / array_module(v).sqrt((v * v).sum(axis=axes, keepdims=True)))


def rms(array: Array) -> float:
    """√ of the mean square, summed in float64."""
    wide = array.astype("float64")
    return math.sqrt(float(to_host((wide * wide).mean()))) if wide.size else math.nan


def placed(method: str, model: Any, x: Any) -> Tensor:
    """Inputs as a tensor on the model's device.

    Raises:
        ValueError: fewer than two inputs, or a NaN or infinity among them.
        TypeError: they are no floating-point numbers.
    """
    parameters = list(model.named_parameters())
    if not parameters:
        raise ValueError(f"{method}: this model has no parameters")
    inputs = Tensor(to_device(Tensor(x).data, device_of(parameters[0][1].data)))
    if inputs.dtype.kind != "f":
        raise TypeError(f'{method}: the inputs are {inputs.dtype}; pass x.astype("float32"), images standardized')
    if inputs.ndim < 2 or inputs.shape[0] < 2:
        raise ValueError(f"{method}: statistics need a batch of two inputs at least; got shape {inputs.shape}")
    bad = int(to_host((~array_module(inputs.data).isfinite(inputs.data)).sum()))
    if bad:
        raise ValueError(f"{method}: {bad} of {inputs.size} input values are NaN or infinite; clean the data first")
    return inputs


@contextmanager
def as_in_training(model: Any) -> Iterator[None]:
    """Training mode without dropout: what the network computes in training, repeatably.

    Batch normalization takes the batch's statistics, auxiliary classifiers run. Modes and buffers (running averages)
    are put back afterwards.
    """
    modes, buffers = [(module, module.training) for _, module in model.named_modules()], _buffers(model)
    try:
        for module, _ in modes:
            module.training = not hasattr(module, "restart")  # dropout has masks to restart
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, arrays in buffers:
            vars(module).update(arrays)


def _buffers(model: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Every module with its buffers. A forward pass replaces these arrays, and does not change them."""
    return [
        (m, {name: getattr(m, name) for name in vars(m).get("_buffer_names", ())}) for _, m in model.named_modules()
    ]


@contextmanager
def undone_on_error(model: Any) -> Iterator[None]:
    """If what is inside fails, every parameter and buffer is what it was. Inside, arrays are replaced, not changed."""
    before, buffers = [(parameter, parameter.data) for _, parameter in model.named_parameters()], _buffers(model)
    try:
        yield
    except BaseException:
        for parameter, data in before:
            parameter.data = data
        for module, arrays in buffers:
            vars(module).update(arrays)
        raise


def visit_layers(
    method: str, model: Any, x: Tensor, layers: Layers, visit: Callable[[str, Any, tuple[Any, ...], Tensor], Any]
) -> None:
    """One pass forward over ``x``; ``visit(path, module, inputs, output)`` where each of ``layers`` first runs.

    What ``visit`` returns goes on in place of the output: so a layer can be changed and its successors see the change,
    in one pass, in the order of execution, whatever the graph.

    Raises:
        ValueError: one of the layers did not run.
    """
    seen: set[str] = set()

    def hook_of(path: str) -> Callable[[Any, tuple[Any, ...], Any], Any]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            if path in seen:
                return None
            seen.add(path)
            return visit(path, module, inputs, output)

        return hook

    handles = [module.register_forward_hook(hook_of(path)) for path, module in layers]
    try:
        with no_grad(), as_in_training(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    idle = [path for path, _ in layers if path not in seen]
    if idle:
        raise ValueError(f"{method}: {', '.join(idle)} did not run, so there is nothing to measure; call it in forward")
