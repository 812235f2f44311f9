"""Run a student's code in a process of its own, and bring back arrays: never a verdict, never an object.

The limits: wall time everywhere; memory, processor time, files and processes where the system has resource limits
(Linux; macOS leaves memory unlimited, Windows all four); the amount that is printed and the amount that is answered.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Call", "Limits", "Outcome", "call"]

KEPT = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without these some interpreters do not start
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB")}
SHOWN = 2_000  # characters of what is printed that are kept


@dataclass(frozen=True)
class Call:
    """One call of a student's function.

    Args:
        function: its name.
        arguments: by name; a list stands for a tuple, ``{"seed": n}`` for a generator, ``{"phi": "z**2"}`` for
            a function.
        shape: what the answer must have; None: it is not looked at.
        global_seed: of NumPy's global generator, set before the call.
    """

    function: str
    arguments: dict[str, Any]
    shape: tuple[int, ...] | None = None
    global_seed: int = 0


@dataclass(frozen=True)
class Limits:
    """What one process may use."""

    seconds: float = 10.0
    megabytes: int = 1024
    printed: int = 1_000_000  # bytes
    answered: int = 100_000_000  # bytes


#: An array, or a sentence that says why there is none.
Answer: TypeAlias = NDArray[Any] | str


@dataclass(frozen=True)
class Outcome:
    """One answer for each call, whether the file could be loaded, and the beginning of what it printed."""

    answers: list[Answer]
    loaded: bool
    printed: str


def call(source: str, name: str, calls: Sequence[Call], limits: Limits | None = None) -> Outcome:
    """Load a student's source in a child process and call its functions there.

    Args:
        source: the text of the file.
        name: what to call the file in messages.
        calls: what to call, in order.
        limits: of the process.

    Returns:
        The outcome. Nothing that the code does raises here: a call without an answer says why.
    """
    limits = limits or Limits()
    request = asdict(limits) | {"name": name, "source": source, "calls": [asdict(each) for each in calls]}
    request["numpy"] = str(Path(np.__file__).resolve().parent.parent)
    content, printed, stopped = _run(json.dumps(request).encode(), limits)
    first, *answers = list(_frames(content)) or [None]
    loaded = isinstance(first, np.ndarray)
    if loaded:
        missing = stopped or "the process ended before it answered: does something call exit?"
    else:
        missing = f"{name} could not be loaded: {first or stopped or 'the process ended: does something call exit?'}"
        answers = []
    found: list[Answer] = [missing if each is None else each for each in answers[: len(calls)]]
    return Outcome(found + [missing] * (len(calls) - len(found)), loaded, printed)


def _run(request: bytes, limits: Limits) -> tuple[bytes, str, str]:
    """What the child answers, what it prints, and why it was stopped, if it was."""
    stopped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="minidl-course-", ignore_cleanup_errors=True) as empty:
        child = _started(empty)

        def stop(why: str) -> None:
            stopped.append(why)
            _kill(child)

        clock = threading.Timer(limits.seconds, stop, [f"stopped after {limits.seconds:g} seconds: an endless loop?"])
        answers = _Reader(child.stdout, limits.answered, lambda: stop("stopped: its answers are far too large"))
        prints = _Reader(
            child.stderr, limits.printed, lambda: stop(f"stopped: it printed more than {limits.printed} bytes")
        )
        try:
            clock.start()
            assert child.stdin is not None
            with suppress(OSError):  # it is gone already
                child.stdin.write(request)
                child.stdin.close()
            answers.join()
            prints.join()
            child.wait()
        finally:
            clock.cancel()
            _kill(child)  # and whatever it may have started
            child.wait()
    return bytes(answers.content), _printable(prints.content), stopped[0] if stopped else ""


def _started(folder: str) -> subprocess.Popen[bytes]:
    """The child, in a folder of its own and with hardly an environment."""
    program = Path(__file__).with_name("child.py").read_text(encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", program],
        cwd=folder,
        env=ONE_THREAD | {key: os.environ[key] for key in KEPT if key in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


class _Reader(threading.Thread):
    """Keeps what a pipe brings; past ``most`` bytes it calls ``too_much`` and throws the rest away."""

    def __init__(self, pipe: IO[bytes] | None, most: int, too_much: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        assert pipe is not None
        self.pipe, self.most, self.too_much = pipe, most, too_much
        self.content = bytearray()
        self.start()

    def run(self) -> None:
        """Read to the end."""
        with self.pipe:
            while piece := os.read(self.pipe.fileno(), 65_536):
                if len(self.content) <= self.most:
                    self.content += piece
                    if len(self.content) > self.most:
                        self.too_much()


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child and all that it started."""
    if sys.platform != "win32":
        with suppress(OSError):  # all gone
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(child.pid)], capture_output=True, check=False)


def _frames(content: bytes) -> Iterator[Answer | None]:
    """The answers, one after the other; the first is an empty array when the file was loaded. None: unreadable."""
    stream = io.BytesIO(content)
    while line := stream.readline(4_096):
        try:
            header = json.loads(line)
            if "error" in header:
                yield _printable(str(header["error"]).encode())
            elif "loaded" in header:
                yield np.empty(0)
            else:
                yield _array(header, stream)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            yield None
            return


def _array(header: dict[str, Any], stream: io.BytesIO) -> NDArray[Any]:
    """The array that a header announces: numbers alone, and exactly as many bytes as they take."""
    shape, dtype = [int(axis) for axis in header["shape"]], np.dtype(header["dtype"])
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError("no array of numbers")
    data = stream.read(math.prod(shape) * dtype.itemsize)  # what is left, if it announces more than there is
    return np.frombuffer(data, dtype).reshape(shape)


def _printable(content: bytes | bytearray) -> str:
    """The beginning, without what could steer a terminal."""
    text = bytes(content[:SHOWN]).decode("utf-8", "replace")
    return "".join(sign for sign in text if sign.isprintable() or sign == "\n").strip()
