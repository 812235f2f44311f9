"""Initialization: schemes by name, the gains and fans they need, and their application to a model.

>>> from minidl import init
>>> init.get("he_normal", mode="fan_out")
he_normal(mode='fan_out', negative_slope=0.0): W ~ N(0, 2/((1+a²) fan_out))

Families: ``constant.py`` (nothing known of the layer), ``scaling.py`` (variance over fan), ``critical.py`` (a variance
solved for from the activation), ``orthogonal.py``, ``structured.py`` (identity, sparse, alike), ``defaults.py`` (those
of other frameworks), and ``as_written.py``: what the article gave, to be compared with and not to be used.
``init.names()`` lists them; each is also a function here, ``init.he_normal(mode="fan_out")``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from minidl.init.apply import Report, apply, stream
from minidl.init.as_written import (
    as_written_gaussian,
    as_written_he,
    as_written_kaiming,
    as_written_xavier,
    as_written_xavier_global,
)
from minidl.init.constant import constant, normal, ones, prior_bias, truncated_normal, uniform, zeros
from minidl.init.critical import (
    CriticalPoint,
    critical_point,
    edge_of_chaos,
    kumar,
    sigmoid_glorot,
)
from minidl.init.defaults import (
    jax_default,
    keras_2_0_9,
    keras_default,
    torch_default,
)
from minidl.init.fans import conv_fans, conv_transpose_fans, dense_fans
from minidl.init.gain import gain
from minidl.init.orthogonal import (
    delta_orthogonal,
    identity_hadamard,
    looks_linear,
    orthogonal,
    semi_orthogonal,
)
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
    mup,
    variance_scaling,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)
from minidl.init.structured import (
    correlated_normal,
    dirac,
    identity,
    shared_draw,
    sparse,
)

if TYPE_CHECKING:
    from minidl.init.advice import Recommendation, recommend
    from minidl.init.analytic import autoinit
    from minidl.init.data_driven import first_batch_norm, krahenbuhl, lsuv, weight_norm_data
    from minidl.init.learned import gradinit, metainit, warm_start
    from minidl.init.model_level import ModelReport
    from minidl.init.residual import fixup, rezero, scaled_residual, skipinit, zero_gamma
    from minidl.init.spectrum import coherence, singular_values

__all__ = [
    "CriticalPoint",
    "Initializer",
    "InitializerLike",
    "ModelReport",
    "Recommendation",
    "Report",
    "Request",
    "apply",
    "as_written_gaussian",
    "as_written_he",
    "as_written_kaiming",
    "as_written_xavier",
    "as_written_xavier_global",
    "autoinit",
    "coherence",
    "constant",
    "conv_fans",
    "conv_transpose_fans",
    "correlated_normal",
    "critical_point",
    "delta_orthogonal",
    "dense_fans",
    "dirac",
    "edge_of_chaos",
    "first_batch_norm",
    "fixup",
    "gain",
    "get",
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "gradinit",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "identity",
    "identity_hadamard",
    "jax_default",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "keras_2_0_9",
    "keras_default",
    "krahenbuhl",
    "kumar",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "looks_linear",
    "lsuv",
    "metainit",
    "mup",
    "names",
    "normal",
    "ones",
    "orthogonal",
    "prior_bias",
    "recommend",
    "register",
    "rezero",
    "scaled_residual",
    "semi_orthogonal",
    "shared_draw",
    "sigmoid_glorot",
    "singular_values",
    "skipinit",
    "sparse",
    "stream",
    "torch_default",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "warm_start",
    "weight_norm_data",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
    "zero_gamma",
    "zeros",
]

#: What works on whole models or looks at finished weights is loaded when first used: ``import minidl`` stays quick.
_LATER = {
    name: module
    for module, names_there in {
        "minidl.init.advice": ("Recommendation", "recommend"),
        "minidl.init.analytic": ("autoinit",),
        "minidl.init.data_driven": ("first_batch_norm", "krahenbuhl", "lsuv", "weight_norm_data"),
        "minidl.init.learned": ("gradinit", "metainit", "warm_start"),
        "minidl.init.model_level": ("ModelReport",),
        "minidl.init.residual": ("fixup", "rezero", "scaled_residual", "skipinit", "zero_gamma"),
        "minidl.init.spectrum": ("coherence", "singular_values"),
    }.items()
    for name in names_there
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        found = getattr(importlib.import_module(_LATER[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'minidl.init' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
