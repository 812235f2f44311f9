"""The probe as a callback of a training: looks at one fixed batch before the first step and every few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl import ops
from minidl.lab.figures import TrainingHeatmap
from minidl.lab.measure import probe
from minidl.lab.untouched import left_as_it_was
from minidl.nn import Module

__all__ = ["Watch", "watch"]


def watch(
    model: Module,
    every: int = 1,
    x: Any = None,
    y: Any = None,
    *,
    loss: Callable[[Any, Any], Any] = ops.cross_entropy,
    histograms: bool = True,
) -> Watch:
    """A callback of ``train.fit`` that probes the network before the first step and after every ``every`` steps.

        watching = lab.watch(model, every=50)
        train.fit(model, split, optimizer=optimizer, epochs=5, callbacks=[watching])
        watching.plot()

    The training goes on as if nobody had looked, to the last bit. All looks are at the same batch, in training mode. A
    ``Checkpoint`` of the run holds the records too.

    Args:
        model: the one that is trained.
        every: steps between two looks.
        x: inputs to look with; default: the first batch of the training data, in the order of the data.
        y: their labels.
        loss: what ``fit`` was given as its loss.
        histograms: whether to keep those too, for ``plot``; costs a forward pass per look.

    Raises:
        ValueError: ``every`` is below 1, or only one of x and y.
    """
    if every < 1:
        raise ValueError(f"every is a number of steps, at least 1; got {every}")
    if (x is None) != (y is None):
        raise ValueError("a batch to watch with is both x and y; got only one of them")
    return Watch(model, every, x, y, loss, histograms)


class Watch:
    """What ``watch`` makes.

    Attributes:
        records: of all looks, one flat dict per layer and look: ``step``, ``loss``, then what ``probe`` records.
        histograms: one per look, layer and bin: ``step``, ``layer``, ``low``, ``high``, ``density``.
    """

    def __init__(
        self, model: Module, every: int, x: Any, y: Any, loss: Callable[[Any, Any], Any], histograms: bool
    ) -> None:
        self.model, self.every, self.x, self.y = model, every, x, y
        self.loss, self.with_histograms = loss, histograms
        self._looks: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dict per layer and look, the looks in order."""
        return [record for step in sorted(self._looks) for record in self._looks[step][0]]

    @property
    def histograms(self) -> list[dict[str, Any]]:
        """One flat dict per look, layer and bin."""
        return [record for step in sorted(self._looks) for record in self._looks[step][1]]

    def plot(self, ax: Any = None) -> Any:
        """How the outputs change over the training, see ``lab.TrainingHeatmap``; returns the Axes.

        Raises:
            ValueError: there is nothing to draw yet, or no histograms were asked for.
        """
        if not self.histograms:
            why = "nothing was trained yet" if self.with_histograms else "they were left out with histograms=False"
            raise ValueError(f"no histograms to draw: {why}")
        return TrainingHeatmap.from_records(self.histograms, self.records).plot(ax)

    def on_start(self, run: Any) -> None:
        """Forget an earlier run, and look at step 0; a run that is gone on with has its looks already."""
        if run.step == 0:
            self._looks = {}
            self._look(run)

    def on_step(self, run: Any) -> None:
        """Look, if it is time. A step that is repeated (see ``train.fit`` on a GPU) takes its own place."""
        if run.step % self.every == 0:
            self._look(run)

    def _look(self, run: Any) -> None:
        x, y = (self.x, self.y) if self.x is not None else run.loader.dataset.held_out()[: run.loader.batch_size]
        with left_as_it_was(self.model):
            self.model.train()
            report = probe(self.model, x, y, loss=self.loss, optimizer=run.optimizer, histograms=self.with_histograms)
        records = [{"step": run.step, "loss": report.loss, **record} for record in report.records]
        self._looks[run.step] = records, [{"step": run.step, **bin_} for bin_ in report.histograms or ()]

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All looks so far; the histograms as one array per key."""
        bins = self.histograms
        layers = list(dict.fromkeys(b["layer"] for b in bins))
        numbers = {layer: i for i, layer in enumerate(layers)}
        columns = {key: np.array([b[key] for b in bins]) for key in ("step", "low", "high", "density")}
        columns["layer"] = np.array([numbers[b["layer"]] for b in bins], np.int64)
        return {"records": self.records, "layers": layers, "bins": columns if bins else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._looks = {}
        for record in state["records"]:
            self._looks.setdefault(record["step"], ([], []))[0].append(dict(record))
        keys = ("step", "layer", "low", "high", "density")
        columns = [np.asarray(state["bins"][key]).tolist() for key in keys if state["bins"]]
        for step, layer, *edges in zip(*columns, strict=True):
            values = dict(zip(keys[2:], edges, strict=True))
            self._looks[step][1].append({"step": step, "layer": state["layers"][layer], **values})
