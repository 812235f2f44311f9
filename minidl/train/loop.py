"""The training loop: batches, forward, loss, backward, update; and a look at the other parts after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from minidl import lab, ops
from minidl.backend import Array, device_of
from minidl.data import DataLoader, Part, Split
from minidl.data.loader import Transform
from minidl.lab.measure import loss_of
from minidl.nn import BatchNorm1d, BatchNorm2d, Module
from minidl.optim import Optimizer, Schedule, clip_grad_norm
from minidl.tensor import Tensor, no_grad
from minidl.text import progress, say
from minidl.train.failure import Start, is_flat
from minidl.train.finite import EVERY_ON_GPU, Tripwire
from minidl.train.history import Diverged, History
from minidl.train.run import Best, Loss, Run, Totals, settings_of

__all__ = ["evaluate", "fit"]

EVENTS = ("on_start", "on_step", "on_checked", "on_epoch", "on_end")


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
    transform: Transform | None = None,
    drop_last: bool = False,
) -> History:
    """Train ``model`` on ``split.train``; look at ``.val`` and ``.test`` after every epoch.

    Test data is reported and decides nothing: early stopping sees ``split.val`` only.

    A callback is an object with any of these methods, each called with the ``Run``:

    * ``on_start``: before the first step. ``Checkpoint`` puts a saved run back here.
    * ``on_step``: after every update.
    * ``on_checked``: where the run can be saved: after every update on the host, after every 50th and the last of an
      epoch on a GPU (where the check for values that are not finite is read so seldom), and when an epoch's record is
      in the history and early stopping has counted it.
    * ``on_epoch``: when an epoch's record is in the history.
    * ``on_end``: the run is over, the best weights are back. A run that diverges or is interrupted has no such end;
      the exception says how it ended, and ``Diverged`` holds the history.

    A network with auxiliary classifiers returns ``(logits, …)`` in training and has a method
    ``training_loss(outputs, y, loss)``: that is what is made small then, and what ``train_loss`` is the mean of;
    accuracy counts the first output.

    Args:
        model: changed in place; trained where its parameters live.
        split: from ``data.load``.
        optimizer: over the model's parameters.
        epochs: passes over the training part.
        batch_size: examples per update.
        loss: ``loss(model(x), y)`` -> a scalar Tensor.
        schedule: step -> factor on the learning rate, see ``optim``.
        clip: longest joint gradient; longer ones are scaled down to it.
        callbacks: see above; ``Checkpoint`` and ``Curve`` are two.
        early_stopping: end after so many epochs without a smaller loss on ``.val``, and return to the best weights.
        seed: of the order of the batches, and of ``transform``.
        quiet: no progress bar even on a terminal, and no diagnosis of a run that fails.
        transform: ``transform(x, rng) -> x`` on training batches, for augmentation, see ``data.DataLoader``.
        drop_last: leave out a last batch that is smaller than ``batch_size``.

    Returns:
        One record per epoch. A run whose loss never left its start says why on stderr; ``history.diagnosis`` has it.

    Raises:
        Diverged: a loss or gradient was not finite; it names step and layer, and holds the history so far and the
            diagnosis of the network as it was at the start.
        ValueError: ``epochs`` or ``early_stopping`` below 1, early stopping without a validation part, an optimizer
            that knows none of the parameters, or a last batch of one example for a network with batch normalization,
            which needs two.
        TypeError: a split, an optimizer or a callback that is none.
    """
    callbacks = tuple(callbacks)
    _check(model, split, optimizer, epochs, early_stopping, callbacks)
    device = device_of(model.parameters()[0].data)
    loader = DataLoader(
        split.train, batch_size, shuffle=True, seed=seed, drop_last=drop_last, transform=transform, device=device
    )
    _check_last_batch(model, loader)
    run = Run(model, optimizer, loader, epochs, callbacks=callbacks)
    run.best = Best(model, early_stopping) if early_stopping is not None else None
    run.settings = settings_of(run, loss, schedule, clip, early_stopping)
    tripwire = Tripwire(run, loss, every=1 if device == "cpu" else EVERY_ON_GPU)
    _tell("on_start", run)
    start = None if quiet else Start(model)
    try:
        while not run.over:
            run.epoch = len(run.history) + 1
            _one_epoch(run, loss, tripwire, schedule, clip, quiet)
            _look(run, split, loss)
            _tell("on_epoch", run)
            if run.best is not None and run.best.should_stop(run.history[-1]["val_loss"]):
                run.stop = True
            _tell("on_checked", run)
    except Diverged as end:
        if start is not None:
            end.explain(start.diagnosis(run, split.train, loss))
        raise
    if start is not None and is_flat(run, loss):
        run.history.diagnosis = start.diagnosis(run, split.train, loss, run.history)
        say(f"the training loss never left its start\n{run.history.diagnosis or ''}")
    if run.best is not None:
        run.best.restore()
    _tell("on_end", run)
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
    if early_stopping is not None and early_stopping < 1:
        raise ValueError(f"early_stopping is how many epochs it waits, at least 1; got {early_stopping}")
    if early_stopping is not None and not len(split.val):
        raise ValueError("early stopping looks at split.val, which is empty: load the data with val=0.1")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in optimizer.parameters()):
        raise ValueError("the optimizer knows none of this model's parameters; make it with model.parameters()")


def _check_last_batch(model: Module, loader: DataLoader) -> None:
    """Refuse now what would fail at the end of the first epoch: one value has no variance to normalize by."""
    size, examples = loader.batch_size, len(loader.dataset)
    last = size if loader.drop_last else examples % size or size
    if last > 1 or not any(isinstance(m, BatchNorm1d | BatchNorm2d) for _, m in model.named_modules()):
        return
    for layer in lab.summary(model, loader.dataset.shape).records:
        if layer["kind"].startswith("BatchNorm") and layer["shape"] is not None and math.prod(layer["shape"][1:]) == 1:
            raise ValueError(
                f"{examples} examples in batches of {size} leave a last batch of 1, and layer {layer['layer']!r} "
                f"normalizes by the variance of a batch; pass drop_last=True or batch_size={size + 1}"
            )


def _one_epoch(
    run: Run,
    loss: Loss,
    tripwire: Tripwire,
    schedule: Schedule | None,
    clip: float | None,
    quiet: bool,
) -> None:
    """The updates that the current epoch still needs: all, or the rest after a resumed run's last."""
    run.model.train()
    run.begin_epoch()
    tripwire.before_epoch()
    batches = _batches(run, quiet)
    while (batch := next(batches, None)) is not None:
        x, y = batch
        tripwire.before_forward()
        outputs = run.model(x)
        run.loss = loss_of(run.model, outputs, y, loss)
        run.optimizer.zero_grad()
        run.loss.backward()
        tripwire.before_update(run.loss, x, y)
        if clip is not None:
            clip_grad_norm(run.optimizer.parameters(), clip)
        run.optimizer.lr_factor = 1.0 if schedule is None else schedule(run.step)
        run.optimizer.step()
        run.step += 1
        run.batch = run.totals.add(run.loss, outputs[0] if isinstance(outputs, tuple | list) else outputs, y)
        _tell("on_step", run)
        if not tripwire.after_update():
            batches = _batches(run, quiet)
        elif tripwire.checked:
            _tell("on_checked", run)


def _batches(run: Run, quiet: bool) -> Iterator[tuple[Tensor, Array]]:
    """The batches of this epoch, with a progress bar unless quiet."""
    loader: Iterable[Any] = run.loader
    if not quiet:
        label = f"epoch {run.epoch}/{run.epochs}"
        loader = progress(run.loader, len(run.loader), label, start=run.done, note=lambda: _so_far(run))
    return ((Tensor(x), y) for x, y in loader)


def _so_far(run: Run) -> str:
    """Loss and accuracy of the epoch so far, for the progress bar; a GPU waits for it."""
    means = run.totals.means("")
    accuracy = f", accuracy {100 * means['accuracy']:.1f} %" if "accuracy" in means else ""
    return f"loss {means['loss']:.4g}{accuracy}"


def _look(run: Run, split: Split, loss: Loss) -> None:
    """The record of the epoch that has just been trained."""
    rate = run.optimizer.groups[0]["lr"] * run.optimizer.lr_factor
    record = {"epoch": run.epoch, "step": run.step, "lr": rate} | run.totals.means("train")
    for part, dataset in (("val", split.val), ("test", split.test)):
        if len(dataset):
            record |= evaluate(run.model, dataset, loss, prefix=part)
    run.history.append({**record, "seconds": time.perf_counter() - run.started})


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

    Raises:
        ValueError: the part is empty.
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


def _tell(event: str, run: Run) -> None:
    for callback in run.callbacks:
        if hasattr(callback, event):
            getattr(callback, event)(run)
