"""One cell: the data, the network, the probe before training, the training, and what is left of it at the end."""

from __future__ import annotations

import functools
import hashlib
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from minidl import data, train
from minidl.data import DataLoader, Part, Split
from minidl.data.split import hold_out
from minidl.experiment import networks
from minidl.experiment.compare import verdict
from minidl.experiment.grid import LOSSES, Cell, initializer, make_optimizer
from minidl.experiment.store import version
from minidl.lab import Report, probe
from minidl.nn import Module
from minidl.threads import limited

__all__ = ["build", "loaded", "measure", "weights_hash"]

FEW = 5  # photographs of a class below which training would say nothing
POINTS = 60  # of the curve within the first epoch


def measure(cell: Cell, device: str = "cpu", checkpoint: Path | None = None) -> dict[str, Any]:
    """Run one cell from its settings alone.

    Products run on one thread: the sums, and so the bits, do not depend on how many cells run side by side.

    Args:
        cell: what to run.
        device: "cpu" or "gpu".
        checkpoint: a file that lets a killed training go on from its last finished epoch; removed by who stores the
            result.

    Returns:
        ``{"result": …, "how": …}``. The result depends on the cell alone: settings of the data, the ladder of the probe
        before training, history, the curve within the first epoch, final losses and accuracies, the step and layer at
        which it diverged or None, a verdict, and the SHA-256 of the final weights. ``how``: versions, date, seconds.
    """
    start, date = time.perf_counter(), datetime.now(UTC)
    with np.errstate(all="ignore"), limited(1):  # networks that overflow are what this is about
        split, counts = loaded(cell)
        model = build(cell, split).to(device)
        report = _probed(cell, model, split.train, device)
        classes = {part: getattr(split, part).counts().tolist() for part in ("train", "test")}
        result: dict[str, Any] = {"images": counts, "class_counts": classes}
        result["parameters"] = sum(p.size for p in model.parameters())
        result |= {"initial_loss": report.loss, **report.changes(), "ladder": report.records}
        epoch_seconds: list[float] = []
        if _enough(cell, split):
            result |= _trained(cell, model, split, epoch_seconds, checkpoint)
            result["verdict"] = verdict(report, result, len(report.ladder("rms")))
        else:
            result["verdict"] = "not trained"
        result["weights_sha256"] = weights_hash(model)
    how: dict[str, Any] = {"minidl": version(), "numpy": np.__version__, "python": platform.python_version()}
    how |= {"device": device, "date": date.isoformat(timespec="seconds"), "epoch_seconds": epoch_seconds}
    return {"result": result, "how": how | {"seconds": round(time.perf_counter() - start, 3)}}


def loaded(cell: Cell) -> tuple[Split, dict[str, int]]:
    """The data of a cell, and how many images that is: ``train`` used ``of`` so many that are there, and ``test``."""
    split = _loaded(cell.dataset, cell.seed)
    whole = len(split.train)
    counts = {"train": min(cell.train_images or whole, whole), "of": whole, "test": len(split.test)}
    if counts["train"] == whole:
        return split, counts
    chosen, _ = hold_out(split.train, whole - counts["train"], cell.seed, "left out")
    return Split(split.name, chosen, split.val, split.test, split.mean, split.std), counts


@functools.lru_cache(maxsize=1)  # cells that follow each other mostly share it
def _loaded(dataset: str, seed: int) -> Split:
    split = data.load(dataset, seed=seed)
    if dataset == "imagenet" and not len(split.test) and split.train.counts().min() >= FEW:
        return data.load(dataset, seed=seed, test=0.2)  # no hold-out of the challenge is here: a fifth becomes one
    return split


def _enough(cell: Cell, split: Split) -> bool:
    """Whether this cell trains: it was asked to, and no class of photographs is all but empty."""
    few = cell.dataset == "imagenet" and (split.train.counts().min() < FEW or not len(split.test))
    return cell.epochs > 0 and not few


def build(cell: Cell, split: Split) -> Module:
    """The untrained network of a cell."""
    return networks.build(
        cell.network,
        split.train.shape,
        len(split.classes),
        [cell.width or 1] * (cell.depth or 1),
        activation=cell.activation,
        init=initializer(cell.scheme, cell.activation),
        norm=cell.norm,
        seed=cell.seed,
    )


def _probed(cell: Cell, model: Module, part: Part, device: str) -> Report:
    """The network before training, on the batch with which the training will begin."""
    x, y = next(iter(DataLoader(part, min(cell.batch_size, len(part)), shuffle=True, seed=cell.seed, device=device)))
    return probe(model, x, y, loss=LOSSES[cell.loss])


def _trained(
    cell: Cell, model: Module, split: Split, epoch_seconds: list[float], checkpoint: Path | None
) -> dict[str, Any]:
    """History, curve, final numbers; of the weights from before the step where it diverged, if it did."""
    loss = LOSSES[cell.loss]
    curve = train.Curve()
    callbacks: list[Any] = [curve, _Cap(cell.steps)]
    if checkpoint is not None:
        callbacks.append(train.Checkpoint(checkpoint))
    options: dict[str, Any] = {"epochs": cell.epochs, "batch_size": cell.batch_size, "seed": cell.seed}
    optimizer = make_optimizer(cell.optimizer, model.parameters())
    diverged: dict[str, Any] = {"diverged_at_step": None, "diverged_layer": None}
    untrained = {"epoch": 0, "step": 0} | train.evaluate(model, split.test, loss, prefix="test")
    try:
        history = train.fit(model, split, optimizer=optimizer, loss=loss, callbacks=callbacks, quiet=True, **options)
    except train.Diverged as end:
        history = end.history
        diverged = {"diverged_at_step": end.step, "diverged_layer": end.layer}
    except _EnoughSteps as end:
        history = end.run.history
        rest = {"epoch": end.run.epoch, "step": end.run.step, "lr": optimizer.groups[0]["lr"]}
        history.append(rest | end.run.totals.means("train") | train.evaluate(model, split.test, loss, prefix="test"))
    epoch_seconds += [round(record.pop("seconds"), 3) for record in history if "seconds" in record]
    found: dict[str, Any] = {"history": [untrained, *history], "first_epoch": _first_epoch(curve)}
    found["steps"] = len(curve.records)
    found |= train.evaluate(model, split.train.held_out(), loss, prefix="train")  # in the evaluation mode and view
    if diverged["diverged_at_step"] is None:  # the last epoch has looked at the test part with these very weights
        found |= {key: history[-1][key] for key in ("test_loss", "test_accuracy")}
    else:
        found |= train.evaluate(model, split.test, loss, prefix="test")
    return found | diverged


def _first_epoch(curve: train.Curve) -> list[dict[str, float]]:
    """The loss within the first epoch, as means over stretches of equal length; single batches jump too much."""
    losses = [record["loss"] for record in curve.records if record["epoch"] == 1]
    length = max(1, len(losses) // POINTS)
    ends = range(length, len(losses) + 1, length)
    return [{"step": end, "loss": float(np.mean(losses[end - length : end]))} for end in ends]


class _EnoughSteps(Exception):
    """The run has made its steps."""

    def __init__(self, run: Any) -> None:
        super().__init__("enough steps")
        self.run = run


class _Cap:
    """A callback that ends the training after so many steps, also within an epoch."""

    def __init__(self, steps: int | None) -> None:
        self.steps = steps

    def on_step(self, run: Any) -> None:
        """Leave the loop."""
        if self.steps is not None and run.step >= self.steps:
            raise _EnoughSteps(run)


def weights_hash(model: Module) -> str:
    """SHA-256 over all parameters and buffers, their names and shapes: equal for the same bits only."""
    digest = hashlib.sha256()
    for name, array in sorted(model.state_dict().items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
