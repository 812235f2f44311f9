"""The diagnosis: from what was measured and what theory expects to one cause, its evidence and a line that mends it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from minidl import ops
from minidl.backend import device_of, to_device, to_host
from minidl.lab.evidence import Evidence, gather
from minidl.lab.rules import LEVELS, Rule, Skip, all_rules
from minidl.lab.trial import ALONE, MOMENTUM, SECONDS, STEPS, Trial, attempt, check_steps, guess, losses, mixed
from minidl.lab.untouched import placed
from minidl.nn import Module
from minidl.nn.activation import LAYERS, activation
from minidl.tensor import Tensor
from minidl.text import WIDTH

__all__ = ["Diagnosis", "Evidence", "Finding", "diagnose", "judge", "replace_activations"]

LABEL = 11  # columns in front of what a line of the report says


@dataclass(frozen=True)
class Finding:
    """What one rule says of a network.

    Args:
        rule: its id, "F1".
        level: "ok", "info", "warn" or "fail".
        cause: what is wrong; "" where nothing is.
        layer: path of the first layer that shows it, or "".
        measured: the number that was judged.
        expected: what a healthy network, or the theory of this one, has; None where only a limit is known.
        unit: what the number is.
        evidence: the measurement in a sentence.
        limits: when the rule is ok, warns and fails.
        source: where these come from.
        explained_by: rules earlier in the report that may be the cause of this.
        fix: a line of code, or "".
        effect: what it is predicted to do.
    """

    rule: str
    level: str
    cause: str
    layer: str
    measured: float
    expected: float | None
    unit: str
    evidence: str
    limits: str
    source: str
    explained_by: tuple[str, ...]
    fix: str
    effect: str


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found: print it for the report, ``plot()`` it, or read ``records``.

    Args:
        findings: what every rule that could be evaluated says, in the order of the report: data, weights, forward,
            activations, backward, loss and updates, structure.
        skipped: ``{"rule", "why"}`` of the others.
        evidence: what the rules looked at.
    """

    findings: list[Finding]
    skipped: list[dict[str, str]]
    evidence: Evidence

    @property
    def level(self) -> str:
        """The highest level present."""
        return max((f.level for f in self.findings), key=LEVELS.index, default="ok")

    @property
    def failed(self) -> bool:
        """Whether any rule fails: only then will the network probably not train as it is."""
        return self.level == "fail"

    @property
    def primary(self) -> Finding | None:
        """The earliest of those at the highest level; None if all is ok."""
        if self.level == "ok":
            return None
        return next(f for f in self.findings if f.level == self.level)

    @property
    def report(self) -> Any:
        """What ``lab.probe`` measured."""
        return self.evidence.report

    @property
    def prediction(self) -> Any:
        """What ``lab.predict`` expects; None where it cannot follow the network."""
        return self.evidence.prediction

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dict per rule that was evaluated."""
        primary = self.primary
        return [{**asdict(f), "explained_by": " ".join(f.explained_by), "primary": f is primary} for f in self.findings]

    @property
    def verdict(self) -> str:
        """One line."""
        first = self.primary
        if first is None:
            return "healthy: no rule objects"
        return f"{first.level}, {first.rule}: {first.cause}" + (f" ({first.layer})" if first.layer else "")

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def plot(self, ax: Any = None) -> Any:
        """The signal ladder with the verdict; returns the Axes."""
        return self._ladder().plot(ax=ax)

    def figure(self) -> Any:
        """``plot`` in a Figure of its own, for saving."""
        return self._ladder().figure()

    def _ladder(self) -> Any:
        from minidl.lab.figures import SignalLadder

        return SignalLadder.from_report(self.report, self.prediction, says=textwrap.fill(self.verdict, 44))


def diagnose(
    model: Module,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any] = ops.cross_entropy,
    optimizer: Any = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    trial: int | None = None,
) -> Diagnosis:
    """Measure a network on one batch, and say whether it will train, and if not why and what to do.

    A *finding* is a rule that fails: a network with one will hardly learn in a few hundred steps, whichever of the
    usual learning rates it gets. Rules that warn or inform are worth knowing, and no reason to stop. The network is
    left as it was.

    What is wrong shows in one forward and backward pass; whether it matters shows in a *trial* (rule T1): copies train
    on slices of the batch with momentum 0.9, at the rates 0.01, 0.1 and 0.001, until the loss has begun to fall. Where
    it has, what other rules foretell is a warning and no finding. The trial asks for a cross entropy of class numbers,
    and whether 256 examples can be learnt, by heart if need be: of what is wrong with the data it says nothing.

    Args:
        model: any tree of modules.
        x: inputs (N, ...), float32, standardized; a few hundred.
        y: labels, as the loss wants them.
        loss: ``loss(model(x), y)``.
        optimizer: if given, the size of one update is judged too, made on copies (rule U1).
        history: what ``train.fit`` returned, if the network was trained (rule L2).
        trial: steps of the trial at each rate; 0 for none. None for 100, or 300 where one pass foretells nothing, and
            for no more than 20 seconds.

    Returns:
        A ``Diagnosis``. ``.failed`` says whether there is a finding, ``.primary`` is the one to mend first, and
        printing it gives the report.

    Raises:
        ValueError: inputs that are not finite or do not fit the model; a model without weights; a negative trial.
        TypeError: inputs that are no floating-point numbers; no Module, no Optimizer, or a loss that is no Tensor.

    Source of the rules: each has its own, see docs/diagnose.md.
    """
    check_steps(trial)
    with np.errstate(all="ignore"):  # networks that overflow are what this is about
        evidence = gather(model, x, y, loss=loss, optimizer=optimizer, history=history)
        return settled(evidence, _tries(model, x, y, loss, evidence.classes), trial)


def _tries(model: Module, x: Any, y: Any, loss: Callable[[Any, Any], Any], classes: int | None) -> Any:
    """``trial.attempt`` of a network, but for its steps and its seconds."""
    inputs = placed(model, x)
    labels = to_device(Tensor(y).data, device_of(inputs.data))
    known = None if classes is None else to_host(labels)
    if known is not None and (order := mixed(known)) is not None:
        rows = to_device(order, device_of(inputs.data))
        inputs, labels, known = Tensor(inputs.data[rows]), labels[rows], known[order]
    common = (model, inputs, labels, loss)
    return partial(attempt, partial(losses, *common), partial(guess, *common), known, classes or 0)


def settled(evidence: Evidence, tries: Callable[..., tuple[Trial | None, str]], steps: int | None) -> Diagnosis:
    """The diagnosis of one pass, confirmed or refuted by a trial; where nothing is foretold the trial may take longer.

    Args:
        evidence: of one pass.
        tries: ``trial.attempt`` of the same network, but for ``steps`` and ``seconds``.
        steps: at each rate, however long they take; None for as many as are needed.
    """
    forecasts = {rule.id for rule in all_rules() if rule.kind == "forecast"}
    foretold = any(f.level == "fail" and f.rule in forecasts for f in judge(evidence).findings)
    if steps is None:
        evidence.trial, evidence.untried = tries(steps=STEPS if foretold else ALONE, seconds=SECONDS)
    else:
        evidence.trial, evidence.untried = tries(steps=steps)
    return judge(evidence)


def judge(evidence: Evidence) -> Diagnosis:
    """Let every rule look at the evidence; what ``diagnose`` does after gathering it."""
    findings: list[Finding] = []
    skipped: list[dict[str, str]] = []
    with np.errstate(all="ignore"):
        for each in all_rules():
            try:
                findings.append(_finding(each, evidence))
            except Skip as why:
                skipped.append({"rule": each.id, "why": str(why)})
    symptoms = [rule.id for rule in all_rules() if rule.kind == "symptom"]
    explained = [_traced(f, findings, evidence.trial) if f.rule in symptoms else f for f in findings]
    return Diagnosis(explained, skipped, evidence)


def _traced(f: Finding, findings: Sequence[Finding], tried: Trial | None) -> Finding:
    """A symptom, with the fix of what it most likely follows from: the earliest of the highest level."""
    if f.level == "ok":
        return f
    suspects = [g for g in findings if g.rule in f.explained_by and g.level in ("warn", "fail") and g.fix]
    if suspects:
        first = max(suspects, key=lambda g: g.level == "fail")
        text = f"{f.evidence}; suspect: {first.rule}, {first.cause}"
        return replace(f, evidence=text, fix=first.fix, effect=first.effect)
    if tried is None or not tried.learned:
        return replace(f, evidence=f"{f.evidence}; no other rule warns: look at data and labels", fix="", effect="")
    return replace(
        f,
        evidence=f"{f.evidence}; a copy learns in a trial: look at the rate and at the code of the training",
        fix=f"optimizer = optim.SGD(model.parameters(), lr={tried.best['rate']:g}, momentum={MOMENTUM:g})",
        effect=f"in a trial {tried}",
    )


def replace_activations(model: Module, name: str) -> Module:
    """Put another activation in the place of every one in ``model``, in place; returns the model.

    Args:
        model: any tree of modules; activations that its code calls as functions are not found.
        name: of the new activation, see ``nn.activation``.

    Raises:
        ValueError: an unknown name, or no layer is an activation.
    """
    activation(name)
    old = tuple(kind for label, kind in LAYERS.items() if label != "Identity")
    if not _replaced(model, old, name):
        raise ValueError(f"{type(model).__name__} holds no layer that is an activation; change its forward() instead")
    return model


def _replaced(model: Module, old: tuple[type[Module], ...], name: str) -> int:
    count = 0
    for _, module in list(model.named_modules()):
        for key, value in list(vars(module).items()):
            if isinstance(value, old):
                setattr(module, key, activation(name))
                count += 1
            elif isinstance(value, list):
                found = [isinstance(item, old) for item in value]
                value[:] = [activation(name) if new else item for item, new in zip(value, found, strict=True)]
                count += sum(found)
    return count


def _finding(rule: Rule, evidence: Evidence) -> Finding:
    v = rule.judge(evidence)
    quiet, tried = v.level == "ok", evidence.trial
    refuted = v.level == "fail" and rule.kind == "forecast" and tried is not None and tried.learned
    return Finding(
        rule.id,
        "warn" if refuted else v.level,
        "" if quiet else v.cause,
        "" if quiet else v.layer,
        float(v.measured),
        None if v.expected is None else float(v.expected),
        v.unit,
        f"{v.evidence}; yet in a trial {tried}" if refuted else v.evidence,
        f"ok {rule.limits.ok}; warn {rule.limits.warn}; fail {rule.limits.fail}",
        rule.source,
        rule.explained_by,
        "" if quiet else v.fix,
        "" if quiet else v.effect,
    )


# ---- the report


def _lines(d: Diagnosis) -> Iterator[str]:
    e = d.evidence
    yield (
        f"{e.depth} layer{'s' * (e.depth > 1)} with weights, {e.activation or 'activation not seen'}"
        f"{', normalized' if e.normalized else ''}{f', {len(e.blocks)} residual blocks' if e.blocks else ''}; "
        f"{e.inputs['examples']:g} inputs, loss {e.report.loss:.4g}"
    )
    first = d.primary
    if first is None:
        yield "healthy: no rule objects"
    else:
        yield from _primary(first)
    others = [f for f in d.findings if f is not first and f.level != "ok"]
    for f in sorted(others, key=lambda f: -LEVELS.index(f.level)):
        yield from _in_one_line(f, first)
    yield from _wrapped("ok", " ".join(f.rule for f in d.findings if f.level == "ok") or "none")
    if d.skipped:
        yield from _wrapped("not judged", "; ".join(_by_reason(d.skipped)))
    if e.unseen:
        yield from _wrapped("not seen", f"{', '.join(e.unseen)}: no .weight of a layer that ran; no rule looks at it")
    if e.trial is not None:
        yield from _wrapped("trial", str(e.trial))
    if d.prediction is None:
        yield from _wrapped("theory", f"none for this network, absolute limits alone ({e.unpredicted})")


def _by_reason(skipped: Sequence[Mapping[str, str]]) -> list[str]:
    """One entry per reason."""
    reasons = dict.fromkeys(s["why"] for s in skipped)
    return [f"{' '.join(s['rule'] for s in skipped if s['why'] == why)}: {why}" for why in reasons]


def _primary(f: Finding) -> Iterator[str]:
    word = {"fail": "FINDING", "warn": "warning", "info": "remark"}[f.level]
    yield ""
    yield f"{word} {f.rule}: {f.cause}" + (f", from {f.layer} on" if f.layer else "")
    yield from _wrapped("evidence", f.evidence)
    expected = "" if f.expected is None else f", expected {f.expected:.4g}"
    yield from _wrapped("measured", f"{f.measured:.4g}{expected}: {f.unit}")
    yield from _wrapped("limits", f.limits)
    yield from _wrapped("source", f.source)
    if f.fix:
        yield f"  {'fix':<{LABEL}}{f.fix}"  # never broken: it is there to be copied
        yield from _wrapped("effect", f.effect)
    yield ""


def _in_one_line(f: Finding, first: Finding | None) -> Iterator[str]:
    follows = f" (may follow from {first.rule})" if first is not None and first.rule in f.explained_by else ""
    where = f" at {f.layer}" if f.layer else ""
    line = f"  {f.level:<5} {f.rule}  {f.cause}{where}: {f.measured:.3g}{follows}"
    yield line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _wrapped(label: str, text: str) -> Iterator[str]:
    indent = " " * (LABEL + 2)
    wrapped = textwrap.wrap(text, WIDTH, initial_indent=f"  {label:<{LABEL}}", subsequent_indent=indent)
    yield from wrapped or [f"  {label}"]
