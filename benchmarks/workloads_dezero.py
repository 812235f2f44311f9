"""W1 to W3 in DeZero."""

from __future__ import annotations

from importlib.metadata import version
from itertools import cycle

import numpy as np

np.int = int  # DeZero 0.0.13 still uses the name that NumPy 1.24 took away

import dezero  # noqa: E402
from dezero import functions as F  # noqa: E402
from dezero import layers as L  # noqa: E402
from dezero import optimizers  # noqa: E402

from .workloads import RATES, weights_and_batches  # noqa: E402

VERSION = f"dezero {version('dezero')}"

PLAIN = {"relu": F.relu, "flatten": F.flatten, "pool": lambda x: F.pooling(x, 2, 2)}


class Network(dezero.Model):
    """Layers in a row."""

    def __init__(self, network):
        super().__init__()
        self.calls = []
        for i, (kind, *arguments) in enumerate(network):
            layer = PLAIN.get(kind) or self.weighted(kind, *arguments)
            if kind not in PLAIN:
                setattr(self, f"layer{i}", layer)
            self.calls.append(layer)

    def weighted(self, kind, inputs, outputs, kernel=1, *how):
        """A layer with parameters."""
        if kind == "linear":
            return L.Linear(outputs, in_size=inputs)
        return L.Conv2d(outputs, kernel, in_channels=inputs)

    def forward(self, x):
        """The logits of a batch."""
        for call in self.calls:
            x = call(x)
        return x


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        weights, batches = weights_and_batches(arrays)
        self.model, self.batches = Network(work.network), cycle(batches)
        self.parameters = [p for call in self.model.calls if isinstance(call, L.Layer) for p in (call.W, call.b)]
        for p, w in zip(self.parameters, weights, strict=True):
            p.data = transposed(w).copy()
        rate = RATES[work.optimizer]
        momentum = work.optimizer == "momentum"
        # DeZero adds eps before it undoes the start at zero: this is PyTorch's 1e-8 in the first step
        self.optimizer = optimizers.MomentumSGD(rate) if momentum else optimizers.Adam(alpha=rate, eps=3e-10)
        self.optimizer.setup(self.model)

    def step(self):
        """One training step; its loss."""
        x, y = next(self.batches)
        loss = F.softmax_cross_entropy(self.model(x), y)
        self.model.cleargrads()
        loss.backward()
        self.optimizer.update()
        return loss.data

    def results(self):
        """The parameters."""
        return {f"weight {i}": np.ascontiguousarray(transposed(p.data)) for i, p in enumerate(self.parameters)}


def transposed(w):
    """DeZero keeps the weight of a dense layer as (inputs, outputs)."""
    return w.T if w.ndim == 2 else w
