"""The laboratory: what one network does to signals and gradients, measured, predicted, explained and drawn."""

import importlib
from typing import Any

from minidl.lab.draw import plot_ladders
from minidl.lab.measure import Report, change_per_layer, probe
from minidl.lab.outline import Summary, summary

#: Module -> names that are loaded from it when first used.
_LATER = {
    "explain": ("Diagnosis", "Evidence", "Finding", "diagnose", "judge", "replace_activations"),
    "figures": (
        *("BeforeAfter", "Cobweb", "GradientTwins", "IdentityMatrix", "PhaseDiagram", "RateRibbon", "Ridgeline"),
        *("Score", "Scoreboard", "SignalLadder", "Spectrum", "TrainingHeatmap"),
    ),
    "from_torch": ("diagnose_torch",),
    "theory": ("Prediction", "predict"),
    "watching": ("Watch", "watch"),
}

__all__ = ["Report", "Summary", "change_per_layer", "plot_ladders", "probe", "summary"]
__all__ += [name for names in _LATER.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"minidl.lab.{module}"), name)
    raise AttributeError(f"module 'minidl.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
