"""The initializer protocol, and the one place where every scheme is known by name.

An initializer is any callable ``(shape, *, fan_in, fan_out, rng, dtype) -> array``. A *scheme* is a function that makes
one, ``he_normal(mode="fan_out")``. Adding a scheme takes one function with ``@register()``; its file is its family.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, NamedTuple, ParamSpec, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minidl.text import unknown

__all__ = ["Initializer", "InitializerLike", "Request", "get", "names", "register"]

P = ParamSpec("P")


class Request(NamedTuple):
    """What an initializer is asked for, already checked."""

    shape: tuple[int, ...]
    fan_in: float  #: nan if the layer has none and the scheme needs none
    fan_out: float
    rng: np.random.Generator
    dtype: np.dtype[Any]  #: float32 or float64: the precision to draw in (a float16 result is rounded at the end)
    groups: int = 1  #: independent parts of a grouped convolution's weight, along its first axis


class InitializerLike(Protocol):
    """The protocol: whatever can be called like this is an initializer."""

    def __call__(
        self,
        shape: tuple[int, ...],
        *,
        fan_in: float | None,
        fan_out: float | None,
        rng: np.random.Generator,
        dtype: DTypeLike = ...,
    ) -> NDArray[Any]:
        """An array of ``shape`` and ``dtype``, on the host."""
        ...


@dataclass(frozen=True, eq=False)
class Initializer:
    """An initializer of minidl: it checks its arguments, draws, and says what it is.

    Args:
        law: the distribution in signs, such as "W ~ N(0, 1/fan_in)".
        draw: makes the array a ``Request`` asks for.
        needs_fans: whether ``draw`` reads the fans; if so they must be positive numbers.
        name: name of the scheme, filled in by ``register``.
        params: parameters of the scheme, filled in by ``register``.
        changed: those of ``params`` that differ from the scheme's defaults, filled in by ``register``.
    """

    law: str
    draw: Callable[[Request], NDArray[Any]]
    needs_fans: bool = False
    name: str = "initializer"
    params: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        shape: tuple[int, ...],
        *,
        fan_in: float | None,
        fan_out: float | None,
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
        groups: int = 1,
    ) -> NDArray[Any]:
        """Draw an array.

        Args:
            shape: its shape.
            fan_in: terms in the sum that makes one output of the layer (``init.fans``); None if the layer has no fans.
            fan_out: outputs that one input goes into.
            rng: where the random numbers come from.
            dtype: float16, float32 or float64.
            groups: of a grouped convolution; schemes that see the weight as a matrix make one for every group. The
                shape does not tell it, nor do the fans of a transposed convolution.

        Returns:
            A C-contiguous NumPy array of that shape and dtype, on the host.

        Raises:
            TypeError: ``rng`` is no Generator, or ``dtype`` is not one of the three.
            ValueError: ``shape`` is not a tuple of sizes, a fan that is needed is not a positive number, or ``groups``
                do not divide the first axis.
        """
        sizes = _shape(shape, self)
        request = Request(
            sizes,
            _fan("fan_in", fan_in, self),
            _fan("fan_out", fan_out, self),
            _generator(rng, self),
            np.promote_types(_dtype(dtype, self), np.float32),  # NumPy draws no float16
            _groups(groups, sizes, self),
        )
        return np.asarray(self.draw(request), dtype=dtype, order="C")

    def __repr__(self) -> str:
        return f"{_call(self.name, self.params)}: {self.law}"

    def __str__(self) -> str:
        return _call(self.name, self.changed) if self.changed else self.name

    def __reduce__(self) -> tuple[Callable[[], InitializerLike], tuple[()]]:
        # pickled by name, because the function inside cannot be: so a process pool can be handed an initializer
        return functools.partial(get, self.name, **self.params), ()


class Scheme(NamedTuple):
    """One line of the registry."""

    name: str
    family: str  #: the file that defines it: "constant", "scaling", ...
    aliases: tuple[str, ...]
    factory: Callable[..., Initializer]


_SCHEMES: dict[str, Scheme] = {}
_ALIASES: dict[str, str] = {}


def register(*, aliases: tuple[str, ...] = ()) -> Callable[[Callable[P, Initializer]], Callable[P, Initializer]]:
    """Decorator: make a scheme known under the name of its function. Its initializers learn their name and parameters.

    Args:
        aliases: other names ``get`` shall understand.

    Raises:
        ValueError: a name is taken.
    """

    def decorate(factory: Callable[P, Initializer]) -> Callable[P, Initializer]:
        signature = inspect.signature(factory)
        defaults = {key: parameter.default for key, parameter in signature.parameters.items()}

        @functools.wraps(factory)
        def make(*args: P.args, **kwargs: P.kwargs) -> Initializer:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            # a parameter may be an array
            changed = {key: value for key, value in bound.arguments.items() if not np.array_equal(value, defaults[key])}
            return replace(factory(*args, **kwargs), name=name, params=bound.arguments, changed=changed)

        name = factory.__name__
        _enter(Scheme(name, factory.__module__.rpartition(".")[2], aliases, make))
        return make

    return decorate


def get(scheme: str | InitializerLike, **params: Any) -> InitializerLike:
    """The initializer that ``scheme`` means.

    Args:
        scheme: a name or an alias; or an initializer, which comes back as it is.
        params: parameters of the named scheme, such as ``mode="fan_out"``.

    Raises:
        ValueError: an unknown name (the message suggests the nearest), or a parameter out of range.
        TypeError: a parameter the scheme does not have, parameters beside an initializer, or something else altogether.
    """
    if not isinstance(scheme, str):
        return _as_it_is(scheme, params)
    name, _, _, factory = entry(scheme)
    accepted = inspect.signature(factory).parameters
    for key in params:
        if key not in accepted:
            raise TypeError(f"scheme {name!r} has no parameter {key!r}; it accepts: {', '.join(accepted) or 'none'}")
    return factory(**params)


def entry(name: str) -> Scheme:
    """The line of the registry for a name or an alias: aliases, family, and the factory with its docstring.

    Raises:
        ValueError: an unknown name; the message suggests the nearest.
    """
    known = _ALIASES.get(name, name)
    if known not in _SCHEMES:
        raise unknown("scheme", name, [*_SCHEMES, *_ALIASES])
    return _SCHEMES[known]


def names() -> list[str]:
    """The names of all schemes, without aliases, family by family in alphabetical order."""
    return [scheme.name for scheme in sorted(_SCHEMES.values(), key=lambda s: (s.family, s.name))]


def title(initializer: InitializerLike) -> str:
    """A short name of any initializer, for tables: "he_normal(mode='fan_out')"."""
    if isinstance(initializer, Initializer):
        return str(initializer)
    return getattr(initializer, "__name__", None) or type(initializer).__name__


def drawn(
    initializer: InitializerLike,
    shape: tuple[int, ...],
    fans: tuple[float, float] | None,
    rng: np.random.Generator,
    dtype: DTypeLike = np.float32,
    groups: int = 1,
) -> NDArray[Any]:
    """The values of a parameter, of just this shape and dtype also where the initializer is a student's own.

    One that is not minidl's is not told of groups: the protocol does not have them.

    Raises:
        ValueError: it returned another shape.
    """
    fan_in, fan_out = fans or (None, None)
    told: dict[str, Any] = {"groups": groups} if isinstance(initializer, Initializer) else {}
    value = initializer(shape, fan_in=fan_in, fan_out=fan_out, rng=rng, dtype=dtype, **told)
    if np.shape(value) != shape:
        raise ValueError(f"{title(initializer)} returned shape {np.shape(value)}, expected {shape}")
    return np.asarray(value, dtype=dtype, order="C")


def check_finite(scheme: str, **params: float) -> None:
    """Raise a ValueError if a parameter of a scheme is not finite."""
    for name, value in params.items():
        if not math.isfinite(value):
            raise ValueError(f"{scheme}: {name} must be finite, got {value}")


def check_not_negative(scheme: str, **params: float) -> None:
    """Raise a ValueError if a parameter of a scheme is negative or not finite."""
    for name, value in params.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{scheme}: {name} must be finite and >= 0, got {value}")


def _enter(scheme: Scheme) -> None:
    for name in (scheme.name, *scheme.aliases):
        if name in _SCHEMES or name in _ALIASES:
            raise ValueError(f"a scheme called {name!r} is registered already; choose another name")
    _SCHEMES[scheme.name] = scheme
    _ALIASES.update(dict.fromkeys(scheme.aliases, scheme.name))


def _as_it_is(initializer: InitializerLike, params: dict[str, Any]) -> InitializerLike:
    if not callable(initializer):
        raise TypeError(f"a scheme is a name or an initializer, got {type(initializer).__name__}: {initializer!r}")
    if params:
        raise TypeError(
            f"{title(initializer)} is an initializer already, so {', '.join(params)} cannot be set; pass a name"
        )
    if not isinstance(initializer, Initializer) and not _follows_the_protocol(initializer):
        raise TypeError(
            f"{title(initializer)} cannot be called as initializer(shape, *, fan_in, fan_out, rng, dtype); "
            "a scheme such as init.he_normal must be called first: init.he_normal()"
        )
    return initializer


def _follows_the_protocol(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind((), fan_in=1, fan_out=1, rng=None, dtype=np.float32)
    except TypeError:
        return False
    except ValueError:  # it does not tell its signature; the call will show
        return True
    return True


def _call(name: str, params: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in params.items())})"


def _shape(shape: Any, owner: Initializer) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
        raise ValueError(f"{owner}: shape must be a tuple of whole numbers >= 0, got {shape!r}")
    return tuple(int(n) for n in shape)


def _fan(which: str, fan: float | None, owner: Initializer) -> float:
    if not owner.needs_fans:
        return math.nan
    if isinstance(fan, bool) or not isinstance(fan, Real) or not 0 < fan < math.inf:
        raise ValueError(
            f"{owner}: {which} must be a positive number, got {fan!r}; a layer declares its fans "
            "(init.fans.dense_fans, conv_fans, conv_transpose_fans)"
        )
    return float(fan)


def _groups(groups: Any, shape: tuple[int, ...], owner: Initializer) -> int:
    whole = isinstance(groups, (int, np.integer)) and not isinstance(groups, bool) and groups >= 1
    if not whole or (groups > 1 and (not shape or shape[0] % groups)):
        raise ValueError(f"{owner}: groups={groups!r} must divide the first axis of shape {shape}")
    return int(groups)


def _generator(rng: Any, owner: Initializer) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"{owner}: rng must be a numpy.random.Generator, got {type(rng).__name__}; "
            "make one with numpy.random.default_rng(seed) or init.stream(seed, path)"
        )
    return rng


def _dtype(dtype: DTypeLike, owner: Initializer) -> np.dtype[Any]:
    resolved = np.dtype(dtype)
    if resolved not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{owner}: dtype must be float16, float32 or float64, got {resolved}")
    return resolved
