"""Checkpoints: weights on disk, and training runs that lose nothing when they are killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidl.files import clean_up
from minidl.nn import Module
from minidl.optim import Optimizer
from minidl.train.archive import CheckpointError, checked_path, read, write
from minidl.train.run import Run

__all__ = ["Checkpoint", "load", "save"]


def save(
    path: str | Path, *, model: Module, optimizer: Optimizer | None = None, info: Mapping[str, Any] | None = None
) -> None:
    """Write weights, buffers and, if given, the optimizer's memory; .npz or .safetensors by the ending of ``path``.

    The file appears complete or not at all; one that was there is replaced at the end.

    Args:
        path: the file.
        model: the arrays lie in the file under their paths, "conv1.weight".
        optimizer: its settings and memory.
        info: numbers, texts and arrays of your own, which ``load`` returns.

    Raises:
        ValueError: another ending.
        MissingCapability: .safetensors without the package safetensors.
        OSError: the file could not be written; an old one is as it was.
    """
    tree: dict[str, Any] = {"weights": model.state_dict(), "info": dict(info or {})}
    if optimizer is not None:
        tree["optimizer"] = optimizer.state_dict()
    write(path, tree)


def load(path: str | Path, *, model: Module | None = None, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Set ``model`` and ``optimizer`` to what is in a file: one of ``save``, of ``Checkpoint``, or of arrays alone.

    Of a run that is over, the weights are those that ``fit`` left: with early stopping the best ones.

    Args:
        path: the file.
        model: keeps its device and dtype.
        optimizer: over the parameters of the model.

    Returns:
        The ``info`` of ``save``; of a run ``{"epoch", "step", "stop", "over", "seconds", "history"}``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or does not fit the model or the optimizer.
    """
    tree = read(path)
    weights = tree.get("weights", {})
    if tree.get("best") and tree["run"]["over"]:
        weights = tree["best"]["state"]
    if optimizer is not None and "optimizer" not in tree:
        raise CheckpointError(f"{path} holds no optimizer; it was saved without one")
    try:
        if model is not None:
            model.load_state_dict(weights)
        if optimizer is not None:
            optimizer.load_state_dict(tree["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {**tree["run"], "history": tree["history"]} if "run" in tree else tree.get("info", {})


class Checkpoint:
    """A callback of ``fit`` that writes the whole run to a file, and goes on from it when the file is there.

    So a run that was killed is continued by the same command, and ends with the same bits as one that was not: weights
    and history agree (but for the seconds; on a GPU as far as its sums come out alike twice). A run that had ended
    returns its history at once; with more ``epochs`` it goes on. To start anew, remove the file.

    Args:
        path: .npz, or .safetensors with the extra ``io``; its folder is made if need be.
        every: updates between two writes; None: once after every epoch. The end of a run is always written. On a GPU a
            write comes at the next moment at which the values have been checked, see ``fit``.

    Raises:
        ValueError: another ending, or ``every`` below 1.
        MissingCapability: .safetensors without the package safetensors.

    ``fit`` then raises ``CheckpointError`` if the file is damaged or belongs to another run (another network, batch
    size, seed, optimizer, schedule, data: it says which and the numbers), and ``OSError`` if it cannot be written.
    Of the data all labels are compared and some of the images, from the first to the last; of the schedule its factors
    at steps of every epoch; ``loss`` and ``transform`` by their names, so what is changed inside them goes unnoticed.
    """

    def __init__(self, path: str | Path, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is a number of updates, at least 1; got {every}")
        self.path, self.every = checked_path(path), every
        self._written = 0  # the step of the latest write

    def on_start(self, run: Run) -> None:
        """Go on from the file, if it is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        clean_up(self.path)
        if self.path.exists():
            state = read(self.path)
            if "run" not in state:
                raise CheckpointError(f"{self.path} holds no training run; choose another path, or move it away")
            try:
                run.load_state_dict(state)
            except ValueError as error:
                raise CheckpointError(
                    f"{self.path}: {error}. Start the run with the same settings, or move the file away."
                ) from error
        self._written = run.step

    def on_checked(self, run: Run) -> None:
        """Write, if it is time."""
        due = run.done == 0 if self.every is None else run.step - self._written >= self.every
        if due or run.over:
            write(self.path, run.state_dict())
            self._written = run.step
