"""``minidl doctor``: is this machine ready? One line per question: ok, warn or fail, and a sentence of help.

Standard library only; NumPy, matplotlib and CuPy are looked for and imported inside the checks, so the doctor also
works on a machine where none of them is installed yet.
"""

import importlib.metadata
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minidl import files, gpu, text, threads

__all__ = ["Check", "examine", "report", "worst"]

Status = Literal["ok", "warn", "fail"]

SIGNS = "σ²✓×…"  # what the commands print where the terminal can
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
CUPY_WHEELS = ("cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy")
OLDEST_PYTHON = (3, 11)
OLDEST_NUMPY = 2


@dataclass(frozen=True)
class Check:
    """One answer of the doctor.

    Args:
        name: what was looked at.
        status: "ok", "warn" (works, but you may want to know) or "fail" (minidl cannot run).
        found: what was found.
        help: what to do about it, one sentence; empty where nothing need be done.
    """

    name: str
    status: Status
    found: str
    help: str = ""


def examine(out: str | Path = "minidl-out") -> list[Check]:
    """Answer every question of the doctor; nothing is installed, created or changed.

    Args:
        out: the folder that the commands will write their results to.
    """
    checks: list[Callable[[], Check]] = [
        python,
        environment,
        numpy,
        blas,
        cupy,
        matplotlib,
        data_folder,
        output_encoding,
        lambda: out_folder(Path(out)),
    ]
    return [check() for check in checks]


def worst(checks: list[Check]) -> Status:
    """The gravest status among the checks."""
    statuses = {check.status for check in checks}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"


def report(checks: list[Check]) -> str:
    """The checks as text, at most 100 columns wide."""
    width = max((len(check.name) for check in checks), default=0)
    return "\n".join(line for check in checks for line in _lines(check, width))


def _lines(check: Check, width: int) -> list[str]:
    """One line where it fits; otherwise the help starts a line of its own, so that a command in it stays whole."""
    first = f"{check.status:<4}  {check.name:<{width}}  "
    sentences = [f"{check.found}. {check.help}" if check.help else check.found]
    if len(first + sentences[0]) > text.WIDTH:
        sentences = [check.found, check.help]
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, text.WIDTH - len(first))]
    return [(first if number == 0 else " " * len(first)) + line for number, line in enumerate(lines)]


def python() -> Check:
    """Is the interpreter new enough?"""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check("Python", "fail", version, f"minidl needs Python {wanted} or newer: install one from your system.")
    return Check("Python", "ok", f"{version} at {sys.executable}")


def environment() -> Check:
    """Are packages kept apart from the system's?"""
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX"):
        return Check("environment", "ok", sys.prefix)
    advice = "python3 -m venv .venv makes one, which keeps minidl apart from the system's packages."
    return Check("environment", "warn", "no virtual environment", advice)


def numpy() -> Check:
    """Is NumPy there, and new enough?"""
    try:
        import numpy
    except ImportError as error:
        return Check("NumPy", "fail", f"cannot be imported ({error})", 'Run: python -m pip install "numpy>=2.0"')
    if int(numpy.__version__.split(".")[0]) < OLDEST_NUMPY:
        advice = 'minidl needs NumPy 2: python -m pip install --upgrade "numpy>=2.0"'
        return Check("NumPy", "fail", numpy.__version__, advice)
    return Check("NumPy", "ok", numpy.__version__)


def blas() -> Check:
    """Which library multiplies the matrices, and with how many threads?"""
    try:
        import numpy

        configuration: Any = numpy.show_config(mode="dicts")
    except (ImportError, TypeError):  # TypeError: an old NumPy knows no mode
        return Check("BLAS", "warn", "unknown without NumPy 2", "It comes with NumPy.")
    found = configuration.get("Build Dependencies", {}).get("blas", {})
    name = f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()
    count = threads.blas_threads()
    chosen = [f"{variable}={os.environ[variable]}" for variable in THREAD_VARIABLES if os.environ.get(variable)]
    origin = f"set by {', '.join(chosen)}" if chosen else f"{os.cpu_count() or 1} cores"
    number = "an unknown number of threads" if count is None else f"{count} thread{'s' * (count != 1)}"
    return Check("BLAS", "ok", f"{name}, {number} ({origin})")


def cupy() -> Check:
    """Is there a GPU, its driver, and the CuPy that fits it? Without one everything still runs, on the CPU."""
    wheels = [name for name in CUPY_WHEELS if _version(name)]
    cuda = gpu.driver_cuda_version()
    if len(wheels) > 1:
        advice = f"They overwrite each other: python -m pip uninstall {' '.join(wheels)}, then install one of them."
        return Check("CuPy", "warn", f"{len(wheels)} CuPy packages are installed ({', '.join(wheels)})", advice)
    if cuda is None:
        found = f"{wheels[0]} is installed, but no NVIDIA driver was found" if wheels else "no NVIDIA driver was found"
        return Check("CuPy", "warn", found, "minidl computes on the CPU; a GPU is optional.")
    driver = f"NVIDIA driver for CUDA {cuda[0]}.{cuda[1]}"
    if not wheels:
        return Check("CuPy", "warn", f"{driver}, but CuPy is not installed", gpu.advice(cuda))
    return _cupy_answer(wheels[0], driver, cuda)


def _cupy_answer(wheel: str, driver: str, cuda: tuple[int, int]) -> Check:
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a broken GPU set-up raises anything, from ImportError to CUDARuntimeError
        reason = " ".join(str(error).split())[:120]
        return Check("CuPy", "warn", f"{driver}, but {wheel} does not work with it ({reason})", gpu.advice(cuda))
    return Check("CuPy", "ok", f"{wheel} {_version(wheel)}, {driver}, {count} GPU{'s' * (count != 1)}")


def matplotlib() -> Check:
    """Is matplotlib there, and where will its figures go?"""
    try:
        import matplotlib

        backend = matplotlib.get_backend()
    except ImportError as error:
        advice = 'Run: python -m pip install "matplotlib>=3.9"'
        return Check("matplotlib", "fail", f"cannot be imported ({error})", advice)
    except ValueError as error:  # MPLBACKEND names no backend
        reason = str(error).split(";")[0]
        return Check("matplotlib", "fail", reason, "Unset MPLBACKEND, or set it to agg.")
    return Check("matplotlib", "ok", f"{matplotlib.__version__}, backend {backend}")


def data_folder() -> Check:
    """Can downloaded data sets be kept? The small ones come with minidl and need no folder."""
    path = files.data_cache()
    origin = "set by MINIDL_DATA" if os.environ.get("MINIDL_DATA") else "the default"
    problem = _cannot_write(path)
    if problem:
        advice = "Set MINIDL_DATA to a folder you may write to; the data sets that come with minidl work without it."
        return Check("data folder", "warn", f"{path} ({origin}): {problem}", advice)
    state = "" if path.is_dir() else ", made when first needed"
    return Check("data folder", "ok", f"{path} ({origin}{state})")


def output_encoding() -> Check:
    """Can the terminal show the signs of mathematics?"""
    encoding = sys.stdout.encoding or "ascii"
    try:
        SIGNS.encode(encoding)
    except UnicodeEncodeError:
        advice = "minidl prints plain signs instead; set PYTHONUTF8=1 for the real ones."
        return Check("output encoding", "warn", f"{encoding} lacks some signs of mathematics", advice)
    return Check("output encoding", "ok", encoding)


def out_folder(path: Path) -> Check:
    """Can results be written?"""
    problem = _cannot_write(path)
    if problem:
        return Check("results", "fail", f"{path}: {problem}", "Name another folder: --out DIR")
    return Check("results", "ok", f"written to {path}")


def _cannot_write(path: Path) -> str:
    """Why this folder cannot be written to, or "": tried in its nearest parent that exists, leaving no trace."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is a file"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"not writable ({error.strerror})"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
