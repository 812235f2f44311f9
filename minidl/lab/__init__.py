"""The laboratory: what one network does to signals and gradients, measured and drawn."""

from minidl.lab.draw import plot_cosines, plot_ladder, plot_ladders
from minidl.lab.measure import Report, change_per_layer, probe
from minidl.lab.outline import Summary, summary

__all__ = [
    "Report",
    "Summary",
    "change_per_layer",
    "plot_cosines",
    "plot_ladder",
    "plot_ladders",
    "probe",
    "summary",
]
