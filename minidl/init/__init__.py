"""Initialization: schemes by name, the gains and fans they need, and their application to a model.

>>> from minidl import init
>>> init.get("he_normal", mode="fan_out")
he_normal(mode='fan_out', negative_slope=0.0): W ~ N(0, 2/((1+a²) fan_out))

Families: ``constant.py`` (nothing known of the layer), ``scaling.py`` (variance over fan), ``critical.py`` (a variance
solved for from the activation), ``orthogonal.py``, ``structured.py`` (identity, sparse, alike), ``defaults.py`` (those
of other frameworks), and ``as_written.py``: what the article gave, to be compared with and not to be used.
``init.names()`` lists them; each is also a function here, ``init.he_normal(mode="fan_out")``. Whole models are set by
``apply.py``, and from data (``data_driven.py``), by calculation (``analytic.py``), along gradients (``learned.py``) or
for their shortcuts (``residual.py``).
"""

import importlib
from typing import TYPE_CHECKING, Any

from minidl.init.apply import *
from minidl.init.as_written import *
from minidl.init.constant import *
from minidl.init.critical import *
from minidl.init.defaults import *
from minidl.init.fans import *
from minidl.init.gain import *
from minidl.init.orthogonal import *
from minidl.init.registry import *
from minidl.init.scaling import *
from minidl.init.structured import *
from minidl.meanfield import CriticalPoint, critical_point

if TYPE_CHECKING:
    from minidl.init.advice import *
    from minidl.init.analytic import *
    from minidl.init.data_driven import *
    from minidl.init.learned import *
    from minidl.init.model_level import *
    from minidl.init.residual import *
    from minidl.init.spectrum import *

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
    return sorted({*globals(), *_LATER})
