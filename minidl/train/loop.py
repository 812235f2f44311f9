"""The training loop: batches, forward, loss, backward, update; and a look at the other parts after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from minidl import ops
from minidl.backend import Array, device_of, to_host
from minidl.data import DataLoader, Part, Split
from minidl.nn import Module
from minidl.optim import Optimizer, Schedule, clip_grad_norm
from minidl.tensor import Tensor, no_grad
from minidl.text import progress
from minidl.train.finite import EVERY_ON_GPU, Tripwire
from minidl.train.history import History

__all__ = ["Run", "evaluate", "fit"]

Loss = Callable[[Any, Any], Any]
EVENTS = ("on_start", "on_step", "on_epoch", "on_end")


@dataclass
class Totals:
    """Sums over batches, kept on the device: reading them after every batch would make a GPU wait."""

    loss: Any = 0.0
    right: Any = None  #: None where there is no accuracy: the targets are no class numbers, or there is one score only
    count: int = 0

    def add(self, loss: Tensor, logits: Tensor, y: Array) -> None:
        """Count a batch: its mean loss, and how many examples have the largest score at their label."""
        self.count += len(y)
        self.loss = self.loss + loss.data * len(y)
        if y.ndim == 1 and y.dtype.kind in "iu" and logits.ndim == 2 and logits.shape[1] > 1:
            self.right = (0 if self.right is None else self.right) + (logits.data.argmax(axis=1) == y).sum()

    def means(self, prefix: str) -> dict[str, float]:
        """Mean loss, and accuracy where there is one, as Python numbers."""
        start = f"{prefix}_" if prefix else ""
        loss = {f"{start}loss": _number(self.loss) / self.count}
        return loss if self.right is None else loss | {f"{start}accuracy": _number(self.right) / self.count}

    def copy(self) -> Totals:
        """The same sums so far."""
        return replace(self)


def _number(x: Any) -> float:
    return float(to_host(x))


@dataclass
class Run:
    """A training run as its callbacks see it. Set ``stop = True`` to end it after the current epoch."""

    model: Module
    optimizer: Optimizer
    loader: DataLoader
    epochs: int
    epoch: int = 0  #: current epoch, from 1
    step: int = 0  #: updates so far
    loss: Tensor | None = None  #: of the latest batch
    stop: bool = False
    totals: Totals = field(default_factory=Totals)  #: of the current epoch
    history: History = field(default_factory=History)


def fit(
    model: Module,
    split: Split,
    *,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 64,
    loss: Loss = ops.cross_entropy,
    schedule: Schedule | None = None,
    clip: float | None = None,
    callbacks: Iterable[Any] = (),
    early_stopping: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> History:
    """Train ``model`` on ``split.train``; look at ``.val`` and ``.test`` after every epoch.

    Test data is reported and decides nothing: early stopping sees ``split.val`` only.

    Args:
        model: changed in place; trained where its parameters live.
        split: from ``data.load``.
        optimizer: over the model's parameters.
        epochs: passes over the training part.
        batch_size: examples per update.
        loss: ``loss(model(x), y)`` -> a scalar Tensor.
        schedule: step -> factor on the learning rate, see ``optim``.
        clip: longest joint gradient; longer ones are scaled down to it.
        callbacks: objects with any of ``on_start on_step on_epoch on_end``, each called with the ``Run``.
        early_stopping: end after so many epochs without a smaller loss on ``.val``, and return to the best weights.
        seed: of the order of the batches.
        quiet: no progress bar even on a terminal.

    Returns:
        One record per epoch.

    Raises:
        Diverged: a loss or gradient was not finite; it names step and layer, and holds the history so far.
        ValueError: early stopping without a validation part, or an optimizer that knows none of the parameters.
        TypeError: a split, an optimizer or a callback that is none.
    """
    callbacks = tuple(callbacks)
    _check(model, split, optimizer, epochs, early_stopping, callbacks)
    device = device_of(model.parameters()[0].data)
    loader = DataLoader(split.train, batch_size, shuffle=True, seed=seed, device=device)
    run = Run(model, optimizer, loader, epochs)
    tripwire = Tripwire(run, loss, every=1 if device == "cpu" else EVERY_ON_GPU)
    best = _Best(model, early_stopping) if early_stopping is not None else None
    _tell(callbacks, "on_start", run)
    for run.epoch in range(1, epochs + 1):
        start = time.perf_counter()
        _one_epoch(run, loss, tripwire, schedule, clip, callbacks, quiet)
        record = {"epoch": run.epoch, "step": run.step, "lr": optimizer.groups[0]["lr"] * optimizer.lr_factor}
        record |= run.totals.means("train")
        for part, dataset in (("val", split.val), ("test", split.test)):
            if len(dataset):
                record |= evaluate(model, dataset, loss, prefix=part)
        run.history.append({**record, "seconds": time.perf_counter() - start})
        _tell(callbacks, "on_epoch", run)
        if run.stop or (best is not None and best.should_stop(record["val_loss"])):
            break
    if best is not None:
        best.restore()
    _tell(callbacks, "on_end", run)
    return run.history


def _check(
    model: Module,
    split: Split,
    optimizer: Optimizer,
    epochs: int,
    early_stopping: int | None,
    callbacks: tuple[Any, ...],
) -> None:
    if not all(hasattr(split, part) for part in ("train", "val", "test")):
        raise TypeError(f"split is a {type(split).__name__}; data.load(name) or data.from_arrays(x, y) makes one")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}; make one, such as optim.SGD(model.parameters(), lr=0.1)")
    for callback in callbacks:
        if isinstance(callback, type) or not any(hasattr(callback, event) for event in EVENTS):
            raise TypeError(f"a callback is an object with any of {', '.join(EVENTS)}; got {callback!r}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1; got {epochs}")
    if early_stopping is not None and not len(split.val):
        raise ValueError("early stopping looks at split.val, which is empty: load the data with val=0.1")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in optimizer.parameters()):
        raise ValueError("the optimizer knows none of this model's parameters; make it with model.parameters()")


def _one_epoch(
    run: Run,
    loss: Loss,
    tripwire: Tripwire,
    schedule: Schedule | None,
    clip: float | None,
    callbacks: Iterable[Any],
    quiet: bool,
) -> None:
    run.model.train()
    run.totals = Totals()
    tripwire.before_epoch()
    batches = _batches(run, quiet)
    while (batch := next(batches, None)) is not None:
        x, y = batch
        tripwire.before_forward()
        logits = run.model(x)
        run.loss = loss(logits, y)
        run.optimizer.zero_grad()
        run.loss.backward()
        tripwire.before_update(run.loss, x, y)
        if clip is not None:
            clip_grad_norm(run.optimizer.parameters(), clip)
        run.optimizer.lr_factor = 1.0 if schedule is None else schedule(run.step)
        run.optimizer.step()
        run.step += 1
        run.totals.add(run.loss, logits, y)
        _tell(callbacks, "on_step", run)
        if not tripwire.after_update():
            batches = _batches(run, quiet)


def _batches(run: Run, quiet: bool) -> Iterator[tuple[Tensor, Array]]:
    """The batches of this epoch, with a progress bar unless quiet."""
    loader = run.loader if quiet else progress(run.loader, len(run.loader), f"epoch {run.epoch}/{run.epochs}")
    return ((Tensor(x), y) for x, y in loader)


@no_grad()
def evaluate(
    model: Module, dataset: Part, loss: Loss = ops.cross_entropy, batch_size: int = 512, prefix: str = ""
) -> dict[str, float]:
    """Loss and accuracy of ``model`` in evaluation mode on a whole part, as ``{"loss": …, "accuracy": …}``.

    There is an accuracy where the targets are class numbers and the model gives a score for each class.

    Args:
        model: its mode is left as it was.
        dataset: for example ``split.test``.
        loss: as in ``fit``.
        batch_size: examples at a time; changes speed, not the result.
        prefix: put before the keys, "test" gives "test_loss".
    """
    device = device_of(model.parameters()[0].data)
    modes = [(m, m.training) for _, m in model.named_modules()]
    totals = Totals()
    model.eval()
    try:
        for x, y in DataLoader(dataset, batch_size, device=device):
            logits = model(Tensor(x))
            totals.add(loss(logits, y), logits, y)
    finally:
        for module, mode in modes:
            module.training = mode
    return totals.means(prefix)


class _Best:
    """Early stopping: the smallest validation loss so far, and the weights that gave it."""

    def __init__(self, model: Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.loss, self.waited = float("inf"), 0
        self.state = model.state_dict()

    def should_stop(self, loss: float) -> bool:
        if loss < self.loss:
            self.loss, self.waited, self.state = loss, 0, self.model.state_dict()
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        self.model.load_state_dict(self.state)


def _tell(callbacks: Iterable[Any], event: str, run: Run) -> None:
    for callback in callbacks:
        if hasattr(callback, event):
            getattr(callback, event)(run)
