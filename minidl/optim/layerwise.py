"""A learning rate for every layer, by a rule that looks at its weights, its gradient or its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minidl.backend import device_of, to_device, to_host
from minidl.ops import cross_entropy
from minidl.tensor import Tensor, grad
from minidl.text import table, unknown

__all__ = ["LayerRates", "layerwise_lr"]


class LayerRates(list[dict[str, Any]]):
    """Parameter groups ``[{"params": [...], "lr": ...}, ...]`` for an optimizer; print them for a table.

    Args:
        groups: the groups.
        records: one flat dict per parameter: parameter, shape, lr, and what the rule looked at.
    """

    def __init__(self, groups: list[dict[str, Any]], records: list[dict[str, Any]]) -> None:
        super().__init__(groups)
        self.records = records

    def __str__(self) -> str:
        return table(self.records)


class _Layer(NamedTuple):
    """A module with parameters of its own."""

    params: dict[str, Tensor]  #: by their full path; the weight first
    fans: tuple[float, float] | None
    weight: Tensor | None  #: the one that fans speak of


class _Settings(NamedTuple):
    lr: float
    factor: float
    base_width: float
    optimizer: str


def layerwise_lr(
    model: Any,
    rule: str,
    batch: tuple[Any, Any] | None = None,
    *,
    lr: float = 1e-3,
    loss: Callable[..., Tensor] = cross_entropy,
    factor: float = 1 / 2.6,
    base_width: float = 64,
    optimizer: str = "adam",
) -> LayerRates:
    """Parameter groups with a rate of their own per layer: ``optim.SGD(layerwise_lr(model, ...), lr=1)``.

    A layer is a module with parameters of its own; layers come in the order in which the model holds them. Rules:

    * "update_ratio": ``lr rms(W_l)/rms(∂L/∂W_l)`` on one batch: the first step of plain gradient descent changes every
      layer by the same share ``lr`` of its weights. For SGD; Adam divides by the gradient's size anyway. A layer
      whose weights or gradients are all zero gets the geometric mean of the others' rates.
    * "sqrt_fan_in": ``lr √(n_l/n̄)`` with n the fan_in and n̄ its geometric mean over the layers.
    * "geometric": ``lr factor^(L - l)``: the last layer has ``lr``, each below it ``factor`` times as much as the next;
      layers without fans go with the weights before them. Below 1 for a trained network that is tuned further; above 1
      where gradients vanish on the way down.
    * "mup": what goes with ``init.mup``. For Adam ``lr`` for the first layer and all vectors, and ``lr base_width/n_l``
      for all other weights. For SGD ``lr m_l/base_width`` for the first layer and the vectors (but those of the output
      layer: ``lr``), ``lr`` for hidden weights, ``lr base_width/n_l`` for those of the output layer. m is the fan_out.

    Biases have the rate of their layer's weight, except under "mup". In "sqrt_fan_in" a layer without fans (a
    normalization, a scale) has ``lr``.

    Args:
        model: any object with ``named_modules()``, whose parameters are attributes of its modules.
        rule: one of the four.
        batch: (x, y), for "update_ratio".
        lr: the base rate; under "update_ratio" the share by which the first step changes the weights.
        loss: ``loss(model(x), y)``, for "update_ratio"; a model's own ``training_loss`` comes first.
        factor: of "geometric".
        base_width: of "mup": the fan_in of the hidden layers in the network for which ``lr`` was found.
        optimizer: of "mup": "adam" or "sgd".

    Returns:
        A list of groups, printable as a table. Gradients, running averages and masks of the model stay as they are.

    Raises:
        ValueError: an unknown rule or optimizer, a number that is not positive, no batch for "update_ratio", a model
            without weights, or a gradient that is not finite.

    Source: "sqrt_fan_in" LeCun et al. 1998, "Efficient BackProp", section 4.7; "geometric" Howard & Ruder 2018,
    "Universal Language Model Fine-tuning", section 3.2; "mup" Yang et al. 2022, "Tensor Programs V", table 3; the
    idea of "update_ratio" is in You et al. 2017, "Large Batch Training of Convolutional Networks".
    """
    if rule not in RULES and rule != "update_ratio":
        raise unknown("rule for learning rates", rule, [*RULES, "update_ratio"])
    if optimizer not in ("adam", "sgd"):
        raise unknown("optimizer", optimizer, ("adam", "sgd"))
    for name, value in {"lr": lr, "factor": factor, "base_width": base_width}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"layerwise_lr: {name} must be a positive number, got {value}")
    layers = _layers(model)
    if not any(layer.weight is not None for layer in layers):
        raise ValueError("layerwise_lr: no layer of this model has a weight with fans, so there is nothing to go by")
    settings = _Settings(lr, factor, base_width, optimizer)
    if rule == "update_ratio":
        records = _update_ratio(layers, lr, _gradients(model, layers, batch, loss))
    else:
        records = RULES[rule](layers, settings)
    return _grouped(layers, records)


def _layers(model: Any) -> list[_Layer]:
    """The modules with parameters, each parameter once."""
    layers: list[_Layer] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        named = {name: p for name, p in vars(module).items() if isinstance(p, Tensor) and p.requires_grad}
        named = {name: p for name, p in named.items() if id(p) not in seen}
        seen.update(id(p) for p in named.values())
        if named:
            ordered = sorted(named, key=lambda name: name != "weight")
            fans = getattr(module, "fans", None)
            params = {f"{path}.{name}" if path else name: named[name] for name in ordered}
            layers.append(_Layer(params, fans, named.get("weight") if fans is not None else None))
    return layers


def _grouped(layers: list[_Layer], records: list[dict[str, Any]]) -> LayerRates:
    """One group per layer and rate."""
    rate = {record["parameter"]: record["lr"] for record in records}
    groups: list[dict[str, Any]] = []
    for layer in layers:
        by_rate: dict[float, list[Tensor]] = {}
        for path, p in layer.params.items():
            by_rate.setdefault(rate[path], []).append(p)
        groups += [{"params": params, "lr": lr} for lr, params in by_rate.items()]
    return LayerRates(groups, records)


def _records(layers: list[_Layer], rates: list[float], seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per parameter: those of one layer have its rate."""
    return [
        {"parameter": path, "shape": p.shape, "lr": rate, **what}
        for layer, rate, what in zip(layers, rates, seen, strict=True)
        for path, p in layer.params.items()
    ]


def _update_ratio(layers: list[_Layer], lr: float, gradients: dict[int, float]) -> list[dict[str, Any]]:
    seen = []
    for layer in layers:
        leading = next(iter(layer.params.values()))
        seen.append({"rms": _rms(leading), "gradient_rms": gradients[id(leading)]})
    known = [lr * s["rms"] / s["gradient_rms"] for s in seen if s["rms"] > 0 and s["gradient_rms"] > 0]
    if not known:
        raise ValueError(
            "layerwise_lr: every layer has weights or gradients that are zero, so update_ratio has nothing to go by; "
            "look at the initialization first (minidl.lab.probe)"
        )
    others = _geometric_mean(known)
    positive = [s["rms"] > 0 and s["gradient_rms"] > 0 for s in seen]
    rates = [lr * s["rms"] / s["gradient_rms"] if ok else others for s, ok in zip(seen, positive, strict=True)]
    return _records(layers, rates, seen)


def _sqrt_fan_in(layers: list[_Layer], settings: _Settings) -> list[dict[str, Any]]:
    fans = [None if layer.weight is None or layer.fans is None else layer.fans[0] for layer in layers]
    typical = _geometric_mean([n for n in fans if n is not None])
    rates = [settings.lr * (1.0 if n is None else math.sqrt(n / typical)) for n in fans]
    return _records(layers, rates, [{"fan_in": n} for n in fans])


def _geometric_mean(values: list[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _geometric(layers: list[_Layer], settings: _Settings) -> list[dict[str, Any]]:
    weighted = [layer.weight is not None for layer in layers]
    above = [sum(weighted[i + 1 :]) for i in range(len(layers))]  # a normalization is no step of its own
    rates = [settings.lr * settings.factor**i for i in above]
    return _records(layers, rates, [{"layers_above": i} for i in above])


def _mup(layers: list[_Layer], settings: _Settings) -> list[dict[str, Any]]:
    weighted = [layer for layer in layers if layer.weight is not None]
    first, last = weighted[0], weighted[-1]
    records = []
    for layer in layers:
        role = "input" if layer is first else "output" if layer is last else "hidden"
        for path, p in layer.params.items():
            role_of_p = role if p is layer.weight else "vector"
            rate = settings.lr * _mup_factor(role_of_p, layer, layer is last, settings)
            records.append({"parameter": path, "shape": p.shape, "lr": rate, "role": role_of_p})
    return records


def _mup_factor(role: str, layer: _Layer, is_output: bool, settings: _Settings) -> float:
    """The factor on the rate that makes the change of a layer's output independent of the width."""
    # a vector without fans belongs to a normalization or a scale: as many numbers as its layer has outputs
    fan_in, fan_out = layer.fans or (1.0, float(next(iter(layer.params.values())).size))
    if settings.optimizer == "adam":
        return 1.0 if role in ("input", "vector") else settings.base_width / fan_in
    if role == "output":
        return settings.base_width / fan_in
    if role == "hidden" or is_output:
        return 1.0
    return fan_out / settings.base_width


RULES: dict[str, Callable[[list[_Layer], _Settings], list[dict[str, Any]]]] = {
    "geometric": _geometric,
    "mup": _mup,
    "sqrt_fan_in": _sqrt_fan_in,
}


def _gradients(
    model: Any, layers: list[_Layer], batch: tuple[Any, Any] | None, loss: Callable[..., Tensor]
) -> dict[int, float]:
    """The rms of the gradient of every layer's first parameter, by its id."""
    if batch is None:
        raise ValueError("layerwise_lr: update_ratio measures gradients; pass batch=(x, y)")
    leading = [next(iter(layer.params.values())) for layer in layers]
    device = device_of(leading[0].data)
    x, y = (to_device(a.data if isinstance(a, Tensor) else a, device) for a in batch)
    with _left_as_it_was(model):
        outputs, target = model(Tensor(x)), Tensor(y)
        own = getattr(model, "training_loss", None)  # of networks with auxiliary classifiers
        value = loss(outputs, target) if own is None else own(outputs, target, loss)
        sizes = {id(p): _rms(g) for p, g in zip(leading, grad(value, leading), strict=True)}
    if not all(map(math.isfinite, sizes.values())):
        raise ValueError("layerwise_lr: a gradient is not finite; look at the initialization first (minidl.lab.probe)")
    return sizes


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Put buffers and dropout masks back afterwards: a forward pass in training mode changes them."""
    insides = []
    for _, module in model.named_modules():
        masks = ("_generator", "_device") if hasattr(module, "restart") else ()
        names = (*vars(module).get("_buffer_names", ()), *masks)
        insides.append((module, {name: getattr(module, name) for name in names}))
    try:
        for module, state in insides:
            vars(module).update({name: value.copy() for name, value in state.items() if hasattr(value, "shape")})
            if hasattr(module, "restart"):
                module.restart(module.number)
        yield
    finally:
        for module, state in insides:
            vars(module).update(state)


def _rms(x: Tensor) -> float:
    """The root of the mean square, in float64, for a small gradient squared would vanish in float32."""
    return float(np.sqrt(np.mean(np.square(to_host(x.data).astype(np.float64)))))
