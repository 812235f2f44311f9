"""Training: the loop, its history, and the tripwire that names the layer where a run went wrong."""

from minidl.train.finite import first_bad_layer
from minidl.train.history import Diverged, History
from minidl.train.loop import Run, evaluate, fit

__all__ = ["Diverged", "History", "Run", "evaluate", "first_bad_layer", "fit"]
