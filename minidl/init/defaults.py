"""What a dense layer or a convolution gets in other frameworks when nobody says anything, and what one old one drew.

The fans are those of minidl (``init.fans``). For dense layers and convolutions all agree; PyTorch reads the fan_in of a
transposed convolution off the weight's shape, C_out/g · k², which is not the number of terms in an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from minidl.init.registry import Initializer, Request, register
from minidl.init.sample import standard_uniform
from minidl.init.scaling import glorot_truncated_normal, glorot_uniform, he_truncated_normal, lecun_truncated_normal
from minidl.text import unknown

__all__ = ["jax_default", "keras_2_0_9", "keras_default", "torch_default"]

#: The schemes of Keras 2.0.9 whose names say normal.
KERAS_NORMALS: dict[str, Callable[..., Initializer]] = {
    "he_normal": he_truncated_normal,
    "glorot_normal": glorot_truncated_normal,
    "lecun_normal": lecun_truncated_normal,
}


@register()
def torch_default() -> Initializer:
    """``W ~ U(±1/√fan_in)``, and ``b`` likewise: PyTorch's ``Linear`` and ``Conv2d``. Variance ``1/(3 fan_in)``.

    In PyTorch it is written ``kaiming_uniform_(a=√5)``, but it is not He's: it is the old heuristic that Glorot &
    Bengio argue against. Every ReLU layer keeps one sixth of the second moment, every tanh layer one third. A
    deep network then shows the noise of its own biases: pass ``bias_init="torch_default"`` to have them too
    (for a whole model ``{"*.bias": "torch_default", "*": "torch_default"}``), and the second moment stops falling at
    0.4/n.

    Source: PyTorch, ``nn.Linear.reset_parameters``; LeCun et al. 1998, "Efficient BackProp", for the tradition.
    """

    def draw(r: Request) -> NDArray[Any]:
        return standard_uniform(r.rng, r.shape, r.dtype) / math.sqrt(r.fan_in)

    return Initializer("W ~ U(±1/√fan_in)", draw, needs_fans=True)


@register()
def keras_default() -> Initializer:
    """``W ~ U(±√(6/(fan_in + fan_out)))``, b = 0: Keras' ``Dense`` and ``Conv2D``, whatever the activation.

    It is ``glorot_uniform``: a ReLU layer with equal fans halves the second moment.

    Source: Keras 3, ``kernel_initializer="glorot_uniform"``.
    """
    return glorot_uniform()


@register()
def jax_default() -> Initializer:
    """``W ~ N(0, 1/fan_in)`` cut at ±2σ' with its variance restored, b = 0: ``Dense`` and ``Conv`` of Flax.

    It is ``lecun_truncated_normal``; JAX says lecun_normal. A ReLU layer halves the second moment.

    Source: Flax, ``kernel_init=lecun_normal()``.
    """
    return lecun_truncated_normal()


@register()
def keras_2_0_9(name: str = "he_normal") -> Initializer:
    """``W ~ N(0, 2/fan_in)`` cut at ±2σ and left so: what ``he_normal`` drew in Keras 2.0.9, the article's version.

    The cut takes 22.6 % of the variance and nothing restores it: each ReLU layer multiplies the second moment by
    0.7737, ten of them by 0.077. Corrected in 2018; the scheme of today is ``he_truncated_normal``.

    Args:
        name: "he_normal", "glorot_normal" or "lecun_normal", the three it was so with.

    Raises:
        ValueError: another name.

    Source: Keras issue 8048 and pull request 9963.
    """
    if name not in KERAS_NORMALS:
        raise unknown("normal scheme of Keras 2.0.9", name, KERAS_NORMALS)
    return KERAS_NORMALS[name](correct_truncation=False)
