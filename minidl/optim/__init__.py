"""Optimizers, learning-rate schedules, rates per layer and gradient clipping: what each file lists in ``__all__``."""

from typing import TYPE_CHECKING, Any

from minidl.optim.optimizer import *
from minidl.optim.schedule import *

if TYPE_CHECKING:
    from minidl.optim.layerwise import *


def __getattr__(name: str) -> Any:
    """Rates per layer look at whole models, and are loaded when first used."""
    if name in ("LayerRates", "layerwise_lr"):
        from minidl.optim import layerwise

        return getattr(layerwise, name)
    raise AttributeError(f"module 'minidl.optim' has no attribute {name!r}")
