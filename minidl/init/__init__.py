"""Initialization: schemes by name, the gains and fans they need, and their application to a model.

>>> from minidl import init
>>> init.get("he_normal", mode="fan_out")
he_normal(mode='fan_out', negative_slope=0.0): W ~ N(0, 2/((1+a²) fan_out))

Families: ``constant.py`` (nothing known of the layer), ``scaling.py`` (variance over fan), ``orthogonal.py``, and
``as_written.py``: what the article gave, to be compared with and not to be used.
``init.names()`` lists them; each is also a function here, ``init.he_normal(mode="fan_out")``.
"""

from minidl.init.apply import Report, apply, stream
from minidl.init.as_written import (
    as_written_gaussian,
    as_written_kaiming,
    as_written_xavier,
    as_written_xavier_global,
)
from minidl.init.constant import constant, normal, ones, truncated_normal, uniform, zeros
from minidl.init.fans import conv_fans, conv_transpose_fans, dense_fans
from minidl.init.gain import gain
from minidl.init.orthogonal import orthogonal
from minidl.init.registry import Initializer, InitializerLike, Request, get, names, register
from minidl.init.scaling import (
    glorot_normal,
    glorot_truncated_normal,
    glorot_uniform,
    he_normal,
    he_truncated_normal,
    he_uniform,
    kaiming_normal,
    kaiming_truncated_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_truncated_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)

__all__ = [
    "Initializer",
    "InitializerLike",
    "Report",
    "Request",
    "apply",
    "as_written_gaussian",
    "as_written_kaiming",
    "as_written_xavier",
    "as_written_xavier_global",
    "constant",
    "conv_fans",
    "conv_transpose_fans",
    "dense_fans",
    "gain",
    "get",
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "names",
    "normal",
    "ones",
    "orthogonal",
    "register",
    "stream",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
    "zeros",
]
