"""The command line, ``minidl`` or ``python -m minidl``.

A command is one line of ``COMMANDS``: a function that adds its arguments and a function that runs it. Everything
heavy is imported inside the function that runs, so ``minidl --help`` is quick and works before NumPy is installed.
"""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl import files, text

__all__ = ["COMMANDS", "Command", "CommandError", "main"]

DONE, FINDING, USAGE, MISSING, BAD_INPUT = 0, 1, 2, 3, 4
INTERRUPTED, CLOSED_PIPE = 130, 141  # what a shell answers for SIGINT and SIGPIPE


class CommandError(Exception):
    """A command cannot go on: three short lines for the reader and an exit code for the shell.

    Args:
        what: what happened.
        why: the reason.
        fix: what to do.
        code: the exit code.
    """

    def __init__(self, what: str, why: str, fix: str, code: int) -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.code = what, why, fix, code


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, one line of help, its arguments, and what it does (returning the exit code)."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; default: those of this process.

    Returns:
        0 done, 1 a finding or a failed check, 2 wrong usage, 3 something is not installed, 4 bad input,
        130 interrupted, 141 the reader of the output has left; of a lesson, its own.
    """
    for stream in (sys.stdout, sys.stderr):
        text.open_output(stream)
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(arguments)
    args.command_line = shlex.join(["minidl", *arguments])
    try:
        return _run(args)
    except BrokenPipeError:  # the reader of our output has seen enough: `minidl lesson | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, built from ``COMMANDS``."""
    top = argparse.ArgumentParser(prog="minidl", description="See why a deep network does or does not train.")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(sub)
        _common_arguments(sub)
        sub.set_defaults(run=command.run)
    return top


def _common_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", metavar="DIR", default="minidl-out", help="folder for results (default: %(default)s)")
    sub.add_argument(
        "--backend",
        choices=("numpy", "cupy", "auto"),
        default="auto",
        help="where to compute; auto: $MINIDL_BACKEND, else CuPy if it finds a GPU, else NumPy",
    )
    sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    sub.add_argument("-q", "--quiet", action="store_true", help="no progress and no remarks, only the result")
    sub.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")


def _backend(asked: str) -> str:
    """The library that ``--backend`` means here. One that is missing raises: exit code 3."""
    from minidl.backend import device_for

    return "numpy" if device_for(asked) == "cpu" else "cupy"


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        sys.stdout.flush()  # a closed pipe must show here and not when Python ends
        return code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        answer = _explain(error)
        print(f"minidl: {answer.what}\n  why: {answer.why}\n  do:  {answer.fix}", file=sys.stderr)
        return answer.code


def _explain(error: Exception) -> CommandError:
    """Any error as what, why, what to do and an exit code."""
    what = " ".join(str(error).split()) or type(error).__name__
    match error:
        case CommandError():
            return error
        case RuntimeError() if type(error).__name__ == "MissingCapability":
            return CommandError(what, "this machine lacks it", "run: minidl doctor, or say --backend numpy", MISSING)
        case RuntimeError() if type(error).__name__ == "CellFailed":
            why = "a cell failed; those that were finished before are stored"
            return CommandError(what, why, "mend what the message says, then go on with --resume", FINDING)
        case ModuleNotFoundError():
            package = (error.name or "the package").split(".")[0]
            return CommandError(what, f"{package} is not installed here", "run: minidl doctor", MISSING)
        case ImportError():
            return CommandError(what, "a package is installed but does not load", "run: minidl doctor", MISSING)
        case OSError():
            return CommandError(what, "a file or folder cannot be used", "check the path, or choose --out", BAD_INPUT)
        case ValueError() if any(kind.__name__ == "DataError" for kind in type(error).__mro__):
            return CommandError(what, "the data set is not here as it should be", "see: minidl data list", BAD_INPUT)
        case ValueError():
            return CommandError(what, "an argument or a file does not fit", "correct it, see --help", BAD_INPUT)
    why = f"{type(error).__name__}: minidl did not expect this"
    return CommandError(what, why, "run again with -v and report what it prints", FINDING)


def print_json(schema: str, **content: Any) -> None:
    """Print one JSON document: the schema of its content, the version of minidl that wrote it, the content."""
    print(_document(schema, **content))


def _document(schema: str, **content: Any) -> str:
    from minidl import __version__

    return text.to_json({"schema": f"minidl.{schema}/1", "version": __version__, **content})


def _deliver(args: argparse.Namespace, name: str, table: str, figure: Any, **content: Any) -> None:
    """Write figure and results into a fresh folder; print the table, or with --json the results alone."""
    content = {"command": args.command_line, **content}
    folder = files.run_folder(args.out, name)
    figure.savefig(folder / f"{name}.png", dpi=150)
    (folder / "results.json").write_text(_document(name, **content), encoding="utf-8")
    if args.json:
        print_json(name, **content, folder=str(folder))
        return
    print(table)
    if not args.quiet:
        print(f"\nfigure   {folder / f'{name}.png'}\nresults  {folder / 'results.json'}\nrepeat   {args.command_line}")


# -- compare, variance, diagnose: what happens to signal and gradient, and what comes of it -------------------------


def compare_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl compare``; the second group asks for more than the quick comparison."""
    sub.add_argument("--seed", type=int, help="same seed, same numbers (default: 0)")
    sub.add_argument("--data", nargs="+", metavar="NAME", help="data sets (default: digits)")
    sub.add_argument("--depth", type=int, help="hidden layers of the mlp (default: 20)")
    sub.add_argument("--width", type=int, help="units in each of them (default: 100)")
    sub.add_argument("--schemes", nargs="+", metavar="NAME", help="default: the eight of the comparison")
    sub.add_argument("--activations", nargs="+", metavar="NAME", help="default: sigmoid tanh relu")
    sub.add_argument("--epochs", type=int, help="passes over the training part (default: 10)")
    sub.add_argument("--lr", type=float, help="learning rate, with momentum 0.9 (default: 0.01)")
    more = sub.add_argument_group("experiments, stored cell by cell", "any of these begins one; see docs/compare.md")
    more.add_argument("--preset", metavar="NAME", help="article activations losses architectures depth imagenet")
    more.add_argument("--reduced", action="store_true", help="the preset in its smaller size")
    more.add_argument("--network", nargs="+", metavar="NAME", help="lenet5 alexnet vgg11 googlenet resnet20 ...")
    more.add_argument("--losses", nargs="+", metavar="NAME", help="cross_entropy mse")
    more.add_argument("--optimizers", nargs="+", metavar="NAME:LR", help="adam:1e-3 momentum:1e-2 sgd:1e-2")
    more.add_argument("--norm", action=argparse.BooleanOptionalAction, help="batch normalization (default: none)")
    more.add_argument("--seeds", type=int, metavar="N", help="how many, from --seed on")
    more.add_argument("--batch", type=int, metavar="N", help="images per update (default: 64)")
    more.add_argument("--train-images", type=int, metavar="N", help="use so many, in each class alike (default: all)")
    more.add_argument("--steps", type=int, metavar="N", help="end each training after so many updates")
    more.add_argument("--jobs", type=int, metavar="N", help="cells at a time, each on one thread (default: 1)")
    more.add_argument("--resume", metavar="DIR", help="go on with the experiment in this folder, or report it anew")


def compare(args: argparse.Namespace) -> int:
    """Train deep networks on handwritten digits, scheme by scheme, or run a larger experiment that can be resumed."""
    from minidl import experiment
    from minidl.backend import device_for
    from minidl.experiment import commands

    if commands.asked(args):
        return commands.run(args, print_json)
    chosen = {"depth": args.depth, "width": args.width, "epochs": args.epochs, "lr": args.lr}
    found = experiment.compare(
        args.schemes,
        tuple(args.activations or experiment.ACTIVATIONS),
        dataset=args.data[0] if args.data else "digits",
        **{name: value for name, value in chosen.items() if value is not None},
        seed=args.seed or 0,
        device=device_for(args.backend),
        quiet=args.quiet,
    )
    _deliver(args, "compare", str(found), found.figure(), settings=found.settings, records=found.records)
    return DONE


def variance_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl variance``."""
    sub.add_argument("--seed", type=int, default=0, help="same seed, same numbers (default: %(default)s)")
    sub.add_argument("--data", default="digits", metavar="NAME", help="data set (default: %(default)s)")
    sub.add_argument("--depth", type=int, default=20, help="hidden layers (default: %(default)s)")
    sub.add_argument("--width", type=int, default=100, help="units in each hidden layer (default: %(default)s)")
    sub.add_argument("--activation", default="relu", metavar="NAME", help="default: %(default)s")
    sub.add_argument("--init", default=None, metavar="SCHEME", help="default: the usual one for the activation")


def variance(args: argparse.Namespace) -> int:
    """Measure one network before training, layer by layer: table and figure."""
    from minidl import experiment
    from minidl.backend import device_for

    report = experiment.variance(
        activation=args.activation,
        scheme=args.init,
        dataset=args.data,
        depth=args.depth,
        width=args.width,
        seed=args.seed,
        device=device_for(args.backend),
    )
    content = {"settings": report.settings, "loss": report.loss, "records": report.records}
    _deliver(args, "variance", str(report), report.figure(), **content)
    return DONE


def diagnose_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl diagnose``."""
    sub.add_argument("network", metavar="NETWORK", help="mlp lenet5 vgg11 resnet20 ..., or a file: FILE.py:make_model")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same numbers (default: %(default)s)")
    sub.add_argument(
        "--data", metavar="NAME", help="data set (default: digits; of a file, its make_batch if it has one)"
    )
    sub.add_argument("--batch", type=int, default=256, metavar="N", help="inputs to measure on (default: %(default)s)")
    sub.add_argument(
        "--trial",
        type=int,
        metavar="STEPS",
        help="steps of the trial at each rate; 0: none (default: up to 300, and 20 s)",
    )
    built_in = sub.add_argument_group("of the built-in networks")
    built_in.add_argument("--activation", metavar="NAME", help="default: relu")
    built_in.add_argument("--init", metavar="SCHEME", help="default: the usual one for the activation")
    built_in.add_argument("--norm", action=argparse.BooleanOptionalAction, help="batch normalization")
    built_in.add_argument("--depth", type=int, help="hidden layers of the mlp (default: 20)")
    built_in.add_argument("--width", type=int, help="units in each of them (default: 100)")


def diagnose(args: argparse.Namespace) -> int:
    """Will it train, and if not why and what to do? Ends with 1 if there is a finding."""
    from minidl.experiment.diagnose import document, run

    found = run(args)
    _deliver(args, "diagnose", f"{found.report.title}: {found}", found.figure(), **document(found))
    return FINDING if found.failed else DONE


# -- init: the schemes and their passports -------------------------------------------------------------------------


def init_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl init``."""
    sub.add_argument("action", choices=("list", "show"), help="list the schemes, or show one; list needs no name")
    sub.add_argument("name", nargs="?", metavar="NAME", help='he_normal, "normal(std=0.05)"; see: minidl init list')
    sub.add_argument("--fan-in", type=int, default=256, metavar="N", help="inputs of a layer (default: %(default)s)")
    sub.add_argument("--fan-out", type=int, default=256, metavar="N", help="its outputs (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same weights (default: %(default)s)")


def init(args: argparse.Namespace) -> int:
    """List the schemes of initialization, or show the passport of one: its page, and its figure as a file."""
    from minidl import init as schemes

    if args.action == "list":
        rows = [_scheme_row(schemes.registry.entry(name)) for name in schemes.names()]
        if args.json:
            print_json("init-list", schemes=rows)
        else:
            print(text.table(rows, {"name": "name", "law": "formula"}))
            if not args.quiet:
                print("\nShow one with: minidl init show NAME")
        return DONE
    if args.name is None:
        fix = "run: minidl init list"
        raise CommandError("init show needs a name", "there is a passport for every scheme", fix, USAGE)
    from minidl.experiment.grid import initializer
    from minidl.lab.passport import scheme_passport

    found = scheme_passport(initializer(args.name), fan_in=args.fan_in, fan_out=args.fan_out, seed=args.seed)
    content = {"formula": found.formula, "settings": found.settings, "weights": found.weights, "records": found.records}
    _deliver(args, "init", str(found).rstrip(), found.figure(), **content)
    return DONE


def _scheme_row(entry: Any) -> dict[str, Any]:
    """One scheme with its default parameters, as a flat record."""
    made = entry.factory()
    names = {"name": entry.name, "family": entry.family, "law": made.law}
    return names | {"parameters": dict(made.params), "aliases": list(entry.aliases)}


# -- data ----------------------------------------------------------------------------------------------------------


def data_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl data``."""
    sub.add_argument("action", choices=("list", "get", "verify", "show"), help="what to do; list needs no name")
    sub.add_argument("name", nargs="?", metavar="NAME", help="the data set, see: minidl data list")
    sub.add_argument("--root", metavar="DIR", help="folder of the files (default: $MINIDL_DATA, the user's cache)")
    sub.add_argument("--seed", type=int, default=0, help="draws the examples to show (default: %(default)s)")


def data(args: argparse.Namespace) -> int:
    """List the data sets, fetch one, check its files, or draw some of its examples."""
    from minidl.data.commands import run

    return run(args, print_json)


# -- lesson --------------------------------------------------------------------------------------------------------

# The lesson keeps this interpreter's minidl, and prints plain signs where the terminal knows no others.
RUN_LESSON = """
import runpy, sys
package, *sys.argv = sys.argv[1:]
sys.path.append(package)
from minidl.text import open_output
open_output(sys.stdout)
open_output(sys.stderr)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Lesson:
    """One lesson: its number, its title and its script."""

    number: int
    title: str
    path: Path


def lesson_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl lesson``."""
    sub.add_argument("number", nargs="?", type=int, metavar="N", help="the lesson to run; without it: list them")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--fast", action="store_true", help="smaller networks, fewer seeds: a quick look")
    how.add_argument("--notebook", action="store_true", help="do not run it: write it as a Jupyter notebook")


def lesson(args: argparse.Namespace) -> int:
    """List the lessons, run one in a fresh folder and pass on its exit code, or write it there as a notebook."""
    known = lessons()
    if args.number is not None:
        act = _write_notebook if args.notebook else _run_lesson
        return act(_find_lesson(known, args.number), args)
    if args.notebook:
        fix = "run: minidl lesson N --notebook"
        raise CommandError("--notebook needs a number", "it writes one lesson", fix, USAGE)
    if args.json:
        print_json("lessons", lessons=[{"number": each.number, "title": each.title} for each in known])
    else:
        print("\n".join(f"{each.number:>3}  {each.title}" for each in known))
        if not args.quiet:
            print("\nRun one with: minidl lesson N")
    return DONE


def lessons() -> list[Lesson]:
    """The lessons that come with minidl, by number."""
    paths = sorted(files.folder("lessons").glob("[0-9][0-9]_*.py"))
    return [Lesson(int(path.name[:2]), _title(path), path) for path in paths]


def _title(path: Path) -> str:
    """The first Markdown title of a ``# %%`` script."""
    found = re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1].strip() if found else path.stem


def _find_lesson(known: list[Lesson], number: int) -> Lesson:
    for each in known:
        if each.number == number:
            return each
    numbers = ", ".join(str(each.number) for each in known) or "none"
    raise CommandError(f"there is no lesson {number}", f"the lessons are: {numbers}", "run: minidl lesson", USAGE)


def _run_lesson(each: Lesson, args: argparse.Namespace) -> int:
    backend = _backend(args.backend)
    folder = files.run_folder(args.out, f"lesson-{each.number:02d}").resolve()
    package = str(Path(text.__file__).resolve().parent.parent)
    settings = {"MPLBACKEND": "Agg", "MINIDL_BACKEND": backend} | ({"MINIDL_FAST": "1"} if args.fast else {})
    # In JSON mode the lesson speaks on stderr: stdout is for the one document.
    code = subprocess.run(
        [sys.executable, "-c", RUN_LESSON, package, str(each.path)],
        cwd=folder,
        env=os.environ | settings,
        stdout=sys.stderr if args.json else None,
    ).returncode
    code = code if code >= 0 else 128 - code  # ended by a signal: what a shell would answer
    if args.json:
        written = sorted(path.name for path in folder.iterdir())
        print_json("lesson", number=each.number, title=each.title, exit_code=code, folder=str(folder), files=written)
    elif not args.quiet:
        print(f"\nwritten to {folder}")
    return code


def _write_notebook(each: Lesson, args: argparse.Namespace) -> int:
    folder = files.run_folder(args.out, f"lesson-{each.number:02d}").resolve()
    path = folder / f"{each.path.stem}.ipynb"
    path.write_text(text.to_json(notebook(each.path.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")
    if args.json:
        print_json("lesson-notebook", number=each.number, title=each.title, notebook=str(path))
    else:
        print(path)
    return DONE


def notebook(script: str) -> dict[str, Any]:
    """A ``# %%`` script as a notebook, nbformat 4.5: a cell begins at each mark, Markdown loses its comment signs.

    Args:
        script: the source; what stands before its first mark is dropped.

    Returns:
        The document, ready for JSON; no cell has been run.
    """
    parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]  # mark, source, mark, source, ...
    cells = [_cell(*part) for part in zip(range(len(parts)), parts[::2], parts[1::2], strict=False)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, mark: str, source: str) -> dict[str, Any]:
    """One cell of a notebook."""
    lines = source.strip("\n").split("\n")
    kind: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
    if mark.strip() == "[markdown]":
        lines, kind = [re.sub("^# ?", "", line) for line in lines], {"cell_type": "markdown"}
    return kind | {"id": f"cell-{number:02d}", "metadata": {}, "source": "\n".join(lines)}


# -- course --------------------------------------------------------------------------------------------------------


def course_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl course``."""
    sub.add_argument("action", choices=("handout", "check", "grade"), help="check is for students")
    sub.add_argument("assignment", nargs="?", metavar="ASSIGNMENT", help="A2; check finds it by its file")
    sub.add_argument("paths", nargs="*", metavar="PATH", help="folder of the hand-out, or the submissions")
    sub.add_argument("--secret", metavar="S", help="grade: of the course (default: $MINIDL_COURSE_SECRET)")
    sub.add_argument("--student", metavar="NAME", help="grade: whose it is (default: the name of the folder or file)")
    sub.add_argument("--seconds", type=float, default=10.0, metavar="N", help="for a function (default: %(default)s)")


def course(args: argparse.Namespace) -> int:
    """Hand an assignment out, check one's own work, grade submissions."""
    from minidl.course.commands import run

    return run(args, print_json)


# -- bench ---------------------------------------------------------------------------------------------------------


def bench_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl bench``."""
    sub.add_argument("workloads", nargs="*", metavar="WORKLOAD", help='W1 ... W7, "W5 vgg6", slopes; default: all')
    sub.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="numbers to try (default: 1)")
    sub.add_argument("--rounds", type=int, default=20, help="times each is measured (default: %(default)s)")


def bench(args: argparse.Namespace) -> int:
    """How long minidl takes for a training step of each workload, and how much memory, on this machine."""
    if args.backend == "cupy" and _backend("cupy"):  # one that is missing ends with 3 here
        fix = "leave --backend out, or say numpy"
        raise CommandError("bench measures on the processor alone", "its workloads are those of NumPy", fix, USAGE)
    if (least := min(args.rounds, *args.threads)) < 1:
        raise ValueError(f"--rounds and --threads are numbers of at least 1; got {least}")
    runner, report = _benchmarks("runner"), _benchmarks("report")
    say = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    works, own = report.chosen(args.workloads), runner.own_python()
    records = list(runner.measure_all(works, own, args.threads, args.rounds, say))
    document = report.document(records, command=args.command_line, rounds=args.rounds, threads=args.threads)
    folder = files.run_folder(args.out, "bench")
    (folder / "results.json").write_text(text.to_json(document), encoding="utf-8")
    print(text.to_json(document | {"folder": str(folder)}) if args.json else report.tables(records))
    if not args.json and not args.quiet:
        print(f"\nresults  {folder / 'results.json'}\nrepeat   {args.command_line}")
    return FINDING if any(record["note"] for record in records) else DONE


def _benchmarks(name: str) -> Any:
    """A module of the folder ``benchmarks``, which is no package of the installation."""
    if "minidl_benchmarks" not in sys.modules:
        folder = files.folder("benchmarks")
        spec = importlib.util.spec_from_file_location(
            "minidl_benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        sys.modules["minidl_benchmarks"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"minidl_benchmarks.{name}")


# -- doctor --------------------------------------------------------------------------------------------------------


def doctor_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``minidl doctor``: none of its own."""


def doctor(args: argparse.Namespace) -> int:
    """Look at this machine: Python, NumPy, GPU, figures, folders, terminal."""
    from minidl import doctor as examiner

    checks = examiner.examine(args.out)
    if args.json:
        print_json("doctor", status=examiner.worst(checks), checks=[vars(check) for check in checks])
    else:
        print(examiner.report([check for check in checks if check.status != "ok" or not args.quiet]))
    if args.backend == "cupy":
        _backend("cupy")  # asked for by name: what is missing is then no remark but an error
    return FINDING if examiner.worst(checks) == "fail" else DONE


COMMANDS = (
    Command("compare", "train deep networks, scheme by scheme, and compare", compare_arguments, compare),
    Command("variance", "signal and gradient of one network, layer by layer", variance_arguments, variance),
    Command("diagnose", "will this network train? if not, why, and what to do", diagnose_arguments, diagnose),
    Command("init", "list the schemes of initialization, show one", init_arguments, init),
    Command("data", "list, fetch, check and show data sets", data_arguments, data),
    Command("lesson", "list the lessons, or run one", lesson_arguments, lesson),
    Command("course", "hand assignments out, check and grade them", course_arguments, course),
    Command("bench", "how fast is minidl on this machine?", bench_arguments, bench),
    Command("doctor", "is this machine ready?", doctor_arguments, doctor),
)
