"""The workloads in PyTorch eager, as its tutorials write them."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .workloads import RATES, moments, weights_and_batches

VERSION = f"torch {torch.__version__}"


def use_threads(number):
    """How many threads one operation may use."""
    torch.set_num_threads(number)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, branch, shortcut):
        super().__init__()
        self.branch = build(branch)
        self.shortcut = build(shortcut) if shortcut else nn.Identity()

    def forward(self, x):
        return F.relu(self.branch(x) + self.shortcut(x))


LAYERS = {
    "linear": nn.Linear,
    "conv": lambda inputs, outputs, *how: nn.Conv2d(inputs, outputs, *how[:3], bias=how[3]),
    "norm": nn.BatchNorm2d,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "pool": lambda: nn.MaxPool2d(2),
    "mean": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "flatten": nn.Flatten,
    "residual": Residual,
}


def build(network):
    """The network as a module."""
    return nn.Sequential(*[LAYERS[kind](*arguments) for kind, *arguments in network])


class Train:
    """Training steps on the batches in turn."""

    def __init__(self, work, arrays):
        weights, batches = weights_and_batches(arrays)
        self.model = self.placed(build(work.network))
        self.batches = cycle([(self.placed(torch.from_numpy(x)), torch.from_numpy(y)) for x, y in batches])
        with torch.no_grad():
            for p, w in zip(self.model.parameters(), weights, strict=True):
                p.copy_(torch.from_numpy(w))
        self.optimizer = self.optimizer_of(work.optimizer, RATES[work.optimizer])
        self.loss = nn.CrossEntropyLoss()
        self.stds, self.gradient_stds = [], []
        if work.record:
            for layer in self.model:
                if isinstance(layer, nn.Tanh):
                    layer.register_forward_hook(self.record)

    def placed(self, x):
        """A model or an input in the order of memory to compute in."""
        return x

    def optimizer_of(self, name, rate, **how):
        """The optimizer."""
        if name == "momentum":
            return torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.9, **how)
        return torch.optim.Adam(self.model.parameters(), lr=rate, **how)

    def record(self, layer, inputs, output):
        """Note the spread of an activation now, and of its gradient when that comes by; nothing waits for a number."""
        self.stds.append(output.detach().std(correction=0))
        output.register_hook(lambda g: self.gradient_stds.append(g.std(correction=0)))

    def step(self):
        """One training step; its loss."""
        self.stds.clear()
        self.gradient_stds.clear()
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def results(self):
        """Parameters, running averages, and what was recorded in the last step."""
        found = {f"weight {i}": p.detach().numpy() for i, p in enumerate(self.model.parameters())}
        buffers = [buffer for buffer in self.model.buffers() if buffer.ndim]  # the counter of batches is no average
        found |= {f"buffer {i}": buffer.numpy() for i, buffer in enumerate(buffers)}
        spreads = {"stds": self.stds, "gradient stds": self.gradient_stds}
        return found | {name: np.array([float(std) for std in stds]) for name, stds in spreads.items() if stds}


class Conv:
    """``conv2d`` and the gradients of all its arguments."""

    def __init__(self, work, arrays):
        self.how = {"stride": work.stride, "padding": work.padding}
        x, w, b, self.g = (self.placed(torch.from_numpy(arrays[name])) for name in ("x", "w", "b", "g"))
        self.inputs = [tensor.requires_grad_() for tensor in (x, w, b)]

    def placed(self, x):
        """An array in the order of memory to compute in."""
        return x

    def step(self):
        """Forward and backward."""
        for tensor in self.inputs:
            tensor.grad = None
        self.y = F.conv2d(*self.inputs, **self.how)
        self.y.backward(self.g)

    def results(self):
        """The output and three gradients."""
        found = {f"gradient of {n}": t.grad.numpy() for n, t in zip("xwb", self.inputs, strict=True)}
        return found | {"y": self.y.detach().numpy()}


SCHEMES = {
    "normal": lambda w: nn.init.normal_(w, std=0.02),
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "orthogonal": nn.init.orthogonal_,
}


class Draw:
    """A fresh weight from an initializer."""

    def __init__(self, work, arrays):
        torch.manual_seed(0)
        self.scheme, self.shape = work.scheme, tuple(work.shape)

    def step(self):
        """Draw once."""
        self.w = SCHEMES[self.scheme](torch.empty(self.shape))

    def results(self):
        """Its moments; for an orthogonal one also the distance of W Wᵀ from the identity."""
        w = self.w.numpy()
        if self.scheme != "orthogonal":
            return {"moments": moments(w, 0.02)}
        off = np.abs(w @ w.T - np.eye(len(w), dtype="float32")).max()
        return {"moments": moments(w, len(w) ** -0.5), "off": off}
