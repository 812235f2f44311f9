"""A folder of measurements: what was asked for, and one file for each cell that is finished.

Every file is written beside its place, brought to the disk and then renamed into it: a file that is there is whole,
whenever the process or the machine stopped. So a run that was killed goes on where it was, and repeats no cell that it
had finished.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from minidl.data import DataError
from minidl.data.lock import locked
from minidl.experiment.grid import Cell
from minidl.files import replacing
from minidl.text import to_json

__all__ = ["Store", "version", "write_atomically"]

SCHEMA, CELL_SCHEMA = "minidl.grid/1", "minidl.cell/1"


class Store:
    """The folder of one experiment.

    Args:
        folder: where it is.
        asked: content of ``grid.json``: the cells asked for, in order, and how they were asked for.
    """

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.folder, self.asked = folder, asked
        self.cells = [Cell(**settings) for settings in asked["cells"]]

    @classmethod
    def create(cls, folder: Path, cells: list[Cell], **asked: Any) -> Store:
        """Write down what is asked for, before anything is measured.

        Args:
            folder: an existing, empty folder.
            cells: what to measure.
            asked: whatever else shall be known on the day it is resumed: command, title, device, preset.
        """
        content = {"schema": SCHEMA, "version": version(), **asked, "cells": [c.settings() for c in cells]}
        write_atomically(folder / "grid.json", to_json(content))
        return cls(folder, content)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store in a folder that ``create`` made.

        Raises:
            ValueError: there is none, or its ``grid.json`` is not readable or of another version of minidl.
        """
        path = folder / "grid.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no grid.json, so no comparison was begun there; give the folder of one")
        try:
            asked = json.loads(path.read_text(encoding="utf-8"))
            if asked["schema"] != SCHEMA:
                raise ValueError(f"its schema is {asked['schema']!r}, not {SCHEMA!r}")
            return cls(folder, asked)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be used ({error}); begin anew without --resume") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process works in the folder inside this block; what a killed one left half-written is removed.

        Raises:
            ValueError: another process is working in it.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / ".lock", patience=0.0))
            except DataError:
                raise ValueError(f"another process is working in {self.folder}; wait until it has ended") from None
            for place in (self.folder, self.folder / "cells", self.folder / "checkpoints"):
                for leftover in place.glob("*.part"):  # as ``replacing`` calls what is not complete
                    leftover.unlink(missing_ok=True)
            yield

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / "cells" / f"{cell.key}.json"

    def checkpoint(self, cell: Cell) -> Path:
        """Where a cell keeps its training while it runs."""
        return self.folder / "checkpoints" / f"{cell.key}.npz"

    def write(self, cell: Cell, measured: dict[str, Any]) -> None:
        """Store a finished cell; its checkpoint is not needed any more."""
        content = json.loads(to_json({"schema": CELL_SCHEMA, "cell": cell.settings(), **measured}))
        content["checksum"] = _checksum(content)
        write_atomically(self.path(cell), to_json(content))
        self.checkpoint(cell).unlink(missing_ok=True)

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """What was stored of a cell; None if it is not finished.

        Raises:
            ValueError: its file is damaged, or speaks of another cell.
        """
        path = self.path(cell)
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            checksum = content.pop("checksum")
            whole = content["schema"] == CELL_SCHEMA and checksum == _checksum(content)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: it is no stored cell ({error})") from None
        if not whole:
            raise ValueError(f"{path} is damaged: its checksum does not fit")
        if content["cell"] != json.loads(to_json(cell.settings())):
            raise ValueError(f"{path} speaks of another cell: {content['cell']}")
        return content

    def missing(self) -> tuple[list[Cell], list[str]]:
        """The cells still to be run, and what is wrong with the files that are there and cannot be used."""
        left, complaints = [], []
        for cell in self.cells:
            try:
                if self.read(cell) is None:
                    left.append(cell)
            except ValueError as error:
                left.append(cell)
                complaints.append(str(error))
        return left, complaints

    def records(self) -> list[dict[str, Any]]:
        """The finished cells in the order in which they were asked for: ``{"cell": …, "result": …, "how": …}``."""
        found = []
        for cell in self.cells:
            with suppress(ValueError):  # of a damaged file ``missing`` speaks
                found.append(self.read(cell))
        return [record for record in found if record is not None]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that ``path`` holds the old content or the new, never a part of it.

    Raises:
        OSError: it could not be written; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")


def version() -> str:
    """The version of minidl. The package is above this floor of the house, but it is loaded whenever this is."""
    return str(sys.modules["minidl"].__version__)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
