"""What all tests share: tensors on the device under test, and ways back to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import to_device, to_host
from minidl.tensor import Tensor

DEVICE = "cpu"


def tensor(array: Any, requires_grad: bool = False) -> Tensor:
    """A tensor on the device under test; a NumPy array keeps its dtype."""
    return Tensor(to_device(Tensor(array).data, DEVICE), requires_grad=requires_grad)


def fetch(x: Any) -> np.ndarray:
    """Tensor or array -> NumPy array on the host."""
    return to_host(x.data if isinstance(x, Tensor) else x)
