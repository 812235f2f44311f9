"""Plant one bug for each rule of ``lab.diagnose``, and write what it says of them as a table into ``docs/diagnose.md``.

    python docs/diagnosis/pairs.py

The table of the rules with their thresholds and sources comes from the rules themselves. A test makes both anew and
compares them with the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidl import data, init, lab, models, nn, optim
from minidl.lab.rules import all_rules

PAGE = Path(__file__).resolve().parent.parent / "diagnose.md"
INPUTS = 128


class Case(NamedTuple):
    """A network with a bug in it, and what ``lab.diagnose`` is given."""

    model: nn.Module
    x: Any
    y: Any
    options: dict[str, Any]


#: rule -> (the bug in words, a function that makes the case)
PLANTED: dict[str, tuple[str, Callable[[], Case]]] = {}


def planted(rule: str, bug: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Decorator: the function makes the case for this rule."""

    def decorate(make: Callable[[], Case]) -> Callable[[], Case]:
        PLANTED[rule] = (bug, make)
        return make

    return decorate


def batch() -> tuple[Any, Any]:
    """Handwritten digits, standardized."""
    x, y = data.load("digits", seed=0).train[:INPUTS]
    return x, y


def case(model: nn.Module, **options: Any) -> Case:
    """A network on digits."""
    return Case(model, *batch(), options)


def mlp(depth: int, activation: str = "relu", scheme: Any = None, width: int = 100, norm: bool = False) -> nn.Module:
    """A plain network on digits."""
    return models.mlp([64, *[width] * depth, 10], activation, scheme, norm=norm, seed=1)


def times(model: nn.Module, factor: float, *layers: str) -> nn.Module:
    """The weights of some layers, or of all, times a factor, behind the back of their scheme."""
    for path, p in model.named_parameters():
        if path.endswith("weight") and (not layers or path.removesuffix(".weight") in layers):
            p.data = p.data * np.float32(factor)
    return model


@planted("D1", "inputs of mean 300 and std 60")
def raw_pixels() -> Case:
    """He and ReLU."""
    x, y = batch()
    return Case(mlp(4), 60 * x + 300, y, {})


@planted("W1", "He, with √3·std where std was meant")
def limit_as_std() -> Case:
    """The width of a uniform law used for a normal one."""
    return case(times(mlp(4), math.sqrt(3)))


@planted("W2", "weights around 0.05 instead of 0, std 0.1, 8 layers of tanh")
def off_centre() -> Case:
    """A mean that all units share."""
    return case(mlp(8, "tanh", init.normal(mean=0.05, std=0.1)))


@planted("S1", "all weights zero")
def zeros() -> Case:
    """ReLU."""
    return case(mlp(4, scheme="zeros"))


@planted("W3", "units correlated by 0.99")
def correlated() -> Case:
    """He's variance."""
    return case(mlp(4, scheme=init.correlated_normal(rho=0.99)))


@planted("G1", "a grouped convolution declares the fans of an ungrouped one")
def wrong_fans() -> Case:
    """Groups divide both fans."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )
    model[2].fans = (144, 144)
    init.apply(model, seed=1)
    return case(model)


@planted("F1", "Glorot and ReLU, 30 layers")
def vanishing() -> Case:
    """×½ in every layer."""
    return case(mlp(30, scheme="glorot_normal"))


@planted("F2", "N(0, 0.001²) and ReLU, 30 layers: underflow")
def underflow() -> Case:
    """float32 ends at 1e-45."""
    return case(mlp(30, scheme=init.normal(std=0.001), width=40))


@planted("F3", "Glorot and sigmoid, 8 layers")
def indistinguishable() -> Case:
    """The mean of ½ outweighs what differs."""
    return case(mlp(8, "sigmoid", "glorot_normal"))


@planted("F4", "N(0, 0.05²) and softplus, 12 layers")
def one_direction() -> Case:
    """Every output is positive."""
    return case(mlp(12, "softplus", init.normal(std=0.05)))


@planted("F5", "N(0, 0.2²) and tanh, 26 layers: σ_w = 2")
def chaos() -> Case:
    """Beyond the edge of chaos."""
    return case(mlp(26, "tanh", init.normal(std=0.2)))


@planted("A1", "N(0, 4²) and tanh, 2 layers")
def saturated() -> Case:
    """Far beyond the bend."""
    return case(mlp(2, "tanh", init.normal(std=4.0)))


@planted("A2", "N(0, 16²) and sigmoid, 2 layers")
def saturated_sigmoid() -> Case:
    """The same."""
    return case(mlp(2, "sigmoid", init.normal(std=16.0)))


@planted("A3", "N(0, 0.004²) and tanh, 2 layers")
def too_linear() -> Case:
    """Near 0 tanh is a line."""
    return case(mlp(2, "tanh", init.normal(std=0.004)))


@planted("A4", "biases of -20 in nine of ten units of a layer of ReLU")
def dead() -> Case:
    """No input reaches so far."""
    model = mlp(3)
    model.linear2.bias.data[:90] -= 20
    return case(model)


@planted("A5", "weights of one sign (the article's Kaiming), 4 layers of ReLU")
def always_on() -> Case:
    """A network that is linear."""
    return case(mlp(4, scheme=init.as_written_kaiming(activation="relu")))


@planted("B1", "N(0, 0.6²) and tanh, 14 layers")
def exploding_gradient() -> Case:
    """The signal is kept by the ends of tanh; the gradient is not."""
    return case(mlp(14, "tanh", init.normal(std=0.6)))


@planted("B2", "one layer ×1e-2, the next ×1e2: ReLU hides it")
def imbalance() -> Case:
    """The outputs stay the same."""
    return case(times(times(mlp(4), 1e-2, "linear2"), 1e2, "linear3"))


@planted("B3", "Glorot and ReLU, 14 layers: all ∂L/∂W shrink alike")
def uniform_loss() -> Case:
    """Adam would not notice."""
    return case(mlp(14, scheme="glorot_normal"))


@planted("B4", "N(0, 0.02²) and ReLU, 12 layers")
def below_epsilon() -> Case:
    """Adam's ε is larger than any gradient."""
    return case(mlp(12, scheme=init.normal(std=0.02)))


@planted("B5", "biases of -100 in one layer of ReLU: nothing passes")
def no_gradient() -> Case:
    """A layer that is silent on every input."""
    model = mlp(4)
    model.linear2.bias.data = model.linear2.bias.data - np.float32(100)
    return case(model)


@planted("L1", "the output layer ×20 000")
def large_head() -> Case:
    """Sure of itself from the start."""
    return case(times(mlp(4), 20_000.0, "output"))


@planted("U1", "a learning rate of 100")
def high_rate() -> Case:
    """He and ReLU."""
    model = mlp(4)
    return case(model, optimizer=optim.SGD(model.parameters(), lr=100.0))


@planted("L2", "a history whose loss stayed at ln 10")
def flat_loss() -> Case:
    """Something outside of the network, such as shuffled labels."""
    history = [{"epoch": i, "train_loss": 2.30, "train_accuracy": 0.1} for i in (1, 2, 3)]
    return case(mlp(4), history=history)


@planted("R1", "22 residual blocks whose branches are not scaled")
def plain_blocks() -> Case:
    """×2 in every block."""
    blocks = [nn.Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))) for _ in range(22)]
    model = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(64, 10))
    init.apply(model, seed=1)
    return case(model)


@planted("N1", "batch normalization and ReLU, 24 layers, no shortcut")
def normalized() -> Case:
    """×1.47 in every layer on the way down."""
    return case(mlp(24, norm=True))


@planted("J1", "LeCun and tanh, 28 layers: Gaussian where orthogonal is better")
def uneven_directions() -> Case:
    """Gaussian weights stretch some directions more than others, layer after layer."""
    return case(mlp(28, "tanh", init.lecun_normal(), width=64))


@planted("V1", "12 layers of width 8")
def narrow() -> Case:
    """One draw is not the average."""
    return case(mlp(12, "tanh", init.orthogonal(), width=8))


@planted("T1", "one layer ×1e-4, the next ×1e4: at no rate can both learn")
def two_sizes() -> Case:
    """One pass sees the imbalance, and nothing else."""
    return case(times(times(mlp(4), 1e-4, "linear2"), 1e4, "linear3"))


def diagnosis(rule: str) -> lab.Diagnosis:
    """What ``lab.diagnose`` says of the bug that was planted for a rule."""
    model, x, y, options = PLANTED[rule][1]()
    return lab.diagnose(model, x, y, **options)


def pairs_table() -> str:
    """One line per bug: what fires, and the primary cause."""
    lines = ["| planted for | bug | fails | warns | primary |", "| --- | --- | --- | --- | --- |"]
    for rule, (bug, _) in PLANTED.items():
        found = diagnosis(rule)
        fired = {level: " ".join(f.rule for f in found.findings if f.level == level) for level in ("fail", "warn")}
        primary = found.primary.rule if found.primary else "—"
        lines.append(f"| {rule} | {bug} | {fired['fail']} | {fired['warn']} | {primary} |")
    return "\n".join(lines)


def rules_table() -> str:
    """One line per rule, from the rules themselves."""
    lines = [
        "| id | what is measured | ok | warns | fails | source | may follow from |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in all_rules():
        cells = (r.id, r.observable, *r.limits, r.source, " ".join(r.explained_by))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with both tables made anew, between their marks."""
    for name, table in (("rules", rules_table()), ("pairs", pairs_table())):
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        page = before + start + table + end + rest.partition(end.lstrip("\n"))[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
