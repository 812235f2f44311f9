"""W1 to W3 in JAX: one compiled function for the whole step."""

from __future__ import annotations

import os
from itertools import cycle

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .workloads import CLASSES, RATES, weights_and_batches
from .workloads_plain import cross_entropy, first_state, predict, updated

VERSION = f"jax {jax.__version__}"


def use_threads(number):
    """Leave XLA so many cores: it takes a thread for every core it may use, whatever the environment variables say."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def conv(x, w):
    """Convolution without padding."""
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        weights, batches = weights_and_batches(arrays)
        eye = np.eye(CLASSES, dtype="float32")
        self.batches = cycle([(jnp.asarray(x), jnp.asarray(eye[y])) for x, y in batches])
        self.weights = [jnp.asarray(w) for w in weights]
        self.state = first_state(jnp, work.optimizer, self.weights)

        def loss(weights, x, targets):
            return cross_entropy(jnp, predict(jnp, conv, work.network, weights, x), targets)

        def step(weights, state, x, targets):
            value, gradients = jax.value_and_grad(loss)(weights, x, targets)
            return value, *updated(jnp, work.optimizer, weights, gradients, state, RATES[work.optimizer])

        self.compiled = jax.jit(step, donate_argnums=(0, 1))

    def step(self):
        """One training step; its loss."""
        loss, self.weights, self.state = self.compiled(self.weights, self.state, *next(self.batches))
        return jax.block_until_ready((loss, self.weights))[0]  # else only the call would be timed, not the work

    def results(self):
        """The parameters."""
        return {f"weight {i}": np.asarray(w) for i, w in enumerate(self.weights)}
