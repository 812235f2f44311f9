"""The article's experiment, ready-made: what it compared, or said that it compared, as grids.

``minidl compare --preset NAME`` runs one; other arguments override its values. Each states the reduced size that
``--reduced`` runs where the full one takes too long: never below 5 000 training images, 2 epochs and 3 seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minidl.experiment.grid import Grid
from minidl.text import unknown

__all__ = ["PRESETS", "Preset", "preset"]

SEEDS = (0, 1, 2)
BOTH = ("adam:0.001", "momentum:0.01")  # the article's optimizer, and one that does not hide the gradient's scale


@dataclass(frozen=True)
class Preset:
    """A grid with a title, and the changes that make it smaller."""

    title: str
    grid: Grid
    reduced: Mapping[str, Any] = field(default_factory=dict)


PRESETS = {
    # The article's own setting, with the choices that it leaves open tried out: σ of "one Gaussian for all", and the
    # readings of its formulas. Xavier is the paper's own uniform law, which is also the default of Keras. What the
    # article calls Xavier for ReLU is the same scheme as He, bit for bit, and so is not run twice.
    "article": Preset(
        "The article's experiment: LeNet-5 with max-pooling on MNIST",
        Grid(
            dataset=("mnist",),
            network=("lenet5",),
            activation=("relu",),
            optimizer=BOTH,
            scheme=(
                "zeros",
                "constant 0.1",
                "N(0, 0.001²)",
                "N(0, 0.01²)",
                "N(0, 0.05²)",
                "N(0, 0.1²)",
                "N(0, 1)",
                "Glorot uniform",
                "He",
                "He truncated",
                "He cut, Keras 2.0.9",
                "orthogonal",
                "article: √(2/n) is σ",
                "article: √(2/n) is σ²",
                "article: Xavier(784, 10)",
                "article: Kaiming",
            ),
            seed=SEEDS,
            epochs=5,
        ),
        {"train_images": 10_000, "epochs": 3},
    ),
    "activations": Preset(
        "Three activations: LeNet-5 on MNIST",
        Grid(
            dataset=("mnist",),
            network=("lenet5",),
            activation=("sigmoid", "tanh", "relu"),
            optimizer=BOTH,
            scheme=("zeros", "N(0, 0.01²)", "Glorot uniform", "He", "orthogonal", "article: Kaiming"),
            seed=SEEDS,
            epochs=5,
        ),
        {"train_images": 10_000, "epochs": 3},
    ),
    "losses": Preset(
        "Two losses, cross-entropy and the squared distance to one-hot labels: LeNet-5 with ReLU on MNIST",
        Grid(
            dataset=("mnist",),
            network=("lenet5",),
            activation=("relu",),
            loss=("cross_entropy", "mse"),
            optimizer=BOTH,
            scheme=("zeros", "N(0, 0.01²)", "Glorot uniform", "He", "orthogonal"),
            seed=SEEDS,
            epochs=5,
        ),
        {"train_images": 10_000, "epochs": 3},
    ),
    # In the small forms for 32×32. N(0, 0.01²) is what AlexNet was published with.
    "architectures": Preset(
        "Five architectures in their small forms on CIFAR-10, ReLU, with and without batch normalization",
        Grid(
            dataset=("cifar10",),
            network=("lenet5", "alexnet", "vgg11", "googlenet", "resnet20"),
            norm=(False, True),
            activation=("relu",),
            optimizer=("adam:0.001",),
            scheme=("N(0, 0.01²)", "Glorot uniform", "He"),
            seed=SEEDS,
            epochs=5,
        ),
        {"train_images": 5_000, "epochs": 2},
    ),
    # He et al. 2015, figures 2 and 3: at 22 layers both schemes get there, He earlier; at 30 Xavier stalls. Both laws
    # are normal ones, as in that paper. Without normalization, because it would make up for the scale.
    "depth": Preset(
        "Depth after He et al. 2015: plain ReLU networks of 22 and 30 layers on MNIST, Xavier against He",
        Grid(
            dataset=("mnist",),
            network=("plain22", "plain30"),
            activation=("relu",),
            optimizer=("momentum:0.01", "adam:0.001"),
            scheme=("Glorot", "He"),
            seed=SEEDS,
            epochs=5,
        ),
        {"train_images": 10_000, "epochs": 3},
    ),
    # Every network is probed on whatever photographs are there. It is trained too where every class has at least five.
    "imagenet": Preset(
        "Five architectures in their published forms on photographs of ImageNet at 224×224",
        Grid(
            dataset=("imagenet",),
            network=("lenet5", "alexnet", "vgg11", "googlenet", "resnet18"),
            activation=("relu",),
            optimizer=("momentum:0.01",),
            scheme=("zeros", "N(0, 0.01²)", "Glorot uniform", "He", "article: Kaiming"),
            seed=SEEDS,
            epochs=5,
            batch_size=8,
        ),
        {"train_images": 5_000, "epochs": 2},
    ),
}


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ValueError: there is none; the message suggests the nearest.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
