"""The namespace: what ``array_module(x)`` gives for an array of the strict library. Only what CuPy has is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from strict.array import SCALARS, StrictArray, computed, from_host, unwrap, view_of, wrap
from strict.counters import count
from strict.names import NAMES, UFUNC_KEYWORDS, VERSION, check_call, missing
from strict.random import RANDOM


def _strict(x: Any, what: str) -> np.ndarray:
    if type(x) is not StrictArray:
        raise TypeError(f"{what}: Unsupported type {type(x)}")
    return x._host


# ------------------------------------------------------------------------------------------------------------- ufuncs

# The ufuncs with an atomic kernel, and the types of CUDA's atomics: cupyx.scatter_add and its error text
_ATOMIC = {"add", "subtract", "maximum", "minimum"}
_ATOMIC_TYPES = {np.dtype(t) for t in ("float16", "float32", "float64", "int32", "uint32", "uint64")}


class Ufunc:
    """An elementwise function: arrays of the library and scalars in, an array out, whatever comes in."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name
        self.function = getattr(np, name)
        self.nin = self.function.nin

    def __call__(self, *args: Any, **options: Any) -> Any:
        check_call("cupy", self.name, args, options)
        unknown = options.keys() - set(UFUNC_KEYWORDS)
        if unknown:
            raise TypeError(f"cupy.{self.name} takes {UFUNC_KEYWORDS}; got {sorted(unknown)}")
        out = options.pop("out", args[self.nin] if len(args) > self.nin else None)
        operands = args[: self.nin]
        if out is None:
            result = computed(self.function, *operands, **options)
            return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)
        computed(self.function, *operands, out=_strict(out, f"cupy.{self.name}(out=)"), **options)
        return out

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        """In place, each named place as often as it is named."""
        check_call("ufunc", "at", (self, a, indices, b), {})
        target = _strict(a, f"cupy.{self.name}.at")
        if self.name not in _ATOMIC:
            raise NotImplementedError(f"cupy.{self.name}.at")
        parts, advanced = _parts(a, indices)
        if advanced and target.dtype not in _ATOMIC_TYPES:
            raise TypeError(f"scatter_{self.name} only supports {sorted(map(str, _ATOMIC_TYPES))}; got {target.dtype}")
        values = b if isinstance(b, np.ndarray) else unwrap(b)
        if isinstance(b, np.ndarray):  # only beside index arrays, and by a copy
            values = from_host(b, target.dtype)._host if advanced else unwrap(b)
        self.function.at(target, parts, values)

    def outer(self, a: Any, b: Any, **options: Any) -> StrictArray:
        """All pairs."""
        check_call("ufunc", "outer", (self, a, b), options)
        return wrap(self.function.outer(unwrap(a), unwrap(b), **options))

    def __getattr__(self, name: str) -> Any:
        raise missing("ufunc", name)

    def __repr__(self) -> str:
        return f"<strict ufunc {self.name}>"


def _parts(a: StrictArray, indices: Any) -> tuple[tuple[Any, ...], bool]:
    from strict.array import _index

    return _index(a, indices)


# ---------------------------------------------------------------------------------------------------------- functions

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def _function(run: Callable[..., Any]) -> Callable[..., Any]:
    FUNCTIONS[run.__name__.strip("_")] = run
    return run


def _by_method(name: str) -> None:
    """``xp.sum(x, ...)`` is ``x.sum(...)``."""

    def run(a: Any, *args: Any, **options: Any) -> Any:
        _strict(a, f"cupy.{name}")
        return getattr(a, name)(*args, **options)

    FUNCTIONS[name] = run


def _by_numpy(name: str, shares: bool = False, waits: bool = False) -> None:
    """NumPy's function on the wrapped arrays; ``shares``: a view; ``waits``: the shape depends on data."""

    def run(*args: Any, **options: Any) -> Any:
        if waits:
            count("syncs", f"cupy.{name}")
        function = getattr(np, name)
        with np.errstate(all="ignore"):
            result = function(*(_arguments(a) for a in args), **{k: _arguments(v) for k, v in options.items()})
        if isinstance(result, (tuple, list)):
            return type(result)(view_of(args[0], r) if shares else wrap(r) for r in result)
        return view_of(args[0], result) if shares else wrap(result)

    FUNCTIONS[name] = run


def _arguments(x: Any) -> Any:
    """Arrays of ours, also in lists; host arrays are refused; settings stay."""
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (tuple, list)):
        return type(x)(_arguments(item) for item in x)
    return x._host if type(x) is StrictArray else x


for _name in "sum mean var std prod max min argmax argmin all any round cumsum cumprod argsort repeat trace".split():
    _by_method(_name)
for _name in "reshape swapaxes squeeze ravel diagonal take nonzero".split():
    _by_method(_name)
for _name in "moveaxis transpose expand_dims flip rollaxis broadcast_to split array_split atleast_1d".split():
    _by_numpy(_name, shares=True)
for _name in "roll tile tril triu sort dot vdot inner outer tensordot kron count_nonzero isclose allclose".split():
    _by_numpy(_name)
for _name in "array_equal average ptp diag matmul nan_to_num logical_and linspace eye identity tri".split():
    _by_numpy(_name)
for _name in "flatnonzero argwhere unique".split():
    _by_numpy(_name, waits=True)
FUNCTIONS["amax"], FUNCTIONS["amin"] = FUNCTIONS["max"], FUNCTIONS["min"]


@_function
def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> StrictArray:
    _strict(a, "cupy.clip")
    low, high = (None if limit is None else unwrap(limit) for limit in (a_min, a_max))
    if low is None and high is None:
        raise ValueError("array_clip: must set either max or min")
    if out is not None:
        np.clip(a._host, low, high, out=_strict(out, "cupy.clip(out=)"))
        return out  # type: ignore[no-any-return]
    return wrap(np.clip(a._host, low, high))


@_function
def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    _strict(condition, "cupy.where")
    if x is None and y is None:
        return condition.nonzero()
    return wrap(computed(np.where, condition, x, y))


@_function
def copyto(dst: Any, src: Any, casting: Any = "same_kind", where: Any = None) -> None:
    if isinstance(src, np.ndarray) and src.size != 1:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    source = src.squeeze()[()] if isinstance(src, np.ndarray) else unwrap(src)
    mask = True if where is None else _strict(where, "cupy.copyto(where=)")
    np.copyto(_strict(dst, "cupy.copyto"), source, casting=casting, where=mask)


def _joined(name: str) -> None:
    def run(tup: Any, axis: int = 0, out: Any = None, **options: Any) -> StrictArray:
        if any(type(x) is not StrictArray for x in tup):
            raise TypeError("Only cupy arrays can be concatenated")
        return wrap(getattr(np, name)([x._host for x in tup], axis=axis, **options))

    FUNCTIONS[name] = run


_joined("concatenate")
_joined("stack")


@_function
def einsum(subscripts: str, *operands: Any, **options: Any) -> StrictArray:
    hosts = [x._host if type(x) is StrictArray else from_host(x)._host for x in operands]  # CuPy: asarray, silently
    return wrap(np.einsum(subscripts, *hosts, **options))


@_function
def take_along_axis(a: Any, indices: Any, axis: Any) -> StrictArray:
    i = _strict(indices, "cupy.take_along_axis")
    if i.dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    return wrap(np.take_along_axis(_strict(a, "cupy.take_along_axis"), i % a.shape[axis], axis))


@_function
def pad(array: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> StrictArray:
    for setting in (pad_width, *options.values()):
        if type(setting) is StrictArray:
            raise TypeError("cupy.pad: widths and values are host settings, not arrays on the device")
    return wrap(np.pad(_strict(array, "cupy.pad"), pad_width, mode, **options))


# ------------------------------------------------------------------------------------------------------------ creation


def _unset(host: np.ndarray) -> np.ndarray:
    """Memory that nobody has written to: made to show if somebody reads it."""
    host[...] = np.nan if host.dtype.kind in "fc" else True if host.dtype.kind == "b" else np.iinfo(host.dtype).max
    return host


@_function
def empty(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    return wrap(_unset(np.empty(shape, dtype)))


@_function
def zeros(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    return wrap(np.zeros(shape, dtype))


@_function
def ones(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    return wrap(np.ones(shape, dtype))


@_function
def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> StrictArray:
    if dtype is None:
        dtype = fill_value.dtype if type(fill_value) is StrictArray else np.array(fill_value).dtype
    result = wrap(np.empty(shape, dtype))
    copyto(result, fill_value, casting="unsafe")
    return result


def _like(name: str) -> None:
    def run(a: Any, *args: Any, **options: Any) -> StrictArray:
        made = getattr(np, name)(_strict(a, f"cupy.{name}"), *(_arguments(x) for x in args), **options)
        return wrap(_unset(made) if name == "empty_like" else made)

    FUNCTIONS[name] = run


for _name in ("zeros_like", "ones_like", "empty_like", "full_like"):
    _like(_name)


@_function
def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> StrictArray:
    for limit in (start, stop, step):
        if limit is not None:
            _host_number(limit, "cupy.arange")
    return wrap(np.arange(start, step=step, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype))


def _host_number(x: Any, what: str) -> None:
    if type(x) not in SCALARS and not isinstance(x, np.generic):
        raise TypeError(f"{what} takes numbers; got {type(x)}")


@_function
def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False
) -> StrictArray:
    if type(a) is not StrictArray:
        return from_host(a, dtype)
    return a.astype(a.dtype if dtype is None else dtype, copy=bool(copy))


@_function
def array(a: Any, dtype: Any = None, copy: Any = True, **options: Any) -> StrictArray:
    return asarray(a, dtype, copy=copy)


@_function
def ascontiguousarray(a: Any, dtype: Any = None) -> StrictArray:
    x = asarray(a, dtype)
    return x if x._host.flags.c_contiguous else x.copy()


@_function
def copy(a: Any, order: str = "K") -> StrictArray:
    _strict(a, "cupy.copy")
    return a.copy()  # type: ignore[no-any-return]


@_function
def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get() if type(a) is StrictArray else np.asarray(a)


# ------------------------------------------------------------------------------------------------------ the namespaces

_HOST_ONLY = "dtype finfo iinfo result_type promote_types can_cast inf nan pi e newaxis ndim shape size".split()


class Namespace:
    """``cupy.<name>`` for the names that CuPy has and the strict library models."""

    def __init__(self, title: str, functions: dict[str, Any]) -> None:
        self.__name__ = title
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        title = self.__dict__["__name__"]
        kind = NAMES[title].get(name)
        if kind is None:
            raise missing(title, name)
        made = self._make(title, name, kind)
        setattr(self, name, made)
        return made

    def _make(self, title: str, name: str, kind: str) -> Any:
        if kind.startswith("ufunc") and hasattr(np, name):
            return Ufunc(name)
        is_scalar_type = kind == "class" and issubclass(getattr(np, name, int), np.generic)
        if title == "cupy" and (name in _HOST_ONLY or is_scalar_type):
            return getattr(np, name)
        run = self._functions.get(name)
        if run is None:
            raise missing(title, name)
        return run if isinstance(run, (type, Namespace)) else _checked(title, name, run)

    def __repr__(self) -> str:
        return f"<strict {self.__name__} {VERSION}>"


def _checked(title: str, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        check_call(title, name, args, options)
        return run(*args, **options)

    call.__name__ = name
    return call


def _linalg(name: str) -> Callable[..., Any]:
    def run(a: Any, *args: Any, **options: Any) -> Any:
        result = getattr(np.linalg, name)(_strict(a, f"cupy.linalg.{name}"), *map(_arguments, args), **options)
        return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)

    return run


_PARTS = {
    "linalg": Namespace("cupy.linalg", {name: _linalg(name) for name in "norm qr svd inv solve det eigh".split()}),
    "random": Namespace("cupy.random", RANDOM),
    "ndarray": StrictArray,
}
xp = Namespace("cupy", FUNCTIONS | _PARTS)
