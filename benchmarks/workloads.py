"""What is measured: every workload in plain numbers, the same for all frameworks, which are not imported here.

A network is a list of layers ``(kind, *arguments)`` that each ``workloads_<framework>.py`` builds in its own way:

    ("linear", inputs, outputs)   ("conv", inputs, outputs, kernel, stride, padding, bias)   ("norm", channels)
    ("relu",)   ("tanh",)   ("pool",): largest of 2×2   ("mean",): of every channel   ("flatten",)
    ("residual", branch, shortcut or None): relu(branch(x) + shortcut(x))

Its parameters are a list of arrays in the order of the layers, of a branch before those of its shortcut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

BATCHES = 4  # different ones, taken in turn
CLASSES = 10
RATES = {"momentum": 0.002, "adam": 1e-3}  # learning rates; momentum is 0.9


@dataclass(frozen=True)
class Train:
    """A training step: forward, cross-entropy, backward, update."""

    name: str
    network: list
    x: tuple  #: shape of a batch of inputs
    optimizer: str = "momentum"
    record: bool = False  #: note the standard deviation of every tanh's output and of the gradient there
    goal: float | None = None  #: aimed at: time relative to idiomatic PyTorch with two threads
    sweep: str = ""  #: the series it belongs to, for the slopes
    size: int = 0  #: batch or depth in that series
    tolerance: float = 0.01  #: of the update made in the first steps

    def arrays(self, rng):
        """The initial parameters and the batches."""
        gain = 1 if ["tanh"] in [list(layer) for layer in self.network] else math.sqrt(2)
        weights = {f"weight {i}": w for i, w in enumerate(parameters(self.network, gain, rng))}
        batches = {f"x {i}": rng.standard_normal(self.x, "float32") for i in range(BATCHES)}
        labels = {f"y {i}": rng.integers(0, CLASSES, self.x[0]) for i in range(BATCHES)}
        return weights | batches | labels


@dataclass(frozen=True)
class Conv:
    """A convolution and its three gradients: by the input, the weight and the bias."""

    name: str
    x: tuple
    w: tuple
    stride: int = 1
    padding: int = 0
    goal: float | None = None
    tolerance = 1e-4  # of the size of each result: sums of up to 10⁶ float32 products

    def arrays(self, rng):
        """Input, weight, bias and the gradient that comes in."""
        size = (self.x[2] + 2 * self.padding - self.w[2]) // self.stride + 1
        shapes = {"x": self.x, "w": self.w, "b": self.w[:1], "g": (self.x[0], self.w[0], size, size)}
        return {name: rng.standard_normal(shape, "float32") for name, shape in shapes.items()}


@dataclass(frozen=True)
class Draw:
    """Sampling initial weights. Streams differ between frameworks: what is compared are moments and orthogonality."""

    name: str
    scheme: str  #: "normal", "truncated" (at two standard deviations) or "orthogonal"
    shape: tuple
    goal: float | None = None
    tolerance = 0.005  # 10 standard errors of the second moment of 4 million normal numbers

    def arrays(self, rng):
        """Nothing is given."""
        return {}


KINDS = {kind.__name__: kind for kind in (Train, Conv, Draw)}


def describe(work):
    """The workload as plain data, to be sent to a worker."""
    return {"kind": type(work).__name__, **asdict(work)}


def restored(plain):
    """The workload that ``describe`` described."""
    fields = dict(plain)
    return KINDS[fields.pop("kind")](**fields)


def weights_and_batches(arrays):
    """The arrays of a training workload as lists: parameters, and pairs (inputs, labels)."""
    weights = [arrays[f"weight {i}"] for i in range(sum(name.startswith("weight") for name in arrays))]
    return weights, [(arrays[f"x {i}"], arrays[f"y {i}"]) for i in range(BATCHES)]


def moments(w, std):
    """What the weights drawn by any framework have in common, whatever its stream of random numbers."""
    z = (w / std).reshape(-1)
    return np.array([z.mean(), (z * z).mean(), np.abs(z).mean(), (np.abs(z) > 2).mean()], "float64")


def parameters(network, gain, rng) -> Iterator[np.ndarray]:
    """Initial parameters, layer by layer: weights of standard deviation gain/√fan_in, biases 0, scales 1."""
    for kind, *arguments in network:
        match kind, arguments:
            case "linear", (inputs, outputs):
                yield _normal((outputs, inputs), gain, rng)
                yield np.zeros(outputs, "float32")
            case "conv", (inputs, outputs, kernel, _, _, bias):
                yield _normal((outputs, inputs, kernel, kernel), gain, rng)
                if bias:
                    yield np.zeros(outputs, "float32")
            case "norm", (channels,):
                yield np.ones(channels, "float32")
                yield np.zeros(channels, "float32")
            case "residual", (branch, shortcut):
                yield from parameters([*branch, *(shortcut or [])], gain, rng)


def _normal(shape, gain, rng):
    return rng.standard_normal(shape, "float32") * np.float32(gain / math.sqrt(math.prod(shape[1:])))


# -- networks ------------------------------------------------------------------------------------------------------


def mlp(*widths, activation="relu"):
    """Dense layers with an activation between them."""
    layers = [("linear", n, m) for n, m in pairwise(widths)]
    return [layer for linear in layers for layer in (linear, (activation,))][:-1]


def lenet5():
    """LeNet-5 on 28×28 without padding, so its convolutions have the first two shapes of W6; 44 426 parameters."""
    features = [conv(1, 6, 5), ("relu",), ("pool",), conv(6, 16, 5), ("relu",), ("pool",), ("flatten",)]
    return [*features, *mlp(256, 120, 84, 10)]


def conv(inputs, outputs, kernel=3, stride=1, padding=0, bias=True):
    """A convolution layer."""
    return ("conv", inputs, outputs, kernel, stride, padding, bias)


def resnet(blocks):
    """The residual network for CIFAR (He et al. 2015), 6·blocks + 2 deep; a shortcut that shrinks is 1×1 with norm."""
    network = [conv(3, 16, padding=1, bias=False), ("norm", 16), ("relu",)]
    for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        network.append(residual(inputs, outputs, stride))
        network += [residual(outputs, outputs, 1)] * (blocks - 1)
    return [*network, ("mean",), ("linear", 64, CLASSES)]


def residual(inputs, outputs, stride):
    """Two 3×3 convolutions with batch norm beside a shortcut."""
    first = [conv(inputs, outputs, stride=stride, padding=1, bias=False), ("norm", outputs), ("relu",)]
    second = [conv(outputs, outputs, padding=1, bias=False), ("norm", outputs)]
    shrink = [conv(inputs, outputs, 1, stride, bias=False), ("norm", outputs)]
    return ("residual", [*first, *second], shrink if stride > 1 else None)


def vgg6():
    """Six 3×3 convolutions, 32 to 128 channels, pooled after every second, and one dense layer."""
    network = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        network += [conv(inputs, outputs, padding=1), ("relu",)]
        network += [conv(outputs, outputs, padding=1), ("relu",), ("pool",)]
    return [*network, ("flatten",), ("linear", 128 * 4 * 4, CLASSES)]


def deep(depth):
    """A tanh network of so many dense layers, 256 wide."""
    return mlp(*[256] * depth, CLASSES, activation="tanh")


# -- the list ------------------------------------------------------------------------------------------------------

SIZES = (16, 32, 64, 128, 256, 512, 1024)
PERCEPTRON, PHOTO = mlp(784, 256, 128, 10), (32, 3, 32, 32)
KINKS = 0.05  # PyTorch's own update of ResNet-20 is 0.015 from that in float64: ReLUs flip at 0, batch norm spreads it

WORKLOADS = (
    Train("W1 mlp momentum", PERCEPTRON, (128, 784), goal=0.80),
    Train("W1 mlp adam", PERCEPTRON, (128, 784), "adam", goal=0.35),
    Train("W2 small mlp momentum", mlp(64, 32, 10), (32, 64), goal=0.20),
    Train("W3 lenet5 batch 64", lenet5(), (64, 1, 28, 28), "adam", goal=0.90),
    Train("W3 lenet5 batch 256", lenet5(), (256, 1, 28, 28), "adam", goal=0.90),
    Train("W4 tanh 50 layers", deep(50), (256, 256)),
    Train("W4 tanh 50 layers recorded", deep(50), (256, 256), record=True, goal=0.70),
    Train("W5 resnet8", resnet(1), PHOTO, tolerance=KINKS, goal=0.95),
    Train("W5 resnet20", resnet(3), PHOTO, tolerance=KINKS, goal=0.95),
    Train("W5 vgg6", vgg6(), PHOTO, goal=0.95),
    Conv("W6 conv 1>6 5x5", (64, 1, 28, 28), (6, 1, 5, 5), goal=0.4),
    Conv("W6 conv 6>16 5x5", (64, 6, 12, 12), (16, 6, 5, 5), goal=1.0),
    Conv("W6 conv 64>64 3x3", (32, 64, 16, 16), (64, 64, 3, 3), padding=1, goal=1.0),
    Conv("W6 conv 3>64 11x11/4", (8, 3, 224, 224), (64, 3, 11, 11), stride=4, padding=2, goal=1.0),
    Draw("W7 normal", "normal", (2500, 4000), goal=1.8),
    Draw("W7 truncated", "truncated", (2500, 4000), goal=0.15),
    Draw("W7 orthogonal", "orthogonal", (2048, 2048), goal=3.2),
)

#: step time against batch and depth: in the linear regime the exponent is 1
SLOPES = (
    *(Train(f"slope mlp batch {n}", PERCEPTRON, (n, 784), sweep="mlp by batch", size=n) for n in SIZES),
    *(
        Train(f"slope lenet5 batch {n}", lenet5(), (n, 1, 28, 28), "adam", sweep="lenet5 by batch", size=n)
        for n in SIZES
    ),
    *(
        Train(f"slope tanh depth {n}", deep(n), (256, 256), sweep="tanh by depth", size=n)
        for n in (5, 10, 20, 50, 100, 200)
    ),
)
