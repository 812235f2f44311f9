"""Many trainings side by side: the quick comparison, and experiments on a grid that lose no finished cell."""

from minidl.experiment.compare import ACTIVATIONS, SCHEMES, Comparison, compare, variance, verdict
from minidl.experiment.grid import Cell, Grid
from minidl.experiment.presets import PRESETS, Preset
from minidl.experiment.runner import CellFailed, run
from minidl.experiment.store import Store
from minidl.experiment.trial import measure

__all__ = [
    "ACTIVATIONS",
    "PRESETS",
    "SCHEMES",
    "Cell",
    "CellFailed",
    "Comparison",
    "Grid",
    "Preset",
    "Store",
    "compare",
    "measure",
    "run",
    "variance",
    "verdict",
]
