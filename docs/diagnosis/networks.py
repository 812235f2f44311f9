"""The published generator: network number i of the calibration of ``lab.diagnose``, sick or healthy, as plain values.

    recipe(17)         -> {"number": 17, "family": "one_layer", "activation": "tanh", "widths": …, "rules": …, …}
    build(recipe(17))  -> model, (x, y)

The number decides everything: architecture, weights, data. Numbers below ``HELD_OUT`` set thresholds, the others give
the published rates. A *family* is a way to choose the weights (or to spoil them, or the data). In every run of
``len(SLOTS)`` numbers each family has its fixed number of places, so that none can dominate by chance: the largest sick
family has 3 of 100. Whether a network trains is never decided here; many of the sick ones do.
"""

# ruff: noqa: ARG001 -- every family has the same signature

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import data, init, nn
from minidl.models.blocks import finished, scheme_for

HELD_OUT = 5000  #: the first number whose diagnosis no threshold was set by
DEPTHS = (3, 30)  #: layers with weights
WIDTHS = (32, 512)  #: units or channels, log-uniform
#: Multiplications an example costs. A size is kept with probability COMMON/work, and never above MOST: the widest are
#: not the deepest too. 30 layers have up to 463 units or (on 4×4 pixels) 38 channels, 3 layers up to 204 channels.
COMMON, MOST = 3e5, 6e6
CLASSES = 10

#: How often each activation and architecture is drawn.
ACTIVATIONS = {"relu": 32, "tanh": 18, "sigmoid": 8, "leaky_relu": 8, "gelu": 8, "elu": 6, "selu": 6, "silu": 6} | {
    "softsign": 3,
    "hard_tanh": 3,
    "erf": 2,
}
ARCHITECTURES = {"mlp": 54, "conv": 16, "residual mlp": 20, "residual conv": 10}
NORMALIZED = {"mlp": 0.25, "conv": 0.3, "residual mlp": 0.4, "residual conv": 0.5}  #: share with batch normalization
PIXELS = 0.1  #: share that reads pixels in [0, 1] instead of standardized ones
#: Standardized digits times ``factor`` plus ``shift``: a pixel in [0, 1].
UNIT_PIXELS = {"factor": 0.376397, "shift": 0.305164}

Net = dict[str, Any]
Rules = list[list[Any]]  #: [pattern, scheme, parameters], as ``init.apply`` takes them; the first that fits wins
FAMILIES: dict[str, Callable[[np.random.Generator, Net], Rules]] = {}
SLOTS: list[str] = []


def family(slots: int) -> Callable[[Callable[[np.random.Generator, Net], Rules]], Any]:
    """Decorator: a family with so many places among ``len(SLOTS)`` numbers. It may change the network."""

    def enter(rules: Callable[[np.random.Generator, Net], Rules]) -> Any:
        FAMILIES[rules.__name__] = rules
        SLOTS.extend([rules.__name__] * slots)
        return rules

    return enter


def recipe(number: int) -> Net:
    """Network ``number`` as plain values: two calls, and two machines, give the same."""
    block, place = divmod(number, len(SLOTS))
    name = SLOTS[np.random.default_rng([2, block]).permutation(len(SLOTS))[place]]
    rng = np.random.default_rng([1, number])
    net = _network(rng)
    rules = FAMILIES[name](rng, net)
    widths = _widths(net)
    return {"number": number, "family": name, **net, "depth": len(widths) + 1, "widths": widths, "rules": rules}


def _network(rng: np.random.Generator) -> Net:
    """Everything but the weights."""
    architecture = _pick(rng, ARCHITECTURES)
    activation = _pick(rng, ACTIVATIONS)
    depth, width = _size(rng, architecture)
    return {
        "architecture": architecture,
        "activation": activation,
        "norm": bool(rng.random() < NORMALIZED[architecture]),
        "order": str(rng.choice(["pre", "post"])),  # of a residual block
        "end": str(rng.choice(["flatten", "mean"])),  # of a convolutional network
        "depth": depth,
        "width": width,
        "profile": str(rng.choice(["even", "even", "even", "taper", "alternate"])),
        "data": UNIT_PIXELS if rng.random() < PIXELS else {"factor": 1.0, "shift": 0.0},
        "branch_scale": None,  # a learned number at the end of every branch
        "then": None,  # what sets the weights once more
    }


def _pick(rng: np.random.Generator, weights: dict[str, int]) -> str:
    shares = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(shares), p=shares / shares.sum())]


def _size(rng: np.random.Generator, architecture: str) -> tuple[int, int]:
    """(depth, width), drawn until one is kept."""
    while True:
        depth = int(rng.integers(DEPTHS[0], DEPTHS[1] + 1))
        width = round(float(np.exp(rng.uniform(*np.log(WIDTHS)))))
        work = (16 * 9 if "conv" in architecture else 1) * width**2 * (depth - 2)
        if work <= MOST and rng.random() < COMMON / work:
            return depth, width


def _widths(net: Net) -> list[int]:
    """Units of every hidden layer; a residual network, in blocks of two layers, has one width."""
    count, width, least = net["depth"] - 1, net["width"], WIDTHS[0]
    if net["architecture"].startswith("residual"):
        return [width] * (1 + 2 * max((count - 1) // 2, 1))
    if net["profile"] == "taper":
        return [round(width * (least / width) ** (i / max(count - 1, 1))) for i in range(count)]
    if net["profile"] == "alternate":
        return [width if i % 2 else max(width // 4, least) for i in range(count)]
    return [width] * count


# ---- families that are meant well


def _usual(net: Net) -> Rules:
    return [["*", scheme_for(net["activation"]), {}]]


@family(16)
def usual(rng: np.random.Generator, net: Net) -> Rules:
    """What ``models`` takes: He for ReLU and its relatives, LeCun for SELU, else Glorot."""
    return _usual(net)


@family(7)
def he(rng: np.random.Generator, net: Net) -> Rules:
    """He's in all forms, whatever the activation: also tanh and sigmoid, also residual networks without norm."""
    name = str(rng.choice(["he_normal", "he_uniform", "he_truncated_normal"]))
    return [["*", name, {"mode": "fan_in"} if rng.random() < 0.7 else {"mode": "fan_out"}]]


@family(6)
def glorot(rng: np.random.Generator, net: Net) -> Rules:
    """Xavier's, whatever the activation: also ReLU in deep networks."""
    return [["*", str(rng.choice(["glorot_normal", "glorot_uniform"])), {}]]


@family(3)
def lecun(rng: np.random.Generator, net: Net) -> Rules:
    """LeCun's, whatever the activation."""
    return [["*", str(rng.choice(["lecun_normal", "lecun_uniform"])), {}]]


@family(6)
def orthogonal(rng: np.random.Generator, net: Net) -> Rules:
    """Orthogonal, with the gain of the activation."""
    return [["*", "orthogonal", {"gain": round(init.gain(net["activation"]), 4)}]]


@family(5)
def torch_default(rng: np.random.Generator, net: Net) -> Rules:
    """PyTorch's default, weights and biases."""
    biases = [] if net["norm"] else [[_biases(net), "torch_default", {}]]
    return [*biases, ["*", "torch_default", {}]]


@family(3)
def edge_of_chaos(rng: np.random.Generator, net: Net) -> Rules:
    """The critical weights of the activation, without biases."""
    if net["activation"] == "sigmoid":  # has no edge without biases
        net["activation"] = "tanh"
    return [["*", "edge_of_chaos", {"activation": net["activation"]}]]


@family(4)
def lsuv(rng: np.random.Generator, net: Net) -> Rules:
    """Orthogonal, then every layer scaled to variance 1 on a batch."""
    net["then"] = "lsuv"
    return [["*", "orthogonal", {}]]


@family(6)
def residual(rng: np.random.Generator, net: Net) -> Rules:
    """Residual networks that start small: SkipInit, Fixup, zero γ, branches scaled by 1/√N."""
    kind = "mlp" if net["architecture"].endswith("mlp") else "conv"
    net["architecture"] = f"residual {kind}"
    net["then"] = str(rng.choice(["skipinit", "fixup", "zero_gamma", "scaled_residual"]))
    net["norm"] = net["then"] == "zero_gamma"
    if net["norm"]:
        net["order"] = "post"  # the norm at the end of the branch
    net["branch_scale"] = 1.0 if net["then"] in ("skipinit", "fixup") else None
    return _usual(net)


@family(3)
def zero_head(rng: np.random.Generator, net: Net) -> Rules:
    """The usual weights and an output layer of zeros: at step 0 nothing else has a gradient, and it trains."""
    return [["output.weight", "zeros", {}], *_usual(net)]


@family(2)
def for_sigmoid(rng: np.random.Generator, net: Net) -> Rules:
    """Schemes made for the sigmoid."""
    net["activation"] = "sigmoid"
    return [["*", str(rng.choice(["kumar", "sigmoid_glorot"])), {}]]


@family(2)
def sparse(rng: np.random.Generator, net: Net) -> Rules:
    """Fifteen weights a unit."""
    return [["*", "sparse", {"std": round(1.0 / math.sqrt(15), 4)}]]


# ---- families that are meant ill


@family(2)
def zeros(rng: np.random.Generator, net: Net) -> Rules:
    """Zeros everywhere, or in all hidden layers."""
    return [["*", "zeros", {}]] if rng.random() < 0.5 else [["output.weight", "glorot_normal", {}], ["*", "zeros", {}]]


@family(2)
def constant(rng: np.random.Generator, net: Net) -> Rules:
    """One value for all weights, of either sign."""
    return [["*", "constant", {"value": float(rng.choice([-1, 1])) * _log(rng, 1e-3, 0.5)}]]


@family(3)
def small_normal(rng: np.random.Generator, net: Net) -> Rules:
    """N(0, σ²) with σ from 1e-4 to 0.03, at any width."""
    return [["*", "normal", {"std": _log(rng, 1e-4, 0.03)}]]


@family(3)
def large_normal(rng: np.random.Generator, net: Net) -> Rules:
    """N(0, σ²) with σ from 0.15 to 2; one in three is N(0, 1)."""
    return [["*", "normal", {"std": 1.0 if rng.random() < 1 / 3 else _log(rng, 0.15, 2.0)}]]


@family(2)
def uniform_01(rng: np.random.Generator, net: Net) -> Rules:
    """U[0, 1), or U[0, a): not centred."""
    return [["*", "uniform", {"low": 0.0, "high": 1.0 if rng.random() < 0.5 else _log(rng, 0.01, 1.0)}]]


@family(2)
def kaiming_of_one_sign(rng: np.random.Generator, net: Net) -> Rules:
    """The article's truncated "Kaiming": positive for ReLU, negative for sigmoid and tanh."""
    return [["*", "as_written_kaiming", {"activation": _of_the_article(net)}]]


@family(2)
def variance_as_std(rng: np.random.Generator, net: Net) -> Rules:
    """The article's N(0, √(2/n)) with √(2/n) read as a variance."""
    neurons = str(rng.choice(["fan_in", "fan_out"]))
    return [["*", "as_written_gaussian", {"neurons": neurons, "second_argument": "variance"}]]


@family(2)
def xavier_of_the_article(rng: np.random.Generator, net: Net) -> Rules:
    """Its Xavier for the activation, or the one with the fans of the whole network."""
    if rng.random() < 0.5:
        return [["*", "as_written_xavier", {"activation": _of_the_article(net)}]]
    return [["*", "as_written_xavier_global", {"n": 64}]]


@family(3)
def correlated(rng: np.random.Generator, net: Net) -> Rules:
    """Units that resemble each other, up to complete copies."""
    if rng.random() < 0.25:
        return [["*", "shared_draw", {"among": "units"}]]
    return [["*", "correlated_normal", {"rho": round(float(1 - 0.9 * rng.random() ** 3), 3)}]]


@family(2)
def swapped_fans(rng: np.random.Generator, net: Net) -> Rules:
    """fan_out where fan_in is meant, in a plain network whose widths differ."""
    _make_plain(net, str(rng.choice(["taper", "alternate"])))
    scale = 2.0 if scheme_for(net["activation"]) == "he_normal" else 1.0
    return [["*", "variance_scaling", {"scale": scale, "mode": "fan_out"}]]


@family(3)
def wrong_factor(rng: np.random.Generator, net: Net) -> Rules:
    """The usual scheme times a slip: √3 of the uniform law, a kernel of 9 left out, twice, half, 0.8796, …"""
    slip = float(rng.choice([3**0.5, 3**-0.5, 3.0, 1 / 3, 2.0, 0.5, 0.8796]))
    scale = (2.0 if scheme_for(net["activation"]) == "he_normal" else 1.0) * slip**2
    return [["*", "variance_scaling", {"scale": round(scale, 4)}]]


@family(2)
def large_head(rng: np.random.Generator, net: Net) -> Rules:
    """The usual weights, and an output layer 10 to 1000 times too large."""
    return [["output.weight", "variance_scaling", {"scale": _log(rng, 1e2, 1e6)}], *_usual(net)]


@family(3)
def low_biases(rng: np.random.Generator, net: Net) -> Rules:
    """The usual weights and biases from -0.3 to -10: ReLU units that never answer, saturated sigmoids."""
    pattern = "*norm*.bias" if net["norm"] else _biases(net)
    return [[pattern, "constant", {"value": -_log(rng, 0.3, 10.0)}], *_usual(net)]


@family(3)
def raw_data(rng: np.random.Generator, net: Net) -> Rules:
    """The usual weights, and data not standardized: 0 … 16, 0 … 255, far from 0, or tiny."""
    times = lambda k: {key: k * value for key, value in UNIT_PIXELS.items()}  # noqa: E731
    choices = [times(16), times(255), {"factor": 1.0, "shift": _log(rng, 2.0, 50.0)}]
    choices.append({"factor": _log(rng, 1e-4, 1e-2), "shift": 0.0})
    net["data"] = choices[rng.integers(len(choices))]
    return _usual(net)


@family(3)
def one_layer(rng: np.random.Generator, net: Net) -> Rules:
    """The usual weights in all layers but one of a plain network: zeros, ones, far too small or large, copies."""
    _make_plain(net, "even")
    layer = int(rng.integers(1, net["depth"]))
    wrong = [["zeros", {}], ["ones", {}], ["normal", {"std": _log(rng, 1e-5, 1e-3)}]]
    wrong += [["normal", {"std": _log(rng, 1.0, 10.0)}], ["shared_draw", {"among": "units"}]]
    return [[f"{_kind(net)}{layer}.weight", *wrong[rng.integers(len(wrong))]], *_usual(net)]


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform, with three digits."""
    return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")


def _kind(net: Net) -> str:
    return "conv" if "conv" in net["architecture"] else "linear"


def _biases(net: Net) -> str:
    return f"*{_kind(net)}*.bias"


def _make_plain(net: Net, profile: str) -> None:
    net["architecture"], net["profile"] = net["architecture"].removeprefix("residual "), profile


def _of_the_article(net: Net) -> str:
    """The article speaks of three activations: the nearest."""
    if net["activation"] == "sigmoid":
        return "sigmoid"
    return "relu" if scheme_for(net["activation"]) == "he_normal" else "tanh"


# ---- from a recipe to a network


def build(net: Net) -> tuple[nn.Module, tuple[Any, Any]]:
    """The network of a recipe, drawn, and the training part of the digits as it reads them."""
    part = data.load("digits").train
    x = (net["data"]["factor"] * part.x + net["data"]["shift"]).astype(np.float32)
    model = _residual(net) if net["architecture"].startswith("residual") else _plain(net)
    rules = {pattern: init.get(name, **parameters) for pattern, name, parameters in net["rules"]}
    finished(model, net["activation"], rules, net["number"])
    if net["then"] == "lsuv":
        init.lsuv(model, x[:256])
    elif net["then"] == "fixup":
        init.fixup(model, scheme_for(net["activation"]), seed=net["number"])
    elif net["then"]:
        getattr(init, net["then"])(model)
    return model, (x, part.y)


def _plain(net: Net) -> nn.Sequential:
    """Layer, norm, activation, again and again; then the scores."""
    layers = _start(net)
    for i, (inputs, outputs) in enumerate(zip(_inputs(net), net["widths"], strict=True), start=1):
        _step(net, layers, i, inputs, outputs)
    return _scores(net, layers)


def _residual(net: Net) -> nn.Sequential:
    """A first layer, then blocks of two layers around which the signal can go."""
    layers, width = _start(net), net["width"]
    if net["order"] == "post":
        _step(net, layers, 1, _inputs(net)[0], width)
    else:
        layers[f"{_kind(net)}1"] = _weighted(net, _inputs(net)[0], width)
    for block in range(1, (len(net["widths"]) + 1) // 2):
        after = None if net["order"] == "pre" else net["activation"]
        layers[f"block{block}"] = nn.Residual(_branch(net), None, after)
    if net["order"] == "pre":
        _activate(net, layers, "_last", width)
    return _scores(net, layers)


def _branch(net: Net) -> nn.Sequential:
    layers: dict[str, nn.Module] = {}
    width = net["width"]
    for i in (1, 2):
        if net["order"] == "pre":
            _activate(net, layers, i, width)
        layers[f"{_kind(net)}{i}"] = _weighted(net, width, width)
        if net["order"] == "post" and i == 1:
            _activate(net, layers, i, width)
    if net["order"] == "post" and net["norm"]:
        layers["norm2"] = _norm(net, width)
    if net["branch_scale"] is not None:
        layers["scale"] = nn.Scale(net["branch_scale"])
    return nn.Sequential(**layers)


def _start(net: Net) -> dict[str, nn.Module]:
    return {} if _kind(net) == "conv" else {"flatten": nn.Flatten()}


def _inputs(net: Net) -> list[int]:
    return [1 if _kind(net) == "conv" else 64, *net["widths"][:-1]]


def _step(net: Net, layers: dict[str, nn.Module], i: int, inputs: int, outputs: int) -> None:
    layers[f"{_kind(net)}{i}"] = _weighted(net, inputs, outputs)
    _activate(net, layers, i, outputs)


def _weighted(net: Net, inputs: int, outputs: int) -> nn.Module:
    """A dense layer, or a 3×3 convolution; the first one halves 8×8 pixels to 4×4."""
    bias = not net["norm"]
    if _kind(net) == "linear":
        return nn.Linear(inputs, outputs, bias=bias, init="zeros")
    return nn.Conv2d(inputs, outputs, 3, stride=2 if inputs == 1 else 1, padding=1, bias=bias, init="zeros")


def _activate(net: Net, layers: dict[str, nn.Module], label: object, width: int) -> None:
    if net["norm"]:
        layers[f"norm{label}"] = _norm(net, width)
    layers[f"{net['activation']}{label}"] = nn.activation(net["activation"])


def _norm(net: Net, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if _kind(net) == "conv" else nn.BatchNorm1d(width)


def _scores(net: Net, layers: dict[str, nn.Module]) -> nn.Sequential:
    width = net["widths"][-1]
    if _kind(net) == "conv":
        layers["pool"] = nn.GlobalAvgPool2d() if net["end"] == "mean" else nn.Flatten()
        width *= 1 if net["end"] == "mean" else 16
    layers["output"] = nn.Linear(width, CLASSES, init="zeros")
    return nn.Sequential(**layers)
