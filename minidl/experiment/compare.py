"""The comparison: the same deep network with every scheme and activation, probed before training and then trained.

A network that dies here is a result, not an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import data, init, models, optim, train
from minidl.experiment.grid import Grid, initializer
from minidl.init import InitializerLike
from minidl.lab import Report, plot_ladders, predict, probe
from minidl.lab.draw import new_figure, on_paper
from minidl.lab.limits import HARMLESS
from minidl.text import progress, table
from minidl.threads import limited

__all__ = ["ACTIVATIONS", "SCHEMES", "Comparison", "compare", "variance", "verdict"]

#: The schemes compared by default, by the label they carry in table and figure.
SCHEMES: dict[str, InitializerLike] = {label: initializer(label) for label in Grid.scheme}
ACTIVATIONS = Grid.activation
SMALL, MANY = 512, 1024  # width up to which one thread is quickest; more threads than any machine's matrix library uses
TRAINED = 0.5  # how far the accuracy on the training part must come from guessing (0) to all right (1)


@dataclass
class Comparison:
    """What ``compare`` found: print it for the table, ``figure()`` for the figure, ``records`` for your own analysis.

    Args:
        records: one flat dict per cell: scheme, activation, seed; rms, signal and gradient (factor per layer, see
            ``Report.changes``); train and test loss and accuracy; step at which it diverged, or None; verdict.
        settings: what all cells share.
        reports: (scheme, activation) -> the ``Report`` of the network before training.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    reports: dict[tuple[str, str], Report] = field(default_factory=dict)

    def __str__(self) -> str:
        columns = {
            "scheme": "scheme",
            "activation": "activation",
            "rms": "size ×/layer",
            "signal": "signal ×/layer",
            "gradient": "gradient ×/layer",
            "test_accuracy": "test accuracy",
            "verdict": "verdict",
        }
        return table([{**r, "test_accuracy": f"{100 * r['test_accuracy']:.1f} %"} for r in self.records], columns)

    @on_paper()
    def figure(self) -> Any:
        """Signal (top) and gradient (bottom) at every hidden layer, one column per activation, one line per scheme."""
        activations = list(dict.fromkeys(r["activation"] for r in self.records))
        fig = new_figure(3.9 * len(activations) + 0.4, 7.2)
        rows = fig.subplots(2, len(activations), sharey="row", squeeze=False)
        for column, activation in enumerate(activations):
            for row, key in enumerate(("batch_std", "delta_rms")):
                self._panel(rows[row][column], activation, key)
            rows[0][column].set_title(activation, fontsize=12)
            rows[0][column].set_xlabel("")
        rows[0][0].set_ylabel("signal: std over inputs\nof the pre-activation")
        rows[1][0].set_ylabel("gradient: rms of the loss gradient\nat the pre-activation")
        handles, labels = rows[0][0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
        fig.suptitle(
            f"Before training: {_network(self.settings)}; a cross marks where a line leaves float32 or the figure"
        )
        return fig

    def _panel(self, ax: Any, activation: str, key: str) -> None:
        """One panel; the y limits are common to its row."""
        everything = [r.ladder(key) for r in self.reports.values()]
        schemes = list(dict.fromkeys(r["scheme"] for r in self.records))
        ladders = {s: self.reports[s, activation].ladder(key) for s in schemes}
        plot_ladders(ladders, ax=ax, limits=[v for values in everything for v in values])


def compare(
    schemes: Mapping[str, InitializerLike] | Iterable[str] | None = None,
    activations: Sequence[str] = ACTIVATIONS,
    *,
    dataset: str = "digits",
    depth: int = 20,
    width: int = 100,
    epochs: int = 10,
    lr: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> Comparison:
    """Probe and train one deep MLP per scheme and activation, all else equal.

    Trained with momentum 0.9: Adam divides the gradient's scale away, and so hides most of what is compared here.

    Args:
        schemes: label -> initializer; or names, calls such as "normal(std=0.05)" and labels of the tables, as
            ``grid.initializer`` reads them; None: the eight of ``SCHEMES``.
        activations: names, see ``nn.activation``.
        dataset: name for ``data.load``.
        depth: hidden layers.
        width: units in each.
        epochs, lr, batch_size: of the training.
        seed: of weights, data split and batch order.
        device: "cpu" or "gpu".
        quiet: no progress on the terminal.

    Raises:
        ValueError: an unknown scheme, activation or data set; before anything is computed.
    """
    activations = [activations] if isinstance(activations, str) else list(dict.fromkeys(activations))
    for activation in activations:  # a misspelt name is reported before the first network is trained
        models.mlp([1, 1, 1], activation)
    labelled = _labelled(schemes)
    chosen = {a: {label: _read(scheme, a) for label, scheme in labelled.items()} for a in activations}
    split, sizes = _task(dataset, depth, width, seed)
    x, y = split.train[:256]
    settings = {"dataset": dataset, "depth": depth, "width": width, "epochs": epochs, "lr": lr}
    settings |= {"batch_size": batch_size, "seed": seed, "optimizer": "SGD, momentum 0.9"}
    found = Comparison(settings=settings)
    cells = [(label, activation) for activation in activations for label in chosen[activation]]
    for label, activation in cells if quiet else progress(cells, label="networks"):
        model = models.mlp(sizes, activation, chosen[activation][label], seed=seed).to(device)
        # Overflow is what some of these networks are here to show; and products this small want no second thread.
        with np.errstate(all="ignore"), limited(1 if width <= SMALL else MANY):
            report = probe(model, x, y)
            result = _trained(model, split, epochs, lr, batch_size, seed)
        record = {"scheme": label, "activation": activation, "seed": seed, **report.changes(), **result}
        found.records.append({**record, "verdict": verdict(report, result, depth)})
        found.reports[label, activation] = report
    return found


def variance(
    activation: str = "relu",
    scheme: str | InitializerLike | None = None,
    *,
    dataset: str = "digits",
    depth: int = 20,
    width: int = 100,
    seed: int = 0,
    device: str = "cpu",
) -> Report:
    """Probe one deep MLP before training: what happens to signal and gradient at every layer.

    Arguments as for ``compare``; ``scheme`` None is the usual one for the activation.

    Raises:
        ValueError: an unknown scheme, activation or data set, or no hidden layer.
    """
    drawn = None if scheme is None else _read(scheme, activation)
    split, sizes = _task(dataset, depth, width, seed)
    x, y = split.train[:256]
    with np.errstate(all="ignore"):  # overflow may be what the user wants to see
        model = models.mlp(sizes, activation, drawn, seed=seed).to(device)
        report = probe(model, x, y)
        with suppress(ValueError):  # theory does not follow every network
            report.prediction = predict(model, x)
    name = models.scheme_for(activation) if scheme is None else str(scheme)
    report.settings = {"dataset": dataset, "depth": depth, "width": width, "activation": activation, "scheme": name}
    report.settings |= {"seed": seed, "batch": len(x)}
    report.title = f"{name}, {activation}: {_network(report.settings)}, before training"
    return report


def _task(dataset: str, depth: int, width: int, seed: int) -> tuple[data.Split, list[int]]:
    """The data, and the sizes of a network for it."""
    if depth < 1:
        raise ValueError(f"depth is the number of hidden layers, at least 1; got {depth}")
    split = data.load(dataset, seed=seed)
    return split, [math.prod(split.train.shape), *[width] * depth, len(split.classes)]


def _labelled(schemes: Mapping[str, InitializerLike] | Iterable[str] | None) -> Mapping[str, str | InitializerLike]:
    """Label -> initializer, or what ``_read`` reads."""
    if schemes is None:
        return SCHEMES
    if isinstance(schemes, Mapping):
        return schemes
    return {name: name for name in ([schemes] if isinstance(schemes, str) else schemes)}


def _read(scheme: str | InitializerLike, activation: str) -> InitializerLike:
    return initializer(scheme, activation) if isinstance(scheme, str) else init.get(scheme)


def _trained(model: Any, split: Any, epochs: int, lr: float, batch_size: int, seed: int) -> dict[str, Any]:
    """Loss and accuracy after training; of the weights from before the step where it diverged, if it did."""
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    diverged_at = None
    try:
        train.fit(model, split, optimizer=optimizer, epochs=epochs, batch_size=batch_size, seed=seed, quiet=True)
    except train.Diverged as end:
        diverged_at = end.step
    found = {f"train_{k}": v for k, v in train.evaluate(model, split.train).items()}
    found |= {f"test_{k}": v for k, v in train.evaluate(model, split.test).items()}
    return {**found, "diverged_at_step": diverged_at}


def verdict(report: Report, result: Mapping[str, Any], depth: int) -> str:
    """One word for what became of a network: trains, explodes, symmetric, dead, vanishes or slow.

    Decided by the training part alone: whether it learned, else by the probe. ``symmetric``: in every hidden dense
    layer all units are copies of one; ``dead``: a layer of ReLU that is silent on all inputs; else whichever of signal
    and gradient changes more over the whole depth says vanishes or explodes; ``slow``: neither changes by more than
    e³, so that more epochs or another learning rate are worth a try (the limit is Schoenholz's depth of six scales).
    """
    changes = report.changes()
    guessing = 1 / report.records[-1]["shape"][0]
    if result["diverged_at_step"] is not None:
        return "explodes"
    if result["train_accuracy"] >= guessing + TRAINED * (1 - guessing):
        return "trains"
    twins = [share for share in report.ladder("twins") if share is not None]  # of dense layers alone
    if twins and min(twins) == 1:
        return "symmetric"
    if any(r["dead"] == 1 for r in report.records):
        return "dead"
    growth = max((_log(changes[k]) * depth for k in ("signal", "gradient")), key=abs)
    if abs(growth) <= HARMLESS / 2:  # of the rms, not of the second moment
        return "slow"
    return "explodes" if growth > 0 else "vanishes"


def _log(factor: float) -> float:
    return math.log(factor) if factor > 0 else -math.inf


def _network(settings: Mapping[str, Any]) -> str:
    return f"{settings['depth']} hidden layers of width {settings['width']} on {settings['dataset']}"
