"""``minidl diagnose``: the diagnosis of a built-in network, or of one in a file of the user's."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl import data
from minidl.backend import device_for
from minidl.experiment import networks
from minidl.experiment.grid import initializer
from minidl.lab.explain import Diagnosis, diagnose
from minidl.lab.trial import check_steps
from minidl.nn import Module

__all__ = ["Target", "batch_of", "document", "load_target", "run"]

FEWEST = 2  # inputs that can differ
BUILT_IN = ("activation", "init", "norm", "depth", "width")  # options of the built-in networks alone


@dataclass(frozen=True)
class Target:
    """What is to be diagnosed: a network, a batch for it, and its name for people."""

    name: str
    model: Module
    x: Any
    y: Any


def run(args: argparse.Namespace) -> Diagnosis:
    """The diagnosis that the parsed arguments ask for; its report is titled with the name of what was diagnosed.

    Raises:
        ValueError: a file, a function or a batch that is not as it should be; the message says which and why.
    """
    check_steps(args.trial)
    with redirect_stdout(sys.stderr):  # what a file of the user's prints is not part of our document
        target = _own(args) if _is_file(args.network) else _built_in(args)
        try:
            found = diagnose(target.model, target.x, target.y, trial=args.trial)
        except Exception as error:
            raise ValueError(f"the batch does not fit {target.name}: {_last_line(error)}") from error
    found.report.title = target.name
    return found


def document(found: Diagnosis) -> dict[str, Any]:
    """All that was found, for a file."""
    primary = found.primary
    return {
        "network": found.report.title,
        "verdict": found.level,
        "failed": found.failed,
        "primary": None if primary is None else primary.rule,
        "findings": found.records,
        "skipped": found.skipped,
        "loss": found.report.loss,
        "trial": None if found.evidence.trial is None else found.evidence.trial.records,
        "records": found.report.records,
    }


def _is_file(spec: str) -> bool:
    """``model.py:make_model`` or ``model.py``, and no name of a network."""
    return spec.partition(":")[0].endswith(".py") or ":" in spec or "/" in spec or "\\" in spec


# ---- built-in networks


def _built_in(args: argparse.Namespace) -> Target:
    """The network for the data that were asked for; else for digits, or for shapes if it needs larger images."""
    given = [n for n in (args.depth, args.width) if n is not None]
    if args.network != "mlp" and given:
        raise ValueError(f"--depth and --width are of the mlp; {args.network} has its own")
    if given and min(given) < 1:
        raise ValueError(f"--depth and --width count layers and units, at least 1; got {min(given)}")
    networks.check(args.network)
    name = args.data or ("digits" if _takes(args, data.load("digits")) else "shapes")
    split = data.load(name, seed=args.seed)
    x, y = batch_of(split, args.batch)
    return Target(f"{args.network} on {name}", _network(args, split).to(device_for(args.backend)), x, y)


def _network(args: argparse.Namespace, split: data.Split) -> Module:
    activation = args.activation or "relu"
    options: dict[str, Any] = {"activation": activation, "seed": args.seed}
    options["init"] = None if args.init is None else initializer(args.init, activation)
    if args.norm is not None:
        options["norm"] = args.norm
    sizes = [args.width or 100] * (args.depth or 20)
    return networks.build(args.network, split.train.shape, len(split.classes), sizes, **options)


def _takes(args: argparse.Namespace, split: data.Split) -> bool:
    """Whether the network takes images of this size; nothing is drawn for that."""
    try:
        networks.build(args.network, split.train.shape, len(split.classes), [1], init="zeros")
    except ValueError:
        return False
    return True


def batch_of(split: data.Split, count: int) -> tuple[Any, Any]:
    """The first ``count`` training examples.

    Raises:
        ValueError: fewer than two are asked for.
    """
    if count < FEWEST:
        raise ValueError(f"--batch is how many inputs are measured, at least {FEWEST}; got {count}")
    return split.train[:count]


# ---- a file of the user's


def _own(args: argparse.Namespace) -> Target:
    given = [f"--{name}" for name in BUILT_IN if getattr(args, name) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: options of the built-in networks; in a file of your own the code decides"
        )
    path, name, module = load_target(args.network)
    made = getattr(module, name)
    model = made if isinstance(made, Module) else _called(made, name, path)
    if not isinstance(model, Module):
        raise ValueError(f"{name}() in {path.name} returned {_kind(model)}; it must return the network, an nn.Module")
    make_batch = getattr(module, "make_batch", None)
    if callable(make_batch) and args.data is None:
        x, y = _pair(_called(make_batch, "make_batch", path), path)
    else:
        x, y = batch_of(data.load(args.data or "digits", seed=args.seed), args.batch)
    return Target(f"{path.name}:{name}", model.to(device_for(args.backend)), x, y)


def load_target(spec: str) -> tuple[Path, str, Any]:
    """``FILE.py:make_model`` as path, name of the function (or of a network), and the file as a loaded module.

    Raises:
        ValueError: no such file or function, or the file itself raises; its last line is shown.
    """
    drive = len(spec) > 2 and spec[1] == ":" and spec[2] in "/\\"  # C:\\model.py:make_model
    file, _, name = spec[2:].partition(":") if drive else spec.partition(":")
    path, name = Path(spec[:2] + file if drive else file).expanduser(), name or "make_model"
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; give FILE.py:make_model, or a network: {', '.join(networks.names())}"
        )
    module = _loaded(path)
    if not callable(getattr(module, name, None)):
        functions = [
            k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        raise ValueError(f"{path.name} has no function {name!r}; it has: {', '.join(functions) or 'none'}")
    return path, name, module


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"minidl_diagnosed_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that the file finds its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path.name} cannot be loaded: {_last_line(error)}{_where(error, path)}") from error
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)  # its functions find them too, but nothing installed is hidden by them
    return module


def _called(function: Callable[[], Any], name: str, path: Path) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}() in {path.name} raised {_last_line(error)}{_where(error, path)}") from error


def _pair(batch: Any, path: Path) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"make_batch() in {path.name} returned {_kind(batch)}; it must return a pair (x, y)")
    x, y = batch
    return x, y


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _last_line(error: BaseException) -> str:
    """What Python would print last: the kind of error and its text."""
    return traceback.format_exception_only(error)[-1].strip()


def _where(error: BaseException, path: Path) -> str:
    """The line of the user's file that it came from."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
    return f" (line {lines[-1]})" if lines else ""
