"""The five architectures against twins written in PyTorch from the papers: outputs and all gradients, same weights."""

import numpy as np
import pytest
from conftest import tensor
from oracle import check, torch, twins

from minidl import models, nn, ops

F, t = torch.nn.functional, torch.nn
pytestmark = pytest.mark.oracle
slow = pytest.mark.slow


def compare(ours, theirs, shape, count=2, tolerance=1e-8):
    """Output and gradients of image and parameters, in float64, from the same random weights."""
    x = np.random.default_rng(0).normal(size=(count, *shape))
    check(ours, theirs, x, pairs=twins(ours, theirs), tolerance=tolerance, second=False)


def without_dropout(model):
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
    return model


def conv(c_in, c_out, kernel, act=t.ReLU, **how):
    return t.Sequential(t.Conv2d(c_in, c_out, kernel, **how), act())


# ------------------------------------------------------------------------------------------------------------ in a row


def lenet5(padding, act, pool):
    return t.Sequential(
        *(conv(1, 6, 5, act, padding=padding), pool(2)),
        *(conv(6, 16, 5, act), pool(2)),
        t.Flatten(),
        *(t.Linear(400, 120), act()),
        *(t.Linear(120, 84), act()),
        t.Linear(84, 10),
    )


@pytest.mark.parametrize(
    ("side", "activation", "pool", "twin"),
    [
        (32, "relu", "max", lenet5(0, t.ReLU, t.MaxPool2d)),
        (28, "tanh", "avg", lenet5(2, t.Tanh, t.AvgPool2d)),
        (28, "sigmoid", "max", lenet5(2, t.Sigmoid, t.MaxPool2d)),
    ],
)
def test_lenet5_is_that_of_the_twin(side, activation, pool, twin):
    ours = models.lenet5(activation, pool=pool, in_shape=(1, side, side))
    compare(ours, twin, (1, side, side))


def alexnet(first, left, part, units):
    a, b, c, d, e = (n // part for n in (64, 192, 384, 256, 256))
    return t.Sequential(
        *(first, t.MaxPool2d(3, 2)),
        *(conv(a, b, 5, padding=2), t.MaxPool2d(3, 2)),
        conv(b, c, 3, padding=1),
        conv(c, d, 3, padding=1),
        *(conv(d, e, 3, padding=1), t.MaxPool2d(3, 2)),
        t.Flatten(),
        *(t.Linear(e * left * left, units), t.ReLU()),
        *(t.Linear(units, units), t.ReLU()),
        t.Linear(units, 10),
    )


@slow
def test_alexnet_is_that_of_the_twin():
    ours = without_dropout(models.alexnet(num_classes=10))
    compare(ours, alexnet(conv(3, 64, 11, stride=4, padding=2), 6, 1, 4096), (3, 224, 224), count=1)


@pytest.mark.parametrize(("side", "left"), [(28, 2), (32, 3)])
def test_small_alexnet_is_that_of_the_twin(side, left):
    ours = without_dropout(models.alexnet(in_shape=(3, side, side), num_classes=10))
    compare(ours, alexnet(conv(3, 16, 5, padding=2), left, 4, 256), (3, side, side))


def vgg(plan, left, units):
    """``plan``: channels of the convolutions, "M" for pooling."""
    layers, channels = [], 3
    for item in plan:
        layers.append(t.MaxPool2d(2) if item == "M" else conv(channels, item, 3, padding=1))
        channels = channels if item == "M" else item
    dense = [t.Linear(channels * left * left, units), t.ReLU(), t.Linear(units, units), t.ReLU(), t.Linear(units, 10)]
    return t.Sequential(*layers, t.Flatten(), *dense)


A = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]


@slow
def test_vgg11_is_that_of_the_twin():
    """At 96×96, the smallest image of the published form: at 224×224 the doubles of both would need 4 GB."""
    compare(without_dropout(models.vgg11(in_shape=(3, 96, 96), num_classes=10)), vgg(A, 3, 4096), (3, 96, 96), count=1)


@pytest.mark.parametrize(
    ("name", "side", "plan"),
    [
        ("vgg11", 32, [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128]),
        ("vgg16", 28, [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128]),
    ],
)
def test_small_vgg_is_that_of_the_twin(name, side, plan):
    ours = without_dropout(models.build(name, in_shape=(3, side, side), num_classes=10))
    compare(ours, vgg(plan, side // 16, 256), (3, side, side))


# ------------------------------------------------------------------------------------------------------------ GoogLeNet


class Inception(t.Module):
    def __init__(self, c, c1, r3, c3, r5, c5, p):
        super().__init__()
        self.b1 = conv(c, c1, 1)
        self.b3 = t.Sequential(conv(c, r3, 1), conv(r3, c3, 3, padding=1))
        self.b5 = t.Sequential(conv(c, r5, 1), conv(r5, c5, 5, padding=2))
        self.bp = t.Sequential(t.MaxPool2d(3, 1, padding=1), conv(c, p, 1))

    def forward(self, x):
        return torch.cat([self.b1(x), self.b3(x), self.b5(x), self.bp(x)], 1)


class GoogLeNet(t.Module):
    def __init__(self, part=1, small=False, aux_side=4):
        super().__init__()

        def block(*channels):
            return Inception(*(c // part for c in channels))

        def auxiliary(c):
            pooled = [t.AvgPool2d(5, 3), conv(c // part, 128 // part, 1), t.Flatten()]
            hidden = t.Linear(128 // part * aux_side**2, 1024 // part)
            return t.Sequential(*pooled, hidden, t.ReLU(), t.Linear(1024 // part, 10))

        first = conv(3, 64 // part, 3, padding=1) if small else conv(3, 64, 7, stride=2, padding=3)
        self.until_4a = t.Sequential(
            *(first, t.MaxPool2d(3, 2, 1)),
            *(conv(64 // part, 64 // part, 1), conv(64 // part, 192 // part, 3, padding=1)),
            t.Identity() if small else t.MaxPool2d(3, 2, 1),
            block(192, 64, 96, 128, 16, 32, 32),
            block(256, 128, 128, 192, 32, 96, 64),
            t.MaxPool2d(3, 2, 1),
            block(480, 192, 96, 208, 16, 48, 64),
        )
        self.until_4d = t.Sequential(
            block(512, 160, 112, 224, 24, 64, 64),
            block(512, 128, 128, 256, 24, 64, 64),
            block(512, 112, 144, 288, 32, 64, 64),
        )
        self.rest = t.Sequential(
            block(528, 256, 160, 320, 32, 128, 128),
            t.MaxPool2d(3, 2, 1),
            block(832, 256, 160, 320, 32, 128, 128),
            block(832, 384, 192, 384, 48, 128, 128),
            *(t.AdaptiveAvgPool2d(1), t.Flatten()),
            t.Linear(1024 // part, 10),
        )
        self.aux1, self.aux2 = auxiliary(512), auxiliary(528)

    def forward(self, x):
        a = self.until_4a(x)
        d = self.until_4d(a)
        return torch.cat([self.rest(d), self.aux1(a), self.aux2(d)], 1)


def side_by_side(model):
    """All three outputs of a GoogLeNet in training as one."""
    return lambda x: ops.concat(list(model(x)), axis=1)


@pytest.mark.parametrize(
    ("shape", "twin"),
    [
        pytest.param((3, 224, 224), lambda: GoogLeNet(), marks=slow),
        ((3, 32, 32), lambda: GoogLeNet(4, small=True, aux_side=2)),
        ((3, 28, 28), lambda: GoogLeNet(4, small=True, aux_side=1)),
    ],
)
def test_googlenet_and_its_auxiliary_classifiers_are_those_of_the_twin(shape, twin):
    ours, theirs = without_dropout(models.googlenet(in_shape=shape, num_classes=10)), twin()
    pairs = twins(ours, theirs)
    x = np.random.default_rng(0).normal(size=(2, *shape))
    check(side_by_side(ours), theirs, x, pairs=pairs, tolerance=1e-8, second=False)


# --------------------------------------------------------------------------------------------------------------- ResNet


def normed(c_in, c_out, kernel, stride=1):
    return t.Sequential(t.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), t.BatchNorm2d(c_out))


class Block(t.Module):
    """The original: ``relu(F(x) + shortcut)``."""

    def __init__(self, c, width, stride, bottleneck):
        super().__init__()
        self.out = 4 * width if bottleneck else width
        if bottleneck:
            parts = [
                normed(c, width, 1),
                t.ReLU(),
                normed(width, width, 3, stride),
                t.ReLU(),
                normed(width, self.out, 1),
            ]
        else:
            parts = [normed(c, width, 3, stride), t.ReLU(), normed(width, width, 3)]
        self.branch = t.Sequential(*parts)
        self.shortcut = normed(c, self.out, 1, stride) if (c, 1) != (self.out, stride) else t.Identity()

    def forward(self, x):
        return F.relu(self.branch(x) + self.shortcut(x))


class PreBlock(t.Module):
    """Pre-activation: ``F(act(x)) + shortcut``; a projection sees the activated x; the first block gets it so."""

    def __init__(self, c, width, stride, bottleneck, is_first):
        super().__init__()
        self.out = 4 * width if bottleneck else width
        self.norm = None if is_first else t.BatchNorm2d(c)
        kernels = (
            [(width, 1, 1), (width, 3, stride), (self.out, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
        )
        layers, channels = [], c
        for i, (c_out, kernel, step) in enumerate(kernels):
            layers += [t.BatchNorm2d(channels), t.ReLU()] if i else []
            layers.append(t.Conv2d(channels, c_out, kernel, step, kernel // 2, bias=False))
            channels = c_out
        self.convs = t.Sequential(*layers)
        self.project = t.Conv2d(c, self.out, 1, stride, bias=False) if (c, 1) != (self.out, stride) else None

    def forward(self, x):
        h = x if self.norm is None else F.relu(self.norm(x))
        return self.convs(h) + (x if self.project is None else self.project(h))


def resnet(stages, width, bottleneck, stem, pre=False):
    layers, c = [stem], width
    for s, count in enumerate(stages):
        for b in range(count):
            how = (c, width * 2**s, 2 if s and not b else 1, bottleneck)
            layers.append(PreBlock(*how, is_first=s == b == 0) if pre else Block(*how))
            c = layers[-1].out
    last = [t.BatchNorm2d(c), t.ReLU()] if pre else []
    return t.Sequential(*layers, *last, t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(c, 10))


def large_stem():
    return t.Sequential(normed(3, 64, 7, 2), t.ReLU(), t.MaxPool2d(3, 2, 1))


def small_stem():
    return t.Sequential(normed(3, 16, 3), t.ReLU())


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize(
    ("name", "side", "plan"),
    [
        pytest.param("resnet18", 224, ([2, 2, 2, 2], 64, False, large_stem), marks=slow),
        pytest.param("resnet50", 224, ([3, 4, 6, 3], 64, True, large_stem), marks=slow),
        ("resnet18", 32, ([2, 2, 2, 2], 16, False, small_stem)),
        ("resnet50", 32, ([3, 4, 6, 3], 16, True, small_stem)),
        ("resnet20", 32, ([3, 3, 3], 16, False, small_stem)),
        ("resnet32", 28, ([5, 5, 5], 16, False, small_stem)),
    ],
)
def test_resnet_is_that_of_the_twin_in_both_orders(name, side, plan, order):
    stages, width, bottleneck, stem = plan
    ours = models.build(name, order=order, in_shape=(3, side, side), num_classes=10)
    compare(ours, resnet(stages, width, bottleneck, stem(), order == "pre"), (3, side, side), tolerance=1e-7)


def test_a_trained_resnet_in_evaluation_is_that_of_the_twin():
    """By running averages, which a step in training has moved."""
    ours = models.resnet20()
    theirs = resnet([3, 3, 3], 16, False, small_stem())
    pairs = twins(ours, theirs)
    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32))
    ours(tensor(x)), theirs(torch.from_numpy(x))
    check(ours.eval(), theirs.eval(), x, pairs=pairs, tolerance=1e-8, second=False)
