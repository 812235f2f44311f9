"""A trial: does a copy of the network begin to learn within a hundred steps?

Numbers of one forward and backward pass say what is wrong with a network; near every limit they cannot say whether it
matters. A hundred steps can, and cost little: a network that learns has shown it after fifteen or so.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from minidl.backend import Array, array_module
from minidl.lab.measure import loss_of
from minidl.lab.untouched import left_as_it_was
from minidl.nn import Module
from minidl.optim import SGD
from minidl.tensor import Tensor

__all__ = [
    *("EXAMPLES", "LEARNS", "MOMENTUM", "RATES", "STEPS"),
    *("Trial", "attempt", "check_steps", "entropy_of", "guess", "losses", "slices"),
]

STEPS = 100
RATES = (1e-2, 1e-1, 1e-3)  # the likeliest first: the first at which it learns is enough
MOMENTUM = 0.9
EXAMPLES, SLICE = 256, 64  # so many inputs at most, in slices of about so many
#: Of the entropy of the labels: a loss below it has begun to fall. Measured on digits, where it is a loss of 2.05: of
#: networks that train 99 % get there within 100 steps, of those that do not 2 %.
LEARNS = 0.89
PRODUCTS = 5e11  # multiplications that a trial may cost unasked: some ten seconds; a LeNet-5 takes 2e10


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Args:
        records: one per rate that was tried: {rate, steps, lowest}, the steps made and the lowest mean loss over one
            pass through the slices; inf if the loss was never finite so long.
        entropy: of the labels: the loss of a network that knows how often each class occurs, and no more.
    """

    records: list[dict[str, float]]
    entropy: float

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
            return f"the loss falls to {best['lowest']:.3g} in {best['steps']:g} steps at rate {best['rate']:g}"
        steps, rates = max(r["steps"] for r in self.records), ", ".join(f"{r['rate']:g}" for r in self.records)
        return f"in {steps:g} steps the loss comes down to {best['lowest']:.3g} at best, of the rates {rates}"


def entropy_of(shares: Sequence[float]) -> float:
    """``-Σ p ln p``, in nats."""
    return -sum(share * math.log(share) for share in shares if share > 0)


def check_steps(steps: Any) -> None:
    """Raises ValueError if these are no steps of a trial."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
        raise ValueError(f"trial is how many steps are tried at each rate, 0 for no trial; got {steps!r}")


def attempt(
    losses: Callable[[float], Iterator[float]],
    guess: Callable[[int], float],
    *,
    steps: int | None,
    examples: int,
    products: float,
    shares: Sequence[float] | None,
) -> tuple[Trial | None, str]:
    """Train at one rate after the other until one learns; or say why not.

    Args:
        losses: of a rate, the losses of one step after the other, from the same weights each time.
        guess: of K, the loss of outputs that are all ``-ln K``.
        steps: at each rate; None for ``STEPS``, unless they cost more than ``PRODUCTS``.
        examples: inputs in the batch.
        products: multiplications of one input on its way up.
        shares: share of each class among the first ``EXAMPLES`` labels; None where they are no class numbers.
    """
    parts = slices(examples)
    cost = 3 * products * parts[0].stop * len(RATES) * STEPS  # the way down costs twice the way up
    if steps == 0:
        return None, "no trial was asked for"
    if shares is None:
        return None, "the labels are no class numbers"
    if not entropy_of(shares) > 0:
        return None, "all labels are of one class"
    if not _is_cross_entropy(guess, len(shares)):
        return None, f"the loss is no cross entropy: guessing alike among {len(shares)} classes is not ln {len(shares)}"
    if steps is not None and steps < len(parts):
        return None, f"a trial of {steps} steps makes no pass through the {len(parts)} slices of the batch"
    if steps is None and cost > PRODUCTS:
        return None, f"a trial of up to {len(RATES) * STEPS} steps would take long; trial={STEPS} makes it"
    try:
        return _run(losses, len(parts), entropy_of(shares), steps or STEPS), ""
    except (RuntimeError, ValueError) as error:  # a network that takes no other number of inputs
        return None, f"training on {parts[0].stop} of the inputs raised: {error}"


def _is_cross_entropy(guess: Callable[[int], float], classes: int) -> bool:
    """Whether outputs of ``-ln K`` have loss ``ln K``, be they scores or logarithms of probabilities.

    Of other losses the entropy of the labels says nothing: squares of outputs of 0 are far below it.
    """
    try:
        return math.isclose(guess(classes), math.log(classes), rel_tol=1e-3)
    except Exception:  # a loss of the user's, of outputs that it was not made for
        return False


def _run(losses: Callable[[float], Iterator[float]], count: int, entropy: float, steps: int) -> Trial:
    records: list[dict[str, float]] = []
    for rate in RATES:
        with closing(losses(rate)) as found:  # type: ignore[type-var]  # a generator
            records.append({"rate": rate, **_lowest(itertools.islice(found, steps), count, LEARNS * entropy)})
        if Trial(records, entropy).learned:
            break
    return Trial(records, entropy)


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


def slices(examples: int) -> list[slice]:
    """The first inputs of a batch, cut into equal parts."""
    used = min(examples, EXAMPLES)
    count = max(used // SLICE, 1)
    size = used // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def guess(model: Module, x: Tensor, y: Array, loss: Callable[[Any, Any], Any], classes: int) -> float:
    """The loss of outputs (N, K) that are all ``-ln K``."""
    outputs = array_module(x.data).full((len(x), classes), -math.log(classes), dtype=x.dtype)
    with left_as_it_was(model):  # the loss may draw random numbers, too
        return float(loss(Tensor(outputs), y).item())


def losses(model: Module, x: Tensor, y: Array, loss: Callable[[Any, Any], Any], rate: float) -> Iterator[float]:
    """The losses of training a copy, one after the other; the model itself stays as it was.

    As in training: dropout and batch normalization are in that mode, whatever mode the model is in.
    """
    with left_as_it_was(model):
        model.train()
        for p in model.parameters():
            p.data = p.data.copy()
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = SGD(learning, lr=rate, momentum=MOMENTUM)
        for rows in itertools.cycle(slices(len(x))):
            optimizer.zero_grad()
            outputs = model(Tensor(x.data[rows]))
            loss_of(model, outputs, y[rows], loss).backward()
            optimizer.step()
            scores = outputs[0] if isinstance(outputs, tuple | list) else outputs  # auxiliary classifiers do not count
            yield float(loss(scores.detach(), y[rows]).item())
