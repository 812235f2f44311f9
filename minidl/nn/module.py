"""A module is a piece of a network: it holds parameters and other modules, and computes in ``forward``.

class Block(nn.Module):
    def __init__(self, width):
        self.linear = nn.Linear(width, width)
    def forward(self, x):
        return x + self.linear(x).tanh()

Attributes that are parameters or modules (also inside lists, tuples and dicts) are found; nothing has to be registered,
and ``super().__init__()`` is not needed. Their paths are dotted attribute names: "block.linear.weight".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from minidl import threads
from minidl.backend import Array, device_of, is_device, to_device, to_host
from minidl.tensor import Handle, Tensor

__all__ = ["Module", "Parameter"]

T = TypeVar("T")


class Parameter(Tensor):
    """A tensor that belongs to a model and is trained: a leaf with ``requires_grad=True``."""

    __slots__ = ("drawn_by",)

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True)
        self.drawn_by: Any = None  #: the initializer that ``init.apply`` last drew it by; None before that


class Module:
    """Base class of layers and models; subclasses write ``__init__`` and ``forward``.

    One that has to do with its weights being new, or draws by itself, writes ``after_init(self, rng)`` too, which
    ``init.apply`` calls at the end (running averages, dropout).
    """

    training: bool = True
    #: parameter name -> the initializer this module declares for it; see ``init.apply``
    initializers: dict[str, Any] = {}  # noqa: RUF012 -- shared and empty: modules that declare set their own

    def forward(self, *inputs: Any) -> Any:
        """What the module computes; every subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, x); write one")

    def __call__(self, *inputs: Any) -> Any:
        """``forward``, then the forward hooks."""
        with threads.undisturbed():  # the matrix library's threads and ours share the cores: see threads.py
            output = self.forward(*inputs)
        hooks = self.__dict__.get("_forward_hooks")
        if hooks:
            for hook in list(hooks.values()):
                replaced = hook(self, inputs, output)
                output = output if replaced is None else replaced
        return output

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Handle:
        """Call ``hook(module, inputs, output)`` after every forward; a result other than None replaces the output."""
        return Handle(vars(self).setdefault("_forward_hooks", {}), hook)

    # ---- finding

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their attribute names."""
        return _members(vars(self), Module)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (path "") and all modules inside, each once, outer before inner."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                stack += [(_join(path, name), child) for name, child in module.named_children()][::-1]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter inside, each once, with its path."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in _members(vars(module), Parameter):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _join(path, name), parameter

    def parameters(self) -> list[Parameter]:
        """Every parameter inside, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Every registered buffer inside (arrays that belong to the state but are not trained), with its path."""
        for path, module in self.named_modules():
            for name in vars(module).get("_buffer_names", ()):
                yield _join(path, name), getattr(module, name)

    def register_buffer(self, name: str, array: Any) -> None:
        """Keep ``array`` as attribute ``name``: it moves with ``to`` and is in ``state_dict``, but is not trained."""
        vars(self).setdefault("_buffer_names", []).append(name)
        setattr(self, name, Tensor(array).data)

    # ---- state

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all parameters and buffers as NumPy arrays, by path."""
        state = {path: to_host(p.data).copy() for path, p in self.named_parameters()}
        return state | {path: to_host(array).copy() for path, array in self.named_buffers()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all parameters and buffers from arrays by path; each keeps its dtype and device.

        What PyTorch saved fits, as ``{k: v.numpy() for k, v in torch_model.state_dict().items()}``: its counts of
        batches, "….num_batches_tracked", are passed over, for nothing here depends on them.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs. Nothing has been changed then.
        """
        own = dict(self.named_parameters()) | dict(self.named_buffers())
        missing = sorted(own.keys() - state.keys())
        extra = sorted(k for k in state.keys() - own.keys() if not k.endswith("num_batches_tracked"))
        if missing or extra:
            raise ValueError(f"state does not fit {type(self).__name__}: missing {missing}, unknown {extra}")
        for path, value in own.items():
            if np.shape(state[path]) != tuple(value.shape):
                raise ValueError(f"{path}: state has shape {np.shape(state[path])}, the model {tuple(value.shape)}")
        values = {path: _like(state[path], Tensor(value).data) for path, value in own.items()}
        for path, parameter in self.named_parameters():
            parameter.data = values[path]
        for path, module in self.named_modules():
            for name in vars(module).get("_buffer_names", ()):
                setattr(module, name, values[_join(path, name)])

    def to(self, target: str) -> Self:
        """Move everything to a device ("cpu", "gpu") or into a dtype ("float32", "float64"), in place; returns self."""
        on_device = is_device(target)

        def moved(array: Array) -> Array:
            if on_device:
                return to_device(array, target)
            return array.astype(target) if array.dtype.kind == "f" else array

        for _, parameter in self.named_parameters():
            parameter.data = moved(parameter.data)
            parameter.grad = None if parameter.grad is None else moved(parameter.grad)
        for _, module in self.named_modules():
            for name in vars(module).get("_buffer_names", ()):
                setattr(module, name, moved(getattr(module, name)))
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch to training (batch statistics, dropout active), or with False to evaluation; returns self."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation; returns self."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    # ---- for people

    def describe(self) -> str:
        """What stands in the brackets when the module is printed."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "".join(f"\n  {line}" for line in lines) + ("\n" if lines else "")
        return f"{type(self).__name__}({self.describe()}{inside})"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _members(attributes: Mapping[str, Any], kind: type[T]) -> Iterator[tuple[str, T]]:
    """All values of a kind among attributes, and inside their lists, tuples and dicts, with dotted names."""
    for name, value in attributes.items():
        if isinstance(value, kind):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from _members({f"{name}.{i}": item for i, item in enumerate(value)}, kind)
        elif isinstance(value, dict) and not name.startswith("_"):
            yield from _members({f"{name}.{key}": item for key, item in value.items()}, kind)


def _like(value: Any, array: Array) -> Array:
    return to_device(np.asarray(value).astype(array.dtype), device_of(array))
