"""What a training run leaves behind: one flat record per epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from minidl.files import replacing
from minidl.text import keys, table, to_json

__all__ = ["Diverged", "History"]


class History(list[dict[str, Any]]):
    """A list of flat records, one per epoch; ``pandas.DataFrame(history)`` works as it is. Printing it gives a table.

    Keys: epoch, step (updates so far), lr, train_loss and train_accuracy (means over the epoch, while the weights were
    changing), then loss and accuracy on val and test where these parts are not empty, and seconds. Where the targets
    are no class numbers there is no accuracy.

    Attributes:
        diagnosis: why the loss never left its start, see ``lab.diagnose``; None for a run that learned.
    """

    diagnosis: Any = None

    def __str__(self) -> str:
        headings = {key: key.replace("accuracy", "acc.") for key in keys(self)}  # for 100 columns
        return table(self, headings) if self else "no epoch finished"

    def save(self, path: str | Path) -> None:
        """Write as CSV or JSON lines, by the ending of ``path`` (.csv or .jsonl): all of it, or the old file stays.

        A CSV has a column for every key of any record; a record without it leaves the cell empty.

        Raises:
            ValueError: another ending.
            OSError: the file could not be written; one that was there is as it was.
        """
        path = Path(path)
        if path.suffix not in (".csv", ".jsonl"):  # before it is opened: that would empty an existing file
            raise ValueError(f"history is saved as .csv or .jsonl; got {path.name!r}")
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                writer = csv.DictWriter(file, fieldnames=keys(self) or ["epoch"])
                writer.writeheader()
                writer.writerows(self)
            else:
                file.writelines(to_json(record, indent=None) + "\n" for record in self)


class Diverged(ArithmeticError):
    """Training met a value that is not finite.

    Attributes:
        step: the update (counted from 1) that met it; the weights are those from before it.
        layer: path of the first layer, in order of execution, with such a value; "" if it was found in the input or
            in the loss alone.
        history: the records of the epochs that were finished.
        diagnosis: of the network as it was at the start, see ``lab.diagnose``; None if the run was quiet.
    """

    def __init__(self, message: str, step: int, layer: str, history: History) -> None:
        super().__init__(message)
        self.step, self.layer, self.history = step, layer, history
        self.diagnosis: Any = None

    def explain(self, diagnosis: Any) -> None:
        """Hold the diagnosis, and print it with the message."""
        if diagnosis is not None:
            self.diagnosis = diagnosis
            self.add_note(f"The network as it was at the start: {diagnosis}")
