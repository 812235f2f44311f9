"""``minidl compare`` where more is asked of it than the quick comparison: grids, presets, and going on with a run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidl import data, files
from minidl.backend import device_for
from minidl.experiment import report
from minidl.experiment.grid import Cell, Grid
from minidl.experiment.presets import preset
from minidl.experiment.runner import run as run_cells
from minidl.experiment.store import Store
from minidl.experiment.trial import build
from minidl.text import say

__all__ = ["ARGUMENTS", "asked", "run"]

#: The arguments that ask for more than the quick comparison.
ARGUMENTS = (
    *("preset", "reduced", "network", "losses", "optimizers", "norm", "seeds", "batch", "train_images", "steps"),
    *("jobs", "resume"),
)


def asked(args: argparse.Namespace) -> bool:
    """Whether one of ``ARGUMENTS`` was given, or more than one data set."""
    return any(_given(args, name) for name in ARGUMENTS) or len(args.data or ()) > 1


def run(args: argparse.Namespace, print_json: Callable[..., None]) -> int:
    """Begin an experiment or go on with one, then write and print what was found.

    Ctrl-C, as any other end, leaves a folder that can be resumed, and says how.
    """
    store = _resumed(args) if args.resume else _begun(args)
    try:
        run_cells(store, args.jobs or 1, quiet=args.quiet or args.json)
    except BaseException:
        left = len(store.missing()[0])
        if not args.quiet and left:
            say(f"{len(store.cells) - left} of {len(store.cells)} cells are stored; go on with: {_resume(store)}")
        raise
    found = report.write(store)
    if args.json:
        content = {k: v for k, v in found.items() if k not in ("schema", "version")}
        print_json("experiment", **content, folder=str(store.folder))
    else:
        print(report.printed(found, store.records()))
        if not args.quiet:
            print(f"\nresults  {store.folder}\nrepeat   {found['command']}\nagain    {_resume(store)}")
    return 0


def _resume(store: Store) -> str:
    return shlex.join(["minidl", "compare", "--resume", str(store.folder)])


def _resumed(args: argparse.Namespace) -> Store:
    """The store of ``--resume``, on the device on which it was begun."""
    names = [name for name in dict.fromkeys([*ARGUMENTS, *CHANGES, "seed"]) if name not in ("resume", "jobs")]
    others = [f"--{name.replace('_', '-')}" for name in names if _given(args, name)]
    if others:
        raise ValueError(f"--resume goes on with what was asked for in its folder; leave {', '.join(others)} out")
    store = Store.open(Path(args.resume))
    device = store.asked.get("device", "cpu")
    if args.backend != "auto" and device_for(args.backend) != device:
        raise ValueError(f"{args.resume} was begun on the {device}; one experiment is measured on one device")
    return store


def _given(args: argparse.Namespace, name: str) -> bool:
    value = getattr(args, name)
    return value is not None and (value is not False or name == "norm")


#: What the other arguments of the command change in a grid: argument -> (setting, value from argument).
CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "data": ("dataset", tuple),
    "network": ("network", tuple),
    "norm": ("norm", lambda norm: (norm,)),
    "activations": ("activation", tuple),
    "losses": ("loss", tuple),
    "optimizers": ("optimizer", tuple),
    "schemes": ("scheme", tuple),
    "epochs": ("epochs", int),
    "batch": ("batch_size", int),
    "train_images": ("train_images", int),
    "steps": ("steps", int),
    "depth": ("depth", int),
    "width": ("width", int),
    "lr": ("optimizer", lambda lr: (f"momentum:{lr:g}",)),
}


def grid_of(args: argparse.Namespace) -> tuple[str, Grid]:
    """Title and grid: those of the preset, or the quick comparison's; then each argument that was given.

    Raises:
        ValueError: an unknown preset, ``--reduced`` without a preset, ``--lr`` beside ``--optimizers``, or ``--depth``
            or ``--width`` without an mlp.
    """
    title, grid = "Comparison", Grid()
    if args.preset is not None:
        chosen = preset(args.preset)
        title, grid = chosen.title, chosen.grid.with_(**(chosen.reduced if args.reduced else {}))
    elif args.reduced:
        raise ValueError("--reduced is the smaller size of a preset; name one with --preset")
    if args.lr is not None and args.optimizers is not None:
        raise ValueError("--lr is that of momentum; with --optimizers write momentum:0.01 and the like")
    for name, (setting, value) in CHANGES.items():
        if _given(args, name):
            grid = grid.with_(**{setting: value(getattr(args, name))})
    if "mlp" not in grid.network and (_given(args, "depth") or _given(args, "width")):
        raise ValueError(f"--depth and --width are of the mlp; leave them out, or add it to {', '.join(grid.network)}")
    if _given(args, "seeds") or _given(args, "seed"):
        count = len(grid.seed) if args.seeds is None else args.seeds
        first = args.seed or 0
        if count < 1:
            raise ValueError(f"--seeds is how many seeds, at least 1; got {count}")
        grid = grid.with_(seed=tuple(range(first, first + count)))
    return title, grid


def _check(cells: list[Cell]) -> None:
    """Load all data and build each network once: what is missing or does not fit is missed now, not after an hour.

    The weights are zeros, for which nothing is drawn.

    Raises:
        ValueError: a network does not take such examples, or such an activation; or data are not here (DataError).
    """
    kinds = dict.fromkeys(
        replace(cell, scheme="zeros", loss=Cell.loss, optimizer=Cell.optimizer, seed=Cell.seed) for cell in cells
    )
    splits = {name: data.load(name) for name in dict.fromkeys(cell.dataset for cell in cells)}
    for cell in kinds:
        try:
            build(cell, splits[cell.dataset])
        except ValueError as error:
            what = f"the network {cell.network} with {cell.activation}"
            raise ValueError(f"{what} cannot be built for the images of {cell.dataset}: {error}") from error


def _begun(args: argparse.Namespace) -> Store:
    """A new store. Everything that can be wrong with the arguments is found before its folder is made."""
    device = device_for(args.backend)
    title, grid = grid_of(args)
    cells = grid.cells()
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs is how many cells run at a time, at least 1; got {args.jobs}")
    _check(cells)
    folder = files.run_folder(args.out, args.preset or "compare")
    store = Store.create(folder, cells, command=args.command_line, title=title, device=device, preset=args.preset)
    if not (args.quiet or args.json):
        say(f"{len(cells)} cells in {folder}; if it is interrupted, go on with: {_resume(store)}")
    return store
