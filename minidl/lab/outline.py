"""What a network is made of: every layer with its output shape, parameters, fans, scheme and spread of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backend import device_of, to_device, to_host
from minidl.init.registry import title
from minidl.init.signal import trace
from minidl.lab.untouched import left_as_it_was, path_of
from minidl.nn import Module, Parameter
from minidl.tensor import Tensor, no_grad
from minidl.text import grouped, table

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """What ``summary`` found: print it for a table, or read ``records``.

    Args:
        records: one flat dict per layer in the order of execution: ``layer`` (its path), ``kind``, ``shape`` of its
            output without the batch axis, ``calls`` in one forward pass, ``parameters``, and of a weight with fans
            ``fan_in``, ``fan_out``, ``scheme`` (what ``init.apply`` last drew it by; before that, what the layer
            declares) and ``std`` (measured now: after training, or loading, of other values than the scheme gave).
            ``variance_ratio`` is what theory says the layer multiplies the second moment of its input by, with these
            weights, in training, if the network's inputs have mean 0 and variance 1; None where it cannot be followed.
            What does not apply is None; so is the shape of a layer that was not called (``calls`` 0), printed as
            "(not called)": one that runs in training alone, or one that ``forward`` forgot, and which of them cannot
            be seen here.
        in_shape: of one input.
        parameters: numbers that are trained, in all.
        buffers: numbers that belong to the state and are not trained, such as running averages.
    """

    records: list[dict[str, Any]]
    in_shape: tuple[int, ...]
    parameters: int
    buffers: int

    def __str__(self) -> str:
        rows = [
            {**r, "layer": _short(r["layer"]), "shape": "(not called)" if r["shape"] is None else _times(r["shape"])}
            for r in self.records
        ]
        columns = {c: c for c in ("layer", "kind", "shape", "parameters", "fan_in", "fan_out", "scheme", "std")}
        columns |= {"variance_ratio": "ratio"} if any(r["variance_ratio"] is not None for r in self.records) else {}
        columns["parameters"] = "params"  # for 100 columns
        buffers = f", and {grouped(self.buffers)} in running averages" if self.buffers else ""
        total = f"input {_times(self.in_shape)}: {grouped(self.parameters)} parameters{buffers}"
        return f"{table(rows, columns)}\n{total}"


def summary(model: Module, in_shape: int | Sequence[int]) -> Summary:
    """Run one input of zeros through ``model`` in evaluation mode, and list its layers.

    A layer is a module without modules inside, or one with parameters of its own. A module used several times has one
    line, with the shape of its first output; a tensor that two modules share is counted with the first.
    Mode, running averages, gradients and generators are left as they were.

    Args:
        model: any tree of modules with one input.
        in_shape: of one input, (C, H, W) or (D,) or D.

    Raises:
        ValueError: the shape does not fit the model; the message is the layer's.
    """
    from minidl.lab.theory import variance_ratios  # here, so that ``import minidl`` stays quick

    shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
    seen: dict[int, list[tuple[int, ...]]] = {}
    layers = {id(m): (path, m) for path, m in model.named_modules() if _is_layer(m)}

    def look(module: Module, _inputs: Any, output: Any) -> None:
        seen.setdefault(id(module), []).append(_shape(output))

    with left_as_it_was(model), no_grad():
        for _, module in layers.values():
            module.register_forward_hook(look)
        model.eval()
        call = trace(model, _zeros(model, shape))
    ratios = variance_ratios(call)
    counted: set[int] = set()
    order = [*seen, *(key for key in layers if key not in seen)]
    records = [_record(*layers[key], seen.get(key, []), counted) for key in order]
    for record in records:
        record["variance_ratio"] = ratios.get(record["layer"]) if record["calls"] else None
    buffers = sum(int(array.size) for _, array in model.named_buffers())
    return Summary(records, shape, sum(p.size for p in model.parameters()), buffers)


def _is_layer(module: Module) -> bool:
    return not any(True for _ in module.named_children()) or any(True for _ in _own(module))


def _own(module: Module) -> Iterator[Parameter]:
    """The parameters of a module itself, and not of modules inside."""
    inside = {id(p) for _, child in module.named_children() for p in child.parameters()}
    return (p for p in module.parameters() if id(p) not in inside)


def _zeros(model: Module, shape: tuple[int, ...]) -> Tensor:
    arrays = [*(p.data for p in model.parameters()), *(array for _, array in model.named_buffers())]
    data = np.zeros((1, *shape), arrays[0].dtype if arrays else "float32")
    return Tensor(to_device(data, device_of(arrays[0])) if arrays else data)


def _shape(output: Any) -> tuple[int, ...]:
    first = output[0] if isinstance(output, tuple | list) else output
    return tuple(first.shape[1:])


def _record(path: str, module: Module, shapes: list[tuple[int, ...]], counted: set[int]) -> dict[str, Any]:
    fresh = [p for p in _own(module) if id(p) not in counted]
    counted |= {id(p) for p in fresh}
    fan_in, fan_out = getattr(module, "fans", (None, None))
    weight = getattr(module, "weight", None) if fan_in is not None else None
    return {
        "layer": path_of(path, module),
        "kind": type(module).__name__,
        "shape": shapes[0] if shapes else None,
        "calls": len(shapes),
        "parameters": sum(p.size for p in fresh),
        "fan_in": fan_in,
        "fan_out": fan_out,
        "scheme": None if weight is None else _scheme(module, weight),
        "std": None if weight is None else float(to_host(weight.data.astype("float64").std())),
    }


def _scheme(module: Module, weight: Parameter) -> str | None:
    """By what the weight was drawn: by ``init.apply``, or as its layer was made."""
    initializer = getattr(weight, "drawn_by", None) or module.initializers.get("weight")
    return None if initializer is None else title(initializer)


def _short(path: str, length: int = 18) -> str:
    """The end of a long path: there it says which layer it is."""
    return path if len(path) <= length else f"…{path[1 - length :]}"


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "1"
