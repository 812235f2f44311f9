"""Measure minidl beside PyTorch, and other frameworks on request: a table, and with --out a JSON file.

python -m benchmarks W1 W3 --threads 2 --out times.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minidl.text import open_output, to_json

from . import report, runner

RIVALS = runner.HERE.parent / ".venv-rivals" / "bin" / "python"


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help='W1 … W7, "W5 vgg6", slopes; default: all')
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="default: %(default)s")
    parser.add_argument("--with", dest="peers", default="", metavar="NAMES", help=f"also: {','.join(runner.PEERS)}")
    parser.add_argument("--rivals-python", default=str(RIVALS), metavar="PYTHON", help="where PyTorch is installed")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write settings, machine and all times there")
    return parser


def main(argv=None):
    """Measure, print, write; 1 if a framework failed, or its results did not agree with PyTorch's."""
    open_output(sys.stdout)
    parser = arguments()
    args = parser.parse_args(argv)
    peers = [name for name in args.peers.split(",") if name]
    if strange := set(peers) - set(runner.PEERS):
        parser.error(f"--with knows {', '.join(runner.PEERS)}; got {', '.join(sorted(strange))}")
    if not Path(args.rivals_python).exists():
        parser.error(f"there is no {args.rivals_python}; run benchmarks/make_rivals.sh, or give --rivals-python")
    try:
        works = report.chosen(args.workloads)
    except ValueError as error:
        parser.error(str(error))
    pythons = runner.own_python() | dict.fromkeys(["torch", "torch_tuned", *peers], args.rivals_python)
    settings, records = {"rounds": args.rounds, "threads": args.threads}, []
    for record in runner.measure_all(works, pythons, args.threads, args.rounds, _say):
        records.append(record)
        if args.out:  # after every one: a run that is broken off has not been for nothing
            args.out.write_text(to_json(report.document(records, **settings)), encoding="utf-8")
    print(report.tables(records))
    return int(any(record["note"] and not record["note"].startswith("not installed") for record in records))


def _say(line):
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
