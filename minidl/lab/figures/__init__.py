"""The figures of the laboratory, one kind a file. Each holds its numbers, draws them into any Axes, and saves both."""

from minidl.lab.figures.base import Display
from minidl.lab.figures.beforeafter import BeforeAfter
from minidl.lab.figures.identity import IdentityMatrix
from minidl.lab.figures.ladder import SignalLadder
from minidl.lab.figures.ribbon import RateRibbon, Ribbon
from minidl.lab.figures.scoreboard import Score, Scoreboard
from minidl.lab.figures.twins import GradientTwins

__all__ = [
    "BeforeAfter",
    "Display",
    "GradientTwins",
    "IdentityMatrix",
    "RateRibbon",
    "Ribbon",
    "Score",
    "Scoreboard",
    "SignalLadder",
]
