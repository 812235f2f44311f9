"""Optimizers, learning-rate schedules, rates per layer and gradient clipping: what each file lists in ``__all__``."""

from minidl.optim.layerwise import *
from minidl.optim.optimizer import *
from minidl.optim.schedule import *
