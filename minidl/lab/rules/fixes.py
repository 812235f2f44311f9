"""Cures: one line of Python each, and what the theory predicts it does.

A line works where ``model``, ``x``, ``y`` and the modules of minidl (``init``, ``lab``, ``nn``, ``optim``) are in
scope, as in ``from minidl import init, lab, nn, optim``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from minidl.init.advice import recommend
from minidl.init.ratios import TOLERANCE
from minidl.init.registry import Initializer, title
from minidl.lab.evidence import Evidence, Weight
from minidl.lab.law import read_law
from minidl.meanfield import gaussian_moments

__all__ = [
    "Fix",
    "call",
    "centred_activation",
    "gentler",
    "matched_scheme",
    "other_scale",
    "predicted_scale",
    "small_head",
    "zero_biases",
]

SEED = "seed=0"
STANDARD_ERRORS = 5.0  # of the spread of a layer, that it may be off its scheme's
FEW = 3  # layers that a line names one by one
BIASED = 0.7  # of the rms of an output, from which on a bias rules it
#: Activation whose mean is never 0 -> hidden layers up to which a scheme for it serves; beyond, inputs become alike.
OFF_CENTRE = {"sigmoid": 0, "softplus": 6}


class Fix(NamedTuple):
    """A line of code, and its predicted effect."""

    code: str
    effect: str


def call(initializer: Initializer) -> str:
    """How the initializer is written: ``init.glorot_normal(gain=1.2)``."""
    return f"init.{initializer}" if initializer.changed else f"init.{initializer.name}()"


def matched_scheme(e: Evidence) -> Fix:
    """Weights that fit the activation; where it is not known, weights that fit the batch."""
    if e.blocks and not _blocks_normalized(e):
        return _small_branches(e)
    if e.activation is None:
        return Fix("init.lsuv(model, x)", "every layer's output then has variance 1 on this batch")
    if not e.normalized and len(e.hidden) > OFF_CENTRE.get(e.activation, math.inf):
        return centred_activation(e)
    scheme = _scheme(e, e.activation)
    return Fix(f"init.apply(model, {call(scheme)}, {SEED})", _effect(e, e.activation, scheme))


def other_scale(e: Evidence) -> Fix:
    """Where the size of signal or gradient is wrong: the matched scheme, or what is left to do if it is in place."""
    if not _drawn_for(e):
        return matched_scheme(e)
    if biased := [w for w in e.hidden if _biased(w)]:
        return Fix(zero_biases(biased), "without these biases the weights alone set the size of the signal")
    if e.blocks and _end_normalized(e):
        return Fix("init.zero_gamma(model)", "each block starts as its shortcut: signal and gradient pass unchanged")
    if e.blocks or e.normalized:
        return matched_scheme(e)
    said = f"the scheme is the one for {e.activation} already; this sets the size of this draw, layer by layer"
    return Fix("init.lsuv(model, x)", said)


def _drawn_for(e: Evidence) -> bool:
    """Whether the weights are drawn, and have the spread, as the recommended scheme says."""
    if e.activation is None:
        return False
    title_of_it = title(_scheme(e, e.activation))
    return all(w.scheme == title_of_it and _as_promised(w) for w in e.hidden)


def _biased(w: Weight) -> bool:
    """Whether what a layer gives is mostly its bias."""
    return w.bias is not None and math.sqrt(float((w.bias**2).mean())) > BIASED * w.record["rms"]


def zero_biases(layers: Sequence[Weight]) -> str:
    """Zeros for the biases of these layers, as a line of code."""
    names = [f"{w.layer}.bias" for w in layers] if len(layers) <= FEW else ["*.bias"]
    rules = ", ".join(f'"{name}": init.zeros()' for name in names)
    return f"init.apply(model, {{{rules}}}, {SEED})"


def _as_promised(w: Weight) -> bool:
    error = STANDARD_ERRORS / math.sqrt(2 * w.size)
    return w.law is not None and abs(w.std - w.law.std) <= max(error, TOLERANCE) * w.law.std


def _end_normalized(e: Evidence) -> bool:
    """Whether the last thing in every branch is a normalization."""
    ends = {w.block: w for w in e.weights if w.block}
    return all(w.normalized for w in ends.values())


def centred_activation(e: Evidence) -> Fix:
    """Another activation, whose output has mean zero, with the scheme that fits it."""
    if e.activation is None:
        return Fix("init.lsuv(model, x)", "every layer's output then has variance 1 on this batch")
    scheme = _scheme(e, "tanh")
    code = f'lab.replace_activations(model, "tanh"); init.apply(model, {call(scheme)}, {SEED})'
    return Fix(code, "a mean of zero leaves the difference between inputs alone: " + _effect(e, "tanh", scheme))


def small_head(e: Evidence) -> Fix:
    """An output layer of zeros: the loss starts at the entropy of uniform guessing."""
    last = e.weights[-1].parameter or f"{e.weights[-1].layer}.weight"
    start = f"the loss starts at ln {e.classes} = {math.log(e.classes):.3g}" if e.classes else "the output starts at 0"
    return Fix(f'init.apply(model, {{"{last}": init.zeros()}}, {SEED})', start)


def gentler(factor: float) -> Fix:
    """All learning rates times a factor."""
    return Fix(
        f"for group in optimizer.groups: group['lr'] *= {factor:.2g}",
        f"every update is ×{factor:.2g} as large, relative to its weight",
    )


def predicted_scale(e: Evidence, activation: str, scheme: Initializer) -> float | None:
    """``ln(E h² / E x²)`` at the output layer if all weights were drawn by ``scheme``, at infinite width."""
    square = e.inputs["rms"] ** 2
    if not 0 < square < math.inf:
        return None
    start = square
    for w in e.hidden:
        std = _std(w, scheme)
        if std is None or not math.isfinite(square):
            return None
        square = gaussian_moments(activation, w.inputs * std**2 * square).square
    return math.log(square / start) if square > 0 else -math.inf


def _effect(e: Evidence, activation: str, scheme: Initializer) -> str:
    if e.normalized:
        return "the normalization keeps the size of the signal, and the scheme that of the gradient"
    total = predicted_scale(e, activation, scheme)
    if total is None:
        return f"the size of the signal is then kept through {activation}"
    return f"theory: E h² ×{math.exp(total / max(len(e.hidden), 1)):.3g} per layer, in all |ln| = {abs(total):.2f}"


def _scheme(e: Evidence, activation: str) -> Initializer:
    """The recommended scheme. Orthogonal ones of a convolution are flattened, so there it is a Gaussian one."""
    dense = all(len(w.record["shape"]) == 1 for w in e.weights)
    depth = e.depth if dense else None
    return recommend(activation, residual=bool(e.blocks), norm=e.normalized, depth=depth).scheme


def _std(w: Weight, scheme: Initializer) -> float | None:
    fans = {"fan_in": w.inputs, "fan_out": w.fans[1] if w.fans else float(len(w.values)), "a": 0.0}
    fans["a"] = scheme.params.get("negative_slope", 0.0)
    law = read_law(scheme.law, {**scheme.params, **fans}, (len(w.values), int(w.inputs)))
    return None if law is None else math.hypot(law.std, law.mean)


def _blocks_normalized(e: Evidence) -> bool:
    inside: list[Any] = [w for w in e.weights if w.block]
    return any(w.normalized for w in inside) or any(r["kind"].startswith("BatchNorm") for r in e.records)


def _small_branches(e: Evidence) -> Fix:
    scheme = call(_scheme(e, e.activation or "relu"))
    code, n = f"init.apply(model, {scheme}, {SEED}); init.scaled_residual(model)", len(e.blocks)
    return Fix(code, f"each of {n} blocks then adds 1/{n} of its input's second moment: at most ×e in all")
