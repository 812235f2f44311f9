"""W1 to W3 in HIPS autograd."""

from __future__ import annotations

from importlib.metadata import version
from itertools import cycle

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad
from autograd.scipy.signal import convolve

from .workloads import CLASSES, RATES, weights_and_batches
from .workloads_plain import cross_entropy, first_state, predict, updated

VERSION = f"autograd {version('autograd')}"


def conv(x, w):
    """Convolution without padding, as autograd's own LeNet example does it, on the kernel turned around."""
    return convolve(x, w[:, :, ::-1, ::-1], axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        self.weights, batches = weights_and_batches(arrays)
        eye = np.eye(CLASSES, dtype="float32")
        self.batches = cycle([(x, eye[y]) for x, y in batches])
        self.optimizer, self.state = work.optimizer, first_state(np, work.optimizer, self.weights)

        def loss(weights, x, targets):
            return cross_entropy(anp, predict(anp, conv, work.network, weights, x), targets)

        self.loss_and_gradients = value_and_grad(loss)

    def step(self):
        """One training step; its loss."""
        loss, gradients = self.loss_and_gradients(self.weights, *next(self.batches))
        rate = RATES[self.optimizer]
        self.weights, self.state = updated(np, self.optimizer, self.weights, gradients, self.state, rate)
        return loss

    def results(self):
        """The parameters."""
        return {f"weight {i}": w for i, w in enumerate(self.weights)}
