"""Make the pages on the article's advice: warm-start, layer-rates, rate-windows, correlation.

    python docs/results/advice.py                # all four: a quarter of an hour on one core
    python docs/results/advice.py correlation    # this one

Needs MNIST: see ``minidl data list``.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from minidl import threads
from minidl.experiment.advice import EXPERIMENTS
from minidl.experiment.store import version
from minidl.text import to_json

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}; default: all")
    names = parser.parse_args().names
    unknown = set(names) - EXPERIMENTS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}")
    for name in names or EXPERIMENTS:
        with threads.limited(1):  # so that the numbers do not depend on the machine's cores
            found = EXPERIMENTS[name](quiet=False)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        versions = f"minidl {version()}, numpy {np.__version__}, python {platform.python_version()}"
        made = f"Made with `python docs/results/advice.py {name}`; {versions}; {datetime.now(UTC):%Y-%m-%d}; "
        made += f"{len(found.records)} trainings."
        found.figure().savefig(folder / "figure.png", dpi=100)
        (folder / "README.md").write_text(found.page(made, "figure.png"), encoding="utf-8")
        document = {
            "schema": "minidl.advice/1",
            "version": version(),
            "command": f"python docs/results/advice.py {name}",
        }
        document |= {"title": found.title, "setting": found.setting, "table": found.table, "records": found.records}
        (folder / "results.json").write_text(to_json(document), encoding="utf-8")
        print(f"{name}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
