"""The array type. It wraps a NumPy array, and behaves as ``cupy.ndarray`` does wherever the two libraries differ."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from strict.counters import count, count_array
from strict.names import check_call, missing

SCALARS = (bool, int, float, complex)  # weak in NEP 50; NumPy's own scalars are strong


def unwrap(x: Any) -> Any:
    """The NumPy side of an operand: an array of ours, or a scalar. Nothing else enters a computation.

    Raises:
        TypeError: a host array or a list, in CuPy's words.
    """
    if type(x) is StrictArray:
        return x._host
    if type(x) in SCALARS or isinstance(x, np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def wrap(host: Any) -> StrictArray:
    """A new array in memory of its own, C-ordered: CuPy does not carry an order over from the operands."""
    host = np.array(host, order="C", copy=None)
    return StrictArray._of(host if host.base is None and host.flags.writeable else host.copy())


def view_of(owner: StrictArray, host: np.ndarray) -> StrictArray:
    """An array that shares ``owner``'s memory, or a new one where NumPy had to copy."""
    result = StrictArray._of(host)
    if np.may_share_memory(host, owner._host):
        result._base = owner if owner._base is None else owner._base
    return result


def computed(function: Callable[..., Any], *operands: Any, **options: Any) -> Any:
    """NumPy's ``function`` on the unwrapped operands. As a kernel it warns of nothing; a widening is counted."""
    hosts = [unwrap(x) for x in operands]
    with np.errstate(all="ignore"):
        result = function(*hosts, **options)
    dtypes = [x.dtype for x in operands if type(x) is StrictArray]
    made = result[0] if isinstance(result, tuple) else result
    dtype = np.result_type(*hosts) if "out" in options else made.dtype  # in place it is computed in float64, then cast
    if dtype == np.float64 and dtypes and np.float64 not in dtypes and any(d.kind in "fb" for d in dtypes):
        count("widened", f"{function.__name__} of {', '.join(map(str, dtypes))} gives float64")
    return result


def from_host(x: Any, dtype: Any = None) -> StrictArray:
    """A copy on the device. A single number travels as a kernel argument: no copy is counted."""
    host = np.array(x, dtype=dtype)
    if host.dtype.char not in "?bhilqBHILQefdFD":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    if host.ndim:
        count("to_device", "a copy of a host array")
    return wrap(host)


class StrictArray:
    """An array "on the device"."""

    __slots__ = ("__weakref__", "_base", "_host")

    _host: np.ndarray
    _base: StrictArray | None

    def __init__(self) -> None:
        raise TypeError("make arrays with the functions of the strict library, as with CuPy's")

    @classmethod
    def _of(cls, host: np.ndarray) -> StrictArray:
        self = cls.__new__(cls)
        self._host, self._base = host, None
        count_array()
        return self

    # ---- NumPy must not see inside

    __array_priority__ = 100
    __array_ufunc__ = None  # np.tanh(x) raises; CuPy dispatches it, but `np.` on an array is a slip in minidl
    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise TypeError(f"np.{function.__name__} was given an array of the strict library; use array_module(x)")

    def __getattr__(self, name: str) -> NoReturn:
        raise missing("ndarray", name)

    # ---- what is known without asking the device

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def ndim(self) -> int:
        return self._host.ndim

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def itemsize(self) -> int:
        return self._host.itemsize

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def base(self) -> StrictArray | None:
        return self._base

    @property
    def flags(self) -> Flags:
        return Flags(self)

    @property
    def device(self) -> str:
        return "<strict device 0>"

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[StrictArray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- ways to the host: each waits for the device

    def _fetch(self, what: str) -> np.ndarray:
        count("syncs", what)
        count("to_host", what)
        return self._host.copy(order="C")

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """The values as a NumPy array."""
        return self._fetch("get()")

    def item(self) -> Any:
        """The single value as a Python number."""
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._fetch("item()").item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return self._fetch("tolist()").tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """The values as bytes."""
        return self._fetch("tobytes()").tobytes(order)  # type: ignore[arg-type]

    def __float__(self) -> float:
        return float(self._fetch("float()"))

    def __int__(self) -> int:
        return int(self._fetch("int()"))

    def __complex__(self) -> complex:
        return complex(self._fetch("complex()"))

    def __bool__(self) -> bool:
        if self.size == 0:
            warnings.warn("The truth value of an empty array is ambiguous.", DeprecationWarning, stacklevel=2)
            return False
        if self.size > 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous.")
        return bool(self._fetch("bool()"))

    def __repr__(self) -> str:
        return repr(self._fetch("repr()"))

    def __str__(self) -> str:
        return str(self._fetch("str()"))

    def __format__(self, specification: str) -> str:
        return format(self._fetch("format()"), specification)

    def __reduce__(self) -> Any:
        return from_host, (self._fetch("pickling"),)

    # ---- copies and views

    def copy(self, order: str = "C") -> StrictArray:
        """A copy on the device."""
        check_call("ndarray", "copy", (self,), {})
        return StrictArray._of(self._host.copy(order=order))  # type: ignore[arg-type]

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> StrictArray:
        return self.copy()

    def astype(self, dtype: Any, **options: Any) -> StrictArray:
        """The elements in another type."""
        check_call("ndarray", "astype", (self, dtype), options)
        for name in ("casting", "subok"):
            if options.get(name) is not None:
                raise TypeError(f"{name} is not supported yet")
        if options.get("copy", True) is False and np.dtype(dtype) == self.dtype:
            return self
        return StrictArray._of(np.array(_cast(self._host, np.dtype(dtype)), order=options.get("order", "K")))

    def fill(self, value: Any) -> None:
        """Set every element."""
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if type(value) is StrictArray:
            count("syncs", "fill() with a device array")  # `value == 0` is asked on the host
        self._host.fill(value.item() if isinstance(value, np.ndarray) else unwrap(value))

    @property
    def T(self) -> StrictArray:
        return self if self.ndim < 2 else view_of(self, self._host.T)

    @property
    def mT(self) -> StrictArray:
        return view_of(self, self._host.mT)

    @property
    def real(self) -> StrictArray:
        return view_of(self, self._host.real)

    # ---- indexing

    def __getitem__(self, index: Any) -> StrictArray:
        parts, advanced = _index(self, index)
        if not advanced:
            parts = parts if Ellipsis in parts else (*parts, Ellipsis)  # with it, NumPy gives no scalar but a view
            return view_of(self, self._host[parts])
        return wrap(np.array(self._host[parts]))

    def __setitem__(self, index: Any, value: Any) -> None:
        parts, advanced = _index(self, index)
        if not advanced and isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if not advanced or type(value) is StrictArray or type(value) in SCALARS:
            host = value.item() if isinstance(value, np.ndarray) else unwrap(value)
        else:
            host = from_host(value, self.dtype)._host  # advanced indices take host values, by a copy
        if advanced:
            _store_first(self._host, parts, host)
        else:
            self._host[parts] = host


class Flags:
    """Memory layout; three flags and no more."""

    def __init__(self, x: StrictArray) -> None:
        self.c_contiguous = x._host.flags.c_contiguous
        self.f_contiguous = x._host.flags.f_contiguous
        self.owndata = x._base is None

    def __getitem__(self, name: str) -> bool:
        return bool(getattr(self, name.lower()))


def _index(x: StrictArray, index: Any) -> tuple[tuple[Any, ...], bool]:
    """An index as NumPy arrays, wrapped around the ends as CuPy does, and whether it holds arrays."""
    parts = [_part(i) for i in (index if isinstance(index, tuple) else (index,))]
    arrays = [i for i in parts if isinstance(i, np.ndarray)]
    masks = [i for i in arrays if i.dtype.kind == "b"]
    if len(masks) > 1:
        raise NotImplementedError("CuPy does not support an index of more than one boolean array")
    if masks and masks[0].size:
        count("syncs", "indexing by a boolean array")  # the number of hits decides a shape
    return tuple(_wrapped(parts, x.shape)), bool(arrays)


def _part(i: Any) -> Any:
    if type(i) is StrictArray:
        return i._host
    if i is None or i is Ellipsis or isinstance(i, slice):
        return i
    if np.isscalar(i) and not isinstance(i, (bool, np.bool_)):
        return i
    host = from_host(i)._host  # a list or a host array: CuPy copies it, silently
    return host.astype(np.int32) if isinstance(i, list) and not host.size else host


def _wrapped(parts: list[Any], shape: tuple[int, ...]) -> Iterator[Any]:
    taken = [i.ndim if isinstance(i, np.ndarray) and i.dtype.kind == "b" else 1 for i in parts]
    named = sum(n for i, n in zip(parts, taken, strict=True) if i is not None and i is not Ellipsis)
    axis = 0
    for i, n in zip(parts, taken, strict=True):
        if i is Ellipsis:
            axis += len(shape) - named
        elif i is not None:
            inside = isinstance(i, np.ndarray) and i.dtype.kind in "iu" and axis < len(shape) and shape[axis] > 0
            i = i % shape[axis] if inside else i
            axis += n
        yield i


def _store_first(host: np.ndarray, parts: tuple[Any, ...], value: Any) -> None:
    """Assign, but of several values for one place keep the first: CuPy's choice is undefined, NumPy's is the last."""
    places = np.arange(host.size).reshape(host.shape)[parts]
    values = np.broadcast_to(np.asarray(value, dtype=host.dtype), places.shape)
    host[np.unravel_index(places.ravel()[::-1], host.shape)] = values.ravel()[::-1]


def _cast(host: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As on a GPU: a float outside the range of a whole-number type becomes the nearest, NaN becomes 0."""
    with np.errstate(all="ignore"):
        result = host.astype(dtype)
        if host.dtype.kind != "f" or dtype.kind not in "iu":
            return result
        limits = np.iinfo(dtype)
        result = np.where(np.isnan(host), dtype.type(0), result)
        result = np.where(host >= float(limits.max), dtype.type(limits.max), result)
        return np.where(host <= float(limits.min), dtype.type(limits.min), result)


# ---------------------------------------------------------------------------------------------------------- operators


def _operand(other: Any, comparison: bool = False) -> Any:
    """The other side of an operator as it is; NotImplemented for what may know how to add us (a Tensor)."""
    if comparison and isinstance(other, np.ndarray) and other.ndim == 0:
        return other.item()
    if isinstance(other, np.ndarray):
        raise TypeError(f"Unsupported type {type(other)}")
    known = type(other) is StrictArray or type(other) in SCALARS or isinstance(other, np.generic)
    return other if known else NotImplemented


def _binary(ufunc: Any, comparison: bool = False) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    def forward(self: StrictArray, other: Any) -> Any:
        b = _operand(other, comparison)
        return b if b is NotImplemented else wrap(computed(ufunc, self, b))

    def reflected(self: StrictArray, other: Any) -> Any:
        a = _operand(other, comparison)
        return a if a is NotImplemented else wrap(computed(ufunc, a, self))

    def in_place(self: StrictArray, other: Any) -> StrictArray:
        b = _operand(other)
        if b is NotImplemented:
            raise TypeError(f"Unsupported type {type(other)}")
        computed(ufunc, self, b, out=self._host)
        return self

    return forward, reflected, in_place


_OPERATORS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "matmul": np.matmul,
}
for _name, _ufunc in _OPERATORS.items():
    _forward, _reflected, _in_place = _binary(_ufunc)
    setattr(StrictArray, f"__{_name}__", _forward)
    setattr(StrictArray, f"__r{_name}__", _reflected)
    if _name != "matmul":  # cupy.ndarray has no __imatmul__: `a @= b` makes a new array
        setattr(StrictArray, f"__i{_name}__", _in_place)
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    _compare = {"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "gt": np.greater}
    setattr(StrictArray, f"__{_name}__", _binary(_compare.get(_name, np.greater_equal), comparison=True)[0])
for _name, _unary in {"neg": operator.neg, "pos": operator.pos, "abs": operator.abs, "invert": operator.inv}.items():
    setattr(StrictArray, f"__{_name}__", lambda self, f=_unary: wrap(computed(f, self)))


# ------------------------------------------------------------------------------------------------------------ methods


def _plain(x: Any) -> Any:
    """Arguments of a method: arrays of ours become NumPy's, host arrays are refused, the rest stays."""
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x._host if type(x) is StrictArray else x


def _method(name: str, shares: bool = False) -> Callable[..., Any]:
    """NumPy's method behind CuPy's parameters; the result is always an array, 0-d where NumPy gives a scalar."""

    def call(self: StrictArray, *args: Any, **options: Any) -> StrictArray:
        check_call("ndarray", name, (self, *args), options)
        out = options.get("out")
        plain = {key: _plain(value) for key, value in options.items()}
        with np.errstate(all="ignore"):
            host = getattr(self._host, name)(*(_plain(a) for a in args), **plain)
        if out is not None:
            return out  # type: ignore[no-any-return]
        return view_of(self, host) if shares else wrap(host)

    call.__name__ = name
    return call


for _name in (
    *("sum", "mean", "prod", "max", "min", "argmax", "argmin", "all", "any", "clip", "round"),
    *("cumsum", "cumprod", "dot", "flatten", "argsort", "repeat", "conj", "trace"),
):
    setattr(StrictArray, _name, _method(_name))
for _name in ("reshape", "transpose", "swapaxes", "squeeze", "ravel", "view", "diagonal"):
    setattr(StrictArray, _name, _method(_name, shares=True))


def _var(
    self: StrictArray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False
) -> StrictArray:
    """``dtype`` is the type of the sum; mean, differences and squares are in the array's own."""
    check_call("ndarray", "var", (self,), {})
    host = self._host if self.dtype.kind == "f" else self._host.astype("float64")
    with np.errstate(all="ignore"):
        centred = host - host.mean(axis=axis, keepdims=True)
        n = centred.size // max(1, centred.sum(axis=axis).size)
        total = np.square(centred).sum(axis=axis, dtype=host.dtype if dtype is None else dtype, keepdims=keepdims)
        result = wrap(total / max(n - ddof, 0))
    if out is None:
        return result
    out[...] = result
    return out  # type: ignore[no-any-return]


def _std(
    self: StrictArray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False
) -> StrictArray:
    check_call("ndarray", "std", (self,), {})
    return _var(self, axis, dtype, out, ddof, keepdims) ** 0.5


def _take(self: StrictArray, indices: Any, axis: int | None = None, out: Any = None) -> StrictArray:
    check_call("ndarray", "take", (self, indices), {} if axis is None else {"axis": axis})
    return wrap(self._host.take(_part(indices), axis=axis, mode="wrap"))


def _nonzero(self: StrictArray) -> tuple[StrictArray, ...]:
    check_call("ndarray", "nonzero", (self,), {})
    count("syncs", "nonzero()")
    return tuple(wrap(i) for i in self._host.nonzero())


StrictArray.var, StrictArray.std = _var, _std  # type: ignore[attr-defined]
StrictArray.take = _take  # type: ignore[attr-defined]
StrictArray.nonzero = _nonzero  # type: ignore[attr-defined]
