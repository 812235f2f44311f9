"""What the frameworks without layers or optimizers share: networks as functions, updates of lists of arrays.

``xp`` is the framework's NumPy. Only the layers of W1 to W3 are here: these frameworks are measured on no more.
"""

from __future__ import annotations

BETAS, EPS = (0.9, 0.999), 1e-8


def predict(xp, conv, network, weights, x):
    """The logits of a batch."""
    weights = iter(weights)
    for kind, *_ in network:
        match kind:
            case "linear":
                w, b = next(weights), next(weights)
                x = xp.dot(x, w.T) + b
            case "conv":
                w, b = next(weights), next(weights)
                x = conv(x, w) + b[:, None, None]
            case "relu":
                x = xp.maximum(x, 0)
            case "pool":
                n, c, h, w = x.shape
                x = xp.max(xp.max(xp.reshape(x, (n, c, h // 2, 2, w // 2, 2)), axis=5), axis=3)
            case "flatten":
                x = xp.reshape(x, (len(x), -1))
            case _:
                raise NotImplementedError(f"no layer {kind!r} here")
    return x


def cross_entropy(xp, logits, targets):
    """Mean over the batch; the targets are 1 at the label and 0 elsewhere."""
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    wrong = xp.log(xp.sum(xp.exp(shifted), axis=1)) - xp.sum(shifted * targets, axis=1)
    return xp.mean(wrong)


def momentum(weights, gradients, velocities, rate):
    """New weights and velocities."""
    velocities = [0.9 * v + g for v, g in zip(velocities, gradients, strict=True)]
    return [w - rate * v for w, v in zip(weights, velocities, strict=True)], velocities


def adam(xp, weights, gradients, state, rate):
    """New weights and (step, means, mean squares)."""
    (beta, gamma), (t, means, squares) = BETAS, state
    t = t + 1
    means = [beta * m + (1 - beta) * g for m, g in zip(means, gradients, strict=True)]
    squares = [gamma * v + (1 - gamma) * g * g for v, g in zip(squares, gradients, strict=True)]
    scale, undo = rate / (1 - beta**t), 1 / (1 - gamma**t)
    moved = zip(weights, means, squares, strict=True)
    return [w - scale * m / (xp.sqrt(v * undo) + EPS) for w, m, v in moved], (t, means, squares)


def first_state(xp, name, weights):
    """What the optimizer of that name remembers before the first step."""
    zeros = [xp.zeros_like(w) for w in weights]
    return zeros if name == "momentum" else (0, zeros, [xp.zeros_like(w) for w in weights])


def updated(xp, name, weights, gradients, state, rate):
    """New weights and state by the optimizer of that name."""
    if name == "momentum":
        return momentum(weights, gradients, state, rate)
    return adam(xp, weights, gradients, state, rate)
