"""Rules of the loss and the updates: where it starts, whether it moves, and by how much the weights do."""

from __future__ import annotations

import math
import statistics

from minidl.lab.evidence import Evidence
from minidl.lab.rules.fixes import gentler, matched_scheme, small_head
from minidl.lab.rules.registry import Skip, Verdict, rule
from minidl.lab.trial import entropy_of

START_OK, START_WARN, START_FAIL = 1.1, 2.0, 2000.0  # of ln K; 480 trains in 3 layers
DEEP, DEEP_FAIL = 7, 50.0  # hidden layers, and the limit from there on: 40 still trains
DEEP_SHORTCUTS, SHORTCUTS_FAIL = 20, 75.0  # the same of residual networks: 62 still trains
FLAT = 0.97  # of the entropy of the labels: a loss above it has not left its start
LEARNED = 0.15  # accuracy above that of guessing the largest class: the mean loss of one epoch still holds its start
UPDATE_OK = (1e-4, 1e-2)
UPDATE_FAIL = (1e-6, 0.3)
UPDATE_GOAL = 1e-3


@rule(
    "L1",
    "loss",
    "initial loss over ln K",
    limits=(
        f"≤ {START_OK:g}",
        f"> {START_WARN:g}; below it info",
        f"> {START_FAIL:g}; from {DEEP} hidden layers on > {DEEP_FAIL:g}; with shortcuts from {DEEP_SHORTCUTS} on "
        f"> {SHORTCUTS_FAIL:g}",
    ),
    source="cs231n: 2.302 for ten classes; failing limits measured on digits",
    explained_by=("D1", "W1", "W2", "W3", "G1", "F1", "F2", "F5", "B1"),
)
def loss_at_the_start(e: Evidence) -> Verdict:
    """A network that knows nothing should say so: every class equally likely, loss ln K."""
    if e.classes is None:
        raise Skip("the labels are no class numbers")
    if e.trained:
        raise Skip("the network was trained: its loss is not that of the start")
    uniform = math.log(e.classes)
    ratio = e.report.loss / uniform
    fix = small_head(e)
    deep, limit = (DEEP_SHORTCUTS, SHORTCUTS_FAIL) if e.blocks else (DEEP, DEEP_FAIL)
    fails = limit if len(e.hidden) >= deep else START_FAIL
    level = "ok" if ratio <= START_OK else "info" if ratio <= START_WARN else "warn" if ratio <= fails else "fail"
    return Verdict(
        level,
        e.report.loss,
        getattr(e.prediction, "initial_loss", None) or uniform,
        "loss on the batch",
        f"the loss is {e.report.loss:.4g}; guessing alike among {e.classes} classes has ln {e.classes} = {uniform:.3f}",
        cause="the output layer starts too large",
        layer=e.weights[-1].layer,
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "U1",
    "loss",
    "rms of one update over rms of the weight: median of the layers",
    limits=(f"in {UPDATE_OK}", "outside", f"outside {UPDATE_FAIL}"),
    source="cs231n and Karpathy: about 1e-3; failing limits ours",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1", "F2", "F3", "F4", "B1", "B2", "B4", "B5", "L1"),
    kind="fault",
)
def size_of_updates(e: Evidence) -> Verdict:
    """What one step of the optimizer, made on a copy, changes of each weight."""
    if not e.updated:
        raise Skip("no optimizer was given")
    ratios = {w.layer: r for w in e.weights if (r := w.record["update_ratio"]) and math.isfinite(r)}
    if not ratios:
        raise Skip("the optimizer changes no weight, or all weights are 0")
    middle = statistics.median(ratios.values())
    failed = not UPDATE_FAIL[0] <= middle <= UPDATE_FAIL[1]
    fine = UPDATE_OK[0] <= middle <= UPDATE_OK[1]
    fix = gentler(UPDATE_GOAL / middle)
    low, high = min(ratios, key=lambda k: ratios[k]), max(ratios, key=lambda k: ratios[k])
    return Verdict(
        "fail" if failed else "ok" if fine else "warn",
        middle,
        UPDATE_GOAL,
        "update / weight",
        f"one step changes the weights by {middle:.2g} of their size (median), from {ratios[low]:.2g} at {low} to "
        f"{ratios[high]:.2g} at {high}",
        cause=f"the learning rate is too {'high' if middle > UPDATE_GOAL else 'low'} for these weights",
        layer=high if middle > UPDATE_GOAL else low,
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "L2",
    "loss",
    "training loss over the entropy of the labels, after training",
    limits=(f"≤ {FLAT:g}", "—", f"> {FLAT:g}"),
    source="zero weights: the output bias learns the class frequencies and nothing else",
    explained_by=(
        *("D1", "W1", "W2", "W3", "S1", "F1", "F2", "F3", "F4"),
        *("A1", "A2", "A4", "B1", "B2", "B4", "B5", "L1", "U1"),
    ),
    kind="symptom",
)
def loss_that_moves(e: Evidence) -> Verdict:
    """A loss that stays at the entropy of the labels has learned how often each class occurs, and no more."""
    if not e.history:
        raise Skip("no history was given")
    losses = [r["train_loss"] for r in e.history if r.get("train_loss") is not None]
    if not losses or e.shares is None:
        raise Skip("the history has no train_loss, or the labels are no class numbers")
    learned = (e.history[-1].get("train_accuracy") or 0.0) > max(e.shares) + LEARNED
    entropy = entropy_of(e.shares)
    if entropy == 0:
        raise Skip("all labels of the batch are of one class")
    ratio = losses[-1] / entropy
    fix = matched_scheme(e)
    return Verdict(
        "ok" if ratio <= FLAT or learned else "fail",
        losses[-1],
        entropy,
        "training loss",
        f"after {len(losses)} epochs the training loss is {losses[-1]:.4g}; the entropy of the labels is {entropy:.4g}",
        cause="the loss never left its start",
        layer=e.weights[-1].layer,
        fix=fix.code,
        effect=fix.effect,
    )
