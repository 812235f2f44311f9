"""Rule of the trial: whether a copy begins to learn."""

from __future__ import annotations

from minidl.lab.evidence import Evidence
from minidl.lab.rules.fixes import matched_scheme
from minidl.lab.rules.registry import Skip, Verdict, rule
from minidl.lab.trial import ALONE, LEARNS, STEPS


@rule(
    "T1",
    "trial",
    "lowest loss of a trial over the entropy of the labels: a copy, some hundred steps at each of three rates",
    limits=(f"< {LEARNS:g}", f"≥ {LEARNS:g} after {STEPS} steps", f"≥ {LEARNS:g} after {ALONE} steps"),
    source="a few examples must be learnt quickly (cs231n, sanity checks); limit measured on digits",
    explained_by=(
        *("D1", "W1", "W2", "S1", "W3", "G1", "F1", "F2", "F3", "F4", "F5", "A1", "A2", "A3", "A4", "A5"),
        *("B1", "B2", "B3", "B4", "B5", "L1", "R1", "N1", "J1", "V1"),
    ),
    kind="symptom",
)
def trial_that_learns(e: Evidence) -> Verdict:
    """Whether a copy begins to learn the batch, by heart if need be; what other rules foretell gives way to that."""
    if e.trial is None:
        raise Skip(e.untried)
    tried, fix = e.trial, matched_scheme(e)
    if not tried.learned and tried.steps < STEPS:
        raise Skip(f"a trial of {tried.steps} steps that does not learn says nothing")
    return Verdict(
        "ok" if tried.learned else "fail" if tried.steps >= ALONE else "warn",
        tried.best["lowest"] / tried.entropy,
        LEARNS,
        "lowest loss of the trial / entropy of the labels",
        f"{tried}; guessing by how often each class occurs has {tried.entropy:.3f}",
        cause="the loss of a copy hardly falls in a trial",
        layer="",
        fix=fix.code,
        effect=fix.effect,
    )
