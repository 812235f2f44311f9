"""What lies in the folder when an experiment is over: tables, figures, results, and a page to be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minidl.experiment.draw import figures
from minidl.experiment.scoreboard import claimed_accuracies, scoreboard
from minidl.experiment.store import Store, version, write_atomically
from minidl.experiment.summary import caption, flat, markdown, rows, text_table
from minidl.text import to_json

__all__ = ["document", "printed", "write"]


def write(store: Store) -> dict[str, Any]:
    """Write table.md, results.json, results.md and the figures anew from the cells that are there.

    Returns:
        The content of results.json.
    """
    records = store.records()
    found = document(store, records)
    drawn = figures(records, found["title"], claimed_accuracies(records)) if records else {}
    for name, figure in drawn.items():
        figure.savefig(store.folder / name, dpi=150)
    write_atomically(store.folder / "table.md", f"{found['caption']}\n\n{markdown(rows(records))}")
    write_atomically(store.folder / "results.json", to_json(found))
    write_atomically(store.folder / "results.md", _page(found, records, sorted(drawn)))
    return found


def document(store: Store, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that was found, as one document."""
    asked = store.asked
    return {
        "schema": "minidl.experiment/1",
        "version": version(),
        "command": asked.get("command", ""),
        "title": asked.get("title", "Comparison"),
        "caption": caption(records),
        "cells": len(store.cells),
        "finished": len(records),
        "made_with": _made_with(records),
        "table": rows(records),
        "scoreboard": scoreboard(records),
        "records": flat(records),
    }


def printed(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The tables for a terminal."""
    parts = [text_table(records), found["caption"]]
    parts += [_in_lines(row) for row in found["scoreboard"]]
    return "\n\n".join(parts)


def _in_lines(row: Mapping[str, str]) -> str:
    """A row of the scoreboard for a terminal: as a table it is too wide."""
    body = [f"  {name:<10} {row[name]}" for name in ("claimed", "predicted", "measured") if row[name] != "–"]
    return "\n".join([f"{row['claim']}: {row['verdict']}", *body])


def _made_with(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Versions, dates and the time it took."""
    hows = [record["how"] for record in records]
    keys = ("minidl", "numpy", "python", "device")
    found: dict[str, Any] = {key: sorted({how[key] for how in hows}) for key in keys}
    dates = sorted(how["date"][:10] for how in hows)
    found["dates"] = sorted({dates[0], dates[-1]}) if dates else []
    return found | {"seconds_of_all_cells": round(sum(how["seconds"] for how in hows), 1)}


def _page(found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], drawn: Sequence[str]) -> str:
    """results.md: can be copied as it is, with the figures beside it."""
    made = found["made_with"]
    versions = ", ".join(f"{key} {' and '.join(made[key])}" for key in ("minidl", "numpy", "python", "device"))
    when = " to ".join(made["dates"])
    spent = f"{made['seconds_of_all_cells'] / 60:.0f} minutes of one thread in all"
    parts = [f"# {found['title']}", found["caption"], f"Made with `{found['command']}`; {versions}; {when}; {spent}."]
    if found["finished"] < found["cells"]:
        parts.append(f"**{found['finished']} of {found['cells']} cells are finished.**")
    if found["scoreboard"]:
        parts += ["## Claimed, predicted, measured", markdown(found["scoreboard"])]
    parts += ["## All cells", markdown(rows(records))]
    parts += [f"![{name.removesuffix('.png')}: {found['title']}]({name})" for name in drawn]
    return "\n\n".join(parts)
