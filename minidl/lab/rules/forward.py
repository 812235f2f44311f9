"""Rules of the way up: size of the signal, and whether inputs can be told apart."""

from __future__ import annotations

import math

from minidl.lab.evidence import Evidence, Weight
from minidl.lab.limits import HARMLESS
from minidl.lab.rules.fixes import centred_activation, matched_scheme, other_scale
from minidl.lab.rules.registry import Skip, Verdict, level_of, rule

CHANGE_WARN = HARMLESS
CHANGE_FAIL = 18.0  # measured on digits: within 300 steps a network of 3 layers with 16.7 still trains

SPREAD_WARN, SPREAD_FAIL = 0.3, 0.012  # of std over inputs, over std
COSINE_OFF = 0.1  # from the theory
COSINE_FAIL = 0.99999


@rule(
    "F1",
    "forward",
    "L·|ln χ|: change of E h² from the inputs to the output layer",
    limits=(f"≤ {CHANGE_WARN:g}", f"≤ {CHANGE_FAIL:g}", f"> {CHANGE_FAIL:g} without shortcuts; with them see R1"),
    source="depth ≤ 6 ξ: Schoenholz et al. 2017; He et al. 2015: 15 is late, 21 stalls; failing limit: digits",
    explained_by=("D1", "W1", "W2", "W3", "S1", "G1"),
)
def kept_signal(e: Evidence) -> Verdict:
    """The second moment of what enters a layer, from the first to the last: kept, vanishing or exploding."""
    values = [w.into["rms"] for w in e.weights]
    if not all(math.isfinite(v) and v > 0 for v in values):
        raise Skip("a signal is exactly 0 or not finite, see F2")
    total = 2 * math.log(values[-1] / values[0])
    change = abs(total)
    steps = max(len(values) - 1, 1)
    level = level_of(change, CHANGE_WARN, math.inf if e.blocks else CHANGE_FAIL)
    fix = other_scale(e)
    return Verdict(
        level,
        change,
        _predicted_change(e),
        "L·|ln χ| of E h²",
        f"E h² goes from {values[0] ** 2:.3g} to {values[-1] ** 2:.3g} over {steps} layers, ×{_root(total, steps):.3g} "
        f"per layer: L·|ln χ| = {change:.3g}, harmless up to {CHANGE_WARN:g}",
        cause=f"the signal {'vanishes' if total < 0 else 'explodes'} on the way up",
        layer=_where(e, values, total),
        fix=fix.code,
        effect=fix.effect,
    )


def _root(total: float, steps: int) -> float:
    return math.exp(min(total / steps, 700.0))


def _where(e: Evidence, values: list[float], total: float) -> str:
    """The first layer that gets a signal changed by more than is harmless."""
    for w, value in zip(e.weights, values, strict=True):
        if abs(2 * math.log(value / values[0])) > CHANGE_WARN:
            return w.layer
    return e.weights[-1].layer if total else ""


def _predicted_change(e: Evidence) -> float:
    """What the theory of this network has; a signal that is kept, where there is none."""
    if e.prediction is None:
        return 0.0
    inputs = _input_of(e, e.weights[-1])
    if inputs is None or not inputs > 0:
        return math.inf if inputs == 0 else 0.0
    return abs(math.log(inputs / e.inputs["rms"] ** 2)) if math.isfinite(inputs) else math.inf


def _input_of(e: Evidence, w: Weight) -> float | None:
    """The predicted second moment of what enters a layer: that of the layer before it."""
    names = [r["layer"] for r in e.prediction.records]
    before = names.index(w.layer) - 1 if w.layer in names else -1
    return None if before < 0 else e.prediction.records[before]["second_moment"]


@rule(
    "F2",
    "forward",
    "a value that is not finite, or a signal that is exactly 0",
    limits=("none", "a layer of zeros that learns in the first step: info", "any other"),
    source="the range of float32: 1e-45 to 3.4e38",
    explained_by=("D1", "W1", "W2", "W3", "S1", "G1"),
)
def finite_signal(e: Evidence) -> Verdict:
    """Overflow or underflow: from this layer on nothing is left to learn from."""
    fix = matched_scheme(e)
    for w in e.weights:
        into, out = w.into["rms"], w.record["rms"]
        bad = not math.isfinite(into) or not math.isfinite(out)
        if bad or into == 0:
            value = out if not bad else math.inf
            return Verdict(
                "info" if e.wakes and not bad else "fail",
                value,
                None,
                "rms of the signal",
                f"{w.layer}: " + ("its values are not finite" if bad else "every value that enters it is exactly 0"),
                cause=_lost(w) if bad else "nothing arrives: a silent layer, or underflow",
                layer=w.layer,
                fix=fix.code,
                effect=fix.effect,
            )
    return Verdict(
        "ok", e.weights[-1].into["rms"], None, "rms of the signal", "every layer gets finite values, and not all are 0"
    )


def _lost(w: Weight) -> str:
    return "overflow of float32" if math.isfinite(w.mean) else "there are weights that are NaN or infinite"


@rule(
    "F3",
    "forward",
    "std over inputs / std of all values, least of what enters a layer",
    limits=(f"≥ {SPREAD_WARN:g}", f"≥ {SPREAD_FAIL:g}", f"< {SPREAD_FAIL:g}"),
    source="He and ReLU at depth 50 leave 0.24; failing limit measured on digits",
    explained_by=("D1", "W2", "W3", "S1", "F2"),
)
def distinct_inputs(e: Evidence) -> Verdict:
    """Inputs that become alike on the way up: the total std may look perfect while nothing is said about the input."""
    if len(e.weights) < 2:
        raise Skip("there is no hidden layer")
    if e.inputs["examples"] < 2:
        raise Skip("one input has none to be told from; give a batch")
    if e.wakes:
        raise Skip("a layer of zeros lets nothing pass until it has learned")
    shares = {w.layer: _share(w) for w in e.weights[1:] if w.into["rms"] > 0}
    if not shares:
        raise Skip("every signal is exactly 0, see F2")
    layer = min(shares, key=lambda each: shares[each])
    value = shares[layer]
    first = next((name for name, share in shares.items() if share < SPREAD_WARN), layer)
    fix = centred_activation(e) if value < SPREAD_WARN else None
    return Verdict(
        "ok" if value >= SPREAD_WARN else "warn" if value >= SPREAD_FAIL else "fail",
        value,
        1.0,
        "std over inputs / std",
        f"what enters {layer} differs by input by {value:.2g} of its spread, below {SPREAD_WARN:g} from {first} on",
        cause="inputs become indistinguishable on the way up",
        layer=first,
        fix=fix.code if fix else "",
        effect=fix.effect if fix else "",
    )


def _share(w: Weight) -> float:
    std, spread = w.into["std"], w.into["batch_std"]
    return 0.0 if not std > 0 or not math.isfinite(std) else spread / std


@rule(
    "F4",
    "forward",
    "mean cosine of two inputs at the last hidden layer",
    limits=(f"theory ± {COSINE_OFF:g}", "off the theory by more", f"> {COSINE_FAIL}"),
    source="correlation map, Poole et al. 2016; failing limit measured on digits",
    explained_by=("D1", "W2", "W3", "S1", "F2", "F3"),
)
def correlation_of_inputs(e: Evidence) -> Verdict:
    """The same seen as an angle: at cosine 1 all inputs are one."""
    if not e.report.correlation:
        raise Skip("no correlations: they take two inputs, and a network that runs on any number")
    if not e.hidden:
        raise Skip("there is no hidden layer")
    layer = e.hidden[-1].layer
    value = next((r["cosine"] for r in e.report.correlation if r["layer"] == layer), None)
    if value is None or not math.isfinite(value):
        raise Skip(f"the cosine at {layer} is not finite")
    theory = _predicted_cosine(e, layer)
    off = theory is not None and abs(value - theory) > COSINE_OFF
    fix = centred_activation(e)
    return Verdict(
        "fail" if value > COSINE_FAIL else "info" if off else "ok",
        value,
        theory,
        "mean cosine between inputs",
        f"two inputs have cosine {value:.4f} at {layer}" + ("" if theory is None else f"; theory {theory:.4f}"),
        cause="all inputs point the same way" if value > COSINE_FAIL else "the angle between inputs is off the theory",
        layer=layer,
        fix=fix.code if value > COSINE_FAIL else "",
        effect=fix.effect if value > COSINE_FAIL else "",
    )


def _predicted_cosine(e: Evidence, layer: str) -> float | None:
    if e.prediction is None:
        return None
    found = [r["correlation"] for r in e.prediction.records if r["layer"] == layer]
    return found[0] if found else None


@rule(
    "F5",
    "forward",
    "1 - cosine of an input and a slightly changed copy: last hidden layer over first",
    limits=("ln of it at most 1", f"more than {CHANGE_WARN:g}; between them info", "never"),
    source="chaotic phase, χ₁ > 1: Poole et al. 2016",
    explained_by=("D1", "W1", "W2", "F1"),
)
def nearby_inputs(e: Evidence) -> Verdict:
    """In the chaotic phase a tiny change of the input grows from layer to layer."""
    if not e.report.correlation:
        raise Skip("no correlations: they take two inputs, and a network that runs on any number")
    own = {w.layer for w in e.hidden}
    apart = [1 - r["near"] for r in e.report.correlation if r["layer"] in own and r["near"] is not None]
    apart = [a for a in apart if math.isfinite(a) and a > 0]
    if len(apart) < 2:
        raise Skip("a slightly changed copy of the input gives no correlation that can be told from 1")
    growth = math.log(apart[-1] / apart[0])
    level = "warn" if growth > CHANGE_WARN else "info" if growth > 1 else "ok"
    fix = other_scale(e)
    return Verdict(
        level,
        growth,
        0.0,
        "ln of the growth of a small difference",
        f"1 - cosine of nearby inputs goes from {apart[0]:.2g} to {apart[-1]:.2g}: e^{growth:.2g}",
        cause="chaotic phase: nearby inputs part",
        layer=e.hidden[-1].layer,
        fix=fix.code if level == "warn" else "",
        effect=fix.effect if level == "warn" else "",
    )
