"""Training: the loop, its history, checkpoints, and the tripwire that names the layer where a run went wrong."""

from minidl.train.archive import CheckpointError
from minidl.train.checkpoint import Checkpoint, load, save
from minidl.train.curve import Curve
from minidl.train.finite import first_bad_layer
from minidl.train.history import Diverged, History
from minidl.train.loop import evaluate, fit
from minidl.train.run import Run

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Curve",
    "Diverged",
    "History",
    "Run",
    "evaluate",
    "first_bad_layer",
    "fit",
    "load",
    "save",
]
