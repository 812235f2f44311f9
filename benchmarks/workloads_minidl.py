"""The workloads as a user of minidl writes them."""

from __future__ import annotations

from itertools import cycle

import numpy as np

import minidl
from minidl import Tensor, init, nn, ops, optim

from .workloads import RATES, moments, weights_and_batches

VERSION = f"minidl {minidl.__version__}, NumPy {np.__version__}"

LAYERS = {
    "linear": nn.Linear,
    "conv": lambda inputs, outputs, *how: nn.Conv2d(inputs, outputs, *how[:3], bias=how[3]),
    "norm": nn.BatchNorm2d,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "pool": lambda: nn.MaxPool2d(2),
    "mean": nn.GlobalAvgPool2d,
    "flatten": nn.Flatten,
    "residual": lambda branch, shortcut: nn.Residual(build(branch), shortcut and build(shortcut), "relu"),
}


def build(network):
    """The network as a module."""
    return nn.Sequential(*[LAYERS[kind](*arguments) for kind, *arguments in network])


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        weights, batches = weights_and_batches(arrays)
        self.model, self.batches = build(work.network), cycle(batches)
        names = [name for name, _ in self.model.named_parameters()]
        self.model.load_state_dict(self.model.state_dict() | dict(zip(names, weights, strict=True)))
        rate, parameters = RATES[work.optimizer], self.model.parameters()
        momentum = work.optimizer == "momentum"
        self.optimizer = optim.SGD(parameters, rate, momentum=0.9) if momentum else optim.Adam(parameters, rate)
        self.stds, self.gradient_stds = [], []
        if work.record:
            for layer in self.model:
                if isinstance(layer, nn.Tanh):
                    layer.register_forward_hook(self.record)

    def record(self, layer, inputs, output):
        """Note the spread of an activation now, and of its gradient when that comes by."""
        self.stds.append(output.data.std())
        output.register_hook(lambda g: self.gradient_stds.append(g.std()))

    def step(self):
        """One training step; its loss."""
        self.stds.clear()
        self.gradient_stds.clear()
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        loss = ops.cross_entropy(self.model(Tensor(x)), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def results(self):
        """Parameters, running averages, and what was recorded in the last step."""
        found = {f"weight {i}": p.numpy() for i, p in enumerate(self.model.parameters())}
        found |= {f"buffer {i}": array for i, (_, array) in enumerate(self.model.named_buffers())}
        spreads = {"stds": self.stds, "gradient stds": self.gradient_stds}
        return found | {name: np.array(stds) for name, stds in spreads.items() if stds}


class Conv:
    """``conv2d`` and the gradients of all its arguments."""

    def __init__(self, work, arrays):
        self.how = {"stride": work.stride, "padding": work.padding}
        self.inputs = [Tensor(arrays[name], requires_grad=True) for name in ("x", "w", "b")]
        self.g = arrays["g"]

    def step(self):
        """Forward and backward."""
        for tensor in self.inputs:
            tensor.grad = None
        self.y = ops.conv2d(*self.inputs, **self.how)
        self.y.backward(self.g)

    def results(self):
        """The output and three gradients."""
        return {"y": self.y.data} | {f"gradient of {n}": t.grad for n, t in zip("xwb", self.inputs, strict=True)}


SCHEMES = {
    "normal": init.normal(std=0.02),
    "truncated": init.truncated_normal(std=0.02, cut=2.0, correct=False),
    "orthogonal": init.orthogonal(),
}


class Draw:
    """A fresh weight from an initializer."""

    def __init__(self, work, arrays):
        self.scheme, self.shape, self.rng = work.scheme, tuple(work.shape), np.random.default_rng(0)

    def step(self):
        """Draw once."""
        rows, columns = self.shape
        self.w = SCHEMES[self.scheme](self.shape, fan_in=columns, fan_out=rows, rng=self.rng)

    def results(self):
        """Its moments; for an orthogonal one also the distance of W Wᵀ from the identity."""
        if self.scheme != "orthogonal":
            return {"moments": moments(self.w, 0.02)}
        off = np.abs(self.w @ self.w.T - np.eye(len(self.w), dtype="float32")).max()
        return {"moments": moments(self.w, len(self.w) ** -0.5), "off": off}
