"""minidl: a deep-learning framework to read in an afternoon, and a laboratory for initialization.

    from minidl import Tensor, nn, init, optim, models, data, lab, train

``import minidl`` loads the engine and the layers; the other rooms (and matplotlib, and CuPy) are loaded when first
used.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LATER = ("models", "data", "lab", "train", "experiment")

if TYPE_CHECKING or find_spec("numpy") is not None:  # without NumPy only `python -m minidl doctor` works, and says so
    from minidl import init, nn, ops, optim
    from minidl.tensor import Tensor, grad, hvp, no_grad

__all__ = ["Tensor", "__version__", "grad", "hvp", "init", "nn", "no_grad", "ops", "optim"]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"minidl.{name}")
    if name in __all__ and find_spec("numpy") is None:
        raise ImportError("NumPy is not installed; run `python -m minidl doctor` to see what is missing")
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")
