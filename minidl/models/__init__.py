"""Ready-made networks."""

from minidl.models.perceptron import mlp, scheme_for

__all__ = ["mlp", "scheme_for"]
