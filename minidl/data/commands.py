"""``minidl data list | get NAME | verify NAME | show NAME``."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidl.data.errors import DataError
from minidl.data.fileset import Check
from minidl.data.registry import entry, load, names
from minidl.files import run_folder
from minidl.text import table

__all__ = ["run"]

DONE, FINDING = 0, 1


def run(args: argparse.Namespace, print_json: Callable[..., None]) -> int:
    """Do it.

    Args:
        args: the parsed arguments, with ``out``, ``json`` and ``quiet``.
        print_json: prints a schema's name and its content as one JSON document, for ``--json``.

    Returns:
        The exit code: 0 done, 1 ``verify`` found a file that is not as it should be.

    Raises:
        ValueError: no name, or an unknown one.
        DataError: the files are missing or malformed.
    """
    if args.action != "list" and args.name is None:
        raise ValueError(f"minidl data {args.action} needs a name: one of {', '.join(names())}")
    root = None if args.root is None else Path(args.root).expanduser()
    action = {"list": _list, "get": _get, "verify": _verify, "show": _show}[args.action]
    return action(args, root, print_json if args.json else None)


Printer = Callable[..., None] | None


def _list(_: argparse.Namespace, root: Path | None, print_json: Printer) -> int:
    """Every data set: what it is, and where its files are."""
    rows = [{"name": name, "where": _where(name, root), "what": _what(name)} for name in names()]
    if print_json:
        print_json("data-list", sets=rows)
    else:
        print(table(rows))
    return DONE


def _where(name: str, root: Path | None) -> str:
    files = entry(name).files
    if files is None:
        return "with minidl"
    found = files.find(root)
    if found:
        return str(found)
    size = sum(file.size for file in files.downloads)
    return f"to download ({size / 1e6:.0f} MB)" if size else "to place by hand"


def _what(name: str) -> str:
    """The beginning of the description, up to the first mark."""
    return re.split(r"[:;,.]", inspect.getdoc(entry(name).source) or "")[0]


def _get(args: argparse.Namespace, root: Path | None, print_json: Printer) -> int:
    """Make sure that the files are here."""
    files = entry(args.name).files
    where = str(files.get(root)) if files else "with minidl"
    if print_json:
        print_json("data-get", name=args.name, where=where)
    else:
        print(f"{args.name}: {where}")
    return DONE


def _verify(args: argparse.Namespace, root: Path | None, print_json: Printer) -> int:
    """Check every file: by checksum where one is known, else by structure."""
    where, checks = _checks(args.name, root)
    failed = [check for check in checks if not check.ok]
    if print_json:
        print_json("data-verify", name=args.name, where=where, ok=not failed, files=[vars(check) for check in checks])
        return FINDING if failed else DONE
    for check in checks:
        if not check.ok or (check.remark and not args.quiet):
            print(f"{'ok' if check.ok else 'BAD':<4} {check.file}: {check.remark}")
    print(f"{args.name}, {where}: {len(checks) - len(failed)} of {len(checks)} files are as they should be")
    return FINDING if failed else DONE


def _checks(name: str, root: Path | None) -> tuple[str, list[Check]]:
    """Where the files were found, and one check for each."""
    files = entry(name).files
    if files is None:
        try:
            load(name, root)
        except DataError as error:
            return "with minidl", [Check(name, False, str(error))]
        return "with minidl", [Check(name, True, "comes with minidl: shipped with its SHA-256, or generated")]
    found = files.find(root)
    if found is None:
        raise DataError(f"{name}: its files are not here; get them with: minidl data get {name}")
    return str(found), list(files.verify(found))


def _show(args: argparse.Namespace, root: Path | None, print_json: Printer) -> int:
    """Draw a contact sheet and the class histogram, and print the histogram."""
    from minidl.data.show import figure

    split = load(args.name, root, seed=args.seed, normalize=False)
    path = run_folder(args.out, f"data-{args.name}") / "examples.png"
    figure(split, args.seed).savefig(path, dpi=150)
    counts = zip(split.classes, split.train.counts().tolist(), split.test.counts().tolist(), strict=True)
    rows: list[dict[str, Any]] = [{"class": name, "train": train, "test": test} for name, train, test in counts]
    if print_json:
        print_json("data-show", name=args.name, figure=str(path), shape=list(split.train.shape), classes=rows)
        return DONE
    print(f"{args.name}: {len(split.train)} training and {len(split.test)} test examples of shape {split.train.shape}")
    if not args.quiet:
        print(table(rows))
    print(f"figure: {path}")
    return DONE
