"""Run the cells that are missing from a store, one after the other or several side by side."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from minidl.experiment.grid import Cell
from minidl.experiment.store import Store
from minidl.experiment.trial import measure
from minidl.text import progress, say

__all__ = ["CellFailed", "run"]


class CellFailed(RuntimeError):
    """The process of a cell ended without storing it."""


def run(store: Store, jobs: int = 1, quiet: bool = False) -> None:
    """Measure what is missing, and store every cell the moment it is finished.

    Args:
        store: where.
        jobs: cells at a time, each in a process of its own if there is more than one; the results are the same.
        quiet: say nothing on stderr.

    Raises:
        CellFailed: the process of a cell died; the message says how.
        ValueError: fewer than one job, or another process works in the folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs is the number of cells that run at a time, at least 1; got {jobs}")
    with store.alone():
        cells, complaints = store.missing()
        tell = (lambda line: None) if quiet else say
        for complaint in complaints:
            tell(f"{complaint}; it runs again")
        done = len(store.cells) - len(cells)
        if done and cells:
            tell(f"{done} of {len(store.cells)} cells are there, {len(cells)} to go")
        finished = _one_by_one(store, cells) if jobs == 1 else _side_by_side(store, cells, jobs)
        shown = finished if quiet else progress(finished, len(cells), "cells")
        for number, cell in enumerate(shown, done + 1):
            tell(f"{number}/{len(store.cells)}  {_outcome(store, cell)}")


def _one_by_one(store: Store, cells: list[Cell]) -> Iterator[Cell]:
    for cell in cells:
        _finish(store, cell)
        yield cell


def _finish(store: Store, cell: Cell) -> None:
    store.write(cell, measure(cell, store.asked.get("device", "cpu"), store.checkpoint(cell)))


def _side_by_side(store: Store, cells: list[Cell], jobs: int) -> Iterator[Cell]:
    """Workers in processes of their own; each gets a cell, says when it has stored it, and gets the next."""
    waiting = iter(cells)
    workers: dict[Any, Any] = {}
    doing: dict[Any, Cell] = {}
    try:
        for cell in itertools.islice(waiting, jobs):
            pipe, process = _worker(store)
            workers[pipe], doing[pipe] = process, cell
            pipe.send(cell)
        while doing:
            ready: list[Any] = wait(list(doing))
            for pipe in ready:
                cell = doing.pop(pipe)
                if not _says_done(pipe):
                    raise CellFailed(_why(cell, workers[pipe]))
                following = next(waiting, None)
                if following is not None:
                    doing[pipe] = following
                    pipe.send(following)
                yield cell
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


def _worker(store: Store) -> tuple[Any, Any]:
    """Our end of a pipe, and the process at its other end."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it does not copy
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(str(store.folder), theirs), daemon=True)
    process.start()
    theirs.close()  # so that its death closes the pipe
    return ours, process


def _work(folder: str, pipe: Any) -> None:
    """What a worker does. It ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    store = Store.open(Path(folder))
    while True:
        cell = pipe.recv()
        _finish(store, cell)
        pipe.send(cell.key)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _says_done(pipe: Any) -> bool:
    try:
        pipe.recv()
    except (EOFError, OSError):
        return False
    return True


def _why(cell: Cell, process: Any) -> str:
    process.join()
    code = process.exitcode
    if code == -9:
        return f"the process of the cell [{cell}] was killed (signal 9): out of memory? Use fewer --jobs"
    said = f"signal {-code}" if code < 0 else f"exit code {code}, see its message above"
    return f"the process of the cell [{cell}] ended with {said}"


def _outcome(store: Store, cell: Cell) -> str:
    """One line about a finished cell."""
    measured = store.read(cell)
    assert measured is not None
    result = measured["result"]
    accuracy = result.get("test_accuracy")
    said = f"test accuracy {100 * accuracy:.2f} %, " if accuracy is not None else ""
    return f"{cell}: {said}{result['verdict']}, {measured['how']['seconds']:.0f} s"
