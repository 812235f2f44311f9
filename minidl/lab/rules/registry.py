"""What a rule is, and the one place where every rule is known, in the order of the report.

Adding a rule takes one function with ``@rule``: its id, its thresholds in words, their source. It looks at an
``Evidence`` and returns a ``Verdict``, or raises ``Skip`` with the reason why it cannot judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from minidl.lab.evidence import Evidence

__all__ = ["GROUPS", "KINDS", "LEVELS", "Rule", "Skip", "Verdict", "all_rules", "level_of", "rule"]

LEVELS = ("ok", "info", "warn", "fail")
#: What a fail means. A *forecast* is that the network will not learn: a trial can prove it wrong. A *fault* is wrong in
#: any case, as a wrong formula. A *symptom* is that it did not learn: the cause is one of the rules it may follow from.
KINDS = ("forecast", "fault", "symptom")
GROUPS = ("data", "weights", "forward", "activation", "backward", "loss", "structure", "trial")  # as in the report


class Skip(Exception):
    """A rule cannot be evaluated here; its text says why."""


@dataclass(frozen=True)
class Verdict:
    """What a rule found.

    Args:
        level: "ok", "info", "warn" or "fail"; only a fail is a finding.
        measured: the number that was judged.
        expected: what a healthy network, or the theory of this one, has; None where only a limit is known.
        unit: what the number is.
        evidence: the measurement in a sentence.
        cause: what is wrong, as a headline.
        layer: path of the first layer that shows it, or "".
        fix: one line of Python that mends it, with ``model``, ``x``, ``y`` and the modules of minidl in scope; or "".
        effect: what the fix is predicted to do.
    """

    level: str
    measured: float
    expected: float | None
    unit: str
    evidence: str
    cause: str = ""
    layer: str = ""
    fix: str = ""
    effect: str = ""


class Limits(NamedTuple):
    """The thresholds in words, for tables."""

    ok: str
    warn: str
    fail: str


@dataclass(frozen=True)
class Rule:
    """One line of the table of rules.

    Args:
        id: "F1".
        group: one of ``GROUPS``.
        observable: what is measured.
        limits: when it is ok, warns and fails, in words.
        source: where the thresholds come from.
        explained_by: rules earlier in the report that may be the cause where this one fires.
        kind: see ``KINDS``.
        judge: the function.
    """

    id: str
    group: str
    observable: str
    limits: Limits
    source: str
    explained_by: tuple[str, ...]
    kind: str
    judge: Callable[[Evidence], Verdict]


_RULES: dict[str, Rule] = {}


def rule(
    id: str,
    group: str,
    observable: str,
    *,
    limits: tuple[str, str, str],
    source: str,
    explained_by: tuple[str, ...] = (),
    kind: str = "forecast",
) -> Callable[[Callable[[Evidence], Verdict]], Callable[[Evidence], Verdict]]:
    """Decorator: make a function a rule; arguments as for ``Rule``.

    Raises:
        ValueError: the id is taken, or there is no such group or kind.
    """

    def decorate(judge: Callable[[Evidence], Verdict]) -> Callable[[Evidence], Verdict]:
        if id in _RULES or group not in GROUPS or kind not in KINDS:
            raise ValueError(f"rule {id!r}: the id is taken, {group!r} is none of {GROUPS}, or {kind!r} of {KINDS}")
        _RULES[id] = Rule(id, group, observable, Limits(*limits), source, explained_by, kind, judge)
        return judge

    return decorate


def all_rules() -> list[Rule]:
    """Every rule, in the order of the report; within a group in the order of its file."""
    return sorted(_RULES.values(), key=lambda r: GROUPS.index(r.group))


def level_of(value: float, warn: float, fail: float) -> str:
    """The level of a value that is ok up to ``warn`` and fails above ``fail``; a NaN fails."""
    return "ok" if value <= warn else "warn" if value <= fail else "fail"
