"""The passport of a scheme: one figure and one page that say what it draws and what that does to a deep network.

Its formula, the weights of one layer (against the law that the formula means), their singular values, and the ladders
of signal and gradient through 20 layers of linear, ReLU, tanh and sigmoid units, before any training. Computed first,
by ``scheme_passport``; then printed (``str``, ``page``) or drawn (``figure``).
"""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import init, models, nn
from minidl.init.registry import drawn, entry, title
from minidl.lab.law import Law, read_law
from minidl.lab.limits import HARMLESS, STALLS
from minidl.lab.measure import Report, change_per_layer, probe
from minidl.meanfield import gaussian_moments
from minidl.text import table

__all__ = ["Passport", "scheme_passport"]

#: The networks of the ladders: label -> activation.
NETWORKS = {"linear": "identity", "ReLU": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}
DEPTH, WIDTH, BATCH = 20, 256, 128
CONVOLUTIONAL = ("delta_orthogonal",)  # schemes that are shown in convolutions; so are those that refuse a dense layer
CHANNELS, SIDE = 28, 8  # of these: 28 · 3² is about WIDTH
KERNEL = 3
ENOUGH = 20_000  # weights for a histogram
BEYOND = 1e80  # mean square that no float32 has: there the measurement, and so the theory of it, ends
LARGEST = 2**22  # weights of the layer; the singular values of more take too long
#: Factors over the whole depth, as logarithms: beyond the first a ladder fades or grows, beyond the second it is lost.
NOTICEABLE, LOST = HARMLESS / 2, STALLS / 2


@dataclass
class Passport:
    """What ``scheme_passport`` found: print it, ``page()`` it as Markdown, draw ``figure()``, or read ``records``.

    Args:
        name: of the scheme, with the parameters that were changed.
        formula: repr of its initializer.
        doc: docstring of the scheme.
        settings: shape and fans of the layer, seed; depth, width and batch of the ladders.
        weights: ``mean``, ``std``, ``smallest``, ``largest``, ``zeros`` (share), ``rank`` and ``of`` (the most it
            can be), ``coherence`` (nan without two units that have a direction), and ``law_mean`` and ``law_std`` where
            there is a law.
        records: one flat dict per network: the factor per layer of ``rms``, ``signal`` (spread over inputs) and
            ``gradient`` (downwards), what theory says (``rms_theory``, ``gradient_theory``, or None), a ``verdict``.
        law: of one weight, or None.
        aliases: other names of the scheme.
        sample: the weights of the histogram.
        singular: the singular values of the layer's matrix (outputs, rest), largest first.
        ladders: network -> its ``probe``.
        theory: network -> {"rms": …, "delta_rms": …} as mean-field theory has them; empty where it does not apply.
    """

    name: str
    formula: str
    doc: str
    settings: dict[str, Any]
    weights: dict[str, Any]
    records: list[dict[str, Any]]
    law: Law | None = None
    aliases: tuple[str, ...] = ()
    sample: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False)
    singular: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False)
    ladders: dict[str, Report] = field(default_factory=dict, repr=False)
    theory: dict[str, dict[str, list[float]]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The page for a terminal."""
        return self._written(lambda title: f"{title}\n{'-' * len(title)}", lambda rows: table(rows, COLUMNS), 100)

    def page(self, picture: str | None = None) -> str:
        """The page in Markdown, with the figure if its address is given."""
        return self._written(lambda title: f"## {title}", _markdown, 120, picture)

    def _written(
        self, heading: Callable[[str], str], tabulated: Callable[[Any], str], width: int, picture: str | None = None
    ) -> str:
        what = _Doc(self.doc)
        parts = [f"# {self.name}", f"`{self.formula}`"]
        parts += [f"Also known as {' and '.join(f'`{a}`' for a in self.aliases)}."] if self.aliases else []
        parts += [f"![{self.name}: density, spectrum and ladders]({picture})"] if picture else []
        parts += [_filled(what.text, width)]
        if what.arguments:
            parts += [heading("Parameters"), *(_filled(f"- {line}", width) for line in what.arguments)]
        parts += [heading("One layer"), _filled(self.layer(), width)]
        parts += [heading(f"Through {self.settings['depth']} layers"), _filled(self._how(), width)]
        parts += [tabulated(self.records)]
        parts += [heading("When it fails"), _filled(self.failures(), width)]
        parts += [heading("Source"), _filled(what.source or "No paper; the formula is all there is to it.", width)]
        return "\n\n".join(parts) + "\n"

    def layer(self) -> str:
        """The weights of one layer in words."""
        w, s = self.weights, self.settings
        shape = "×".join(map(str, s["shape"]))
        said = f"Shape {shape}, fan_in {s['fan_in']}, fan_out {s['fan_out']}, seed {s['seed']}: "
        said += f"mean {w['mean']:.3g}, std {w['std']:.4g}"
        if "law_std" in w:
            said += f" (law: mean {w['law_mean']:.3g}, std {w['law_std']:.4g})"
        said += f", from {w['smallest']:.3g} to {w['largest']:.3g}"
        said += f", {100 * w['zeros']:.3g} % of the weights are 0" if w["zeros"] > 0 else ""
        said += f". Rank {w['rank']} of {w['of']}, largest singular value {self.singular[0]:.3g}"
        alike = f", mean |cos| of two units {w['coherence']:.2g}" if math.isfinite(w["coherence"]) else ""
        return f"{said}{alike}."

    def failures(self) -> str:
        """Where, among the four networks, signal or gradient does not get through; and what else is to be seen."""
        networks: dict[str, list[str]] = {}
        for record in self.records:
            networks.setdefault(record["verdict"], []).append(record["network"])
        lost = [f"{_listed(found)}: {verdict}" for verdict, found in networks.items() if verdict != FINE]
        fine = networks.get(FINE, [])
        depth = self.settings["depth"]
        said = [f"After {depth} layers, {'; '.join(lost)}."] if lost else []
        said += [f"Signal and gradient get through with {_listed(fine)}."] if fine else []
        if self.weights["rank"] < self.weights["of"]:
            said += ["The matrix of a layer has not full rank: some directions of its input are lost at once."]
        return " ".join(said)

    def figure(self) -> Any:
        """Density, spectrum and ladders in one Figure, for saving."""
        from minidl.lab.passport_figure import passport_figure

        return passport_figure(self)

    def _how(self) -> str:
        s = self.settings
        kind = f"dense layers of width {s['width']}"
        if s["convolution"]:
            kind = f"circular {KERNEL}×{KERNEL} convolutions of {s['width']} channels"
        own = "each network with its own activation in the scheme; " if s["own_activation"] else ""
        theory = (
            "theory: mean field, for infinite width." if self.theory else "there is no theory for this scheme here."
        )
        return (
            f"Factor per layer through {s['depth']} {kind}, zero biases, {s['batch']} inputs from N(0, 1), one draw: "
            f"rms of the pre-activation, its std over inputs (what is left to tell two inputs apart), and the gradient "
            f"on its way down; {own}{theory}"
        )


FINE = "gets through"
COLUMNS = {
    "network": "network",
    "rms": "rms",
    "rms_theory": "(theory)",
    "signal": "std over inputs",
    "gradient": "gradient",
    "gradient_theory": "(theory) ",
    "verdict": "verdict",
}


def scheme_passport(
    scheme: str | init.InitializerLike, *, fan_in: int = 256, fan_out: int = 256, seed: int = 0
) -> Passport:
    """Draw one layer and four deep networks with a scheme, and measure them.

    Args:
        scheme: a name of ``init.names()``, or an initializer with other parameters. Where a scheme has a parameter
            ``activation`` that was not set, each network gets its own.
        fan_in: inputs of the layer whose weights are looked at; the ladders have a width of their own.
        fan_out: outputs of that layer. For a scheme that exists for convolutions alone, channels times kernel.
        seed: of all draws.

    Raises:
        ValueError: an unknown scheme, or a layer of no weights or of too many.
        TypeError: an initializer that no scheme made, such as a function of your own.
    """
    initializer = _initializer(scheme)
    if min(fan_in, fan_out) < 1 or fan_in * fan_out > LARGEST:
        raise ValueError(f"a layer has from 1 to {LARGEST} weights, for their spectrum; got {fan_in} · {fan_out}")
    shape, fans = _shape(initializer, fan_in, fan_out)
    sample, matrix = _weights(initializer, shape, fans, seed)
    singular = init.singular_values(matrix)
    law = read_law(initializer.law, _words(initializer, fans), shape)
    name, doc, aliases = str(initializer), *_registered(initializer.name)
    convolution = len(shape) > 2
    settings: dict[str, Any] = {"scheme": name, "shape": shape, "fan_in": fans[0], "fan_out": fans[1], "seed": seed}
    settings |= {"depth": DEPTH, "width": CHANNELS if convolution else WIDTH, "batch": BATCH}
    settings |= {"convolution": convolution, "own_activation": _is_open(initializer)}
    ladders, theory, fan = {}, {}, CHANNELS * KERNEL**2 if convolution else WIDTH
    with np.errstate(all="ignore"):  # signals that overflow are what this is about
        for label, activation in _networks(initializer).items():
            suited = _suited(initializer, activation)
            ladders[label], energy = _ladder(suited, activation, convolution, seed)
            theory[label] = _theory(suited, activation, fan, ladders[label], energy)
    theory = {label: lines for label, lines in theory.items() if lines}
    records = [_record(label, ladders[label], theory.get(label)) for label in ladders]
    weights = _statistics(sample, singular, law) | {"coherence": init.coherence(matrix)}
    return Passport(
        name, repr(initializer), doc, settings, weights, records, law, aliases, sample, singular, ladders, theory
    )


# ------------------------------------------------------------------------------------------------ the scheme itself


def _initializer(scheme: str | init.InitializerLike) -> init.Initializer:
    found = init.get(scheme)
    if not isinstance(found, init.Initializer):
        raise TypeError(f"a passport is of a scheme of minidl, got {title(found)}; @register makes one")
    return found


def _registered(name: str) -> tuple[str, tuple[str, ...]]:
    """Docstring and aliases of a scheme; nothing for an initializer that no scheme made."""
    if name not in init.names():
        return "", ()
    scheme = entry(name)
    return inspect.getdoc(scheme.factory) or "", scheme.aliases


def _is_open(initializer: init.Initializer) -> bool:
    """Whether a scheme has a parameter ``activation`` that was not set."""
    return "activation" in initializer.params and "activation" not in initializer.changed


def _suited(initializer: init.Initializer, activation: str) -> init.Initializer:
    """The scheme as a network of this activation would have it, where it has such a parameter and it was left alone."""
    if not _is_open(initializer):
        return initializer
    try:
        return _initializer(init.get(initializer.name, **{**initializer.params, "activation": activation}))
    except ValueError:  # an activation that the scheme does not know: as it is by default
        return initializer


def _networks(initializer: init.Initializer) -> dict[str, str]:
    """Those of every passport, and with CReLU for the scheme that is made for it."""
    return NETWORKS | ({"CReLU": "crelu"} if initializer.name == "looks_linear" else {})


def _words(initializer: init.Initializer, fans: tuple[float, float]) -> dict[str, Any]:
    """What the words of a formula stand for."""
    fan_in, fan_out = fans
    words = {"gain": 1.0} | dict(initializer.params) | {"a": initializer.params.get("negative_slope", 0.0)}
    words |= {"fan_in": fan_in, "fan_out": fan_out}
    words |= {"fan_avg": (fan_in + fan_out) / 2, "fan_geometric": math.sqrt(fan_in * fan_out)}
    return words


# --------------------------------------------------------------------------------------------------------- one layer


def _shape(initializer: init.Initializer, fan_in: int, fan_out: int) -> tuple[tuple[int, ...], tuple[float, float]]:
    """Shape and fans of a dense layer, or of a convolution of about these fans if the scheme takes nothing else."""
    dense = (fan_out, fan_in)
    if initializer.name not in CONVOLUTIONAL and _takes(initializer, (8, 8)):
        return dense, (fan_in, fan_out)
    channels = [max(1, round(fan / KERNEL**2)) for fan in dense]
    return (*channels, KERNEL, KERNEL), (channels[1] * KERNEL**2, channels[0] * KERNEL**2)


def _takes(initializer: init.Initializer, shape: tuple[int, ...]) -> bool:
    try:
        drawn(initializer, shape, (8, 8), np.random.default_rng(0))
    except ValueError:
        return False
    return True


def _weights(
    initializer: init.Initializer, shape: tuple[int, ...], fans: tuple[float, float], seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights enough for a histogram, from as many layers as it takes; the first of them as a matrix."""
    rng = np.random.default_rng(seed)
    layers = [drawn(initializer, shape, fans, rng) for _ in range(-(-ENOUGH // math.prod(shape)))]
    return np.concatenate([layer.ravel() for layer in layers]), layers[0].reshape(shape[0], -1)


def _statistics(sample: NDArray[Any], singular: NDArray[Any], law: Law | None) -> dict[str, Any]:
    values = sample.astype(np.float64)
    found: dict[str, Any] = {"mean": values.mean(), "std": values.std()}
    found |= {"smallest": values.min(), "largest": values.max(), "zeros": np.mean(values == 0)}
    found = {key: float(value) for key, value in found.items()}
    tolerance = singular[0] * len(singular) * np.finfo(np.float32).eps
    found |= {"rank": int((singular > tolerance).sum()), "of": len(singular)}
    return found | ({} if law is None else {"law_mean": law.mean, "law_std": law.std})


# ------------------------------------------------------------------------------------------------------- the ladders


def _ladder(initializer: init.Initializer, activation: str, convolution: bool, seed: int) -> tuple[Report, float]:
    """The probe of one deep network, and the mean square of its inputs."""
    rng = np.random.default_rng(seed)
    if convolution:
        model = _convolutions(initializer, activation, seed)
        x = rng.standard_normal((BATCH // 4, CHANNELS, SIDE, SIDE), dtype=np.float32)
    else:
        model = models.mlp([WIDTH] * (DEPTH + 1) + [10], activation, _rules(initializer), seed=seed)
        x = rng.standard_normal((BATCH, WIDTH), dtype=np.float32)
    return probe(model, x, rng.integers(10, size=len(x))), float(np.mean(x**2))


def _convolutions(initializer: init.Initializer, activation: str, seed: int) -> nn.Module:
    """DEPTH circular convolutions, and the scores."""
    layers: dict[str, nn.Module] = {}
    for i in range(1, DEPTH + 1):
        layers[f"conv{i}"] = nn.Conv2d(CHANNELS, CHANNELS, KERNEL, padding=1, padding_mode="circular", init="zeros")
        layers[f"{activation}{i}"] = nn.activation(activation)
    layers |= {"flatten": nn.Flatten(), "output": nn.Linear(CHANNELS * SIDE**2, 10, init="zeros")}
    model = nn.Sequential(**layers)
    init.apply(model, _rules(initializer), seed=seed)
    return model


def _rules(initializer: init.Initializer) -> dict[str, Any]:
    """The scheme for every hidden layer; scores that always give a gradient, also where the scheme is zeros."""
    return {"output*": "lecun_normal", "*": initializer}


def _theory(
    initializer: init.Initializer, activation: str, fan: int, report: Report, energy: float
) -> dict[str, list[float]]:
    """``q_l = n Var(w) E φ(√q ξ)²`` up and ``n Var(w) E φ'(√q ξ)²`` down, for weights with mean 0.

    The weights are independent, or those of an orthogonal matrix, which in a wide layer act the same on second moments.
    The gradient's line starts at what was measured in the last layer. Nothing where no law is known.

    Source: He et al. 2015, eq. 9 and 14; Poole et al. 2016, eq. 3.
    """
    law = read_law(initializer.law, _words(initializer, (fan, fan)), (WIDTH, WIDTH))
    if law is None or law.mean or not (law.kind == "sphere" or law.independent) or law.std == 0:
        return {}
    strength = fan * law.std**2
    signal, slopes = [strength * energy], []
    while len(signal) < DEPTH and signal[-1] < BEYOND:
        moments = gaussian_moments("linear" if activation == "identity" else activation, signal[-1])
        slopes.append(strength * moments.slope_square)
        signal.append(strength * moments.square)
    down = [report.ladder("delta_rms")[-1]]
    for slope in reversed(slopes):
        down.append(down[-1] * math.sqrt(slope))
    return {"rms": [math.sqrt(q) for q in signal], "delta_rms": down[::-1]}


def _record(label: str, report: Report, theory: Mapping[str, Sequence[float]] | None) -> dict[str, Any]:
    changes = report.changes()
    found: dict[str, Any] = {"network": label, **changes, "rms_theory": None, "gradient_theory": None}
    if theory:
        found["rms_theory"] = change_per_layer(list(theory["rms"]))
        found["gradient_theory"] = change_per_layer(list(theory["delta_rms"])[::-1])
    return found | {"verdict": _verdict(changes["signal"], changes["gradient"])}


def _verdict(signal: float, gradient: float) -> str:
    """What becomes of both over the depth, in words."""
    if signal == 0 and gradient == 0:
        return "no signal and no gradient"
    said = {}
    for what, factor in (("signal", signal), ("gradient", gradient)):
        growth = math.inf if math.isinf(factor) else math.log(factor) * (DEPTH - 1) if factor > 0 else -math.inf
        if abs(growth) > NOTICEABLE:
            words = ("explodes", "vanishes") if abs(growth) > LOST else ("grows", "fades")
            said[what] = words[0] if growth > 0 else words[1]
    if len(said) == 2 and said["signal"] == said["gradient"]:
        return f"signal and gradient {said['signal'].removesuffix('s').replace('vanishe', 'vanish')}"
    return ", ".join(f"{what} {word}" for what, word in said.items()) or FINE


# ---------------------------------------------------------------------------------------------------------- the words


class _Doc:
    """The parts of a docstring: its text, its arguments, its source."""

    def __init__(self, doc: str) -> None:
        blocks = [block for block in doc.replace("``", "`").split("\n\n") if block.strip()]
        self.text = "\n\n".join(b for b in blocks if not re.match(r"(Args|Returns|Raises|Source):", b))
        self.arguments = [line for block in blocks if block.startswith("Args:") for line in _entries(block)]
        sources = [block.removeprefix("Source: ") for block in blocks if block.startswith("Source:")]
        self.source = " ".join(" ".join(sources).split()) or self._elsewhere()

    def _elsewhere(self) -> str:
        """A docstring that points to another scheme has its source there."""
        for name in re.findall(r"`(\w+)`", self.text):
            found = re.search(r"^Source: (.+?)(\n\n|\Z)", _registered(name)[0], re.MULTILINE | re.DOTALL)
            if found:
                return f"See `{name}`: {' '.join(found[1].split())}"
        return ""


def _entries(block: str) -> list[str]:
    """The arguments of an "Args:" block, one line each."""
    lines = textwrap.dedent(block.partition("\n")[2]).splitlines()
    joined = "\n".join(lines).replace("\n    ", " ")
    return [re.sub(r"^(\w+):", r"`\1`:", " ".join(line.split())) for line in joined.splitlines()]


def _filled(text: str, width: int) -> str:
    """Paragraphs and bullets broken into lines."""
    parts = re.split(r"\n\n|\n(?=[*-] )", text)
    return "\n\n".join(
        textwrap.fill(
            " ".join(part.split()),
            width,
            subsequent_indent="  " * part.lstrip().startswith(("- ", "* ")),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *([_cell(row[key]) for key in COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.3g}"
