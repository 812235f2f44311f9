"""The article's advice put to the test: warm start, a rate per layer, rates and optimizers, correlated weights.

Each function trains a few dozen small networks and returns a ``Finding``: flat records, a table, a page, a figure.
Every comparison is at an equal number of gradient steps, over several seeds; where a method has a learning rate, it is
the best of a few by the accuracy on held-out training images, and the test images are looked at once, at the end.
``python docs/results/advice.py`` makes the pages.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import data, init, lab, models, nn, ops, optim, train
from minidl.data import DataLoader, Part
from minidl.data.split import hold_out
from minidl.experiment.grid import make_optimizer
from minidl.experiment.summary import markdown, percent
from minidl.init import InitializerLike
from minidl.text import progress

__all__ = ["EXPERIMENTS", "Finding", "Task", "correlation", "layer_rates", "rate_windows", "warm_start"]

#: Trains a network on batches for so many steps and returns the loss of every step.
Method = Callable[[nn.Module, Iterator[Any], int], list[float]]

ENOUGH_POINTS = 40  # of a curve of losses


@dataclass(frozen=True)
class Task:
    """What the networks of an experiment have in common.

    Args:
        dataset: name for ``data.load``.
        train_images: how many are trained on, in each class alike, drawn anew for every seed.
        val_images: held out of the training part, to choose learning rates by.
        steps: gradient steps of every training, in all.
        width: of every hidden layer.
        batch_size: images per step.
        seeds: of the images, the weights and the order of the batches.
    """

    dataset: str = "mnist"
    train_images: int = 5000
    val_images: int = 1000
    steps: int = 400
    width: int = 100
    batch_size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def stretch(self) -> int:
        """Steps behind each point of a curve of losses."""
        return max(1, self.steps // ENOUGH_POINTS)

    def __str__(self) -> str:
        return (
            f"{self.train_images} training images of {self.dataset}, {self.val_images} others to choose learning rates "
            f"by, all test images; {self.steps} gradient steps in all, {self.batch_size} images each; hidden layers "
            f"of width {self.width}; {len(self.seeds)} seeds, mean ± standard deviation."
        )


@dataclass
class Finding:
    """What an experiment found.

    Args:
        name: of its page.
        title: of page and figure.
        claim: what the article advises.
        setting: what was trained on what, in words.
        records: one flat dict per training: the settings, ``lr``, ``seed``, ``val_accuracy``, ``test_accuracy``,
            ``losses`` (means over ``Task.stretch`` steps each).
        table: rows for people.
        notes: what else was measured, in sentences.
        extra: what only the figure needs.
    """

    name: str
    title: str
    claim: str
    setting: str
    records: list[dict[str, Any]]
    table: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def page(self, made_with: str, picture: str | None = None) -> str:
        """Everything as Markdown, with the command and versions that made it."""
        parts = [f"# {self.title}", f"**Advice:** {self.claim}", f"**Setting:** {self.setting}", made_with]
        parts += [markdown(self.table), *self.notes]
        parts += [f"![{self.title}]({picture})"] if picture else []
        return "\n\n".join(parts) + "\n"

    def figure(self) -> Any:
        """One Figure, for saving."""
        from minidl.experiment.advice_figures import FIGURES

        return FIGURES[self.name](self)


# ----------------------------------------------------------------------------------------------- the four experiments


def warm_start(
    task: Task | None = None,
    depths: Sequence[int] = (3, 6),
    steps: int = 50,
    rates: Sequence[float] = (0.01, 0.03, 0.1),
    adam_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
    quiet: bool = True,
) -> Finding:
    """Some steps of Adam, or of plain gradient descent, "as an initialization": against training for as many steps.

    Args:
        task: data, steps in all, seeds.
        depths: hidden layers, ReLU.
        steps: of the warm start, taken from the total.
        rates: of momentum (0.9), the best is reported.
        adam_rates: of Adam where it trains alone; its warm start has 0.001.
        quiet: no progress bar.
    """
    task = task or Task()
    adam = lambda p: optim.Adam(p, lr=1e-3)  # noqa: E731
    descent = lambda p: optim.SGD(p, lr=0.1)  # noqa: E731
    methods: dict[str, tuple[Sequence[float], Callable[[float], Method]]] = {
        "momentum": (rates, lambda lr: plain(f"momentum:{lr}")),
        f"Adam {steps}, then momentum": (rates, lambda lr: warmed(adam, steps, f"momentum:{lr}")),
        f"gradient descent {steps}, then momentum": (rates, lambda lr: warmed(descent, steps, f"momentum:{lr}")),
        "Adam": (adam_rates, lambda lr: plain(f"adam:{lr}")),
    }
    bases: dict[str, InitializerLike] = {"N(0, 0.01²)": init.get("normal", std=0.01), "He": init.get("he_normal")}
    jobs = [
        ({"hidden layers": depth, "base": base, "method": method, "lr": lr}, depth, scheme, make(lr))
        for depth, (base, scheme), (method, (choices, make)) in itertools.product(
            depths, bases.items(), methods.items()
        )
        for lr in choices
    ]
    records = _measured(task, jobs, "relu", quiet)
    return Finding(
        "warm-start",
        "Warm start: an optimizer as initializer",
        "let Adam or gradient descent find the initial values (the article's automatic solving): faster than manual "
        "initialization, and no local minima.",
        f"ReLU networks on {task} The warm start's {steps} steps are part of the total. Learning rates: momentum the "
        f"best of {_listed(rates)}; Adam alone the best of {_listed(adam_rates)}, as warm start 0.001; gradient "
        "descent 0.1.",
        records,
        chosen(records, ("hidden layers", "base", "method")),
        extra={"warm": steps, "stretch": task.stretch},
    )


def layer_rates(
    task: Task | None = None,
    depth: int = 6,
    rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    quiet: bool = True,
) -> Finding:
    """A learning rate of its own for every layer of a deep sigmoid network, by four rules, against one for all.

    Args:
        task: data, steps, seeds.
        depth: hidden layers, sigmoid, Glorot.
        rates: of momentum with one rate, and base rates of the rules sqrt_fan_in and mup; the others have their own.
        quiet: no progress bar.
    """
    task = task or Task(steps=600)
    bases = {
        "update_ratio": (3e-4, 1e-3, 3e-3),  # the share of its weights by which the first step changes a layer
        "sqrt_fan_in": rates,
        "geometric": (0.01, 0.03, 0.1),  # of the last layer; the ones below have 4, 16, … times as much
        "mup": rates,
    }
    ruled = [
        ({"method": f"momentum, rule {rule}", "lr": lr}, _ruled(rule, lr)) for rule, own in bases.items() for lr in own
    ]
    uniform = [({"method": "momentum, one rate", "lr": lr}, plain(f"momentum:{lr}")) for lr in rates]
    adam = [({"method": "Adam, one rate", "lr": lr}, plain(f"adam:{lr}")) for lr in (1e-3, 3e-3, 1e-2)]
    glorot = init.get("glorot_normal")
    jobs = [(settings, depth, glorot, method) for settings, method in (*uniform, *ruled, *adam)]
    records = _measured(task, jobs, "sigmoid", quiet)
    return Finding(
        "layer-rates",
        "A learning rate for every layer of a deep sigmoid network",
        "give different layers different (initial) learning rates.",
        f"{depth} hidden sigmoid layers, Glorot's normal law, on {task} Learning rates: one for all layers, the best "
        f"of {_listed(rates)}; the rules of `optim.layerwise_lr`, each with the best of its base rates; factor 4 from "
        "layer to layer under geometric.",
        records,
        chosen(records, ("method",)),
        extra={"gradients": _weight_gradients(task, depth)},
    )


def rate_windows(
    task: Task | None = None,
    depth: int = 5,
    rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    quiet: bool = True,
) -> Finding:
    """Which learning rates train a network at all: three optimizers, three schemes.

    Args:
        task: data, steps, seeds.
        depth: hidden layers, ReLU.
        rates: the same for all.
        quiet: no progress bar.
    """
    task = task or Task(steps=200)
    schemes: dict[str, InitializerLike] = {
        "N(0, 0.01²)": init.get("normal", std=0.01),
        "Glorot": init.get("glorot_normal"),
        "He": init.get("he_normal"),
    }
    optimizers = {"SGD": "sgd", "momentum": "momentum", "Adam": "adam"}
    jobs = [
        ({"scheme": label, "optimizer": name, "lr": lr}, depth, scheme, plain(f"{key}:{lr}"))
        for (label, scheme), (name, key), lr in itertools.product(schemes.items(), optimizers.items(), rates)
    ]
    records = _measured(task, jobs, "relu", quiet)
    rows = []
    for label, name in itertools.product(schemes, optimizers):
        row = {"scheme": label, "optimizer": name}
        for lr in rates:
            own = [r for r in records if (r["scheme"], r["optimizer"], r["lr"]) == (label, name, lr)]
            row[f"{lr:g}"] = f"{100 * np.mean([r['test_accuracy'] for r in own]):.1f}"
        rows.append(row)
    return Finding(
        "rate-windows",
        "Which learning rates train, with which optimizer",
        "with a large learning rate take Adam, with a small one momentum.",
        f"{depth} hidden ReLU layers on {task} The table has the mean test accuracy in percent for every rate.",
        records,
        rows,
        [_windows(records, schemes, optimizers)],
    )


def correlation(
    task: Task | None = None,
    rhos: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0),
    depths: Mapping[int, str] | None = None,
    quiet: bool = True,
) -> Finding:
    """Accuracy against the correlation ρ between the weights of any two units of a layer, all of variance 2/n.

    Args:
        task: data, steps, seeds.
        rhos: the correlations.
        depths: hidden layers -> optimizer.
        quiet: no progress bar.
    """
    task = task or Task(steps=300)
    depths = depths or {6: "momentum", 3: "adam"}
    rates = {"momentum": (0.003, 0.01, 0.03), "adam": (3e-4, 1e-3, 3e-3), "sgd": (0.01, 0.03, 0.1)}
    jobs = [
        (
            {"network": f"{depth} hidden layers, {name}", "ρ": rho, "depth": depth, "lr": lr},
            depth,
            _correlated(rho),
            plain(f"{name}:{lr}"),
        )
        for (depth, name), rho in itertools.product(depths.items(), rhos)
        for lr in rates[name]
    ]
    records = _measured(task, jobs, "relu", quiet)
    looks = [_look(task, rho, max(depths)) for rho in rhos]
    rows = []
    best = chosen(records, ("network", "ρ"))
    for rho, look in zip(rhos, looks, strict=True):
        row = {"ρ": f"{rho:g}", "std √n": f"{look['std']:.3f}", "coherence": f"{look['coherence']:.3f}"}
        row["signal at the top"] = f"{look['signal']:.2g}"
        row |= {r["network"]: r["test accuracy"] for r in best if r["ρ"] == f"{rho:g}"}
        rows.append(row)
    return Finding(
        "correlation",
        "Accuracy against the correlation of the weights",
        "care less about the values of the weights than about the correlations among them.",
        f"ReLU networks with `correlated_normal(rho=ρ)` on {task} Every weight has variance 2/n whatever ρ is. Std √n "
        "(√2 in theory) and coherence, the mean |cos| of two units, are of the hidden layers; the signal is the std "
        f"over inputs of the pre-activation in hidden layer {max(depths)}, the median of the seeds. Learning rates: "
        "the best of three for every cell.",
        records,
        rows,
        extra={"rhos": list(rhos)},
    )


EXPERIMENTS: dict[str, Callable[..., Finding]] = {
    "warm-start": warm_start,
    "layer-rates": layer_rates,
    "rate-windows": rate_windows,
    "correlation": correlation,
}


# ------------------------------------------------------------------------------------------------------------ training


def plain(optimizer: str) -> Method:
    """Train with one optimizer, "momentum:0.1", from the first step to the last."""
    return lambda model, batches, steps: _steps(model, make_optimizer(optimizer, model.parameters()), batches, steps)


def warmed(first: Callable[[Any], optim.Optimizer], count: int, then: str) -> Method:
    """``init.warm_start`` for ``count`` steps, and another optimizer for the rest of the same total."""

    def method(model: nn.Module, batches: Iterator[Any], steps: int) -> list[float]:
        report = init.warm_start(model, list(itertools.islice(batches, count)), optimizer=first, steps=count)
        return [record["loss"] for record in report.history] + plain(then)(model, batches, steps - count)

    return method


def _ruled(rule: str, lr: float) -> Method:
    """Momentum with the rates of ``optim.layerwise_lr``, found on the first batch."""
    options = {"geometric": {"factor": 4.0}, "mup": {"optimizer": "sgd"}}.get(rule, {})

    def method(model: nn.Module, batches: Iterator[Any], steps: int) -> list[float]:
        first = next(batches)
        groups = optim.layerwise_lr(model, rule, first, lr=lr, **options)  # type: ignore[arg-type]
        optimizer = optim.SGD(groups, lr=lr, momentum=0.9)
        return _steps(model, optimizer, itertools.chain([first], batches), steps)

    return method


def _steps(model: nn.Module, optimizer: optim.Optimizer, batches: Iterator[Any], steps: int) -> list[float]:
    """The losses; a training ends early where one is not finite."""
    losses: list[float] = []
    for x, y in itertools.islice(batches, steps):
        loss = ops.cross_entropy(model(x), y)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


#: What a record says of a training; its hidden layers, scheme and method.
Job = tuple[dict[str, Any], int, InitializerLike, Method]


def _measured(task: Task, jobs: Sequence[Job], activation: str, quiet: bool) -> list[dict[str, Any]]:
    """Every job with every seed, seeds outermost."""
    pairs = list(itertools.product(task.seeds, jobs))
    records = []
    with np.errstate(all="ignore"):  # rates that are too large overflow
        for seed, (settings, depth, scheme, method) in pairs if quiet else progress(pairs, label="trainings"):
            part, val, test = _parts(task, seed)
            model = models.mlp(_sizes(task, part, depth), activation, scheme, seed=seed)
            losses = method(model, _batches(task, part, seed), task.steps)
            record = {**settings, "seed": seed, "diverged": not math.isfinite(losses[-1])}
            record["val_accuracy"] = train.evaluate(model, val)["accuracy"]
            record["test_accuracy"] = train.evaluate(model, test)["accuracy"]
            records.append(record | {"losses": _coarse(losses, task.stretch)})
    return records


@functools.lru_cache(maxsize=1)  # the next training mostly has the same seed
def _parts(task: Task, seed: int) -> tuple[Part, Part, Part]:
    """The images of one seed: to train on, to choose learning rates by, to test."""
    split = data.load(task.dataset, val=task.val_images, seed=seed)
    part, left = split.train, len(split.train) - task.train_images
    if left > 0:
        part, _ = hold_out(part, left, seed, "left out")
    return part, split.val, split.test


def _sizes(task: Task, part: Part, depth: int) -> list[int]:
    return [math.prod(part.shape), *[task.width] * depth, len(part.classes)]


def _batches(task: Task, part: Part, seed: int) -> Iterator[Any]:
    """Epoch after epoch without end."""
    loader = DataLoader(part, task.batch_size, shuffle=True, seed=seed)
    while True:
        yield from loader


def _coarse(losses: Sequence[float], length: int) -> list[float]:
    """Means over stretches of equal length; a stretch that was not trained to its end is missing."""
    return [float(np.mean(losses[i : i + length])) for i in range(0, len(losses) - length + 1, length)]


# ----------------------------------------------------------------------------------------------------------- summaries


def chosen(records: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[dict[str, str]]:
    """For every combination of ``axes``, the learning rate with the best mean on ``val``, and its test accuracy."""
    groups: dict[tuple[Any, ...], dict[float, list[Mapping[str, Any]]]] = {}
    for record in records:
        groups.setdefault(tuple(record[a] for a in axes), {}).setdefault(record["lr"], []).append(record)
    rows = []
    for values, by_rate in groups.items():
        lr = max(by_rate, key=lambda rate: float(np.mean([r["val_accuracy"] for r in by_rate[rate]])))
        found = [r["test_accuracy"] for r in by_rate[lr]]
        row = {axis: f"{v:g}" if isinstance(v, float) else str(v) for axis, v in zip(axes, values, strict=True)}
        deviation = float(np.std(found, ddof=1)) if len(found) > 1 else math.nan
        rows.append(row | {"rate": f"{lr:g}", "test accuracy": percent(float(np.mean(found)), deviation)})
    return rows


def _windows(records: Sequence[Mapping[str, Any]], schemes: Mapping[str, Any], optimizers: Mapping[str, Any]) -> str:
    """For every optimizer the rate with the best mean on ``val``, scheme by scheme."""
    best = {(row["scheme"], row["optimizer"]): row["rate"] for row in chosen(records, ("scheme", "optimizer"))}
    words = [f"{s}: " + ", ".join(f"{o} {best[s, o]}" for o in optimizers) for s in schemes]
    return f"Best rate by the held-out images. {'; '.join(words)}."


def _weight_gradients(task: Task, depth: int) -> list[float]:
    """The rms of the gradient of every weight on the first batch of the first seed, hidden layers and output."""
    seed = task.seeds[0]
    part, _, _ = _parts(task, seed)
    model = models.mlp(_sizes(task, part, depth), "sigmoid", "glorot_normal", seed=seed)
    report = lab.probe(model, *next(_batches(task, part, seed)))
    return [r["weight_grad_rms"] for r in report.records if r["weight_grad_rms"] is not None]


def _correlated(rho: float) -> InitializerLike:
    return init.get("correlated_normal", rho=rho)


def _look(task: Task, rho: float, depth: int) -> dict[str, float]:
    """Weights and signal of the deepest network before training, over all seeds."""
    stds, coherences, signals = [], [], []
    for seed in task.seeds:
        part, _, _ = _parts(task, seed)
        model = models.mlp(_sizes(task, part, depth), "relu", _correlated(rho), seed=seed)
        hidden = [m.weight for _, m in model.named_modules() if isinstance(m, nn.Linear)][1:-1]
        stds += [float(w.numpy().std()) * math.sqrt(task.width) for w in hidden]
        coherences += [init.coherence(w) for w in hidden]
        signals.append(lab.probe(model, *next(_batches(task, part, seed))).ladder("batch_std")[-1])
    return {"std": float(np.mean(stds)), "coherence": float(np.mean(coherences)), "signal": float(np.median(signals))}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
