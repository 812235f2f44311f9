"""The number of threads under NumPy: limited inside, put back outside."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minidl import threads

pytestmark = pytest.mark.host("is about NumPy's matrix library")


def in_a_process_with(count, code):
    """OpenBLAS reads its environment once, so each case has a Python of its own."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


needs_openblas = pytest.mark.skipif(threads.blas_threads() is None, reason="NumPy does not stand on OpenBLAS here")


@needs_openblas
def test_the_limit_holds_inside_and_is_gone_outside_also_after_an_error():
    code = """
from minidl.threads import blas_threads, limited
print(blas_threads())
with limited(1):
    print(blas_threads())
    with limited(2):
        print(blas_threads())
with limited(2), limited(1), limited(2):
    print(blas_threads())
try:
    with limited(1):
        raise ValueError
except ValueError:
    print(blas_threads())
"""
    assert in_a_process_with(2, code) == ["2", "1", "1", "1", "2"]


@needs_openblas
def test_a_comparison_leaves_the_number_of_threads_as_it_found_it():
    code = """
from minidl import experiment
from minidl.threads import blas_threads
experiment.compare(["zeros"], ["tanh"], depth=1, width=4, epochs=1, quiet=True)
print(blas_threads())
"""
    assert in_a_process_with(2, code) == ["2"]


def test_without_openblas_nothing_happens(monkeypatch):
    monkeypatch.setattr(threads, "_openblas", lambda: None)
    with threads.limited(1):
        assert threads.blas_threads() is None


# Sharing work


@pytest.fixture
def two_threads():
    threads.use(2)
    yield
    threads.use(None)


@pytest.mark.parametrize(("count", "length"), [(1, 5), (2, 5), (2, 1), (3, 7), (4, 2)])
def test_the_parts_cover_the_whole_in_order(count, length):
    threads.use(count)
    try:
        parts = threads.share(lambda start, stop: list(range(start, stop)), length)
    finally:
        threads.use(None)
    assert len(parts) == min(count, length)
    assert [i for part in parts for i in part] == list(range(length))


def test_parts_too_small_to_be_worth_a_thread_stay_together(two_threads):
    assert threads.share(lambda start, stop: (start, stop), 9, least=5) == [(0, 9)]
    assert threads.share(lambda start, stop: (start, stop), 10, least=5) == [(0, 5), (5, 10)]


def test_each_part_has_a_thread_of_its_own_and_the_caller_works_too(two_threads):
    names = threads.share(lambda _start, _stop: threading.current_thread(), 2)
    assert names[0] is threading.current_thread()
    assert names[1] is not names[0]


def test_an_error_in_a_worker_reaches_the_caller_and_the_worker_lives_on(two_threads):
    def work(start, _stop):
        if start:
            raise KeyError("in the second part")
        return start

    for _ in range(2):
        with pytest.raises(KeyError, match="second part"):
            threads.share(work, 2)
    assert threads.share(lambda start, _stop: start, 2) == [0, 1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here to interrupt with")
def test_an_interrupt_waits_for_the_workers_and_the_next_call_gets_its_own_results(two_threads):
    finished = []

    def slow(start, _stop):
        if start:  # the worker's half: the caller waits for it when the interrupt comes
            time.sleep(0.5)
            finished.append(start)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            threads.share(slow, 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert finished == [1]
    assert threads.share(lambda start, stop: (start, stop), 10) == [(0, 5), (5, 10)]
    assert threads.share(lambda start, stop: (start, stop), 20) == [(0, 10), (10, 20)]


def test_sharing_inside_of_shared_work_waits_for_nobody(two_threads):
    inner = lambda start, stop: threads.share(lambda a, b: b - a, stop - start)  # noqa: E731
    assert [sum(part) for part in threads.share(inner, 8)] == [4, 4]


def test_a_worker_warns_as_the_caller_chose(two_threads):
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        threads.share(lambda start, _stop: start and np.float32(1) / np.float32(0), 2)
    with np.errstate(divide="ignore"):
        assert threads.share(lambda start, _stop: start and np.float32(1) / np.float32(0), 2) == [0, np.inf]


def test_a_limit_holds_for_shared_work_too(two_threads):
    assert threads.count() == 2
    with threads.limited(1):
        assert threads.count() == 1
        assert threads.share(lambda start, stop: (start, stop), 4) == [(0, 4)]


def test_the_environment_sets_the_number_and_use_overrides_it():
    code = """
import os
os.environ["MINIDL_THREADS"] = "3"
from minidl import threads
print(threads.count())
threads.use(2)
print(threads.count())
threads.use(None)
print(threads.count())
"""
    assert in_a_process_with(1, code) == ["3", "2", "1"]


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_wrong_number_of_threads_is_an_error(text, monkeypatch):
    monkeypatch.setenv("MINIDL_THREADS", text)
    monkeypatch.setattr(threads, "_chosen", [])
    with pytest.raises(ValueError, match="MINIDL_THREADS"):
        threads.count()
    with pytest.raises(ValueError, match="at least one"):
        threads.use(0)


@needs_openblas
def test_limits_of_two_threads_that_overlap_leave_the_setting_as_it_was():
    """First in, first out: the second one must not take the first one's limit for the setting."""
    code = """
from minidl.threads import blas_threads, limited
a, b = limited(1), limited(1)
a.__enter__(); b.__enter__()
a.__exit__(None, None, None); print(blas_threads())
b.__exit__(None, None, None); print(blas_threads())
"""
    assert in_a_process_with(2, code) == ["1", "2"]


@needs_openblas
def test_shared_work_finds_one_thread_in_the_matrix_library_and_leaves_its_setting():
    code = """
from minidl import threads
threads.use(2)
print(*threads.share(lambda a, b: threads.blas_threads(), 2), threads.blas_threads())
"""
    assert in_a_process_with(2, code) == ["1", "1", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_gets_workers_of_its_own():
    code = """
import os, warnings
warnings.simplefilter("ignore")
from minidl import threads
threads.use(2)
print(len(threads.share(lambda a, b: a, 2)), flush=True)
if os.fork() == 0:
    print(len(threads.share(lambda a, b: a, 2)), flush=True)
    os._exit(0)
os.wait()
"""
    assert in_a_process_with(1, code) == ["2", "2"]


@needs_openblas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_free_of_the_limits_of_threads_it_does_not_have():
    code = """
import os, threading, warnings
warnings.simplefilter("ignore")
from minidl import threads
inside, leave = threading.Event(), threading.Event()
def hold():
    with threads.limited(1), threads._held(threads._limits.sharing, 1):
        threads._limits.lock.acquire()  # and in the middle of a change
        inside.set()
        leave.wait()
        threads._limits.lock.release()
other = threading.Thread(target=hold)
other.start()
inside.wait()
if os.fork() == 0:
    print(threads.blas_threads(), threads.count(), flush=True)
    with threads.limited(1):
        print(threads.blas_threads(), flush=True)
    os._exit(0)
os.wait()
leave.set()
other.join()
print(threads.blas_threads())
"""
    assert in_a_process_with(2, code) == ["2", "2", "1", "2"]


@needs_openblas
def test_where_nobody_asks_there_are_as_many_threads_as_the_matrix_library_has_but_few():
    code = """
from minidl import threads
from minidl.threads import limited
print(threads.count())
with limited(1):
    print(threads.count())
print(*threads.share(lambda a, b: threads._limits.outside(), 2))
"""
    assert in_a_process_with(2, code) == ["2", "1", "2", "2"]
    assert in_a_process_with(1, "from minidl import threads; print(threads.count())") == ["1"]


def test_a_machine_of_many_cores_gives_few_threads_unless_asked(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", [None])
    monkeypatch.setattr(threads._limits, "outside", lambda: 32)
    assert threads.count() == threads.MOST
    monkeypatch.setattr(threads, "_chosen", [32])
    assert threads.count() == 32


@needs_openblas
def test_dense_layers_leave_the_cores_to_the_workers_once_there_are_some():
    code = """
import numpy as np
from minidl import ops, threads
x, w, g = (np.random.default_rng(0).standard_normal((300, 300), dtype="float32") for _ in range(3))
seen = []
matmul = np.matmul
def watched(*args, **how):
    seen.append(threads.blas_threads())
    return matmul(*args, **how)
np.matmul = watched
before = ops.linear(x, w)
print(len(seen))
threads.share(lambda a, b: None, 2)
after = ops.linear(x, w)
print(seen, threads.blas_threads(), np.abs(before - after).max() < 1e-3)
"""
    assert in_a_process_with(2, code) == ["0", "[1,", "1]", "2", "True"]


@needs_openblas
def test_once_kernels_are_shared_a_training_step_leaves_the_cores_to_the_workers():
    """And the matrix library's setting is as it was in between. Before, nothing is touched."""
    code = """
import numpy as np
from minidl import Tensor, nn, ops, threads
seen = []
class Watched(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        seen.append(threads.blas_threads())
        y = self.linear(x)
        y.register_hook(lambda g: seen.append(threads.blas_threads()))
        return y
model = nn.Sequential(Watched(), nn.ReLU(), Watched())
def step():
    model(Tensor(np.ones((3, 4), "float32"))).sum().backward()
step()
threads.share(lambda a, b: None, 2)
step()
print(*seen, threads.blas_threads())
"""
    assert in_a_process_with(2, code) == [*"2222", *"1111", "2"]


@pytest.mark.skipif(threads._current_core() is None, reason="threads cannot be sent to a core here")
def test_a_worker_never_runs_on_the_core_of_its_caller(two_threads):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    where = threads._current_core()
    threads.share(lambda start, stop: None, 2)
    (worker,) = threads._workers[:1]
    assert os.sched_getaffinity(worker.thread.native_id) == {worker.core}
    assert len(os.sched_getaffinity(0)) >= 2 and where is not None  # the caller is as free as it was
