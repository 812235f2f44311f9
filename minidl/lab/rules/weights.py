"""Rules of the weights: their law, their centre, and whether the units of a layer differ."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from minidl.init.ratios import TOLERANCE, Suspect, explain_ratio
from minidl.lab.evidence import Evidence, Weight
from minidl.lab.rules.fixes import SEED, matched_scheme
from minidl.lab.rules.registry import Skip, Verdict, rule

STANDARD_ERRORS = 5.0  # of the measured spread, before a deviation counts at all

DRIFT_ERRORS = 5.0  # standard errors that the mean of the weights may be from 0
DRIFT_SHARE = 1.0  # of 1/√fan_in: from here on the common part n·mean outweighs the random part √n·std
DRIFT_HEAVY = 4.0  # the same: a layer in which the common part rules
DRIFT_FAIL = 7.5  # ln of the product of all that are heavy; measured on digits: 6.9 trains, 8.0 does not

COHERENCE_WARN, COHERENCE_INFO = 5.0, 1.5  # times √(2/(π n))
COHERENCE_FAIL = 0.97

TWINS_WARN, TWINS_FAIL = 0.0, 0.9  # share of units that are locked together
SAME = 1e-6  # 1 - cos below which two units are one


@rule(
    "W1",
    "weights",
    "std of the weights over that of the declared scheme",
    limits=(
        f"within {TOLERANCE:.0%}, or {STANDARD_ERRORS:g} s.e.",
        "—",
        "a ratio of the table of slips, not in branches alone",
    ),
    source="moments of the law in the scheme's own formula; table: init/ratios.py",
    kind="fault",
)
def declared_spread(e: Evidence) -> Verdict:
    """Weights that do not have the spread their scheme's formula promises: a slip in the formula shows in the ratio."""
    judged = [
        w for w in e.weights if w.law is not None and w.law.std > 0 and w.law.independent and math.isfinite(w.std)
    ]
    if not judged:
        raise Skip("no layer declares its fans and a scheme whose formula is a plain law")
    if e.trained:
        raise Skip("the biases are no longer as declared: the network was trained, or set by hand")
    off = [w for w in judged if abs(_ratio(w) - 1) > max(TOLERANCE, STANDARD_ERRORS / math.sqrt(2 * w.size))]
    if not off:
        return Verdict("ok", 1.0, 1.0, "std / expected", f"the spread of {len(judged)} layers is that of their scheme")
    found = [_named(w) for w in off]
    worst = off[0]
    common = set.intersection(*({s.name for s in each} for each in found))
    slips = [s for s in found[0] if s.name in common]
    slip = slips[0] if slips else None
    branches = all(w.block for w in off)  # a slip of a formula is everywhere; Fixup and its like shrink branches alone
    ratio, law = _ratio(worst), worst.law
    assert law is not None
    return Verdict(
        "info" if slip is None or branches else "fail",
        worst.std,
        law.std,
        "standard deviation of the weights",
        f"{worst.scheme} promises std {law.std:.4g} in {worst.layer}, measured {worst.std:.4g}: ratio {ratio:.4g}"
        + ("; no known slip gives it" if slip is None else f", as when {slip.hint.partition(':')[0]}"),
        cause="the weights were set by hand, not by their scheme"
        if slip is None or branches
        else f"wrong formula: {' or '.join(s.name for s in slips)}",
        layer=worst.layer,
        fix=f"init.apply(model, {SEED})",
        effect=f"draws every layer by the scheme it declares: std {law.std:.4g} here",
    )


def _ratio(w: Weight) -> float:
    assert w.law is not None
    return w.std / w.law.std


def _named(w: Weight) -> list[Suspect]:
    if w.geometry is None or w.law is None or w.fans is None or _ratio(w) <= 0:
        return []
    gain = w.law.std * math.sqrt(w.fans[0])
    return explain_ratio(
        _ratio(w),
        fan_in=w.fans[0],
        fan_out=w.fans[1],
        receptive_field=w.geometry.receptive_field,
        groups=w.geometry.groups,
        gain=gain,
        std=w.law.std,
        tolerance=max(TOLERANCE, 2 / math.sqrt(2 * w.size)),
    )


@rule(
    "W2",
    "weights",
    "|mean| of the weights over std",
    limits=(
        f"|mean| ≤ {DRIFT_ERRORS:g} std/√size, or |mean|/std ≤ 1/√fan_in",
        "beyond both",
        f"Σ ln(√fan_in |mean|/std) > {DRIFT_FAIL:g} over the layers where the factor is above {DRIFT_HEAVY:g}",
    ),
    source="the common part n·mean of a pre-activation against its random part √n·std",
)
def centred_weights(e: Evidence) -> Verdict:
    """Weights of one sign give all units the same input: a drift of rank one that grows with the number of inputs."""
    drifts = {w.layer: _drift(w) for w in e.hidden if w.std > 0}
    off = [layer for layer, drift in drifts.items() if drift > DRIFT_SHARE]
    heavy = sum(math.log(drift) for drift in drifts.values() if drift > DRIFT_HEAVY)
    if not drifts:
        raise Skip("no hidden layer has weights that vary")
    layer = max(drifts, key=lambda each: drifts[each])
    weight = next(w for w in e.hidden if w.layer == layer)
    fix = matched_scheme(e)
    return Verdict(
        "fail" if heavy > DRIFT_FAIL else "warn" if off else "ok",
        weight.mean / weight.std,
        0.0,
        "mean / std of the weights",
        f"{layer}: mean {weight.mean:.3g}, std {weight.std:.3g}; above 1/√fan_in = {weight.inputs**-0.5:.2g} what all "
        f"units share outweighs what they differ in; {len(off)} of {len(e.hidden)} hidden layers",
        cause="the weights are not centred",
        layer=off[0] if off else layer,
        fix=fix.code,
        effect=fix.effect,
    )


def _drift(w: Weight) -> float:
    """|mean|/std in units of 1/√fan_in; 0 where the mean is mere chance."""
    chance = abs(w.mean) <= DRIFT_ERRORS * w.std / math.sqrt(w.size)
    return 0.0 if chance else abs(w.mean) / w.std * math.sqrt(w.inputs)


@rule(
    "S1",
    "weights",
    "share of hidden units that are copies of another and get the same gradient",
    limits=("none", f"above {TWINS_WARN:g}", f"≥ {TWINS_FAIL:.0%} of a layer"),
    source="gradient descent keeps equal units equal: a network of width 1 (Goodfellow et al. 2016, section 8.4)",
)
def distinct_units(e: Evidence) -> Verdict:
    """Units with the same weights and the same gradient stay equal for ever, however long the training."""
    shares = {w.layer: _locked(w) for w in e.hidden if len(w.values) > 1}
    if not shares:
        raise Skip("no hidden layer has two units")
    layer = max(shares, key=lambda each: shares[each])
    worst = shares[layer]
    fix = matched_scheme(e)
    zero = all(not w.values.any() for w in e.hidden if shares.get(w.layer, 0) >= TWINS_FAIL)
    return Verdict(
        "fail" if worst >= TWINS_FAIL else "warn" if worst > TWINS_WARN else "ok",
        worst,
        0.0,
        "share of units that are copies",
        f"{worst:.0%} of the units of {layer} have the weights and the gradient of another",
        cause=f"symmetry: {'all weights are zero' if zero else 'units are copies of each other'}",
        layer=next((name for name, share in shares.items() if share >= min(TWINS_FAIL, worst)), layer),
        fix=fix.code,
        effect="every unit differs from every other; " + fix.effect,
    )


def _locked(w: Weight) -> float:
    """The share of units with a twin in weight, bias and gradient.

    A layer of zeros at the end of a residual branch has no twins: what follows tells its units apart.
    """
    if w.block and not w.values.any():
        return 0.0
    rows = [w.values]
    if w.bias is not None and len(w.bias) == len(w.values):
        rows.append(w.bias[:, None])
    same = _equal(rows)
    if w.gradient is not None:
        same &= _equal([w.gradient])
    np.fill_diagonal(same, False)
    return float(same.any(axis=1).mean())


def _equal(parts: Iterable[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Which rows agree, up to rounding, relative to the longest row."""
    matrix = np.concatenate(list(parts), axis=1)
    if not np.isfinite(matrix).all():
        return np.zeros((len(matrix), len(matrix)), bool)
    size = np.abs(matrix).max()
    if size == 0:
        return np.ones((len(matrix), len(matrix)), bool)
    matrix = matrix / size
    squares = (matrix**2).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2 * matrix @ matrix.T
    close: NDArray[np.bool_] = distance <= 2 * SAME * np.minimum(squares[:, None], squares[None, :])
    return close


@rule(
    "W3",
    "weights",
    "coherence: mean |cos| between the units of a hidden layer",
    limits=(
        f"≤ {COHERENCE_INFO:g} √(2/πn)",
        f"> {COHERENCE_WARN:g} √(2/πn); between them info",
        f"> {COHERENCE_FAIL:g} in most layers of a network without residual blocks",
    ),
    source="√(2/(π n)) for independent units; the failing limit measured on digits",
    explained_by=("W2", "S1"),
)
def independent_units(e: Evidence) -> Verdict:
    """Units that point the same way learn the same thing, whatever their variance."""
    found = {w.layer: _coherence(w) for w in e.hidden if len(w.values) > 1 and w.std > 0}
    found = {layer: value for layer, value in found.items() if math.isfinite(value)}
    if not found:
        raise Skip("no hidden layer has two units that are not zero")
    by_chance = {w.layer: math.sqrt(2 / (math.pi * w.values.shape[1])) for w in e.hidden}
    layer = max(found, key=lambda each: found[each] / by_chance[each])
    value, usual = found[layer], by_chance[layer]
    if max(found.values()) > COHERENCE_FAIL:
        layer = max(found, key=lambda each: found[each])
        value, usual = found[layer], by_chance[layer]
    most = 2 * sum(each > COHERENCE_FAIL for each in found.values()) > len(found) and not e.blocks
    level = "fail" if most else "warn" if value > COHERENCE_WARN * usual else "ok"
    fix = matched_scheme(e)
    return Verdict(
        "info" if level == "ok" and value > COHERENCE_INFO * usual else level,
        value,
        usual,
        "mean |cos| between units",
        f"{layer}: the units' weights have mean |cos| {value:.3g}; independent ones {usual:.3g}",
        cause="the units of a layer point the same way",
        layer=layer,
        fix=fix.code,
        effect=f"independent units: mean |cos| {usual:.2g}; " + fix.effect,
    )


def _coherence(w: Weight) -> float:
    """As ``init.coherence``, of the units at hand."""
    lengths = np.linalg.norm(w.values, axis=1)
    units = w.values[lengths > 0] / lengths[lengths > 0, None]
    count = len(units)
    return float((np.abs(units @ units.T).sum() - count) / (count * (count - 1))) if count > 1 else math.nan


@rule(
    "G1",
    "weights",
    "fans a layer declares against those its sizes give",
    limits=("equal", "—", "different"),
    source="fans count terms of a sum (He et al. 2015, section 2.2); pytorch#23854 for groups",
    kind="fault",
)
def declared_fans(e: Evidence) -> Verdict:
    """A scheme is only as right as the fans it is given: groups divide both, a transposed kernel swaps them."""
    known = [w for w in e.weights if w.fans is not None and w.geometry is not None]
    if not known:
        raise Skip("no layer declares its fans and sizes")
    for w in known:
        geometry, fans = w.geometry, w.fans
        assert geometry is not None and fans is not None
        if (geometry.fan_in, geometry.fan_out) != tuple(fans):
            true = (geometry.fan_in, geometry.fan_out)
            return Verdict(
                "fail",
                float(fans[0]),
                float(geometry.fan_in),
                "fan_in",
                f"{w.layer} declares fans {tuple(fans)}; its sizes ({geometry.groups} groups) give {true}",
                cause="a layer declares the wrong fans",
                layer=w.layer,
                fix=f'dict(model.named_modules())["{w.layer}"].fans = {true}; init.apply(model, {SEED})',
                effect=f"the spread of its weights is ×{math.sqrt(fans[0] / geometry.fan_in):.3g} by any fan_in scheme",
            )
    return Verdict("ok", 1.0, 1.0, "declared / true fans", f"{len(known)} layers declare the fans that they have")
