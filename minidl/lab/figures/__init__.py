"""The figures of the laboratory, one kind a file. Each holds its numbers, draws them into any Axes, and saves both."""

from minidl.lab.figures.base import Display
from minidl.lab.figures.beforeafter import BeforeAfter
from minidl.lab.figures.cobweb import Cobweb
from minidl.lab.figures.heatmap import TrainingHeatmap
from minidl.lab.figures.identity import IdentityMatrix
from minidl.lab.figures.ladder import SignalLadder
from minidl.lab.figures.phase import PhaseDiagram
from minidl.lab.figures.ribbon import RateRibbon
from minidl.lab.figures.ridgeline import Ridgeline
from minidl.lab.figures.scoreboard import Score, Scoreboard
from minidl.lab.figures.spectrum import Spectrum
from minidl.lab.figures.twins import GradientTwins

__all__ = [
    "BeforeAfter",
    "Cobweb",
    "Display",
    "GradientTwins",
    "IdentityMatrix",
    "PhaseDiagram",
    "RateRibbon",
    "Ridgeline",
    "Score",
    "Scoreboard",
    "SignalLadder",
    "Spectrum",
    "TrainingHeatmap",
]
