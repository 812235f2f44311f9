"""Why a run failed: the diagnosis of the network as it was at the start, made when the run has gone wrong.

Most causes lie there, in the weights that training began with or in the learning rate they got; what a run leaves
behind when it diverges shows the consequences.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.backend import to_host
from minidl.data import Part
from minidl.lab.explain import Diagnosis, diagnose
from minidl.lab.rules.loss import FLAT
from minidl.lab.untouched import left_as_it_was
from minidl.nn import Module
from minidl.train.run import Loss, Run

__all__ = ["Start", "is_flat"]

LARGEST = 2**24  # parameters that are kept beside the model: 64 MiB
INPUTS = 256


class Start:
    """The weights of a model as they are now, for the question why its training failed.

    Args:
        model: copied on its own device, unless it has more than ``LARGEST`` parameters; then a diagnosis is that of
            the weights at the end.
    """

    def __init__(self, model: Module) -> None:
        parameters = model.parameters()
        small = sum(p.size for p in parameters) <= LARGEST
        self.arrays = [p.data.copy() for p in parameters] if small else []

    def diagnosis(self, run: Run, part: Part, loss: Loss, history: Sequence[Any] = ()) -> Diagnosis | None:
        """What ``lab.diagnose`` says of these weights with the run's optimizer; None where it cannot follow.

        The run is left as it is.
        """
        fresh = copy.copy(run.optimizer)
        fresh.state = [{} for _ in fresh.members()]
        x, y = part[: min(INPUTS, max(run.loader.batch_size, 2))]
        with left_as_it_was(run.model):
            for p, array in zip(run.model.parameters(), self.arrays, strict=False):  # of a large model none are kept
                p.data = array
            run.model.train()
            try:
                return diagnose(
                    run.model, x, y, loss=loss, optimizer=fresh, history=history or None, trial=0
                )  # the run itself was the trial
            except Exception:  # a remark on a failure must not hide it
                return None


def is_flat(run: Run, loss: Loss) -> bool:
    """Whether the loss of a finished run never left its start: the entropy of the labels."""
    part, record = run.loader.dataset, run.history[-1] if run.history else {}
    if loss is not ops.cross_entropy or part.y.dtype.kind not in "iu" or run.loss is None:
        return False
    counts = [int(n) for n in part.counts() if n]
    entropy = -sum(n / len(part) * math.log(n / len(part)) for n in counts)
    losses = (record.get("train_loss", 0.0), float(to_host(run.loss.data)))
    return entropy > 0 and losses[0] > FLAT * entropy and losses[1] > 0.9 * entropy
