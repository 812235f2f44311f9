"""Claimed, predicted, measured: what the article says of LeNet-5 on MNIST, beside theory and beside our own numbers.

The article reports one configuration: ReLU, cross-entropy, Adam with its usual rate 0.001, 5 epochs. A row looks at the
cells of that kind which are there; what it cannot find it leaves out. Cells of another length, batch or number of
images are another experiment: each has rows of its own, which say what it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from minidl.experiment import networks
from minidl.experiment.grid import label, spec
from minidl.experiment.summary import Group, groups, percent, plus_minus

__all__ = ["claimed_accuracies", "majority", "scoreboard"]

Row = dict[str, str]
Found = Mapping[str, Group]
ADAM = "adam:0.001"
LEARNED = 0.95  # accuracy from which a scheme counts among those that work
NEAR = 0.05  # how far a measured accuracy may be from a claimed one and still confirm it
TIED = 0.95  # classes with at least this share of the largest may win where only the output bias learns


def scoreboard(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per claim that these cells speak of: claim, claimed, predicted, measured, verdict."""
    own = [r for r in records if _is_the_articles(r["cell"]) and r["cell"]["optimizer"] == ADAM]
    kinds = _kinds(groups([r for r in own if "history" in r["result"]]))
    return [
        {**row, "claim": row["claim"] + said}
        for said, found in kinds.items()
        for claim in CLAIMS
        for row in claim(found)
    ]


def _kinds(all_groups: Sequence[Group]) -> dict[str, Found]:
    """What sets an experiment apart from the others, in words -> its groups by scheme. One alone needs no words."""
    found: dict[tuple[tuple[str, Any], ...], dict[str, Group]] = {}
    for group in all_groups:
        shared = tuple((name, value) for name, value in group.settings.items() if name != "scheme")
        found.setdefault(shared, {})[group.settings["scheme"]] = group
    common = set.intersection(*map(set, found)) if found else set()
    return {_apart([pair for pair in shared if pair not in common]): schemes for shared, schemes in found.items()}


def _apart(settings: Sequence[tuple[str, Any]]) -> str:
    said = (f"{name.replace('_', ' ')} {'all' if value is None else value}" for name, value in settings)
    return f" ({', '.join(said)})" if settings else ""


def claimed_accuracies(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Scheme -> the accuracy that the article gives for it, if these cells are of its kind, with Adam or momentum."""
    cells = [record["cell"] for record in records]
    optimizers = {cell["optimizer"] for cell in cells if not cell["optimizer"].startswith("momentum:")}
    if not cells or not all(map(_is_the_articles, cells)) or optimizers - {ADAM}:
        return {}
    schemes = {cell["scheme"] for cell in cells}
    gaussian = {scheme: 0.65 for scheme in schemes if scheme.split("(")[0] == "normal"}
    return {"zeros": 0.50, **gaussian, "glorot_uniform": 0.88}


def majority(train: Sequence[int], test: Sequence[int]) -> tuple[float, float, float]:
    """What a network predicts of which only the output bias learns: lowest and highest accuracy, and its loss.

    Its scores become the logarithms of the class frequencies: ``loss = -Σ q_k ln p_k`` with p those of the training
    part and q those of the test part. It answers with the largest class; where others are nearly as large, with any of
    them.
    """
    largest = max(train)
    shares = [n / sum(test) for n, of in zip(test, train, strict=True) if of >= TIED * largest]
    loss = -sum(q / sum(test) * math.log(p / sum(train)) for p, q in zip(train, test, strict=True))
    return min(shares), max(shares), loss


def _is_the_articles(cell: Mapping[str, Any]) -> bool:
    """Whether all but the optimizer is as in the article."""
    kind = {"dataset": "mnist", "network": "lenet5", "activation": "relu", "loss": "cross_entropy", "norm": False}
    return all(cell[key] == value for key, value in kind.items())


Claim = Callable[[Found], Iterator[Row]]
CLAIMS: list[Claim] = []


def _claim(function: Claim) -> Claim:
    CLAIMS.append(function)
    return function


def _row(claim: str, claimed: str, predicted: str, measured: str, verdict: str) -> Row:
    return {"claim": claim, "claimed": claimed, "predicted": predicted, "measured": measured, "verdict": verdict}


def _accuracy(group: Group) -> str:
    return percent(group.mean("test_accuracy"), group.sd("test_accuracy"))


def _named(found: Found, *labels: str) -> Iterator[Group]:
    """The groups of these schemes, if all of them are there."""
    wanted = [spec(name) for name in labels]
    if all(name in found for name in wanted):
        yield from (found[name] for name in wanted)


@_claim
def _zeros(found: Found) -> Iterator[Row]:
    for group in _named(found, "zeros"):
        counts = group.results[0]["class_counts"]
        low, high, loss = majority(counts["train"], counts["test"])
        predicted = f"{100 * low:.2f} %" if low == high else f"{100 * low:.2f} to {100 * high:.2f} %"
        exact = all(low <= v <= high for v in group.values("test_accuracy"))
        said = "wrong; theory is exact" if exact else "wrong; theory is missed"
        yield _row("zeros: test accuracy", "50 %", predicted, _accuracy(group), said)
        measured = plus_minus(group.mean("test_loss"), group.sd("test_loss"), digits=4)
        near = abs(group.mean("test_loss") - loss) < 0.01
        verdict = "as theory says" if near else "not as theory says"
        yield _row("zeros: test loss", "–", f"{loss:.4f}", measured, verdict)


@_claim
def _constant(found: Found) -> Iterator[Row]:
    for group in _named(found, "constant 0.1"):
        said = "does not learn" if group.mean("test_accuracy") < 0.5 else "learns in part"
        yield _row("a constant that is not zero", "–", "a network of width 1", _accuracy(group), said)


@_claim
def _gaussian(found: Found) -> Iterator[Row]:
    sweep = {name: group for name, group in found.items() if name.split("(")[0] == "normal"}
    if not sweep:
        return
    for name, group in sweep.items():
        yield _row(f"one Gaussian for all: {label(name)}", "65 %", "–", _accuracy(group), _near(group, 0.65))
    nearest = min(sweep, key=lambda name: abs(_or_zero(sweep[name].mean("test_accuracy")) - 0.65))
    hit = abs(_or_zero(sweep[nearest].mean("test_accuracy")) - 0.65) <= NEAR
    said = "a σ gives it" if hit else "no σ gives it"
    measured = f"nearest: {label(nearest)}, {_accuracy(sweep[nearest])}"
    yield _row("one Gaussian for all: which σ?", "65 %", "–", measured, said)


@_claim
def _xavier(found: Found) -> Iterator[Row]:
    for group in _named(found, "Glorot uniform"):
        start = [result["history"][0]["test_accuracy"] for result in group.results]
        first = [result["history"][1]["test_accuracy"] for result in group.results if len(result["history"]) > 1]
        measured = f"{percent(statistics.fmean(start))} untrained, {_mean(first)} after epoch 1"
        yield _row("Xavier: where it starts", "65 %", "10 %, guessing", measured, _range_said(start, first, 0.65))
        above = all(v > 0.88 for v in group.values("test_accuracy"))
        low = min(group.values("test_accuracy")) > LEARNED
        said = "holds, and is far too low" if low else "holds" if above else "not reached"
        yield _row("Xavier: where it ends", "> 88 %", "–", _accuracy(group), said)


@_claim
def _xavier_of_the_network(found: Found) -> Iterator[Row]:
    pair = list(_named(found, "article: Xavier(784, 10)", "N(0, 0.05²)"))
    if pair:
        whole, gaussian = pair
        gap = abs(whole.mean("test_accuracy") - gaussian.mean("test_accuracy"))
        measured = f"{_accuracy(whole)} and {_accuracy(gaussian)}"
        said = "one law, claimed as two" if gap < 0.01 else "apart"
        claim = "Xavier with the network's n and m, against N(0, 0.05²)"
        yield _row(claim, "88 % and 65 %", "equal: std 0.0502 and 0.05", measured, said)


@_claim
def _he_by_layer(found: Found) -> Iterator[Row]:
    for group in _named(found, "He"):
        yield _row("He: test accuracy", "rises, no number", "–", _accuracy(group), "measured here")
        stds = [r["weight_std"] for r in group.results[0]["ladder"] if r["weight_std"] is not None]
        model = networks.build("lenet5", (1, 28, 28), 10, [], activation="relu")
        all_fans = (getattr(module, "fans", None) for _, module in model.named_modules())
        fans = [fans[0] for fans in all_fans if fans is not None]
        predicted = [math.sqrt(2 / fan) for fan in fans]
        said = "wrong: every layer has its own" if max(stds) > 1.5 * min(stds) else "one std for all"
        yield _row("He: needs nothing per layer", "one rule", _three(predicted), f"std {_three(stds)}", said)


@_claim
def _rising(found: Found) -> Iterator[Row]:
    runs = [r for group in _working(found) for r in group.results]
    if runs:
        rising = sum(_rises([h["test_accuracy"] for h in r["history"]]) for r in runs)
        said = "holds" if rising == len(runs) else "does not hold for each"
        measured = f"{rising} of {len(runs)} runs that learn rise in every epoch"
        yield _row("the accuracy rises steadily", "always", "–", measured, said)


@_claim
def _kaiming(found: Found) -> Iterator[Row]:
    pair = list(_named(found, "He", "He truncated"))
    if pair:
        he, cut = pair
        gap = abs(he.mean("test_accuracy") - cut.mean("test_accuracy"))
        noise = max(_or_zero(he.sd("test_accuracy")), _or_zero(cut.sd("test_accuracy")))
        said = "one method" if gap <= 2 * noise + 1e-3 else "apart"
        claim = "He and Kaiming are two methods"
        yield _row(claim, "two", "one (normal, or cut at ±2σ)", f"{_accuracy(he)} and {_accuracy(cut)}", said)
    for group in _named(found, "article: Kaiming"):
        first = group.results[0]
        grown = [r["rms"] for r in first["ladder"] if r["weight_std"] is not None]
        predicted = "grows by 0.72 √(2n) a layer"
        times = "beyond float32" if None in grown else f"×{grown[-1] / grown[0]:.3g} over the network"
        said = "learns all the same" if group.mean("test_accuracy") > LEARNED else "harms"
        claim = "Kaiming as written, weights of one sign"
        yield _row(claim, "recommended", predicted, f"{_accuracy(group)}; {times}", said)


@_claim
def _variance(found: Found) -> Iterator[Row]:
    for group in _named(found, "article: √(2/n) is σ²"):
        said = "learns all the same" if group.mean("test_accuracy") > LEARNED else "harms"
        claim = "N(0, √(2/n)) with √(2/n) as the variance"
        yield _row(claim, "a good start", "second moment × √(n/2) a layer", _accuracy(group), said)


@_claim
def _old_keras(found: Found) -> Iterator[Row]:
    for group in _named(found, "He cut, Keras 2.0.9"):
        predicted = "std 0.88 of He's"
        yield _row("Keras 2.0.9: He without correction", "–", predicted, _accuracy(group), "measured here")


@_claim
def _among_good_ones(found: Found) -> Iterator[Row]:
    working = _working(found)
    if len(working) > 1:
        means = [group.mean("test_accuracy") for group in working]
        noise = statistics.fmean(_or_zero(group.sd("test_accuracy")) for group in working)
        measured = (
            f"{len(working)} schemes learn, {percent(min(means))} to {percent(max(means))}; s.d. {percent(noise)}"
        )
        said = "small beside the claims" if max(means) - min(means) < NEAR else "it matters"
        yield _row("the scheme decides the accuracy", "50 to 88 %", "seed noise", measured, said)


def _working(found: Found) -> list[Group]:
    return [group for group in found.values() if group.mean("test_accuracy") > LEARNED and not group.diverged]


def _near(group: Group, claimed: float) -> str:
    mean = group.mean("test_accuracy")
    if math.isnan(mean):
        return "diverges"
    return "near" if abs(mean - claimed) <= NEAR else "far above" if mean > claimed else "far below"


def _range_said(start: Sequence[float], first: Sequence[float], claimed: float) -> str:
    if first and abs(statistics.fmean(first) - claimed) <= NEAR:
        return "true of epoch 1"
    return "true of neither" if abs(statistics.fmean(start) - claimed) > NEAR else "true of the start"


def _rises(values: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in pairwise(values))


def _mean(values: Sequence[float]) -> str:
    return percent(statistics.fmean(values)) if values else "–"


def _three(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.3f}" for v in values)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
