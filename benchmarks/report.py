"""The records as one document, and as tables for people."""

from __future__ import annotations

import datetime
import math
import os
import platform
from itertools import groupby
from pathlib import Path

from minidl import __version__
from minidl.text import table, unknown

from .workloads import SLOPES, WORKLOADS

REFERENCE = "torch"
COLUMNS = {
    "workload": "workload",
    "threads": "threads",
    "framework": "framework",
    "ms": "ms",
    "ms_q1": "q1",
    "ms_q3": "q3",
    "ratio": "ratio",
    "goal": "goal",
    "above_import_mb": "MB used",
    "peak_mb": "MB all",
}


def chosen(words):
    """The workloads whose names begin with one of the words; without words all.

    Raises:
        ValueError: a word fits none.
    """
    works = [*WORKLOADS, *SLOPES]
    for word in words:
        if not any(_fits(work, word) for work in works):
            raise unknown("workload", word, {work.name.split()[0] for work in works})
    return [work for work in works if not words or any(_fits(work, word) for word in words)]


def _fits(work, word):
    return work.name.lower().startswith(word.lower().removesuffix("s" if word.lower() == "slopes" else ""))


def document(records, **settings):
    """Everything a reader needs to judge the numbers: settings, machine, date, records."""
    return {
        "schema": "minidl.bench/1",
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": settings,
        "records": with_memory_ratios(records),
    }


def machine():
    """What computed, and how busy it was."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
    }


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def with_memory_ratios(records):
    """The records, each with its peaks relative to idiomatic PyTorch's on the same workload."""
    peaks = {(r["workload"], r["threads"]): r for r in records if r["framework"] == REFERENCE and "peak_mb" in r}
    found = []
    for record in records:
        base = peaks.get((record["workload"], record["threads"]))
        keys = ("above_import_mb", "peak_mb") if base and "peak_mb" in record else ()
        found.append(record | {f"{key}_ratio": record[key] / base[key] if base[key] else None for key in keys})
    return found


def main_table(records):
    """One line for each workload, number of threads and framework, and what could not be measured."""
    rows = [r | {"ms": _ms(r, "median"), "ms_q1": _ms(r, "q1"), "ms_q3": _ms(r, "q3")} for r in records]
    notes = [f"{r['workload']}, {r['framework']}: no time counts, {r['note']}" for r in rows if r["note"]]
    return "\n".join([table([r for r in rows if not r["note"]], COLUMNS), *dict.fromkeys(notes)])


def _ms(record, key):
    return 1e3 * record[key] if key in record else None


def slopes(records):
    """Step time by batch and depth, with the exponent from one size to the next: 1 is linear."""
    rows = []
    for (sweep, threads), group in groupby(_in_sweeps(records), lambda r: (r["sweep"], r["threads"])):
        frameworks = {}
        for record in group:
            frameworks.setdefault(record["framework"], []).append(record)
        sizes = sorted({r["size"] for records in frameworks.values() for r in records})
        for size in sizes:
            rows.append({"sweep": sweep, "threads": threads, "size": size})
            for name, members in frameworks.items():
                rows[-1] |= _slope(name, members, size)
    return rows


def _in_sweeps(records):
    members = [r for r in records if r["sweep"] and "median" in r]
    return sorted(members, key=lambda r: (r["sweep"], r["threads"], r["size"]))


def _slope(name, members, size):
    """The milliseconds at a size, and the exponent that led there from the size before."""
    times = {r["size"]: r["median"] for r in members}
    smaller = [s for s in times if s < size]
    exponent = None
    if size in times and smaller:
        before = max(smaller)
        exponent = math.log(times[size] / times[before]) / math.log(size / before)
    return {f"{name} ms": 1e3 * times[size] if size in times else None, f"{name} exponent": exponent}


def tables(records):
    """All tables as one text."""
    plain, sweeps = [r for r in records if not r["sweep"]], slopes(records)
    parts = [main_table(plain)] if plain else []
    return "\n\n".join([*parts, *([table(sweeps)] if sweeps else [])])
