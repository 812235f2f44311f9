"""Ready-made networks, one file each: in their published form, and in a small form for small images.

>>> from minidl import models
>>> model = models.resnet20(activation="tanh", init="glorot_normal", norm=False)
>>> model = models.build("lenet5", in_shape=(1, 28, 28), seed=1)

``models.names()`` lists them. Weights depend on the seed and on the layers' names alone.
"""

from minidl.models.alexnet import alexnet
from minidl.models.blocks import scheme_for
from minidl.models.catalogue import build, names
from minidl.models.googlenet import GoogLeNet, googlenet
from minidl.models.lenet import lenet5
from minidl.models.perceptron import image_mlp, mlp
from minidl.models.resnet import resnet18, resnet20, resnet32, resnet34, resnet50, resnet56
from minidl.models.vgg import vgg11, vgg13, vgg16, vgg19

__all__ = [
    "GoogLeNet",
    "alexnet",
    "build",
    "googlenet",
    "image_mlp",
    "lenet5",
    "mlp",
    "names",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "scheme_for",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
]
