"""Rules of the activations: saturated, too linear, dead, always on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidl.lab.evidence import Evidence
from minidl.lab.rules.fixes import Fix, matched_scheme, zero_biases
from minidl.lab.rules.registry import Skip, Verdict, rule

TANH_LIKE = ("Tanh", "Erf", "HardTanh")
SATURATED_OVER_THEORY = 0.05
SATURATED_WARN, SATURATED_FAIL = 0.3, 0.9
SIGMOID_OK = 0.05

LINEAR = 0.02  # std of the output of a sigmoid or tanh layer

DEAD_OVER_THEORY = 0.10
DEAD_WARN, DEAD_FAIL = 0.5, 0.8
ALWAYS_ON = 0.8

Record = Mapping[str, Any]


def _of_kind(e: Evidence, kinds: tuple[str, ...], key: str) -> list[Record]:
    found: list[Record] = [r for r in e.records if r["kind"] in kinds and r.get(key) is not None]
    if not found:
        raise Skip(f"no layer of {' or '.join(kinds)}")
    return found


def _theory(e: Evidence, record: Record, key: str) -> float | None:
    """What is predicted of a layer; None where nothing is."""
    if e.prediction is None:
        return None
    values = [r.get(key) for r in e.prediction.records if r["layer"] == record["layer"]]
    return values[0] if values else None


def _saturated(e: Evidence, kinds: tuple[str, ...], tolerated: float) -> Verdict:
    records = _of_kind(e, kinds, "saturated")
    worst = max(records, key=lambda r: r["saturated"])
    value, theory = worst["saturated"], _theory(e, worst, "saturated")
    ok = tolerated if theory is None else max(theory + SATURATED_OVER_THEORY, tolerated)
    most = 2 * sum(r["saturated"] > SATURATED_FAIL for r in records) > len(records)
    level = "fail" if most else "warn" if value > SATURATED_WARN else "ok" if value <= ok else "info"
    fix = matched_scheme(e)
    return Verdict(
        level,
        value,
        theory,
        "share of saturated outputs",
        f"{value:.0%} of the outputs of {worst['layer']} lie where the slope is nearly gone"
        + (f"; no theory for this network, so the limit is {ok:.0%}" if theory is None else f"; theory {theory:.0%}"),
        cause="the activation is saturated",
        layer=next(r["layer"] for r in records if r["saturated"] >= min(value, SATURATED_WARN)),
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "A1",
    "activation",
    "share of tanh outputs beyond ±0.97",
    limits=(
        f"≤ theory + {SATURATED_OVER_THEORY:.0%}",
        f"> {SATURATED_WARN:.0%}; below it info",
        f"> {SATURATED_FAIL:.0%} in most layers",
    ),
    source="Karpathy's |h| > 0.97; 5.4 % is the fixed point at gain 5/3; failing limit measured on digits",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1"),
)
def saturated_tanh(e: Evidence) -> Verdict:
    """Units at the flat ends pass no gradient."""
    return _saturated(e, TANH_LIKE, SATURATED_OVER_THEORY)


@rule(
    "A2",
    "activation",
    "share of sigmoid outputs outside (0.05, 0.95)",
    limits=(f"≤ {SIGMOID_OK:.0%}", f"> {SATURATED_WARN:.0%}; below it info", f"> {SATURATED_FAIL:.0%} in most layers"),
    source="slope below a fifth of its largest; failing limit measured on digits",
    explained_by=("D1", "W1", "W2", "W3", "S1", "F1"),
)
def saturated_sigmoid(e: Evidence) -> Verdict:
    """The same for sigmoid."""
    return _saturated(e, ("Sigmoid",), SIGMOID_OK)


@rule(
    "A3",
    "activation",
    "std of the output of a sigmoid or tanh layer",
    limits=(f"≥ {LINEAR:g}", f"< {LINEAR:g}", "never"),
    source="Glorot & Bengio 2010, section 3: units in their straight part",
    explained_by=("D1", "W1", "S1", "F1", "F3"),
)
def curved_activation(e: Evidence) -> Verdict:
    """Where the output hardly varies the activation is a straight line, and depth adds nothing."""
    records = _of_kind(e, (*TANH_LIKE, "Sigmoid"), "std")
    worst = min(records, key=lambda r: r["std"])
    fix = matched_scheme(e)
    return Verdict(
        "warn" if worst["std"] < LINEAR else "ok",
        worst["std"],
        None,
        "std of the output",
        f"the output of {worst['layer']} has std {worst['std']:.2g}: over so short a stretch the activation is a line",
        cause="the activation works in its straight part",
        layer=next(r["layer"] for r in records if r["std"] <= max(worst["std"], LINEAR)),
        fix=fix.code,
        effect=fix.effect,
    )


@rule(
    "A4",
    "activation",
    "share of ReLU units that are 0 on the whole batch",
    limits=(f"≤ theory + {DEAD_OVER_THEORY:.0%}, or ≤ {DEAD_WARN:.0%}", f"> {DEAD_WARN:.0%}", f"> {DEAD_FAIL:.0%}"),
    source="½ is the limit of He's scheme at infinite depth; Lu et al. 2019; failing limit measured on digits",
    explained_by=("D1", "W1", "W2", "S1", "F1", "F2"),
)
def dead_units(e: Evidence) -> Verdict:
    """A unit that is silent on every input gets no gradient and stays silent."""
    records = _of_kind(e, ("ReLU", "CReLU"), "dead")
    worst = max(records, key=lambda r: r["dead"])
    value, theory = worst["dead"], _theory(e, worst, "dead")
    usual = None if theory is None else theory + DEAD_OVER_THEORY
    level = "fail" if value > DEAD_FAIL else "warn" if value > DEAD_WARN else "ok"
    if level == "ok" and usual is not None and value > usual:
        level = "info"
    if level == "warn" and usual is not None and value <= usual:
        level = "info"
    negative = [w for w in e.weights if w.bias is not None and w.bias.mean() < 0]
    biased = any(w.activation is worst for w in negative)
    fix = matched_scheme(e) if level in ("warn", "fail") else Fix("", "")
    return Verdict(
        level,
        value,
        theory,
        "share of dead units",
        f"{value:.0%} of the units of {worst['layer']} are 0 on all {e.inputs['examples']:g} inputs"
        + ("" if theory is None else f"; theory {theory:.0%}")
        + ("; its biases are negative" if biased else ""),
        cause="dead units",
        layer=worst["layer"],
        fix=zero_biases(negative) if biased else fix.code,
        effect="zero biases: a fresh unit is on for half of its inputs" if biased else fix.effect,
    )


@rule(
    "A5",
    "activation",
    "share of ReLU units that are above 0 on the whole batch, from the second on",
    limits=(f"≤ {ALWAYS_ON:.0%}", f"> {ALWAYS_ON:.0%}", "never"),
    source="weights of one sign, see W2; measured for the article's Kaiming",
    explained_by=("D1", "W2", "S1", "W3", "F1", "F3", "F4"),
)
def always_on_units(e: Evidence) -> Verdict:
    """A ReLU that is always on is a straight line: such a network is linear."""
    records = _of_kind(e, ("ReLU",), "always_on")[1:]
    if not records:
        raise Skip("there is one layer of ReLU only")
    worst = max(records, key=lambda r: r["always_on"])
    fix = matched_scheme(e)
    return Verdict(
        "warn" if worst["always_on"] > ALWAYS_ON else "ok",
        worst["always_on"],
        0.0,
        "share of units always on",
        f"{worst['always_on']:.0%} of the units of {worst['layer']} are above 0 on every input",
        cause="ReLU is always on: the network is linear",
        layer=worst["layer"],
        fix=fix.code,
        effect=fix.effect,
    )
