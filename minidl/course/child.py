"""What runs a student's code: a process that calls functions and returns arrays, and can judge nothing.

This file is never imported: its *text* is handed to an interpreter without site-packages (``-I -S -c``), so no path
leads from there to minidl. It reads one JSON request from stdin, loads NumPy, locks the door behind it, runs the
student's source and calls its functions. Each answer goes to the parent at once: one line of JSON, then the raw bytes
of the array. What the student prints goes to stderr.

The door is an audit hook. It keeps from a student what is not his: minidl, the other submissions, the environment of
the grader. It stops whoever tries the handle; it is no wall against somebody who studies how to break interpreters.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

BAR = "may not be used in an assignment: NumPy and the standard library are enough"
MODULES = "_posixsubprocess _xxsubinterpreters _interpreters _testcapi _testinternalcapi _sqlite3 readline"
EVENTS = "os. subprocess. socket. ctypes. shutil. tempfile. resource. pty. msvcrt. winreg. _winapi. sqlite3. gc. mmap."


def main() -> None:
    """Serve one request."""
    request = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(2, 1)  # what is printed must not reach the answers
    numpy = _load_numpy(request["numpy"])
    sys.modules["_posixsubprocess"] = SimpleNamespace(fork_exec=None)  # type: ignore[assignment]  # imports of it work
    _limit(request["seconds"], request["megabytes"])
    sys.addaudithook(_door(request["numpy"]))
    name = request["name"]
    student: dict[str, Any] = {"__name__": name.removesuffix(".py"), "__file__": name}
    try:
        exec(compile(request["source"], name, "exec"), student)
    except BaseException as error:  # SystemExit too: nothing that a student raises may end this process
        _send(channel, {"error": _sentence(error, name)})
        return
    _send(channel, {"loaded": True})
    for call in request["calls"]:
        numpy.random.seed(call["global_seed"])
        _send(channel, *_answer(student.get(call["function"]), call, name, numpy))
    sys.stdout.flush()


def _load_numpy(home: str) -> Any:
    """NumPy from the folder ``home``, which is forgotten at once: whatever lies beside it cannot be imported."""
    sys.path.insert(0, home)
    import numpy
    import numpy.random

    sys.path.remove(home)
    sys.path_importer_cache.pop(home, None)
    return numpy


def _limit(seconds: float, megabytes: int) -> None:
    """Memory, processor time, size of files and number of processes, where the system can limit them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {"AS": megabytes * 2**20, "CPU": int(seconds) + 2, "FSIZE": 0, "NPROC": 0, "CORE": 0}
    for name, most in wanted.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
        except (AttributeError, ValueError, OSError):
            continue  # this system has no such limit


def _door(home: str) -> Any:
    """The audit hook: of all files, the standard library and NumPy can be read; no processes, no network."""
    numpy_folders = tuple(os.path.join(home, name, "") for name in ("numpy", "numpy.libs"))
    library = tuple(os.path.join(path, "") for path in sys.path)

    # All that it uses is a default argument: globals, builtins and the cells of a closure could be exchanged from
    # inside. Paths are compared as text, for the functions of os.path could be exchanged as well; links lead nowhere,
    # since none can be made here.
    def door(
        event: str,
        args: Any,
        *,
        allowed: tuple[str, ...] = numpy_folders,
        library: tuple[str, ...] = library,
        foreign: frozenset[str] = frozenset(("site-packages", "dist-packages", "..")),
        files: tuple[str, ...] = ("open", "os.listdir", "os.scandir"),
        harmless: tuple[str, ...] = ("os.putenv", "os.unsetenv", "os.walk", "os.fwalk"),
        events: tuple[str, ...] = tuple(EVENTS.split()),
        modules: frozenset[str] = frozenset(MODULES.split()),
        writing: int = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
        separator: str = os.sep,
        text: type[str] = str,
        whole: type[int] = int,
        kind: Any = type,
        denied: Any = PermissionError,
        bar: str = BAR,
    ) -> None:
        if event in files:
            path = args[0]
            if kind(path) is whole:
                return  # a descriptor: what it leads to passed this door before
            path = path.replace("/", separator) + separator if kind(path) is text else ""  # no strings in disguise
            steps = path.split(separator)
            read = event != "open" or not (args[2] or 0) & writing
            public = path.startswith(library) and foreign.isdisjoint(steps)
            if not (read and (public or (path.startswith(allowed) and ".." not in steps))):
                raise denied(f"this file {bar}")
        elif (event.startswith(events) and event not in harmless) or (event == "import" and args[0] in modules):
            raise denied(f"{args[0] if event == 'import' else event} {bar}")

    return door


def _answer(function: Any, call: dict[str, Any], name: str, numpy: Any) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes of what one call returns; an error is a header without bytes."""
    if not callable(function):
        return {"error": f"{name} has no function {call['function']}"}, b""
    try:
        arguments = {key: _value(value, numpy) for key, value in call["arguments"].items()}
        array = numpy.asarray(function(**arguments))
        if array.dtype.kind not in "biuf":
            return {"error": f"the answer must be numbers, got {array.dtype}"}, b""
        return {"dtype": str(array.dtype), "shape": list(array.shape)}, array.tobytes()
    except BaseException as error:
        return {"error": _sentence(error, name)}, b""


def _value(value: Any, numpy: Any) -> Any:
    """An argument from its JSON: a list is a shape, ``{"seed": n}`` a generator, ``{"phi": "z**2"}`` a function."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "seed" in value:
        return numpy.random.default_rng(value["seed"])
    return eval(f"lambda z: {value['phi']}", {"np": numpy})


def _sentence(error: BaseException, name: str) -> str:
    """``TypeError: … (a2.py, line 7)``: the last line of the student's own that took part."""
    line, step = getattr(error, "lineno", None), error.__traceback__
    while step is not None:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == name else line
        step = step.tb_next
    where = f" ({name}, line {line})" if line else ""
    return f"{type(error).__name__}: {error}{where}"[:500]


def _send(channel: int, header: dict[str, Any], content: bytes = b"") -> None:
    left = memoryview(json.dumps(header).encode() + b"\n" + content)
    while left:
        left = left[os.write(channel, left) :]


if __name__ == "__main__":
    main()
