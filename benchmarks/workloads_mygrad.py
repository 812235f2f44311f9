"""W1 to W3 in MyGrad."""

from __future__ import annotations

from itertools import cycle

import mygrad
import numpy as np
from mygrad.nnet.activations import relu
from mygrad.nnet.layers import conv_nd, max_pool
from mygrad.nnet.losses import softmax_crossentropy

from .workloads import RATES, weights_and_batches
from .workloads_plain import first_state, updated

VERSION = f"mygrad {mygrad.__version__}"


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        weights, batches = weights_and_batches(arrays)
        self.network, self.optimizer = work.network, work.optimizer
        self.weights, self.batches = [mygrad.tensor(w) for w in weights], cycle(batches)
        self.state = first_state(np, work.optimizer, weights)

    def predict(self, x):
        """The logits of a batch."""
        weights = iter(self.weights)
        for kind, *_ in self.network:
            match kind:
                case "linear":
                    x = mygrad.matmul(x, next(weights).T) + next(weights)
                case "conv":
                    x = conv_nd(x, next(weights), stride=1) + next(weights).reshape(1, -1, 1, 1)
                case "relu":
                    x = relu(x)
                case "pool":
                    x = max_pool(x, (2, 2), (2, 2))
                case "flatten":
                    x = x.reshape(len(x), -1)
        return x

    def step(self):
        """One training step; its loss."""
        x, y = next(self.batches)
        loss = softmax_crossentropy(self.predict(x), y)
        loss.backward()
        gradients = [w.grad for w in self.weights]
        rate, arrays = RATES[self.optimizer], [w.data for w in self.weights]
        arrays, self.state = updated(np, self.optimizer, arrays, gradients, self.state, rate)
        self.weights = [mygrad.tensor(w) for w in arrays]
        return loss.item()

    def results(self):
        """The parameters."""
        return {f"weight {i}": w.data for i, w in enumerate(self.weights)}
