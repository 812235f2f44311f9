"""Which library owns an array: NumPy on the host, CuPy on a GPU. Nothing is set globally: an array knows its library.

Every function that does mathematics asks ``xp = array_module(x)``, then calls ``xp.tanh(x)``: one source serves
both. A library is known by the type of its arrays. NumPy is always there; CuPy joins when somebody asks for the GPU,
and any other library joins through the same door, ``register``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minidl.text import unknown

__all__ = [
    "Array",
    "Library",
    "MissingCapability",
    "array_module",
    "device_for",
    "device_of",
    "is_device",
    "library_of",
    "register",
    "to_device",
    "to_host",
]

# The C library of Linux gives freed arrays back to the system at once, until it has seen a large one come and go; then
# it keeps up to 64 MB for the next arrays. A training step takes and frees the same arrays over and over, and taking
# them from the system costs up to half of its time. So one comes and goes here; its pages are never touched.
np.empty((32 << 20) - (64 << 10), np.uint8)

Array: TypeAlias = Any  # an array of any registered library; Any, because no common static type exists


class MissingCapability(RuntimeError):
    """Something this machine lacks (a GPU, its driver, CuPy) was asked for. The command line exits with code 3."""


@dataclass(frozen=True)
class Library:
    """An array library: how its arrays are recognized, and how they travel to and from the host.

    Args:
        name: for people, "numpy" or "cupy".
        device: what ``.to(...)`` calls the place where its arrays live, "cpu" or "gpu".
        array_type: the class of its arrays.
        module: the namespace with NumPy's function names.
        from_host: a NumPy array -> an array of this library.
        to_host: an array of this library -> a NumPy array.
    """

    name: str
    device: str
    array_type: type
    module: Any
    from_host: Callable[[np.ndarray[Any, Any]], Array]
    to_host: Callable[[Array], np.ndarray[Any, Any]]


NUMPY = Library("numpy", "cpu", np.ndarray, np, lambda x: x, lambda x: x)
_BY_TYPE: dict[type, Library] = {np.ndarray: NUMPY}


def register(library: Library) -> None:
    """Make an array library known: from now on its arrays are recognized, and its device can be asked for."""
    _BY_TYPE[library.array_type] = library


def library_of(x: Array) -> Library:
    """The library that owns ``x``. Python and NumPy scalars belong to NumPy.

    Raises:
        TypeError: no registered library knows this type.
    """
    library = _BY_TYPE.get(type(x))
    if library is not None:
        return library
    if isinstance(x, (bool, int, float, np.generic, np.ndarray)):
        return NUMPY
    if type(x).__module__.partition(".")[0] == "cupy":  # an array the user made; CuPy is imported already
        register(_cupy_library())
        return _BY_TYPE[type(x)]
    raise TypeError(f"expected an array, got {type(x).__name__}; known array types: {[t.__name__ for t in _BY_TYPE]}")


def array_module(x: Array) -> Any:
    """The module whose functions work on ``x``: ``numpy`` or ``cupy``."""
    library = _BY_TYPE.get(type(x))  # the quick way first: this runs in every operation
    return library.module if library is not None else library_of(x).module


def device_of(x: Array) -> str:
    """Where ``x`` lives: "cpu" or "gpu"."""
    return library_of(x).device


def is_device(target: str) -> bool:
    """Whether the ``target`` of a ``.to(...)`` is a device, "cpu" or "gpu"; else it is a dtype.

    Raises:
        ValueError: it is neither.
    """
    if target in ("cpu", "gpu"):
        return True
    try:
        np.dtype(target)
    except TypeError:
        raise unknown("device or dtype", target, ("cpu", "gpu", "float32", "float64")) from None
    return False


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """``x`` as a NumPy array. From a GPU this copies, and waits until the value is there."""
    return np.asarray(library_of(x).to_host(x))


def to_device(x: Array, device: str) -> Array:
    """``x`` on ``device`` ("cpu" or "gpu"); no copy if it is there already.

    Raises:
        ValueError: another device name.
        MissingCapability: "gpu" was asked for, and CuPy, the driver or a GPU is missing.
    """
    if device_of(x) == device:
        return x
    return _library_on(device).from_host(to_host(x))


def device_for(backend: str = "auto") -> str:
    """The device on which a backend computes: "numpy" -> "cpu", "cupy" -> "gpu".

    "auto" is the environment's MINIDL_BACKEND, else CuPy if it is installed and finds a GPU, else NumPy.

    Raises:
        ValueError: another name.
        MissingCapability: CuPy was asked for by name, and CuPy, the driver or a GPU is missing.
    """
    if backend == "auto":
        backend = os.environ.get("MINIDL_BACKEND") or "auto"
    if backend == "auto":
        if importlib.util.find_spec("cupy") is None and all(library.device == "cpu" for library in _BY_TYPE.values()):
            return "cpu"
        try:
            return _library_on("gpu").device
        except MissingCapability:
            return "cpu"
    if backend not in ("numpy", "cupy"):
        raise unknown("backend", backend, ("numpy", "cupy", "auto"))
    return "cpu" if backend == "numpy" else _library_on("gpu").device


def _library_on(device: str) -> Library:
    for library in _BY_TYPE.values():
        if library.device == device:
            return library
    if device != "gpu":
        raise ValueError(f"unknown device {device!r}; choose 'cpu' or 'gpu'")
    register(_cupy_library())
    return _library_on(device)


def _cupy_library() -> Library:
    """CuPy, imported now and not before: the import takes about a second.

    Raises:
        MissingCapability: it says which of the three is missing, CuPy, the driver or a GPU.
    """
    from minidl import gpu  # here: its imports would add a tenth to the time that importing minidl takes

    if importlib.util.find_spec("cupy") is None:
        cuda = gpu.driver_cuda_version()
        driver = "no NVIDIA driver was found" if cuda is None else f"the NVIDIA driver serves CUDA {cuda[0]}.{cuda[1]}"
        raise MissingCapability(f"CuPy is not installed; {driver}. {gpu.advice(cuda)}")
    try:
        import cupy

        available = cupy.cuda.is_available()
    except Exception as error:  # a wheel for another Python, CUDA libraries that are not found, a folder called cupy
        cuda, reason = gpu.driver_cuda_version(), " ".join(str(error).split())[:120]
        raise MissingCapability(f"CuPy is installed but does not load ({reason}). {gpu.advice(cuda)}") from error
    if not available:
        cuda = gpu.driver_cuda_version()
        if cuda is None:
            raise MissingCapability(f"CuPy is installed, but no NVIDIA driver was found. {gpu.advice(None)}")
        raise MissingCapability(
            f"CuPy {cupy.__version__} and an NVIDIA driver for CUDA {cuda[0]}.{cuda[1]} are installed, but they find "
            "no GPU they can use: there is none, it is hidden (CUDA_VISIBLE_DEVICES), or the wheel does not fit the "
            f"driver. {gpu.advice(cuda)}"
        )
    return Library("cupy", "gpu", cupy.ndarray, cupy, cupy.asarray, cupy.asnumpy)
