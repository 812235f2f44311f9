"""Rules of the structure: residual blocks, normalization without shortcuts, isometry, width."""

from __future__ import annotations

import math
import statistics

from minidl.lab.evidence import Evidence
from minidl.lab.rules.backward import change, gradients
from minidl.lab.rules.fixes import matched_scheme
from minidl.lab.rules.registry import Skip, Verdict, rule

BLOCK_WARN, BLOCK_FAIL = 1.3, 1.7  # E x² after a block over before
BLOCKS_FAIL = 12.0  # ln of the same over all blocks

NORM_WARN, NORM_FAIL = 1.2, 1.6  # growth of E δ² per layer
NORM_DEPTH = 20

ISOMETRY = 0.1  # ln(σ_max / median σ) per layer
UNEVEN = 6.0  # the same over the depth
ZERO = 1e-6  # of the largest: below it a singular value is 0

WIDTH_OK, WIDTH_WARN = 0.3, 1.0  # Σ 1/n


@rule(
    "R1",
    "structure",
    "E x² after a residual block over before, geometric mean",
    limits=(
        f"≤ 1 + 2/blocks, or ≤ {BLOCK_WARN:g}",
        "above",
        f"≥ {BLOCK_FAIL:g}, and over all blocks more than e^{BLOCKS_FAIL:g}",
    ),
    source="an unscaled branch doubles E x²: Zhang et al. 2019 (Fixup), De & Smith 2020",
    explained_by=("D1", "W2", "F1", "F2", "B1", "L1"),
)
def scaled_branches(e: Evidence) -> Verdict:
    """Blocks that add as much as they get: 2^blocks."""
    ratios = [b.after / b.before for b in e.blocks if b.before > 0 and math.isfinite(b.after) and b.after > 0]
    if not ratios:
        raise Skip("there are no residual blocks")
    total = sum(math.log(r) for r in ratios)
    mean = math.exp(total / len(ratios))
    ok = mean <= max(1 + 2 / len(ratios), BLOCK_WARN)
    failed = mean >= BLOCK_FAIL and total > BLOCKS_FAIL
    fix = matched_scheme(e)
    return Verdict(
        "ok" if ok else "fail" if failed else "warn",
        mean,
        1.0,
        "E x² after / before a block",
        f"a block multiplies E x² by {mean:.3g}; {len(ratios)} blocks by {math.exp(min(total, 700)):.3g}",
        cause="the branches of residual blocks are not scaled",
        layer=e.blocks[0].layer,
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "N1",
    "structure",
    "growth of E δ² per layer in a network with normalization and no shortcuts",
    limits=(f"≤ {NORM_WARN:g}", "above", f"> {NORM_FAIL:g} in more than {NORM_DEPTH} layers"),
    source="Yang et al. 2019: π/(π - 1) = 1.467 for ReLU",
    explained_by=("D1", "W2", "W3", "S1", "F3", "F5", "A4", "B1"),
)
def normalized_gradient(e: Evidence) -> Verdict:
    """Normalization keeps the signal, and lets the gradient grow downwards by a factor per layer."""
    if not e.normalized or e.blocks:
        raise Skip("no normalization without shortcuts")
    _, deltas = gradients(e)
    growth = math.exp(min(change(deltas) / (len(deltas) - 1), 700.0))
    failed = growth > NORM_FAIL and len(deltas) > NORM_DEPTH
    return Verdict(
        "ok" if growth <= NORM_WARN else "fail" if failed else "warn",
        growth,
        None,
        "E δ² per layer",
        f"E δ² grows by {growth:.3g} per layer over {len(deltas)} normalized layers without a shortcut",
        cause="normalization without shortcuts: the gradient explodes",
        layer=e.hidden[0].layer,
        fix='lab.replace_activations(model, "tanh")',
        effect="an activation that is nearly a line lets the gradient grow less",
    )


@rule(
    "J1",
    "structure",
    "ln(largest / median singular value of the Jacobian that is not 0), per layer",
    limits=(f"≤ {ISOMETRY:g}", f"over the depth more than {UNEVEN:g}; between them info", "never"),
    source="Pennington et al. 2017; threshold ours",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1", "F3", "F5"),
)
def isometry(e: Evidence) -> Verdict:
    """Whether all directions of the input are stretched alike."""
    if not e.report.jacobian or not e.hidden:
        raise Skip(
            "no Jacobian: of convolutions, of wide or very deep networks, of a cut graph it is not measured here"
        )
    last = e.hidden[-1].layer
    values = [r["value"] for r in e.report.jacobian if r["layer"] == last]
    kept = [v for v in values if math.isfinite(v) and v > ZERO * max(values)]
    if len(kept) < 2:
        raise Skip("the Jacobian has fewer than two singular values that are not 0")
    depth = len(e.hidden)
    value = math.log(max(kept) / statistics.median(kept)) / depth
    return Verdict(
        "ok" if value <= ISOMETRY else "warn" if value * depth > UNEVEN else "info",
        value,
        0.0,
        "ln(σ_max/median σ) per layer",
        f"at {last} the largest singular value is ×{max(kept) / statistics.median(kept):.3g} the median of "
        f"{len(kept)} that are not 0 (of {len(values)}), over {depth} layers",
        cause="no isometry: directions are stretched unevenly",
        layer=last,
        fix="init.apply(model, init.orthogonal(gain=1.0), seed=0)",
        effect="orthogonal weights stretch no direction more than another; near 0 tanh keeps that, ReLU cannot",
    )


@rule(
    "V1",
    "structure",
    "β = Σ 1/n over the hidden layers",
    limits=(f"≤ {WIDTH_OK:g}", f"> {WIDTH_WARN:g}; between them info", "never"),
    source="Hanin & Rolnick 2018: ln of the second moment has variance 5β for ReLU",
)
def width_for_the_depth(e: Evidence) -> Verdict:
    """Over narrow layers one draw is not the average: two seeds give two different networks."""
    if not e.hidden or e.normalized:
        raise Skip("there is no hidden layer" if not e.hidden else "a normalization undoes the chance of each layer")
    beta = sum(1 / w.inputs for w in e.weights[1:])
    return Verdict(
        "ok" if beta <= WIDTH_OK else "info" if beta <= WIDTH_WARN else "warn",
        beta,
        WIDTH_OK,
        "Σ 1/n",
        f"Σ 1/n = {beta:.3g} over {len(e.hidden)} hidden layers: ln E h² has std {math.sqrt(5 * beta):.2g} "
        "between draws (ReLU)",
        cause="narrow for its depth: a single draw is not typical",
        layer=min(e.weights[1:], key=lambda w: w.inputs).layer,
        fix="init.lsuv(model, x)",
        effect="the size of this draw is set right layer by layer",
    )
