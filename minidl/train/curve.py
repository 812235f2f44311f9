"""The learning curve step by step: what happens within the first epoch, where initializations differ most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.backend import array_module, to_host
from minidl.train.run import Run

__all__ = ["Curve"]

AT_ONCE = 512  # steps whose numbers wait on the device for one reading


class Curve:
    """A callback of ``fit`` that keeps loss and accuracy of single batches, as flat records.

    The numbers stay on the device and are read many at a time, so that a GPU does not wait at every step. A
    ``Checkpoint`` of the run holds them too.

    Args:
        every: keep the batches of steps 1, 1 + ``every``, 1 + 2·``every``, ….

    Raises:
        ValueError: ``every`` is below 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every is a number of updates, at least 1; got {every}")
        self.every = every
        self._waiting: dict[int, tuple[Any, ...]] = {}
        self._records: dict[int, dict[str, Any]] = {}

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat record per kept step: epoch, step (from 1), loss and accuracy of its batch before the update.

        There is no accuracy where the targets are no class numbers.
        """
        self._read()
        return list(self._records.values())

    def on_start(self, run: Run) -> None:
        """Forget an earlier run."""
        if run.step == 0:
            self._waiting, self._records = {}, {}

    def on_step(self, run: Run) -> None:
        """Keep this step's numbers. A step that is repeated (see ``finite.py``) takes its own place."""
        if (run.step - 1) % self.every == 0 and run.batch is not None:
            self._waiting[run.step] = (run.epoch, run.batch.loss, run.batch.right, run.batch.count)
            if len(self._waiting) >= AT_ONCE:
                self._read()

    def _read(self) -> None:
        """Bring what waits to the host, all losses at once and all counts at once."""
        if not self._waiting:
            return
        steps, rows = list(self._waiting), list(self._waiting.values())
        losses = _fetched([row[1] for row in rows])
        rights = _fetched([row[2] for row in rows if row[2] is not None])
        for step, (epoch, _, right, count) in zip(steps, rows, strict=True):
            self._records[step] = {"epoch": epoch, "step": step, "loss": losses.pop(0)}
            if right is not None:
                self._records[step]["accuracy"] = rights.pop(0) / count
        self._waiting = {}

    def state_dict(self) -> dict[str, Any]:
        """The records so far, as one array for each key."""
        records = self.records
        return {key: np.array([record[key] for record in records]) for key in (records[0] if records else ())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        rows = zip(*(column.tolist() for column in state.values()), strict=True)
        records = [dict(zip(state, row, strict=True)) for row in rows]
        self._waiting, self._records = {}, {record["step"]: record for record in records}


def _fetched(numbers: list[Any]) -> list[float]:
    """0-d arrays as Python numbers, in one copy."""
    return [float(x) for x in to_host(array_module(numbers[0]).stack(numbers))] if numbers else []
