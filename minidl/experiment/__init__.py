"""Many trainings side by side."""

from minidl.experiment.compare import ACTIVATIONS, SCHEMES, Comparison, compare, variance, verdict

__all__ = ["ACTIVATIONS", "SCHEMES", "Comparison", "compare", "variance", "verdict"]
