"""Rules of the way down: size of the gradients, and how evenly the layers share them."""

from __future__ import annotations

import math

from minidl.lab.evidence import Evidence, Weight
from minidl.lab.rules.fixes import matched_scheme, other_scale
from minidl.lab.rules.forward import CHANGE_WARN
from minidl.lab.rules.registry import Skip, Verdict, level_of, rule

CHANGE_FAIL = 12.5  # L·|ln χ| as in forward.py; measured on digits: 12.1 still trains
SHORTCUTS_FAIL = 18.0  # the same down a residual network: 15.9 trains, 23.2 does not
IMBALANCE_WARN = 30.0
EVEN = 30.0  # largest over smallest ∂W at which a loss of scale counts as uniform
TINY_WARN, TINY_FAIL = 1e-7, 1e-8  # rms of ∂W; Adam's ε is 1e-8


@rule(
    "B1",
    "backward",
    "L·|ln χ|: change of E δ² from the last hidden layer to the first",
    limits=(f"≤ {CHANGE_WARN:g}", f"≤ {CHANGE_FAIL:g}", f"> {CHANGE_FAIL:g}; with shortcuts > {SHORTCUTS_FAIL:g}"),
    source="as F1; δ is summed over the places of an image",
    explained_by=("D1", "W1", "W2", "W3", "S1", "G1", "F1", "F2", "F3", "A1", "A2"),
)
def kept_gradient(e: Evidence) -> Verdict:
    """The gradient at the pre-activations, from top to bottom: kept, vanishing or exploding."""
    names, deltas = gradients(e)
    total = change(deltas)
    steps = len(deltas) - 1
    fix = other_scale(e)
    where = [name for name, d in zip(names, deltas, strict=True) if d > 0]
    return Verdict(
        level_of(abs(total), CHANGE_WARN, SHORTCUTS_FAIL if e.blocks else CHANGE_FAIL),
        abs(total),
        _predicted(e),
        "L·|ln χ| of E δ²",
        f"δ goes from {deltas[-1]:.3g} at {names[-1]} to {deltas[0]:.3g} at {names[0]}, "
        f"{steps} {'blocks' if e.blocks else 'layers'} down: L·|ln χ| = {abs(total):.3g}, "
        f"harmless up to {CHANGE_WARN:g}",
        cause=f"the gradient {'vanishes' if total < 0 else 'explodes'} on the way down",
        layer=where[0] if where else names[0],
        fix=fix.code,
        effect=fix.effect,
    )


def gradients(e: Evidence) -> tuple[list[str], list[float]]:
    """Hidden layers, or residual blocks where there are some, and rms of δ at their outputs.

    Times √places: what a convolution spreads over an image counts as one. Where there are shortcuts the gradient goes
    down along them, whatever the branches do.
    """
    ends = [(b.layer, b.delta) for b in e.blocks if b.delta is not None]
    if len(ends) > 1:
        return [name for name, _ in ends], [delta for _, delta in ends]
    layers = [w for w in e.hidden if not w.block]
    if len(layers) < 2:
        raise Skip("it needs two hidden layers, or two residual blocks")
    if any(w.record["delta_rms"] is None for w in layers):
        raise Skip("a layer passes no gradient down")
    if e.wakes:
        raise Skip("a layer of zeros lets nothing pass until it has learned")
    layers = [w for w in layers if not passed_by(e, w)]
    if layers[:1] == e.weights[:1] and layers[0].normalized:
        layers = layers[1:]  # its size is that of the data, and means nothing behind a normalization
    if len(layers) < 2:
        raise Skip("the gradient passes by all hidden layers but one")
    deltas = [w.record["delta_rms"] * math.sqrt(math.prod(w.record["shape"][1:])) for w in layers]
    return [w.layer for w in layers], deltas


def passed_by(e: Evidence, w: Weight) -> bool:
    """Whether no gradient reaches a layer, and some reaches one below it: it is on a side branch that is closed."""
    below = e.weights[: e.weights.index(w)]
    return w.record["delta_rms"] == 0 and any(other.record["delta_rms"] for other in below)


def change(deltas: list[float]) -> float:
    """``ln(δ²_first / δ²_last)``.

    Raises:
        Skip: both are exactly 0.
    """
    first, last = deltas[0], deltas[-1]
    if last == 0 and first == 0:
        raise Skip("the gradient is exactly 0 at all hidden layers, see B5")
    if not (math.isfinite(first) and math.isfinite(last)) or last == 0:
        return math.inf
    return 2 * math.log(first / last) if first > 0 else -math.inf


def _predicted(e: Evidence) -> float:
    if e.prediction is None or e.blocks:
        return 0.0
    by_name = {r["layer"]: r["delta_rms"] for r in e.prediction.records}
    first, last = by_name.get(e.hidden[0].layer), by_name.get(e.hidden[-1].layer)
    if not first or not last:
        return 0.0
    places = [math.prod(w.record["shape"][1:]) for w in (e.hidden[0], e.hidden[-1])]
    return abs(2 * math.log(first / last) + math.log(places[0] / places[1]))


@rule(
    "B2",
    "backward",
    "rms of ∂L/∂W: largest layer over smallest, residual branches apart",
    limits=(f"≤ {IMBALANCE_WARN:g}", "above", "never"),
    source="sigmoid: ×4.2 per layer; on digits networks with 1e11 learn, and the others have another finding",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1", "F2", "F3", "F4", "A1", "A2", "B1"),
)
def balanced_layers(e: Evidence) -> Verdict:
    """One learning rate cannot serve layers whose gradients differ by orders of magnitude."""
    sizes = {w.layer: g for w in e.weights if not w.block and (g := w.record["weight_grad_rms"])}
    sizes = {layer: g for layer, g in sizes.items() if math.isfinite(g)}
    if len(sizes) < 2:
        raise Skip("fewer than two layers have a gradient")
    small, large = min(sizes, key=lambda k: sizes[k]), max(sizes, key=lambda k: sizes[k])
    ratio = sizes[large] / sizes[small]
    return Verdict(
        level_of(ratio, IMBALANCE_WARN, math.inf),
        ratio,
        1.0,
        "largest / smallest rms of ∂L/∂W",
        f"∂L/∂W has rms {sizes[small]:.2g} at {small} and {sizes[large]:.2g} at {large}: ×{ratio:.2g}",
        cause="layers get gradients of very different size",
        layer=small,
        fix='optimizer = optim.SGD(optim.layerwise_lr(model, "update_ratio", batch=(x, y)), lr=1e-3, momentum=0.9)',
        effect="every layer is then updated by the same share of its weights",
    )


@rule(
    "B3",
    "backward",
    "whether a lost scale is lost by all layers alike",
    limits=("B1 is ok, or B2 is not", "B1 warns or fails and ∂L/∂W is even: info", "never"),
    source="δ falls and what enters rises, so ∂L/∂W is flat: Xavier and ReLU over 30 layers",
    explained_by=("F1", "B1"),
)
def uniform_loss_of_scale(e: Evidence) -> Verdict:
    """Where all ∂L/∂W shrink alike, one factor on the learning rate makes up for it; Adam has it built in."""
    total = abs(change(gradients(e)[1]))
    sizes = [w.record["weight_grad_rms"] for w in e.weights if w.record["weight_grad_rms"]]
    if len(sizes) < 2:
        raise Skip("fewer than two layers have a gradient")
    ratio = max(sizes) / min(sizes)
    uniform = total > CHANGE_WARN and ratio <= EVEN
    fix = matched_scheme(e)
    return Verdict(
        "info" if uniform else "ok",
        ratio,
        1.0,
        "largest / smallest rms of ∂L/∂W",
        f"δ changes by e^{total / 2:.2g} over the depth, ∂L/∂W by no more than ×{ratio:.2g} between layers",
        cause="the scale is lost by all layers alike: Adam will mask this",
        layer=e.weights[0].layer,
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "B4",
    "backward",
    "rms of ∂L/∂W",
    limits=(f"≥ {TINY_WARN:g}", f"a layer below {TINY_WARN:g}", f"all layers below {TINY_FAIL:g}"),
    source="Adam's ε = 1e-8 (Kingma & Ba 2015)",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1", "F2", "F3", "F4", "A1", "A2", "B1", "B2"),
)
def gradient_above_epsilon(e: Evidence) -> Verdict:
    """A gradient below Adam's ε is divided by ε and not by its own size: it stays small."""
    sizes = {w.layer: w.record["weight_grad_rms"] for w in e.weights if w.record["weight_grad_rms"]}
    if not sizes:
        raise Skip("no weight has a gradient that is not exactly 0, see B5")
    small = min(sizes, key=lambda k: sizes[k])
    fix = matched_scheme(e)
    low, high = sizes[small], max(sizes.values())
    return Verdict(
        "fail" if high < TINY_FAIL else "warn" if low < TINY_WARN else "ok",
        low,
        None,
        "rms of ∂L/∂W",
        f"∂L/∂W has rms {low:.2g} at {small}, and {high:.2g} where it is largest; Adam's ε is {TINY_FAIL:g}",
        cause="gradients below Adam's ε",
        layer=small,
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "B5",
    "backward",
    "a ∂L/∂W that is exactly 0",
    limits=(
        "none",
        "a layer that the loss does not depend on; behind zeros that learn, or on a closed branch: info",
        "any other; all layers frozen or without gradient",
    ),
    source="zero weights: δ below = Wᵀδ = 0 (see S1); underflow of float32 (see F2)",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1", "F2", "F3", "A1", "A2", "A4", "B1"),
)
def some_gradient(e: Evidence) -> Verdict:
    """A weight without gradient does not learn. Under an output layer of zeros that lasts for one step only."""
    without = [w for w in e.weights if w.gradient is None]
    cut = [w for w in without if not w.frozen]
    if cut or len(without) == e.depth:
        return _cut_off(e, without, cut)
    silent = [w for w in e.weights if w.record["weight_grad_rms"] == 0]
    beside = all(w.block or passed_by(e, w) for w in silent)
    waiting = bool(silent) and (e.wakes or _waits(e, silent) or beside)
    fix = matched_scheme(e)
    share = len(silent) / len(e.weights)
    return Verdict(
        "ok" if not silent else "info" if waiting else "fail",
        share,
        0.0,
        "share of layers without gradient",
        f"∂L/∂W is exactly 0 in {len(silent)} of {len(e.weights)} layers"
        + ("; the zeros that cut them off learn in the first step" if waiting else ""),
        cause="no gradient" + (" until the zeros that cut them off have learned" if waiting else ""),
        layer=silent[0].layer if silent else "",
        fix="" if waiting or not silent else fix.code,
        effect="" if waiting or not silent else fix.effect,
    )


def _cut_off(e: Evidence, without: list[Weight], cut: list[Weight]) -> Verdict:
    """Layers that the way back never reaches, or that are kept out of the training, every one."""
    names = ", ".join(w.layer for w in cut[:3]) + (" …" if len(cut) > 3 else "")
    return Verdict(
        "fail" if len(without) == e.depth else "warn",
        len(without) / e.depth,
        0.0,
        "share of layers without gradient",
        f"∂L/∂W does not exist for {names}: what they give goes through .detach(), .data or .numpy(), or is not used"
        if cut
        else f"requires_grad is False for the weights of all {e.depth} layers",
        cause="the loss does not depend on a layer" if cut else "every layer is frozen",
        layer=(cut or without)[0].layer,
        fix="" if cut else "for p in model.parameters(): p.requires_grad = True",
        effect="" if cut else "the weights get a gradient, and the optimizer can change them",
    )


def _waits(e: Evidence, silent: list[Weight]) -> bool:
    """Whether a layer of zeros comes later that itself has a gradient: a head, or the end of a branch."""
    last = max(e.weights.index(w) for w in silent)
    later = e.weights[last + 1 :]
    return any(not w.values.any() and w.record["weight_grad_rms"] for w in later)
