"""The laboratory: what one network does to signals and gradients, measured and drawn."""

import importlib
from typing import Any

from minidl.lab.draw import plot_ladders
from minidl.lab.measure import Report, change_per_layer, probe
from minidl.lab.outline import Summary, summary

__all__ = [
    "Report",
    "Summary",
    "change_per_layer",
    "plot_ladders",
    "probe",
    "summary",
]

_FIGURES = (
    "BeforeAfter",
    "Cobweb",
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
)
_THEORY = ("Prediction", "predict")
_DIAGNOSIS = ("Diagnosis", "Evidence", "Finding", "diagnose", "judge", "replace_activations")
_WATCH = ("Watch", "watch")


def __getattr__(name: str) -> Any:
    if name == "diagnose_torch":
        return getattr(importlib.import_module("minidl.lab.from_torch"), name)
    if name in _WATCH:
        return getattr(importlib.import_module("minidl.lab.watching"), name)
    if name in _DIAGNOSIS:
        return getattr(importlib.import_module("minidl.lab.explain"), name)
    if name in _THEORY:
        return getattr(importlib.import_module("minidl.lab.theory"), name)
    if name in _FIGURES:
        return getattr(importlib.import_module("minidl.lab.figures"), name)
    raise AttributeError(f"module 'minidl.lab' has no attribute {name!r}")
