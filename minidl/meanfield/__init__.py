"""The mathematics of wide networks: what depth does to signals, differences and gradients.

In a wide layer with independent zero-mean weights a pre-activation is Gaussian, ``z = √q ξ`` with ``ξ ~ N(0, 1)``.
Three averages over ``ξ`` then say how the layer changes a signal: ``E φ(z)`` and ``E φ(z)²`` on the way up, and
``E φ'(z)²`` on the way down (``gaussian.py``; in closed form where there is one, ``closed.py``). Iterated over layers
they give the maps of variance and correlation with their fixed points, and the edge of chaos (``maps.py``);
``effects.py`` has what follows from them, from dead units to the first loss, and ``law.py`` the whole distribution
where it is not Gaussian. Everything here is a pure function of numbers, in float64 on the host.
"""

from minidl.meanfield.effects import (
    ZeroInit,
    batch_norm_growth,
    dead_fraction,
    growth_band,
    initial_loss,
    log_moments,
    relu_log_moments,
    residual_growth,
    zero_init_accuracy,
)
from minidl.meanfield.gaussian import (
    ACTIVATIONS,
    Moments,
    activation_name,
    gaussian_mean,
    gaussian_moments,
    resolve,
)
from minidl.meanfield.maps import (
    CriticalPoint,
    DepthScales,
    chi,
    correlation_fixed_point,
    correlation_map,
    critical_point,
    depth_scales,
    distance_map,
    fixed_point,
    half_difference,
    variance_map,
    variance_slope,
)

__all__ = [
    "ACTIVATIONS",
    "CriticalPoint",
    "DepthScales",
    "Moments",
    "ZeroInit",
    "activation_name",
    "batch_norm_growth",
    "chi",
    "correlation_fixed_point",
    "correlation_map",
    "critical_point",
    "dead_fraction",
    "depth_scales",
    "distance_map",
    "fixed_point",
    "gaussian_mean",
    "gaussian_moments",
    "growth_band",
    "half_difference",
    "initial_loss",
    "log_moments",
    "relu_log_moments",
    "residual_growth",
    "resolve",
    "variance_map",
    "variance_slope",
    "zero_init_accuracy",
]
