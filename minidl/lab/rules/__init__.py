"""The rules of ``lab.diagnose``: one function each, with its id, its thresholds and their source.

The files are the groups of the report, in its order: data, weights, forward, activation, backward, loss, structure,
trial.
"""

from minidl.lab.rules import activation, backward, data, forward, loss, structure, trial, weights
from minidl.lab.rules.registry import GROUPS, LEVELS, Rule, Skip, Verdict, all_rules, rule

__all__ = [
    "GROUPS",
    "LEVELS",
    "Rule",
    "Skip",
    "Verdict",
    "activation",
    "all_rules",
    "backward",
    "data",
    "forward",
    "loss",
    "rule",
    "structure",
    "trial",
    "weights",
]
