"""The threads of minidl's kernels and of the matrix library under NumPy: how many there are, and how work is shared.

A large kernel on the host is *shared*: the batch is cut into one part per thread, every thread computes its part with
NumPy, which lets go of the interpreter while it computes, and the matrix library keeps to one thread meanwhile. There
are as many threads as the matrix library has (OMP_NUM_THREADS, OPENBLAS_NUM_THREADS), but no more than ``MOST``;
``use(n)`` or the environment's MINIDL_THREADS say otherwise. Handing work over takes some 50 microseconds, so small
kernels are not shared. What that brings is in docs/speed.md.

The matrix library's own threads spin for a while after each product, on the cores that minidl's threads want. So once
a kernel has been shared, all products in a network's call and in ``backward`` keep to one thread (``undisturbed``), and
large ones of dense layers are shared like the other kernels.

For small matrices a second thread costs more than it brings, and on a busy machine ten times more: the threads wait for
each other by spinning. What other code in the process has chosen for the matrix library is put back afterwards.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

__all__ = ["MOST", "blas_threads", "count", "limited", "share", "sharing", "undisturbed", "use"]

T = TypeVar("T")

# OpenBLAS as NumPy's wheels bring it, as conda and Linux distributions do
PREFIXES = ("scipy_openblas_", "openblas_")
SUFFIXES = ("64_", "")


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """The functions that read and set OpenBLAS's number of threads, or None where NumPy stands on something else."""
    import ctypes  # only now: these take longer to load than all of minidl's layers
    from pathlib import Path

    import numpy

    root = Path(numpy.__file__).parent
    found = [p for folder in (root.parent / "numpy.libs", root / ".dylibs") for p in sorted(folder.glob("*openblas*"))]
    for path in found:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in (f"{prefix}{{}}_num_threads{suffix}" for prefix in PREFIXES for suffix in SUFFIXES):
            if hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


def blas_threads() -> int | None:
    """How many threads a matrix product uses now; None where NumPy's matrix library is not OpenBLAS."""
    functions = _openblas()
    return None if functions is None else int(functions[0]())


class _Limits:
    """The limits in force, of all threads of the process, and what the matrix library's setting was before the first.

    Two threads may be inside ``limited`` at once, and leave in any order: the last one out puts the setting back.
    """

    def __init__(self) -> None:
        self.lock, self.before = threading.Lock(), 1
        self.active: dict[object, tuple[int, int]] = {}  # by a token: the thread that asked, and its limit
        self.sharing: dict[object, tuple[int, int]] = {}  # those of ``share``: they must not change what others count

    def outside(self) -> int:
        """How many threads the matrix library has when nothing limits it; 1 where it is not OpenBLAS."""
        with self.lock:
            return self.before if self.active or self.sharing else blas_threads() or 1

    def change(self, limits: dict[object, tuple[int, int]], token: object, limit: int | None) -> None:
        """Add a limit, or with None take it away, and set what is then the lowest."""
        functions = _openblas()
        with self.lock:
            if functions is not None and not self.active and not self.sharing:
                self.before = int(functions[0]())
            if limit is None:
                del limits[token]
            else:
                limits[token] = threading.get_ident(), limit
            if functions is not None:
                functions[1](min([self.before, *self.values()]))

    def values(self) -> list[int]:
        """All limits."""
        return [limit for _, limit in (*self.active.values(), *self.sharing.values())]

    def after_fork(self) -> None:
        """Of its parent's threads a child has only the one that forked: the limits of the others end here."""
        self.lock = threading.Lock()
        if self.active or self.sharing:
            mine = threading.get_ident()
            self.active = {token: limit for token, limit in self.active.items() if limit[0] == mine}
            self.sharing = {token: limit for token, limit in self.sharing.items() if limit[0] == mine}
            functions = _openblas()
            if functions is not None:
                functions[1](min([self.before, *self.values()]))


_limits = _Limits()


@contextmanager
def limited(limit: int) -> Iterator[None]:
    """At most ``limit`` threads for matrix products and for ``share`` inside; outside it is as it was."""
    with _held(_limits.active, limit):
        yield


@contextmanager
def _held(limits: dict[object, tuple[int, int]], limit: int) -> Iterator[None]:
    token = object()
    _limits.change(limits, token, limit)
    try:
        yield
    finally:
        _limits.change(limits, token, None)


# ---------------------------------------------------------------------------------------------------- sharing work


MOST = 4  # threads, unless more are asked for: they take turns at the interpreter between two calls of NumPy


def _from_environment() -> int | None:
    text = os.environ.get("MINIDL_THREADS", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"MINIDL_THREADS is {text!r}; set a whole number of threads, 1 or more, or leave it out")
    return int(text)


_chosen: list[int | None] = []  # what use() was told; empty until the environment was read


def use(threads: int | None) -> None:
    """Share kernels among so many threads from now on; None: as if nobody had asked.

    Raises:
        ValueError: fewer than one.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads.use({threads}): at least one thread has to do the work")
    _chosen[:] = [threads]


def count() -> int:
    """How many threads ``share`` cuts work for here and now."""
    if not _chosen:
        _chosen[:] = [_from_environment()]
    return min([_chosen[0] or min(_limits.outside(), MOST), *(limit for _, limit in _limits.active.values())])


class _Worker:
    """A thread that waits for work. Each call is answered in a queue of its own: its result, or the error it met."""

    def __init__(self) -> None:
        import queue  # when the first thread is needed: `import minidl` shall stay quick

        self._queue: Any = queue.SimpleQueue
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Any]] = queue.SimpleQueue()
        self.core: int | None = None  # where it was told to run
        self.thread = threading.Thread(target=self._loop, name="minidl", daemon=True)
        self.thread.start()

    def _loop(self) -> None:
        while True:
            call, answer = self._calls.get()
            answer.put(_outcome(call))

    def post(self, call: Callable[[], Any]) -> Any:
        """Give it a call; ``get()`` of what comes back waits for the outcome."""
        answer = self._queue()
        self._calls.put((call, answer))
        return answer

    def finish(self) -> None:
        """Wait until it has done all that it was given, also if the user interrupts again."""
        while True:
            try:
                self.post(lambda: None).get()
                return
            except KeyboardInterrupt:
                continue

    def run_on(self, core: int) -> None:
        """Keep to this core from now on."""
        if core != self.core and self.thread.native_id is not None:
            os.sched_setaffinity(self.thread.native_id, {core})
            self.core = core


@functools.cache
def _current_core() -> Callable[[], int] | None:
    """The function that says on which core the caller runs; None where the system has none."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    import ctypes

    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


def _spread(workers: Sequence[_Worker]) -> None:
    """Send each worker to a core that is neither the caller's nor another worker's, as far as there are enough.

    Left to itself, a worker is often woken on the core of the thread that woke it, and waits there until that is done.
    """
    where = _current_core()
    if where is not None:
        cores = sorted(os.sched_getaffinity(0) - {where()})
        for i, worker in enumerate(workers if cores else ()):
            worker.run_on(cores[i % len(cores)])


def _outcome(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # it is raised again in the thread that asked
        return None, error


_workers: list[_Worker] = []
_free = threading.Lock()  # held by the thread whose work the workers do


def _after_fork() -> None:
    global _free
    _workers.clear()  # a child process has none of its parent's threads
    _free = threading.Lock()
    _limits.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def sharing() -> bool:
    """Whether a kernel of this process has been shared among threads, which then wait for more."""
    return bool(_workers)


def undisturbed() -> AbstractContextManager[None]:
    """Inside, matrix products keep to one thread, if there are workers that want the cores; it costs little if not."""
    return _held(_limits.sharing, 1) if _workers and not _limits.sharing else _AS_IT_IS


_AS_IT_IS = nullcontext()


def share(work: Callable[[int, int], T], length: int, least: int = 1) -> list[T]:
    """``work(start, stop)`` on consecutive parts of ``range(length)``, one per thread; the results in order.

    The parts depend on ``count()`` alone. Where the workers are busy with another thread's work (or this is a worker),
    the caller does all parts itself, one after the other.

    Args:
        work: must be safe to run in several threads on different parts.
        length: for example the size of the batch.
        least: the smallest part worth a thread.

    Raises:
        Whatever ``work`` raises, after all parts have ended.
    """
    parts = max(1, min(count(), length // max(least, 1)))
    bounds = [length * i // parts for i in range(parts + 1)]
    calls = [functools.partial(work, *bounds[i : i + 2]) for i in range(parts)]
    if parts == 1:
        return [work(0, length)]
    with _held(_limits.sharing, 1):
        if not _free.acquire(blocking=False):
            return [call() for call in calls]
        try:
            outcomes = _in_parallel(calls)
        finally:
            _free.release()
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]  # type: ignore[misc]


def _in_parallel(calls: Sequence[Callable[[], T]]) -> list[tuple[T | None, BaseException | None]]:
    """The first call here, the others in the workers. Whatever happens, nobody works on when this is left."""
    while len(_workers) < len(calls) - 1:
        _workers.append(_Worker())
    helpers = _workers[: len(calls) - 1]
    _spread(helpers)
    try:
        answers = [
            worker.post(functools.partial(contextvars.copy_context().run, call))  # np.errstate is the caller's
            for worker, call in zip(helpers, calls[1:], strict=True)
        ]
        own = _outcome(calls[0])
        return [own, *(answer.get() for answer in answers)]
    except BaseException:  # Ctrl-C while it waited: the workers still write into arrays that will be used again
        for worker in helpers:
            worker.finish()
        raise
