"""The engine: tensors that remember how they were made, operations with their rules, and the walk back.

A *tensor* is an array plus, if it came out of an operation, the *node* that made it. A node knows the operation, where
its inputs came from, and the few arrays that the derivative needs. ``backward`` walks from a result over these nodes to
the leaves (the parameters), calling each operation's rule on the way. The mathematics is all in ``ops/``.

    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    x.grad                                            # array([2., 4.], dtype=float32)
"""

from __future__ import annotations

import contextlib
import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

import numpy as np

from minidl import threads
from minidl.backend import Array, array_module, device_of, is_device, library_of, to_device, to_host

__all__ = ["OPS", "Handle", "Op", "Tensor", "grad", "hvp", "no_grad", "op"]

P = ParamSpec("P")
R = TypeVar("R")
Rule: TypeAlias = Callable[..., Any]

_counter = itertools.count()  # the order in which nodes and hooks came into being


class Handle:
    """A registered hook; ``remove()`` takes it away."""

    def __init__(self, hooks: dict[int, Any], hook: Callable[..., Any]) -> None:
        self._hooks, self._key = hooks, next(_counter)
        hooks[self._key] = hook

    def remove(self) -> None:
        """Never call the hook again."""
        self._hooks.pop(self._key, None)


# ---------------------------------------------------------------------------------------------------------- tensors


class Tensor:
    """An array that can be differentiated.

    Args:
        data: an array of NumPy or CuPy (kept as it is, not copied), or a number or list (becomes float32; whole numbers
            int64).
        requires_grad: True for a leaf whose ``.grad`` ``backward()`` shall fill.

    Every operation of ``minidl.ops`` is a method too: ``ops.tanh(x)`` is ``x.tanh()``. Operators, indexing and
    broadcasting mean what they mean in NumPy.

    Raises:
        TypeError: data that is no array of numbers, or a gradient asked for integers.
    """

    __slots__ = ("__weakref__", "_data", "_hooks", "_node", "_wants_grad", "grad")

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self._data: Array = _as_array(data)
        self.grad: Array | None = None
        self._node: Node | None = None
        self._hooks: dict[int, Callable[[Array], Any]] | None = None
        self._wants_grad = False
        if requires_grad:
            self.requires_grad = True

    # ---- what it holds

    @property
    def data(self) -> Array:
        """The array itself. Assigning an array of the same shape replaces it (the dtype may change)."""
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        array = _as_array(array)
        if array.shape != self._data.shape:
            raise ValueError(f"data of shape {array.shape} does not fit a tensor of shape {self._data.shape}")
        if self._wants_grad and array.dtype.kind != "f":
            raise TypeError(f"a tensor that requires a gradient holds floating-point numbers; got {array.dtype}")
        self._data = array

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows here: a leaf that asked for it, or the result of an operation on one."""
        return self._wants_grad or self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._node is not None:
            raise RuntimeError("requires_grad can be set on leaves only; use .detach() to cut a result off its graph")
        if value and self._data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients; this one is {self._data.dtype}")
        self._wants_grad = value

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return self._node is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(self._data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements, float32 unless you chose another."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._data.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self._data.size)

    @property
    def device(self) -> str:
        """ "cpu" or "gpu"."""
        return device_of(self._data)

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return self.transpose()

    # ---- ways out

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as an ordinary C-ordered NumPy array on the host (shares memory with ``data`` where it can)."""
        return np.asarray(to_host(self._data), order="C")

    def item(self) -> Any:
        """The single value as a Python number."""
        return to_host(self._data).item()

    def detach(self) -> Tensor:
        """The same values, cut off the graph."""
        return Tensor(self._data)

    def to(self, target: str) -> Tensor:
        """On another device ("cpu", "gpu") or in another dtype ("float32", "float64"); differentiable."""
        if is_device(target):
            return self if self.device == target else OPS["copy_to"](self, device=target)
        return OPS["astype"](self, dtype=target)

    # ---- gradients

    def backward(self, gradient: Array | None = None) -> None:
        """Fill ``.grad`` of every leaf that this tensor depends on, adding to what is there, and free the graph.

        Args:
            gradient: the derivative with respect to this tensor, same shape; 1 for a single value.

        Raises:
            RuntimeError: no leaf requires a gradient; several values and no ``gradient``; the graph is freed already.
            ValueError: ``gradient`` has another shape.
            TypeError: ``gradient`` has another dtype.
        """
        seed = _seed(self, gradient)
        with threads.undisturbed():  # the matrix library's threads and ours share the cores: see threads.py
            leaves = _walk_back(self, seed, keep_graph=False)
        owned = {id(seed)}  # it may be the caller's own array
        for leaf, g in leaves.items():
            if isinstance(leaf, Tensor):
                if leaf.grad is not None:
                    g = leaf.grad + g
                elif id(g) in owned or g.base is not None:
                    g = g.copy()  # two leaves must never share one array: a change of one in place would change both
                owned.add(id(g))
                leaf.grad = np.asarray(g) if isinstance(g, np.generic) else g  # NumPy's sums of shape () are scalars

    def register_hook(self, hook: Callable[[Array], Any]) -> Handle:
        """Call ``hook(gradient)`` when this tensor's full gradient is known; what it returns replaces the gradient.

        The gradient is an array in ``backward()`` and a Tensor in ``grad(..., create_graph=True)``. Return None to
        leave it as it is. The handle's ``remove()`` takes the hook away again.
        """
        if not self.requires_grad:
            raise RuntimeError("this tensor requires no gradient, so a hook on it would never run")
        owner: Any = self if self._node is None else self._node
        if owner._hooks is None:
            owner._hooks = {}
        return Handle(owner._hooks, hook)

    # ---- Python's side

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=20, edgeitems=2)
        device = "" if self.device == "cpu" else f", device={self.device}"
        wants = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({values}, dtype={self.dtype}{device}{wants})"

    def __len__(self) -> int:
        if not self._data.shape:
            raise TypeError("a tensor of shape () has no length")
        return int(self._data.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous; use a comparison and .all()")
        return bool(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iu":
            raise TypeError(f"only an integer tensor can be an index; this one is {self.dtype}")
        return int(self.item())

    __hash__ = object.__hash__  # tensors are looked up by identity; == compares values

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaves can be copied; .detach() this result first")
        twin = memo[id(self)] = self.__class__.__new__(self.__class__)
        twin._data = self._data.copy()
        twin.grad = None if self.grad is None else self.grad.copy()
        twin._node = twin._hooks = None
        twin._wants_grad = self._wants_grad
        return twin

    # ---- operators: each is the operation of that name in ops/

    def __add__(self, other: Any) -> Tensor:
        return OPS["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return OPS["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return OPS["subtract"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return OPS["subtract"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return OPS["multiply"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return OPS["multiply"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return OPS["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return OPS["divide"](other, self)

    def __pow__(self, other: Any) -> Tensor:
        return OPS["power"](self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return OPS["power"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return OPS["negative"](self)

    def __abs__(self) -> Tensor:
        return OPS["abs"](self)

    def __getitem__(self, index: Any) -> Tensor:
        return OPS["getitem"](self, index=_plain_index(index))

    def __lt__(self, other: Any) -> Tensor:
        return OPS["less"](self, other)

    def __le__(self, other: Any) -> Tensor:
        return OPS["less_equal"](self, other)

    def __gt__(self, other: Any) -> Tensor:
        return OPS["greater"](self, other)

    def __ge__(self, other: Any) -> Tensor:
        return OPS["greater_equal"](self, other)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return OPS["equal"](self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return OPS["not_equal"](self, other)

    if TYPE_CHECKING:  # the methods that @op adds

        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...

    # ---- NumPy's functions know nothing of gradients: they must not take a tensor and silently drop its history

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        operation = OPS.get(ufunc.__name__)  # ndarray + tensor arrives here as np.add(ndarray, tensor)
        if method == "__call__" and len(inputs) == 2 and not options and operation is not None:
            return operation(*inputs)
        raise _not_for_numpy(f"np.{ufunc.__name__}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise _not_for_numpy(f"np.{function.__name__}")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise _not_for_numpy("np.asarray")


def _not_for_numpy(name: str) -> TypeError:
    return TypeError(
        f"{name} was given a minidl Tensor, and would lose its gradient. Use the operation of the same name in "
        "minidl.ops (or the tensor's method), or pass x.numpy() if you want plain values."
    )


def _as_array(data: Any) -> Array:
    """``data`` as an array: arrays as they are, Python numbers and lists as float32 (whole numbers int64)."""
    if isinstance(data, Tensor):
        return data._data
    try:
        library_of(data)
        array = np.asarray(data) if isinstance(data, (int, float, np.generic)) else data
    except TypeError:  # a list, perhaps nested
        array = np.asarray(data)
    if array.dtype.kind == "f" and array is not data and not isinstance(data, np.generic):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds numbers; got {type(data).__name__} that NumPy reads as dtype {array.dtype}")
    return array


def _plain_index(index: Any) -> Any:
    if isinstance(index, Tensor):
        return index._data
    return tuple(_plain_index(i) for i in index) if isinstance(index, tuple) else index


# ------------------------------------------------------------------------------------------------------- operations


class _Mode(threading.local):
    recording = True  # each thread starts with its own True


_mode = _Mode()
OPS: dict[str, Op[..., Any]] = {}  # every operation by name


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside (``with no_grad():`` or ``@no_grad()``); in this thread only."""
    before, _mode.recording = _mode.recording, False
    try:
        yield
    finally:
        _mode.recording = before


class Node:
    """One recorded operation: what the walk back needs, and nothing more. It holds no tensor but leaves, so no cycles.

    ``parents``: per argument the node that made it, the leaf tensor itself, or None if no gradient is wanted there.
    ``inputs``, ``output``: the arrays that the rules use; None in place of the others. ``order`` grows with time.
    """

    __slots__ = ("_hooks", "dtype", "inputs", "op", "order", "output", "parents", "shape", "static")

    def __init__(self, op: Op[..., Any], parents: list[Any], inputs: list[Any], y: Array, static: dict[str, Any]):
        needed = op.needed(parents)
        self.op = op
        self.parents: list[Any] | None = parents
        self.inputs: list[Any] | None = [a if needed >> i & 1 else None for i, a in enumerate(inputs, start=1)]
        self.output: Array | None = y if needed & 1 else None
        self.static = static
        self.shape = y.shape
        self.dtype = y.dtype
        self.order = next(_counter)
        self._hooks: dict[int, Callable[[Array], Any]] | None = None

    def free(self) -> None:
        """Let go of everything; a second walk will find ``parents`` empty and say so."""
        self.parents = self.inputs = self.output = self._hooks = None  # a hook may hold the tensor it hangs on
        self.static = {}


class Op(Generic[P, R]):
    """An operation: a function on arrays with one derivative rule per array argument. Made by ``@op``.

    Positional arguments are arrays, keyword-only arguments are static. Called with arrays it just computes; called with
    at least one Tensor it returns a Tensor and records itself.
    """

    def __init__(self, function: Callable[P, R], differentiable: bool, keeps: bool) -> None:
        self.function = function
        self.name = function.__name__
        self.differentiable = differentiable
        self.keeps = keeps
        self.rules: tuple[Rule | None, ...] = ()
        self.joint_rule: Rule | None = None
        self.examples: list[Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]] = []
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__wrapped__ = function
        parameters = inspect.signature(function).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.arity = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self.static = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        self._names = set(self.static)
        self._uses: tuple[int, ...] = ()
        self._complete = False  # whether every argument has a rule

    # ---- declaring

    def derivative(self, *rules: Rule | None) -> None:
        """Give one rule per array argument: ``rule(g, y, *arrays, **static)`` -> the gradient of that argument.

        ``g`` is the gradient that arrives, ``y`` the operation's result. Rules are written with operators and other
        operations, so they run on arrays and on Tensors alike. A parameter whose name starts with an underscore is not
        needed, and its array is not kept. None marks an argument that has no derivative (labels, masks). A result with
        broadcast axes is summed back by the engine.
        """
        if len(rules) != self.arity:
            raise TypeError(f"{self.name} takes {self.arity} arrays but was given {len(rules)} derivative rules")
        self.rules = rules
        self._uses = tuple(_used_arrays(rule) for rule in rules)
        self._complete = None not in rules

    def joint_derivative(self, rule: Rule) -> None:
        """Give one rule for all: ``rule(g, y, *arrays, needs=(bool, …), **static)`` -> a gradient or None for each."""
        self.joint_rule = rule
        self._uses = (_used_arrays(rule),)
        self._complete = True

    def example(self, make: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        """Declare inputs to test with: ``make(draw)`` returns ``(arrays, static)``; see ``tests/test_ops.py``."""
        self.examples.append(make)

    def needed(self, parents: list[Any]) -> int:
        """A bit mask of what the rules will use: bit 0 the result, bit i the i-th argument."""
        if self.joint_rule is not None:
            return self._uses[0]
        mask = 0
        for parent, uses in zip(parents, self._uses, strict=False):
            if parent is not None:
                mask |= uses
        return mask

    # ---- calling

    def __call__(self, *args: P.args, **static: P.kwargs) -> Any:
        """The result: an array if all arguments are arrays, a Tensor if one of them is."""
        if self.variadic or len(args) > self.arity or not static.keys() <= self._names:
            args, static = self._bind(args, static)  # type: ignore[assignment]
        arrays: list[Any] = []
        parents: list[Any] = []
        tensors = tracked = mixed = False
        first: Any = None
        for a in args:
            parent = None
            if isinstance(a, Tensor):
                tensors = True
                parent = a._node or (a if a._wants_grad else None)
                tracked = tracked or parent is not None
                a = a._data
                first = a if first is None else first
                mixed = mixed or a.dtype is not first.dtype or type(a) is not type(first)
            else:
                mixed = True  # numbers, lists, arrays beside tensors: look closer
            parents.append(parent)
            arrays.append(a)
        precision = None
        if mixed:
            arrays, precision = self._settled(args, arrays, tensors)
        y: Any = self.function(*arrays, **static)
        if self.keeps:
            y, kept = y
        if not tensors:
            return y
        if precision is not None and y.dtype.kind == "f" and y.dtype != precision:
            raise TypeError(
                f"{self.name}: {precision} meets whole numbers, and would become {y.dtype}. "
                f'Write them as x.astype("{precision}").'
            )
        result = Tensor.__new__(Tensor)  # past __init__ and its checks: this runs in every operation
        result._data = y = np.asarray(y) if isinstance(y, np.generic) else y
        result.grad = result._hooks = result._node = None
        result._wants_grad = False
        if tracked and _mode.recording and self.differentiable:
            if not self._complete:
                self._check_rules(parents)
            everything = {**self.defaults, **static} if self.defaults else static
            if self.keeps:
                everything = {**everything, "kept": kept}
            result._node = Node(self, parents, arrays, y, everything)
        return result

    def _settled(self, args: Sequence[Any], arrays: list[Any], tensors: bool) -> tuple[list[Any], Any]:
        """Lists as arrays, NumPy scalars as plain numbers, and the one precision that all arrays must have."""
        if any(isinstance(a, (list, tuple)) for a in arrays):
            arrays = [_as_array(a) if isinstance(a, (list, tuple)) else a for a in arrays]
            arrays = _lists_moved(args, arrays) if tensors else arrays
        if any(isinstance(a, np.generic) for a in arrays):
            arrays = _scalars_resolved(arrays)
        return arrays, _common_precision(self, arrays) if tensors and len(arrays) > 1 else None

    def _bind(self, args: tuple[Any, ...], static: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let static parameters follow positionally, ``x.sum(0)``; let a variadic operation take one list.

        An array given by name, ``linear(x, w, b=bias)``, goes to its place.
        """
        if self.variadic:
            return (tuple(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else args), static
        if not static.keys() <= self._names:
            try:
                bound = inspect.signature(self.function).bind(*args, **static)
            except TypeError as error:
                raise TypeError(f"{self!r}: {error}") from None
            return bound.args, bound.kwargs
        extra = args[self.arity :]
        if len(self.static) == 1 and len(extra) > 1:
            extra = (extra,)  # x.reshape(2, 3) is x.reshape((2, 3))
        if len(extra) > len(self.static):
            raise TypeError(f"{self.name} takes {self.arity} arrays, then {self.static}; got {len(args)} arguments")
        return args[: self.arity], {**dict(zip(self.static, extra, strict=False)), **static}

    def _check_rules(self, parents: list[Any]) -> None:
        """Refuse now what ``backward`` could not differentiate later: there the line that is to blame is far away."""
        for i, parent in enumerate(parents):
            if parent is not None and (i >= len(self.rules) or self.rules[i] is None):
                raise RuntimeError(
                    f"{self.name} has no derivative for argument {i}, which requires a gradient. "
                    f"Give it a rule with {self.name}.derivative(...), or pass x.detach()."
                )

    def __repr__(self) -> str:
        return f"<operation {self.name}{inspect.signature(self.function)}>"


def _used_arrays(rule: Rule | None) -> int:
    """Bit 0: the rule uses the result; bit i: it uses argument i. Unused parameters begin with an underscore."""
    if rule is None:
        return 0
    mask = 0
    positional = [p for p in inspect.signature(rule).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for i, parameter in enumerate(positional[1:]):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return mask if parameter.name.startswith("_") else mask | ~((1 << i) - 1)
        if not parameter.name.startswith("_"):
            mask |= 1 << i
    return mask


def _scalars_resolved(arrays: list[Any]) -> list[Any]:
    """NumPy scalars as what they are meant to be: numbers beside an array, arrays where there is no other.

    Beside an array, np.sqrt(2) must not turn float32 into float64. Alone, a scalar is what NumPy makes of arithmetic
    on arrays without axes, such as the gradient of a loss.
    """
    beside = any(hasattr(a, "shape") and not isinstance(a, np.generic) for a in arrays)
    return [(a.item() if beside else np.asarray(a)) if isinstance(a, np.generic) else a for a in arrays]


def _lists_moved(args: Sequence[Any], arrays: list[Any]) -> list[Any]:
    """The arrays made of lists on the device of the (first) tensor beside them."""
    device = next(a.device for a in args if isinstance(a, Tensor))
    return [to_device(x, device) if isinstance(a, (list, tuple)) else x for a, x in zip(args, arrays, strict=True)]


def _common_precision(operation: Op[..., Any], arrays: list[Any]) -> Any:
    """The dtype of the floating-point arrays, None if there is none.

    Raises:
        TypeError: arrays of two libraries or of two precisions: nothing is copied or widened silently.
    """
    name, first = operation.name, None
    for a in arrays:
        if isinstance(a, (bool, int, float)) or a is None:
            continue
        if first is not None and type(a) is not type(first) and library_of(a) is not library_of(first):
            raise TypeError(
                f"{name}: arrays on {device_of(first)} and {device_of(a)}; move one with .to('{device_of(first)}')"
            )
        if a.dtype.kind == "f":
            if first is not None and a.dtype != first.dtype:
                if any(b is a and rule is None for b, rule in zip(arrays, operation.rules, strict=False)):
                    continue  # labels: the operation itself says what they must be
                raise TypeError(
                    f"{name}: {first.dtype} meets {a.dtype} (shapes {first.shape} and {a.shape}). "
                    'Bring both to one precision, usually x.astype("float32").'
                )
            first = a
    return None if first is None else first.dtype


@overload
def op(function: Callable[P, R], /) -> Op[P, R]: ...
@overload
def op(
    *, differentiable: bool = ..., keeps: bool = ..., method: bool = ...
) -> Callable[[Callable[P, R]], Op[P, R]]: ...
def op(function: Any = None, /, *, differentiable: bool = True, keeps: bool = False, method: bool = True) -> Any:
    """Make an operation of a function on arrays, add it to ``OPS``, and make it a method of Tensor.

    Args:
        differentiable: False for comparisons and the like; their results have no history.
        keeps: the function returns ``(y, kept)``; the rules get ``kept=``. Only for what is locally constant (indices,
            masks): in higher-order derivatives it is not differentiated.
        method: False for operations that would read badly as methods.
    """
    if function is None:
        return lambda f: _made(f, differentiable, keeps, method)
    return _made(function, True, False, True)


def _made(function: Callable[P, R], differentiable: bool, keeps: bool, method: bool) -> Op[P, R]:
    operation = Op(function, differentiable, keeps)
    before = OPS.get(operation.name)
    if before is not None and _home(before.function) != _home(function):
        raise ValueError(f"there is an operation {operation.name!r} already; choose another name")
    OPS[operation.name] = operation
    if method and not hasattr(Tensor, operation.name):

        def as_method(self: Tensor, *args: Any, **static: Any) -> Any:
            return OPS[operation.name](self, *args, **static)

        as_method.__name__, as_method.__doc__ = operation.name, operation.__doc__
        setattr(Tensor, operation.name, as_method)
    return operation


def _home(function: Any) -> tuple[str, str]:
    """Where a function is written: what comes from the same place again is a notebook cell that was run again."""
    return function.__module__, function.__qualname__


# ---------------------------------------------------------------------------------------------------- the walk back


def _seed(y: Tensor, gradient: Array | None) -> Array:
    """What a walk back from ``y`` begins with: its own gradient, checked; 1 for a single value."""
    if not y.requires_grad:
        raise RuntimeError("nothing to differentiate: no tensor that this one depends on has requires_grad=True")
    if gradient is None:
        if y.size != 1:
            raise RuntimeError(
                f"backward() from a tensor of shape {y.shape} needs a gradient of that shape; or .sum() it"
            )
        return array_module(y._data).ones_like(y._data)
    gradient = _as_array(gradient)
    if gradient.shape != y.shape:
        raise ValueError(f"gradient of shape {gradient.shape} for a tensor of shape {y.shape}")
    if gradient.dtype != y.dtype:
        raise TypeError(f'gradient of dtype {gradient.dtype} for a {y.dtype} tensor; use gradient.astype("{y.dtype}")')
    return gradient


def _walk_back(
    y: Tensor, g: Any, keep_graph: bool, as_tensors: bool = False, wanted: set[Any] | None = None
) -> dict[Any, Any]:
    """Gradients of the leaves (or of ``wanted`` nodes and leaves) of a graph.

    A node is made after its inputs, so walking from the latest to the earliest meets each one after everything that
    uses it: a heap ordered by time is all the bookkeeping there is, at any depth and without recursion.
    """
    start: Any = y if y._node is None else y._node
    pending: dict[Any, Any] = {start: g}
    heap: list[tuple[int, Node]] = []
    if isinstance(start, Node):
        heap.append((-start.order, start))
    found: dict[Any, Any] = {}
    while heap:
        node = heapq.heappop(heap)[1]
        g = pending.pop(node)
        if node._hooks:
            g = _after_hooks(node, g)
        if wanted is not None and node in wanted:
            found[node] = g
        for parent, gradient in zip(node.parents or (), _gradients(node, g, as_tensors), strict=True):
            if parent is None:
                continue
            if gradient is None:
                raise RuntimeError(f"the derivative rule of {node.op.name} returned None for a wanted gradient")
            if gradient.shape != parent.shape:  # the forward broadcast this argument
                gradient = OPS["sum_to"](gradient, shape=parent.shape)
            if gradient.dtype != parent.dtype:
                raise TypeError(
                    f"the derivative rule of {node.op.name} returned {gradient.dtype} for a {parent.dtype} argument; "
                    "beside an array write Python numbers, 2 ** 0.5 and not np.sqrt(2)"
                )
            if parent in pending:
                pending[parent] = pending[parent] + gradient
            else:
                pending[parent] = gradient
                if isinstance(parent, Node):
                    heapq.heappush(heap, (-parent.order, parent))
        if not keep_graph:
            node.free()
    for leaf, g in pending.items():
        found[leaf] = _after_hooks(leaf, g) if leaf._hooks else g
    return found


def _gradients(node: Node, g: Any, as_tensors: bool) -> list[Any]:
    """The gradient of every argument of a node, None where none is wanted. Arrays in, arrays out; so Tensors."""
    op, parents, inputs, output = node.op, node.parents, node.inputs, node.output
    if parents is None or inputs is None:
        raise RuntimeError(
            f"the graph behind {op.name} was freed by an earlier backward(). Compute the result again, "
            "or use minidl.grad(..., create_graph=True), which keeps it."
        )
    if as_tensors:
        inputs = [_restored(a, parent) for a, parent in zip(inputs, parents, strict=True)]
        output = _restored(output, node)
    if op.joint_rule is not None:
        needs = tuple([parent is not None for parent in parents])
        return list(op.joint_rule(g, output, *inputs, needs=needs, **node.static))
    return [
        None if parent is None or rule is None else rule(g, output, *inputs, **node.static)
        for rule, parent in zip(op.rules, parents, strict=False)
    ]


def _restored(array: Any, source: Any) -> Any:
    """The Tensor that ``array`` was: the leaf, or a result with its history; constants stay arrays."""
    if array is None or source is None:
        return array
    if isinstance(source, Tensor):
        if source._data is not array:
            raise RuntimeError("a leaf's data was replaced between forward and grad(..., create_graph=True)")
        return source
    tensor = Tensor(array)
    tensor._node = source
    return tensor


def _after_hooks(owner: Any, g: Any) -> Any:
    """``g``, or what the hooks of a node or leaf make of it."""
    for hook in list(owner._hooks.values()) if owner._hooks else ():
        replaced = hook(g)
        if replaced is not None:
            if replaced.shape != g.shape:
                raise ValueError(f"a hook changed a gradient's shape from {g.shape} to {replaced.shape}")
            g = replaced
    return g


def grad(y: Tensor, xs: Tensor | Sequence[Tensor], create_graph: bool = False) -> Any:
    """The gradient of a single value ``y`` with respect to ``xs``, without touching any ``.grad``.

    Args:
        y: a tensor with one element.
        xs: a tensor, or a list of tensors; leaves or intermediate results.
        create_graph: True records the walk itself, so that the result can be differentiated again, and keeps the graph.

    Returns:
        Tensors shaped like ``xs`` (one for one tensor, else a list).

    Raises:
        RuntimeError: ``y`` does not depend on one of ``xs``: a missing gradient is never silently zero.
    """
    many = not isinstance(xs, Tensor)
    targets: list[Any] = [x if x._node is None else x._node for x in ([xs] if isinstance(xs, Tensor) else xs)]
    seed: Any = _seed(y, None)
    found = _walk_back(y, Tensor(seed) if create_graph else seed, create_graph, create_graph, set(targets))
    for i, target in enumerate(targets):
        if target not in found:
            raise RuntimeError(f"the result does not depend on tensor {i} of xs (shape {target.shape})")
    grads = [found[t] if create_graph else Tensor(found[t]) for t in targets]
    return grads if many else grads[0]


def hvp(f: Callable[[], Tensor], params: Sequence[Tensor], v: Sequence[Array]) -> list[Array]:
    """Hessian times vector, H v, by differentiating the product of the gradient with ``v``: exact, two walks back.

    Args:
        f: computes the scalar loss from ``params``.
        params: the leaves.
        v: one array per parameter, of its shape.

    Returns:
        One array per parameter. Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    grads = grad(f(), list(params), create_graph=True)
    products = [(g * vector).sum() for g, vector in zip(grads, v, strict=True)]
    total = sum(products[1:], products[0])
    if not total.requires_grad:  # the gradient is constant: a linear function
        return [array_module(p.data).zeros_like(p.data) for p in params]
    found = _walk_back(total, _seed(total, None), keep_graph=False)
    return [found[p] if p in found else array_module(p.data).zeros_like(p.data) for p in params]
