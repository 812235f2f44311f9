"""Rule of the data: whether the inputs are standardized."""

from __future__ import annotations

from minidl.lab.evidence import Evidence
from minidl.lab.rules.registry import Verdict, rule

MEAN_WARN, MEAN_FAIL = 0.2, 20.0  # 15.2 trains, 22.7 does not
SHIFT_FAIL = 3.0  # of the mean, in standard deviations
STD_WARN = (0.5, 2.0)
STD_FAIL = (0.02, 1000.0)


@rule(
    "D1",
    "data",
    "mean and std of the inputs",
    limits=(
        f"|mean| ≤ {MEAN_WARN}, std in {STD_WARN}",
        "beyond that",
        f"without normalization |mean| > {MEAN_FAIL:g} and > {SHIFT_FAIL:g} std, or std outside {STD_FAIL}",
    ),
    source="LSUV's authors ask for inputs of variance 1 (Mishkin & Matas 2016); the failing limits measured on digits",
)
def standardized_inputs(e: Evidence) -> Verdict:
    """Every scheme keeps the size of the signal that it is given; it makes no size of its own."""
    mean, std = e.inputs["mean"], e.inputs["std"]
    ok = abs(mean) <= MEAN_WARN and STD_WARN[0] <= std <= STD_WARN[1]
    failed = abs(mean) > max(MEAN_FAIL, SHIFT_FAIL * std) or not STD_FAIL[0] <= std <= STD_FAIL[1]
    failed = failed and not e.weights[0].normalized
    shifted = abs(mean) > MEAN_WARN and STD_WARN[0] <= std <= STD_WARN[1]
    return Verdict(
        "ok" if ok else "fail" if failed else "warn",
        mean if shifted else std,
        0.0 if shifted else 1.0,
        "mean of the inputs" if shifted else "standard deviation of the inputs",
        f"the inputs have mean {mean:.3g} and standard deviation {std:.3g}; standardized ones have 0 and 1",
        cause="the inputs are not standardized",
        fix="x = (x - x.mean()) / x.std()",
        effect="mean 0 and variance 1 enter the first layer, which is what the schemes are made for",
    )
