"""A trial: does a copy of the network begin to learn within a few hundred steps?

Numbers of one forward and backward pass say what is wrong with a network; near every limit they cannot say whether it
matters. A few hundred steps can, and they cost little: a trial ends as soon as the loss has begun to fall.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import Array, array_module
from minidl.lab.measure import loss_of
from minidl.lab.untouched import left_as_it_was
from minidl.nn import Module
from minidl.optim import SGD
from minidl.tensor import Tensor

__all__ = [
    *("ALONE", "EXAMPLES", "LEARNS", "Losses", "MOMENTUM", "RATES", "SECONDS", "STEPS"),
    *("Trial", "attempt", "check_steps", "entropy_of", "guess", "losses", "mixed", "slices"),
]

Losses = Generator[float, None, None]  # of one step after the other; closed when no more are wanted

STEPS = 100  # at each rate: enough to prove or refute what one pass foretells
ALONE = 300  # where one pass foretells nothing: a network that sits on a plateau first is not to be blamed
SECONDS = 20.0  # that a trial may take unasked
RATES = (1e-2, 1e-1, 1e-3)  # the likeliest first: the first at which it learns is enough
MOMENTUM = 0.9
EXAMPLES, SLICE = 256, 64  # so many inputs at most, in slices of about so many
#: Of the entropy of the labels: a loss below it has begun to fall. Set on the tuning networks of docs/diagnosis: on
#: digits a loss of 1.96.
LEARNS = 0.85


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Args:
        records: one per rate that was tried: {rate, steps, lowest}, the steps made and the lowest mean loss over one
            pass through the slices; inf if the loss was never finite so long.
        entropy: of the labels: the loss of a network that knows how often each class occurs, and no more.
        steps: at each rate, at most.
    """

    records: list[dict[str, float]]
    entropy: float
    steps: int = STEPS

    @property
    def best(self) -> dict[str, float]:
        """The record with the lowest loss."""
        return min(self.records, key=lambda record: record["lowest"])

    @property
    def learned(self) -> bool:
        """Whether the loss fell below ``LEARNS`` of the entropy at one of the rates."""
        return self.best["lowest"] < LEARNS * self.entropy

    def __str__(self) -> str:
        best = self.best
        if self.learned:
            steps = f"{best['steps']:g} step{'s' * (best['steps'] > 1)}"
            return f"the loss falls to {best['lowest']:.3g} in {steps} at rate {best['rate']:g}"
        tried = "the rates " + ", ".join(f"{record['rate']:g}" for record in self.records)
        if math.isinf(best["lowest"]):
            return f"the loss does not stay finite at {tried}"
        return f"the loss is {best['lowest']:.4g} at best, in up to {self.steps} steps at {tried}"


def entropy_of(shares: Iterable[float]) -> float:
    """``-Σ p ln p``, in nats."""
    return -sum(float(share) * math.log(share) for share in shares if share > 0)


def check_steps(steps: Any) -> None:
    """Raises ValueError if these are no steps of a trial."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0):
        raise ValueError(f"trial is how many steps are tried at each rate, 0 for no trial; got {steps!r}")


def attempt(
    losses: Callable[[float], Losses],
    guess: Callable[[int], float],
    labels: NDArray[Any] | None,
    classes: int,
    *,
    steps: int,
    seconds: float = math.inf,
) -> tuple[Trial | None, str]:
    """Train at one rate after the other until one learns; or say why not.

    Args:
        losses: of a rate, the losses of one step after the other, from the same weights each time.
        guess: of K, the loss of K scores that are all 0. It is ln K for a cross entropy; of other losses the entropy
            of the labels says nothing.
        labels: of the batch; None where they are no class numbers.
        classes: K.
        steps: at each rate.
        seconds: after which a trial that has not learned is given up.
    """
    if steps == 0:
        return None, "no trial was asked for"
    if labels is None:
        return None, "the labels are no class numbers"
    count, seen = len(slices(len(labels))), np.bincount(labels[:EXAMPLES])
    entropy = entropy_of(seen / max(seen.sum(), 1))
    if not entropy > 0:
        return None, "all labels are of one class"
    if steps < count:
        return None, f"a trial of {steps} steps makes no pass through the {count} slices of the batch"
    try:
        if not math.isclose(guess(classes), math.log(classes), rel_tol=1e-3):
            return None, f"the loss of {classes} scores that are 0 is not ln {classes}: no cross entropy of scores"
    except Exception as error:  # a loss of the user's, of outputs that it was not made for
        return None, f"the loss of {classes} scores that are 0 raised {type(error).__name__}: {error}"
    try:
        return _run(losses, count, entropy, steps, seconds), ""
    except _TooLong:
        return None, f"nothing learned in {seconds:g} seconds; trial={ALONE} takes the time it takes"
    except Exception as error:  # of the user's code, which need not run on other inputs than it was given
        return None, f"training on a part of the batch raised {type(error).__name__}: {error}"


class _TooLong(Exception):
    pass


def _run(losses: Callable[[float], Losses], count: int, entropy: float, steps: int, seconds: float) -> Trial:
    records: list[dict[str, float]] = []
    until = time.monotonic() + seconds
    for rate in RATES:
        with closing(losses(rate)) as found:
            timely = _before(until, itertools.islice(found, steps))
            records.append({"rate": rate, **_lowest(timely, count, LEARNS * entropy)})
        if Trial(records, entropy).learned:
            break
    return Trial(records, entropy, steps)


def _before(until: float, losses: Iterator[float]) -> Iterator[float]:
    for loss in losses:
        yield loss
        if time.monotonic() > until:
            raise _TooLong


def _lowest(losses: Iterator[float], count: int, goal: float) -> dict[str, float]:
    """Steps until the mean over a pass is below the goal, or the loss is not finite; the lowest mean."""
    last: deque[float] = deque(maxlen=count)
    steps, lowest = 0, math.inf
    for loss in losses:
        steps += 1
        last.append(loss)
        if not math.isfinite(loss):
            break
        if len(last) == count:
            lowest = min(lowest, sum(last) / count)
        if lowest < goal:
            break
    return {"steps": steps, "lowest": lowest}


def mixed(labels: NDArray[Any]) -> NDArray[np.intp] | None:
    """An order in which the classes of a batch are mixed; None if they are as it is.

    In a batch that goes from class to class every slice has labels of its own, and a bias that follows them lowers the
    loss of a network that cannot tell two inputs apart.
    """
    shares = np.bincount(labels) / len(labels)
    by_chance, alike = float(shares @ shares), float((labels[1:] == labels[:-1]).mean()) if len(labels) > 1 else 0.0
    in_order = alike - by_chance > 0.5 * (1 - by_chance)  # of neighbours that have the same label
    return np.random.default_rng(0).permutation(len(labels)) if in_order else None


def slices(examples: int) -> list[slice]:
    """The first inputs of a batch, cut into equal parts."""
    used = min(examples, EXAMPLES)
    count = max(used // SLICE, 1)
    size = used // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def guess(model: Module, x: Tensor, y: Array, loss: Callable[[Any, Any], Any], classes: int) -> float:
    """The loss of scores (N, K) that are all 0."""
    outputs = array_module(x.data).zeros((len(x), classes), dtype=x.dtype)
    with left_as_it_was(model):  # the loss may draw random numbers, too
        return float(loss(Tensor(outputs), y).item())


def losses(model: Module, x: Tensor, y: Array, loss: Callable[[Any, Any], Any], rate: float) -> Losses:
    """The losses of training a copy, in the mode that the model is in; the model itself stays as it was."""
    with left_as_it_was(model):
        for p in model.parameters():
            p.data = p.data.copy()
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = SGD(learning, lr=rate, momentum=MOMENTUM)
        for rows in itertools.cycle(slices(len(x))):
            optimizer.zero_grad()
            outputs = model(Tensor(x.data[rows]))
            value = loss_of(model, outputs, y[rows], loss)
            value.backward()
            optimizer.step()
            if isinstance(outputs, tuple | list):  # auxiliary classifiers do not count
                value = loss(outputs[0].detach(), y[rows])
            yield float(value.item())
